"""The end of a server: what is being answered has a moment to be done, and streams that never end are ended then.

A page that is open in a browser holds such streams, so that without this Ctrl-C would wait until it is closed.
"""

import asyncio

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

GRACE_SECONDS = 5  # from Ctrl-C on


class Ending:
    """An ASGI application in front of another one, `site`: what is cancelled is an answer that ends, not a failure."""

    def __init__(self, site: ASGIApp):
        self.site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def sent(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.site(scope, receive, sent)
        except asyncio.CancelledError:  # uvicorn would write it out as an error
            if scope["type"] != "http":
                raise
            if started:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await JSONResponse({"error": "the server has been ended"}, 503)(scope, receive, send)
