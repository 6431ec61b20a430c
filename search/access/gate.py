"""The gate that stands before a whole site, page and API: every request is refused unless all of this holds.

1. It calls this server by a name of it, and comes from the proxy where there is one (search/access/origins.py).
2. It is of somebody who has signed in, or of a program with a token (search/access/logins.py).
3. A browser did not send it for a page of another site.
4. Its route is in the table, and who asks has the role that stands there (search/access/routes.py).
5. Its body is no larger and no slower than the table allows (search/access/bodies.py).

The site behind it needs none of this, and is not asked before: what a later version of a framework adds is closed.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search.access.bodies import LimitedBody, read_all, require_small
from search.access.callers import IN_SCOPE, acting
from search.access.logins import Authenticated, Logins, TooMany, cookie_of, session_in
from search.access.origins import Origin, Origins, Refused, follows_link, is_of_another_site, without_forwarded
from search.access.pages import account_page, login_page
from search.access.routes import ACCOUNT, ANYONE, LOGIN, LOGOUT, SIGNED_IN, Route, route_of
from utils.errors import Unavailable

logger = logging.getLogger(__name__)

# of the page behind the gate: it loads nothing from elsewhere, and no other site shows it in a frame
PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; font-src 'self' data:; media-src 'none'; object-src 'none'; base-uri 'self';"
    " form-action 'self'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # not no-referrer, with which browsers do not name the origin of a form
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Robots-Tag": "noindex, nofollow",
}


class Gate:
    """An ASGI application in front of another one, `site`."""

    def __init__(self, site: ASGIApp, logins: Logins, origins: Origins, prefix: str = ""):
        """prefix: the path below which a proxy serves this, such as /people; empty for none."""
        self.site, self.logins, self.origins, self.prefix = site, logins, origins, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.site(scope, receive, send)
        elif scope["type"] == "websocket":  # the page uses none
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "there are no websockets here"})
        elif scope["type"] == "http":
            kept = self.path_of(scope).startswith(("/assets/", "/static/"))  # parts of the page that hold nothing
            await self.answer(scope, receive, with_headers(send, "private, max-age=3600" if kept else "no-store"))

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or forward it to the site; whatever is wrong with it is one line."""
        try:
            response = await self.admit(scope, receive, send)
        except TooMany as fault:
            response = self.refusal(scope, fault, {"Retry-After": str(math.ceil(fault.seconds))})
        except Refused as fault:
            response = self.refusal(scope, fault, {"Connection": "close"} if fault.status in (408, 413) else {})
        except Unavailable as fault:
            logger.error("%s", fault)
            response = self.refusal(scope, Refused(503, "this cannot be answered now; the terminal says why"), {})
        if response is not None:
            await response(scope, receive, send)

    def refusal(self, scope: Scope, fault: Refused, headers: dict[str, str]) -> Response:
        """What a request is told that is refused: the login page in a browser that asks for it, else JSON."""
        if scope["method"] == "POST" and self.path_of(scope) == LOGIN:
            response: Response = login_page(self.prefix, str(fault), fault.status)
        else:
            response = JSONResponse({"error": str(fault)}, fault.status)
        if fault.status == 401:
            headers = {**headers, "WWW-Authenticate": "Bearer"}
        response.headers.update(headers)
        return response

    async def admit(self, scope: Scope, receive: Receive, send: Send) -> Response | None:
        """Check a request; returns the answer of the gate, or None when the site has answered. Raises Refused."""
        client = scope.get("client") or ("", 0)
        origin = self.origins.of(client[0], scope["scheme"], scope["headers"])
        path, method = self.path_of(scope), scope["method"]
        route, known = route_of(method, path), await self.logins.authenticate(origin, scope["headers"])
        if known is None and (route is None or route.needs != ANYONE):
            return self.ask_to_sign_in(scope)
        self.require_same_site(scope, origin, known)
        if route is None:
            raise Refused(404, f"there is no {method} {path}; see /docs")
        self.require_role(route, known)
        require_small(scope["headers"], route)
        request = AdmittedRequest(scope, path, origin, known, LimitedBody(receive, route))
        if path in GATE_PAGES:
            return await GATE_PAGES[path](self, request)
        await self.forward(request, send)
        return None

    def path_of(self, scope: Scope) -> str:
        """The path of a request without that of the proxy, whether the proxy has removed it or not."""
        path: str = scope["path"]
        if self.prefix and (path == self.prefix or path.startswith(f"{self.prefix}/")):
            return path[len(self.prefix) :] or "/"
        return path

    def ask_to_sign_in(self, scope: Scope) -> Response:
        """The answer to somebody unknown: the way to the login page, or status 401 to a program."""
        if scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", ""):
            return RedirectResponse(f"{self.prefix}{LOGIN}", 303)
        raise Refused(401, "sign in, or send the header Authorization: Bearer TOKEN")

    def require_same_site(self, scope: Scope, origin: Origin, known: Authenticated | None) -> None:
        """Raises Refused when a page of another site had the browser send this, in a session or to begin one.

        A token is sent by programs alone, and never by a browser on its own.
        """
        headers, reads = Headers(scope=scope), scope["method"] in ("GET", "HEAD")
        if (known and not known.session_id) or (known is None and reads):
            return
        if reads and follows_link(headers):
            return
        if is_of_another_site(origin, headers, changes=not reads):
            raise Refused(403, "requests of other sites are refused; programs send a token")

    def require_role(self, route: Route, known: Authenticated | None) -> None:
        """Raises Refused unless who asks has the role of a route."""
        if route.needs == ANYONE or (route.needs == SIGNED_IN and known):
            return
        if known is None or route.needs not in known.caller.roles:
            raise Refused(403, f"you may not do this here: it needs the role {route.needs}")

    # ---- the gate's own pages ----------------------------------------------------------

    async def login(self, request: "AdmittedRequest") -> Response:
        """The form to sign in, or a new session for what was written in it. Raises Refused."""
        if request.scope["method"] == "GET":
            return login_page(self.prefix)
        before = session_in(request.scope["headers"], request.origin)
        session_id = await self.logins.sign_in(request.origin, await read_all(request.body), before)
        return self.redirect("/", cookie_of(session_id, request.origin))

    async def account(self, request: "AdmittedRequest") -> Response:
        """Who one is."""
        caller = request.who.caller
        return account_page(self.prefix, caller.name, ", ".join(sorted(caller.roles)))

    async def logout(self, request: "AdmittedRequest") -> Response:
        """The end of a session."""
        await self.logins.sign_out(request.who, request.origin)
        return self.redirect(LOGIN, cookie_of("", request.origin))

    def redirect(self, path: str, cookie: str) -> Response:
        """To another page, with a cookie."""
        return RedirectResponse(f"{self.prefix}{path}", 303, {"Set-Cookie": cookie})

    # ---- to the site -------------------------------------------------------------------

    async def forward(self, request: "AdmittedRequest", send: Send) -> None:
        """Let the site answer, which sees the request as the browser made it, and who asks. Raises Refused."""
        body, caller = request.body, request.who.caller
        answering = SessionBoundSend(send, body, lambda: self.logins.is_alive(request.who))
        inner = {
            **request.scope,
            "path": request.path,
            "raw_path": quote(request.path).encode(),
            "scheme": request.origin.scheme,
            "client": (request.origin.address, 0),
            "headers": without_forwarded(request.scope["headers"]),
            IN_SCOPE: caller,
        }
        with acting(caller):
            try:
                await self.site(inner, body, answering)
            except Exception:
                if body.fault is None or answering.started:
                    raise
        if body.fault and not answering.started:
            raise body.fault


