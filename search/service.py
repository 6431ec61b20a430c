"""The HTTP API of a gallery; this text is at /docs, and for programs at /openapi.json.

    POST /api/search    {"text", "top", "candidates", "where"} -> hits, best first, and milliseconds by stage
    POST /api/explain   {"text", "id"} -> how well each attribute of the text fits the image, and heat maps
    GET  /api/images/ID the image file
    GET  /api/gallery   how many images, and what they can be filtered by
    POST /api/images    an image file as the body, only where uploads are allowed -> its id

Status 400 answers wrong input, 404 what is not there, 403 what is not allowed, each with {"error": one line}. Pages of
other sites that a user has open cannot use the API: requests that a browser sends on their behalf are answered by
status 403.
"""

import html
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from dataset.decoding import Unusable, examine, explained
from search.explain import Explanation, explain
from search.searcher import CANDIDATES, MOST_CANDIDATES, Answer, Searcher
from search.upload import LARGEST_UPLOAD, add_image
from utils.errors import UserError

NO_UPLOADS = "uploads are not allowed here; start with --allow_upload"


class SearchRequest(BaseModel):
    """A sentence, and how many images to find and re-rank."""

    model_config = ConfigDict(extra="forbid")

    text: str
    top: int = Field(10, ge=1, le=MOST_CANDIDATES)
    candidates: int = Field(CANDIDATES, ge=0, le=MOST_CANDIDATES)
    where: str = Field("", max_length=2000)


class ExplainRequest(BaseModel):
    """A sentence, and the image to explain as a hit for it."""

    model_config = ConfigDict(extra="forbid")

    text: str
    id: str


def build_app(searcher: Searcher, allow_upload: bool = False, host: str = "") -> FastAPI:
    """The API alone. host: the address it is served on, which decides the names it answers to (`refuse_strangers`)."""
    app = FastAPI(title="Text-based person search", description=__doc__, version="1", docs_url=None, redoc_url=None)
    refuse_strangers(app, allow_upload, host)
    answer_errors(app)
    add_documentation(app)
    add_search(app, searcher)
    add_images(app, searcher, allow_upload)
    add_unknown(app)
    return app


# ---- addresses -------------------------------------------------------------------------


def add_documentation(app: FastAPI) -> None:
    @app.get("/docs", response_class=HTMLResponse)
    def documentation() -> str:
        """What this API is."""
        return f"<title>HTTP API</title><pre>{html.escape(__doc__ or '')}</pre><a href='/openapi.json'>openapi.json</a>"


def add_search(app: FastAPI, searcher: Searcher) -> None:
    @app.post("/api/search")
    def search(request: SearchRequest) -> dict[str, Any]:
        """The images of the gallery that fit a sentence."""
        answer = searcher.search(request.text, request.top, request.candidates, request.where)
        return answer_as_json(answer, searcher)

    @app.post("/api/explain")
    def explain_hit(request: ExplainRequest) -> dict[str, Any]:
        """How well each attribute of a sentence fits an image, and where the model attended to it."""
        return explanation_as_json(explain(searcher, request.text, path_of(searcher, request.id)))

    @app.get("/api/gallery")
    def gallery() -> dict[str, Any]:
        """How many images there are, and the values of their metadata."""
        return {"images": len(searcher.gallery.records), "columns": searcher.gallery.columns()}


def add_images(app: FastAPI, searcher: Searcher, allow_upload: bool) -> None:
    @app.get("/api/images/{image}")
    def image_file(image: str) -> Response:
        """An image of the gallery."""
        try:
            content = searcher.gallery.content_of(path_of(searcher, image))
            with explained():
                media_type = Image.MIME.get(examine(content).format or "")
        except Unusable as fault:
            raise UserError(f"the file of this image {fault}") from None
        return Response(content, media_type=media_type, headers={"X-Content-Type-Options": "nosniff"})

    @app.post("/api/images")
    async def upload(request: Request) -> JSONResponse:
        """Add an image to the gallery: the file is the body of the request."""
        if not allow_upload:
            return JSONResponse({"error": NO_UPLOADS}, status_code=403)
        content = await body_of(request)
        image = await run_in_threadpool(add_image, searcher, content)
        return JSONResponse({"id": image.id, "path": image.path})


