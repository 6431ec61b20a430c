"""Where requests of a web server wait for a search, each in a thread of its own, and leave when their client does."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

MOST_WAITING = 128  # threads; other searches wait without one, and those of images and pages have their own
CLIENT_LEFT = 499  # nobody reads it


class WaitingRoom:
    """Threads of searches: those that wait do not keep others from images and pages."""

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(MOST_WAITING, "search")

    async def answer(self, request: Request, answer: Callable[[Callable[[], bool]], Response]) -> Response:
        """What `answer` returns or raises in a thread; it is given what tells whether the client has left."""
        left = Left()
        work = asyncio.get_running_loop().run_in_executor(self.threads, copy_context().run, answer, left)
        work.add_done_callback(lambda done: done.cancelled() or done.exception())  # which nobody may ask for
        leaves = asyncio.ensure_future(until_left(request))
        either: set[asyncio.Future[Any]] = {work, leaves}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else Response(status_code=CLIENT_LEFT)
        finally:
            left.left = not work.done()
            work.cancel()  # which a thread that has begun does not notice
            leaves.cancel()


class Left:
    """Whether a client has left."""

    left = False

    def __call__(self) -> bool:
        return self.left


async def until_left(request: Request) -> None:
    """Wait until the client of a request, whose body is read, has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
