"""Threads in which requests of the web server wait for searches, until answered or disconnected."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

MAX_THREADS = 128  # threads; other searches wait without one, and those of images and pages have their own
CLIENT_CLOSED_REQUEST = 499  # nobody reads it


class SearchThreads:
    """Threads of searches: those that wait do not keep others from images and pages."""

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(MAX_THREADS, "search")

    async def answer(self, request: Request, answer: Callable[[Callable[[], bool]], Response]) -> Response:
        """What `answer` returns or raises in a thread; it is given what says whether the client is gone."""
        client = Disconnection()
        work = asyncio.get_running_loop().run_in_executor(self.threads, copy_context().run, answer, client)
        work.add_done_callback(lambda done: done.cancelled() or done.exception())  # which nobody may ask for
        disconnects = asyncio.ensure_future(until_disconnected(request))
        either: set[asyncio.Future[Any]] = {work, disconnects}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else Response(status_code=CLIENT_CLOSED_REQUEST)
        finally:
            client.disconnected = not work.done()
            work.cancel()  # which a thread that has begun does not notice
            disconnects.cancel()


class Disconnection:
    """Whether a client has disconnected."""

    disconnected = False

    def __call__(self) -> bool:
        return self.disconnected


async def until_disconnected(request: Request) -> None:
    """Wait until the client of a request, whose body is read, has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
