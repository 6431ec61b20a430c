"""The one table of what is served: which role each route needs. A route that is not in it is refused.

Everything that a framework adds on its own (Gradio has some eighty routes) stays closed until it stands here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from search.access.callers import FORGET, SEARCH, UPLOAD

ANYONE, SIGNED_IN = "anyone", "signed in"  # without a password; with any role
KIB, MIB = 2**10, 2**20
UPLOADED = 20 * MIB + 64 * KIB  # the largest image, and what a form has around it


@dataclass(frozen=True)
class Route:
    """A method and a pattern of paths; needs: a role, ANYONE or SIGNED_IN; most: bytes of a body; seconds: for it."""

    method: str
    pattern: str
    needs: str
    most: int = 4 * KIB
    seconds: float = 10

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern, re.ASCII)

    def fits(self, method: str, path: str) -> bool:
        """Whether this is the route of a request, whose path is without escapes."""
        return method == self.method and self.compiled.fullmatch(path) is not None


LOGIN, LOGOUT, ACCOUNT = "/login", "/logout", "/account"
IMAGE = "/api/images/[^/]+"
PAGE = "/gradio_api"  # what the page's own code calls

ROUTES: Sequence[Route] = (
    Route("GET", LOGIN, ANYONE),
    Route("POST", LOGIN, ANYONE),
    Route("GET", ACCOUNT, SIGNED_IN),
    Route("POST", LOGOUT, SIGNED_IN),
    # the API
    Route("GET", "/docs", SIGNED_IN),
    Route("GET", "/openapi.json", SIGNED_IN),
    Route("POST", "/api/search", SEARCH, 64 * KIB),
    Route("POST", "/api/explain", SEARCH, 64 * KIB),
    Route("POST", "/api/describe", SEARCH),
    Route("POST", "/api/ask", SEARCH, 64 * KIB),
    Route("GET", "/api/gallery", SEARCH),
    Route("GET", IMAGE, SEARCH),
    Route("POST", "/api/images", UPLOAD, UPLOADED, 120),
    Route("DELETE", IMAGE, FORGET),
    Route("GET", "/api/frames/[^/]+", SEARCH),
    # the page
    Route("GET", "/", SEARCH),
    Route("GET", "/config/?", SEARCH),
    Route("GET", "/theme.css", SEARCH),
    Route("GET", "/(assets|static|svelte)/[^?]+", SEARCH),
    Route("GET", "/favicon.ico", SEARCH),
    Route("GET", "/manifest.json", SEARCH),
    Route("GET", f"{PAGE}/info/?", SEARCH),
    Route("GET", f"{PAGE}/startup-events", SEARCH),
    Route("GET", f"{PAGE}/theme.css", SEARCH),
    Route("GET", f"{PAGE}/heartbeat/[^/]+", SEARCH),
    Route("GET", f"{PAGE}/queue/data", SEARCH),
    Route("POST", f"{PAGE}/queue/join", SEARCH, MIB),
    Route("POST", f"{PAGE}/cancel", SEARCH),
    Route("POST", f"{PAGE}/reset/?", SEARCH),
    Route("GET", f"{PAGE}/file=.+", SEARCH),
    Route("POST", f"{PAGE}/upload", UPLOAD, UPLOADED, 120),
    Route("GET", f"{PAGE}/upload_progress", UPLOAD),
)


def route_of(method: str, path: str) -> Route | None:
    """The route of a request, or None when the table has none.

    No path leads upwards or holds signs that break a line.
    """
    if ".." in path.split("/") or "\\" in path or not path.isprintable():
        return None
    return next((route for route in ROUTES if route.fits(method, path)), None)
