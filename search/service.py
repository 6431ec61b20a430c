"""The HTTP API of a gallery, and the page on top of it; this text is at /docs, and for programs at /openapi.json.

    POST /api/search    {"text", "top", "candidates", "where"} -> hits, best first, and milliseconds by stage
    POST /api/explain   {"text", "id"} -> how well each attribute of the text fits the image, and heat maps
    GET  /api/images/ID the image file
    GET  /api/gallery   how many images, and what they can be filtered by
    POST /api/images    an image file as the body, only where uploads are allowed -> its id

Wrong input is answered by status 400, what is not there by 404, what is not allowed by 403, each with
{"error": one line}. Pages of other sites that a user has open cannot use the API: requests that a browser sends on
their behalf are answered by status 403.
"""

import html
import ipaddress
import os
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
from dataset.digests import digest_of
from search.explain import Explanation, explain
from search.records import IndexedImage
from search.searcher import CANDIDATES, MOST_CANDIDATES, Answer, Searcher
from utils.errors import UserError
from utils.files import atomic_write

LARGEST_UPLOAD = 20 * 2**20
NO_UPLOADS = "uploads are not allowed here; start with --allow_upload"
UPLOADS = "uploads"  # folder below that of the images
ENDING_OF = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}


class Question(BaseModel):
    """A sentence and how to answer it."""

    model_config = ConfigDict(extra="forbid")

    text: str
    top: int = Field(10, ge=1, le=MOST_CANDIDATES)
    candidates: int = Field(CANDIDATES, ge=0, le=MOST_CANDIDATES)
    where: str = Field("", max_length=2000)


class Doubt(BaseModel):
    """A sentence and an image to explain."""

    model_config = ConfigDict(extra="forbid")

    text: str
    id: str


def build_app(searcher: Searcher, allow_upload: bool = False, host: str = "") -> FastAPI:
    """The API alone. host: where it is served; if that is this machine alone, other names of it are refused, as a site
    uses them that makes its own name mean this machine."""
    app = FastAPI(title="Text-based person search", description=__doc__, version="1", docs_url=None, redoc_url=None)

    refuse_strangers(app, allow_upload, host)
    answer_errors(app)

    @app.get("/docs", response_class=HTMLResponse)
    def documentation() -> str:
        """What this API is."""
        return f"<title>HTTP API</title><pre>{html.escape(__doc__ or '')}</pre><a href='/openapi.json'>openapi.json</a>"

    @app.post("/api/search")
    def search(question: Question) -> dict[str, Any]:
        """The images of the gallery that fit a sentence."""
        found = searcher.search(question.text, question.top, question.candidates, question.where)
        return answer_as_json(found, searcher)

    @app.post("/api/explain")
    def explain_hit(doubt: Doubt) -> dict[str, Any]:
        """How well each attribute of a sentence fits an image, and where the model looked."""
        return explanation_as_json(explain(searcher, doubt.text, path_of(searcher, doubt.id)))

    @app.get("/api/images/{image}")
    def image_file(image: str) -> Response:
        """An image of the gallery."""
        try:
            content = searcher.gallery.content_of(path_of(searcher, image))
            with explained():
                kind = Image.MIME[examine(content).format]
        except Unusable as fault:
            raise UserError(f"the file of this image {fault}") from None
        return Response(content, media_type=kind, headers={"X-Content-Type-Options": "nosniff"})

    @app.get("/api/gallery")
    def gallery() -> dict[str, Any]:
        """How many images there are, and the values of their metadata."""
        return {"images": len(searcher.gallery.records), "columns": searcher.gallery.columns()}

    @app.post("/api/images")
    async def upload(request: Request) -> JSONResponse:
        """Add an image to the gallery: the file is the body of the request."""
        if not allow_upload:
            return JSONResponse({"error": NO_UPLOADS}, status_code=403)
        content = await body_of(request)
        record = await run_in_threadpool(add_image, searcher, content)
        return JSONResponse({"id": record.id, "path": record.path})

    @app.api_route("/api/{rest:path}", methods=["GET", "POST", "PUT", "DELETE", "PATCH"], include_in_schema=False)
    def nothing(request: Request, rest: str) -> JSONResponse:
        return JSONResponse({"error": f"there is no {request.method} /api/{rest}; see /docs"}, status_code=404)

    return app