@dataclass(frozen=True)
class AdmittedRequest:
    """A request that may be answered. path: without that of the proxy; known: who it is of, unless of anyone."""

    scope: Scope
    path: str
    origin: Origin
    known: Authenticated | None
    body: LimitedBody

    @property
    def who(self) -> Authenticated:
        """Who it is of. Raises Refused: a request of anyone is not answered where somebody is asked for."""
        if self.known is None:
            raise Refused(401, "sign in first")
        return self.known


GATE_PAGES: Mapping[str, Callable[[Gate, AdmittedRequest], Awaitable[Response]]] = {
    LOGIN: Gate.login,
    ACCOUNT: Gate.account,
    LOGOUT: Gate.logout,
}


class SessionBoundSend:
    """A `send` of ASGI that ends an answer, such as a stream, with the session of who gets it.

    What a site says of a body that was cut off is dropped: the gate says more.
    """

    def __init__(self, send: Send, body: LimitedBody, alive: Callable[[], bool]):
        self.send, self.body, self.alive, self.started, self.ended = send, body, alive, False, False

    async def __call__(self, message: Message) -> None:
        if self.ended or (self.body.fault and not self.started):
            return
        self.started = True
        if message["type"] == "http.response.body" and message.get("more_body") and not self.alive():
            self.ended, message = True, {"type": "http.response.body", "body": b"", "more_body": False}
        await self.send(message)


def with_headers(send: Send, caching: str) -> Callable[[Message], Awaitable[None]]:
    """A `send` of ASGI that adds what browsers are to keep to, and lets no other site read anything."""

    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            let_no_other_site_read(headers)
            for name, value in SECURITY_HEADERS.items():
                headers[name] = value
            headers.setdefault("Content-Security-Policy", PAGE_POLICY)
            headers["Cache-Control"] = caching
        await send(message)

    return add


def let_no_other_site_read(headers: MutableHeaders) -> None:
    """Remove the headers of an answer by which browsers let pages of other sites read it."""
    for name in {name for name in headers if name.startswith("access-control-")}:
        del headers[name]