def add_unknown(app: FastAPI) -> None:
    """Answer all other addresses below /api by status 404."""

    @app.api_route("/api/{rest:path}", methods=["GET", "POST", "PUT", "DELETE", "PATCH"], include_in_schema=False)
    def unknown(request: Request, rest: str) -> JSONResponse:
        return JSONResponse({"error": f"there is no {request.method} /api/{rest}; see /docs"}, status_code=404)


async def body_of(request: Request) -> bytes:
    """The body of a request. Raises UserError when it is too large, without reading the rest."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > LARGEST_UPLOAD:
            raise UserError(f"the image has more than {LARGEST_UPLOAD // 2**20} MiB; upload a smaller one")
    return bytes(content)


def path_of(searcher: Searcher, image: str) -> str:
    """The path of an image by its id. Raises UserError when the gallery has none of that id."""
    found = searcher.gallery.records.by_id.get(image)
    if found is None:
        raise UserError("the gallery holds no image of this id")
    return found.path


# ---- refusals --------------------------------------------------------------------------


def refuse_strangers(app: FastAPI, allow_upload: bool, host: str) -> None:
    """Answer requests of other sites, by names that are not this machine's, and uploads that are not allowed, by 403.

    Where only this machine is served, another name for it is refused: a site can have its own name resolve to
    127.0.0.1, and would then count as the same site (DNS rebinding).
    """

    @app.middleware("http")
    async def refuse(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        asked, origin = request.headers.get("host", ""), request.headers.get("origin")
        if origin and urlsplit(origin).netloc != asked and request.url.path.startswith("/api/"):
            return JSONResponse({"error": "requests of other sites are refused"}, status_code=403)
        if not allow_upload and request.url.path.startswith("/gradio_api/upload"):
            return JSONResponse({"error": NO_UPLOADS}, status_code=403)
        if is_this_machine(host) and not is_this_machine(urlsplit(f"//{asked}").hostname or ""):
            return JSONResponse({"error": f"this is served on {host} alone, not on {asked}"}, status_code=403)
        return await call_next(request)


def answer_errors(app: FastAPI) -> None:
    """Answer whatever is wrong with a request by {"error": one line}."""

    @app.exception_handler(UserError)
    def wrong_input(request: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=400)

    @app.exception_handler(RequestValidationError)
    def wrong_request(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse({"error": f"the request is not understood: {where} {first['msg']}"}, status_code=400)

    @app.exception_handler(HTTPException)
    def wrong_address(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, status_code=error.status_code)


def is_this_machine(host: str) -> bool:
    """Whether a name or address stands for the machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# ---- answers ---------------------------------------------------------------------------


def answer_as_json(answer: Answer, searcher: Searcher) -> dict[str, Any]:
    by_path = searcher.gallery.records.by_path
    hits = [
        {
            "rank": rank,
            "id": by_path[hit.path].id,
            "path": hit.path,
            "match": hit.match,
            "score": hit.score,
            "similarity": hit.similarity,
            "metadata": hit.metadata,
        }
        for rank, hit in enumerate(answer.hits, 1)
    ]
    return {
        "text": answer.query.text,
        "read_as": answer.query.read_as,
        "unknown": answer.query.unknown,
        "hits": hits,
        "missing": answer.missing,
        "milliseconds": answer.milliseconds,
    }


def explanation_as_json(found: Explanation) -> dict[str, Any]:
    attributes = [{"words": one.words, "match": one.match, "heat": one.heat.tolist()} for one in found.attributes]
    return {"path": found.path, "match": found.match, "heat": found.heat.tolist(), "attributes": attributes}