def refuse_strangers(app: FastAPI, allow_upload: bool, host: str) -> None:
    """Answer what other sites ask, other names of this machine, and uploads without leave, by status 403."""

    @app.middleware("http")
    async def refuse_other_sites(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        asked, origin = request.headers.get("host", ""), request.headers.get("origin")
        if origin and urlsplit(origin).netloc != asked and request.url.path.startswith("/api/"):
            return JSONResponse({"error": "requests of other sites are refused"}, status_code=403)
        if not allow_upload and request.url.path.startswith("/gradio_api/upload"):
            return JSONResponse({"error": NO_UPLOADS}, status_code=403)
        if is_this_machine(host) and not is_this_machine(urlsplit(f"//{asked}").hostname or ""):
            return JSONResponse({"error": f"this is served on {host} alone, not on {asked}"}, status_code=403)
        return await go_on(request)


def answer_errors(app: FastAPI) -> None:
    """Answer whatever is wrong with a request by {"error": one line}."""

    @app.exception_handler(UserError)
    def refuse(request: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=400)

    @app.exception_handler(RequestValidationError)
    def refuse_question(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse({"error": f"the request is not understood: {where} {first['msg']}"}, status_code=400)

    @app.exception_handler(HTTPException)
    def refuse_address(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, status_code=error.status_code)


def is_this_machine(host: str) -> bool:
    """Whether a name or address is that of the machine itself, as seen from itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def build_site(searcher: Searcher, allow_upload: bool = False, host: str = "") -> FastAPI:
    """The API, and the page at /. What the page shows is copied to the gallery's folder, nowhere else."""
    os.environ["GRADIO_TEMP_DIR"] = str(searcher.gallery.page)
    import gradio  # slow to import

    from search.page import build_page

    page, app = build_page(searcher, allow_upload), build_app(searcher, allow_upload, host)
    return gradio.mount_gradio_app(app, page, path="/", max_file_size=LARGEST_UPLOAD, footer_links=[])


async def body_of(request: Request) -> bytes:
    """The body, unless it is too large, of which no more is read. Raises UserError."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > LARGEST_UPLOAD:
            raise UserError(f"the image has more than {LARGEST_UPLOAD // 2**20} MiB; upload a smaller one")
    return bytes(content)


def path_of(searcher: Searcher, image: str) -> str:
    """The path of an image by its id. Raises UserError when the gallery has none of that id."""
    record = searcher.gallery.records.by_id.get(image)
    if record is None:
        raise UserError("the gallery holds no image of this id")
    return record.path


def add_image(searcher: Searcher, content: bytes) -> IndexedImage:
    """Keep an uploaded image below the gallery's folder, under the name of its content, and index it.

    Raises UserError when it is no usable image.
    """
    encoder, gallery = searcher.encoder, searcher.gallery
    try:
        with explained():
            ending = ENDING_OF.get(examine(content).format or "")
        if ending is None:
            raise UserError(f"the upload is none of {', '.join(ENDING_OF)}; convert it")
        image = encoder.read(content)
    except Unusable as fault:
        raise UserError(f"the upload {fault}") from None
    digest = digest_of(content)
    path = f"{UPLOADS}/{digest[:32]}{ending}"
    with searcher.turn:
        if path in gallery.records.by_path:
            return gallery.records.by_path[path]
        with atomic_write(gallery.images / path) as temporary:
            temporary.write_bytes(content)
        _, embeddings = encoder.encode_images([image])
        record = IndexedImage(path, digest, embeddings[0], {})
        gallery.put([record])
        gallery.finish()
    return record


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
        "read_as": answer.query.cleaned,
        "hits": hits,
        "missing": answer.missing,
        "milliseconds": answer.milliseconds,
    }


def explanation_as_json(found: Explanation) -> dict[str, Any]:
    attributes = [{"words": one.words, "match": one.match, "heat": one.heat.tolist()} for one in found.attributes]
    return {"path": found.path, "match": found.match, "heat": found.heat.tolist(), "attributes": attributes}
