"""The HTTP API of a gallery; this text is at /docs, and for programs at /openapi.json.

    POST /api/search    {"text", "top", "candidates", "where", "group", "format"} -> hits, best first, each with the
                        moments of its group, and images whose files are missing; the words that were read and those
                        unknown to the model; how many words there are, and how many of them the model reads;
                        milliseconds by stage; where the model is calibrated, how likely each hit is right
                        ("probability"), and whether probably "nobody_fits". "format": "csv" asks for a table of the
                        hits in place of JSON
    POST /api/explain   {"text", "id"} -> how well each attribute of the text fits the image, and heat maps: "match",
                        or, of a model without a matching head, "similarity", what the attribute adds to the cosine
    POST /api/describe  {"id"} -> what an image shows, category by category: the likeliest "phrase" and its "score", a
                        probability where it is "calibrated"; and all "options"
    POST /api/ask       {"text", "answers", "top", "candidates", "among", "where", "group"} -> as /api/search, ranked
                        again by the answers so far, and the "question" that tells the best hits apart best; an answer
                        is {"category", "phrase", "answer"}: those of the question, and "yes", "no" or "unknown"
    GET  /api/images/ID the image file
    GET  /api/frames/ID the frame that an image was cut out of, with its box
    GET  /api/gallery   how many images, and what they can be filtered by
    POST /api/images    an image file as the body, only where uploads are allowed -> its id
    DELETE /api/images/ID  erases an image from the gallery, only where that is allowed; its file is left alone

Where one must sign in, programs send the header "Authorization: Bearer TOKEN"; status 401 answers who is not known,
429 too many attempts. Status 400 answers wrong input, 404 what is not there, 403 what is not allowed, 503 what cannot
be recorded, written or read now, each with {"error": one line}, at all addresses but those that the page itself calls
(/gradio_api). Pages of other sites that a user has open cannot use the API: requests that a browser sends on their
behalf are answered by status 403.
"""

import html
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from dataset.decoding import Unusable, examine, explained
from evaluation.description.phrases import read_phrase_table
from search.access.addresses import bare, host_in, is_this_machine, serves_this_machine_alone
from search.access.gate import PAGE_POLICY, let_no_other_site_read
from search.access.origins import Origin, follows_link, is_of_another_site
from search.access.refusals import status_of
from search.describing.describer import GalleryDescriber
from search.explain import ExplainedAttribute, Explanation, explain
from search.results.formats import results_as_csv, search_result_as_json
from search.searcher import CANDIDATES, MAX_CANDIDATES, Searcher
from search.serving.describing_api import AskRequest, DescribeRequest, add_describing
from search.serving.erasing import erase_image
from search.serving.frame_view import add_frames
from search.serving.numbers import Whole
from search.serving.search_threads import CLIENT_CLOSED_REQUEST, SearchThreads
from search.serving.upload import LARGEST_UPLOAD, add_image
from utils.errors import NotThere, UserError, did_you_mean
from utils.files import as_json
from utils.text import shorten

MAX_FILTER = 2000  # characters
OF_THE_PAGE = "/gradio_api"  # what the page's own code calls, which reads errors in a form of its own
AS_FILE = {"Content-Disposition": 'attachment; filename="results.csv"', "X-Content-Type-Options": "nosniff"}
NO_UPLOADS = "uploads are not allowed here; start with --allow_upload"


class SearchRequest(BaseModel):
    """A sentence, and how many images to find and re-rank."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str = Field(description="a sentence")
    top: Whole = Field(10, ge=1, le=MAX_CANDIDATES, description=f"a whole number from 1 to {MAX_CANDIDATES}")
    candidates: Whole = Field(
        CANDIDATES, ge=0, le=MAX_CANDIDATES, description=f"a whole number from 0 to {MAX_CANDIDATES}"
    )
    where: str = Field("", max_length=MAX_FILTER, description=f"a filter of at most {MAX_FILTER} characters")
    group: str = Field("", max_length=MAX_FILTER, description="the name of metadata in quotes, or 'alike'")
    format: Literal["json", "csv"] = Field("json", description='"json" or "csv"')


class ExplainRequest(BaseModel):
    """A sentence, and the image to explain as a hit for it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str = Field(description="a sentence")
    id: str = Field(description="the id of an image, in quotes")


REQUESTS: Mapping[str, type[BaseModel]] = {
    "/api/search": SearchRequest,
    "/api/explain": ExplainRequest,
    "/api/describe": DescribeRequest,
    "/api/ask": AskRequest,
}


def build_app(
    searcher: Searcher,
    allow_upload: bool = False,
    host: str = "",
    allow_forget: bool = False,
    describer: GalleryDescriber | None = None,
) -> FastAPI:
    """The API alone. host: the address it is served on, which decides the names it answers to (`refuse_strangers`).

    describer: says what images show; None = by the built-in phrases.
    """
    app = FastAPI(title="Text-based person search", description=__doc__, version="1", docs_url=None, redoc_url=None)
    refuse_strangers(app, allow_upload, host)
    answer_errors(app)
    add_documentation(app)
    add_search(app, searcher)
    add_images(app, searcher, allow_upload)
    add_frames(app, searcher)
    add_describing(app, describer or GalleryDescriber(searcher, read_phrase_table()))
    if allow_forget:
        add_erasing(app, searcher)
    add_unknown(app)
    return app


# ---- addresses -------------------------------------------------------------------------


def add_documentation(app: FastAPI) -> None:
    @app.get("/docs", response_class=HTMLResponse)
    def documentation() -> str:
        """What this API is."""
        return f"<title>HTTP API</title><pre>{html.escape(__doc__ or '')}</pre><a href='openapi.json'>openapi.json</a>"


def add_search(app: FastAPI, searcher: Searcher) -> None:
    threads = SearchThreads()

    @app.post("/api/search")  # see REQUESTS
    async def search(asked: SearchRequest, request: Request) -> Response:
        """The images of the gallery that fit a sentence."""

        def answer(abandoned: Callable[[], bool]) -> Response:
            answered = searcher.search(asked.text, asked.top, asked.candidates, asked.where, asked.group, abandoned)
            found = search_result_as_json(answered, searcher.gallery)
            if asked.format == "json":
                return JSONResponse(found)
            return Response(results_as_csv(found["hits"]), media_type="text/csv", headers=AS_FILE)

        return await threads.answer(request, answer)

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
        path = path_of(searcher, image)
        searcher.authorize("image", image=path)
        try:
            content = searcher.gallery.content_of(path)
            with explained():
                media_type = Image.MIME.get(examine(content).format or "")
        except Unusable as fault:
            raise NotThere(f"the file of this image {fault}") from None
        return Response(content, media_type=media_type, headers={"X-Content-Type-Options": "nosniff"})

    @app.post("/api/images")
    async def upload(request: Request) -> JSONResponse:
        """Add an image to the gallery: the file is the body of the request."""
        if not allow_upload:
            return error_answer(NO_UPLOADS, 403)
        content = await body_of(request)
        image = await run_in_threadpool(add_image, searcher, content)
        return JSONResponse({"id": image.id, "path": image.path})


def add_erasing(app: FastAPI, searcher: Searcher) -> None:
    @app.delete("/api/images/{image}")
    def erase(image: str) -> dict[str, Any]:
        """Erase an image from the gallery; its file is left alone."""
        path = path_of(searcher, image)
        erase_image(searcher, path)
        return {"erased": path, "images": len(searcher.gallery.records)}


def add_unknown(app: FastAPI) -> None:
    """Answer all other addresses below /api by status 404."""

    async def unknown(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        await error_answer(nothing_there(request), 404)(scope, receive, send)

    app.mount("/api", unknown)  # takes all methods, such as OPTIONS, also for addresses that answer others


async def body_of(request: Request) -> bytes:
    """The body of a request. Raises UserError when it is too large, without reading the rest."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > LARGEST_UPLOAD:
            raise UserError(f"the image has more than {LARGEST_UPLOAD // 2**20} MiB; upload a smaller one")
    return bytes(content)


def path_of(searcher: Searcher, image: str) -> str:
    """The path of an image by its id. Raises NotThere when the gallery has none of that id."""
    found = searcher.gallery.records.by_id.get(image)
    if found is None:
        raise NotThere("the gallery holds no image of this id")
    return found.path


# ---- refusals --------------------------------------------------------------------------


def refuse_strangers(app: FastAPI, allow_upload: bool, host: str) -> None:
    """Answer requests of other sites, by names that are not this machine's, and uploads that are not allowed, by 403.

    Where only this machine is served, another name for it is refused: a site can have its own name resolve to
    127.0.0.1, and would then count as the same site (DNS rebinding).
    """
    alone = serves_this_machine_alone(host)

    @app.middleware("http")
    async def refuse(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        asked = request.headers.get("host", "")
        if is_sent_by_another_site(request):
            return error_answer("requests of other sites are refused", 403)
        if not allow_upload and request.url.path.startswith(f"{OF_THE_PAGE}/upload"):
            return error_answer(NO_UPLOADS, 403)
        if alone and not (is_this_machine(host_in(asked)) or host_in(asked) == bare(host).lower()):
            return error_answer(f"this is served on {host} alone, not on {asked}", 403)
        answer = await call_next(request)
        let_no_other_site_read(answer.headers)
        answer.headers.setdefault("Content-Security-Policy", PAGE_POLICY)
        return answer if request.url.path.startswith(("/api/", OF_THE_PAGE)) else in_one_form(request, answer)


def is_sent_by_another_site(request: Request) -> bool:
    """Whether a browser sent this for a page of another site; programs do not say, and may ask.

    Links from there may be followed, but not to what the page's own code calls.
    """
    reads = request.method in ("GET", "HEAD") and not request.url.path.startswith((OF_THE_PAGE, "/config"))
    if reads and follows_link(request.headers):
        return False
    here = Origin("", request.url.scheme, request.headers.get("host", ""))
    return is_of_another_site(here, request.headers, changes=False)


def in_one_form(request: Request, answer: Response) -> Response:
    """The answer of the page, or {"error": one line} in place of an error of it."""
    if answer.status_code < 400:
        return answer
    if answer.status_code in (404, 405):
        return error_answer(nothing_there(request), 404)
    return error_answer(HTTPStatus(answer.status_code).phrase, answer.status_code)


def nothing_there(request: Request) -> str:
    return f"there is no {request.method} {request.url.path}; see /docs"


def answer_errors(app: FastAPI) -> None:
    """Answer whatever is wrong with a request by {"error": one line}."""

    @app.exception_handler(UserError)
    def wrong_input(request: Request, error: UserError) -> JSONResponse:
        return error_answer(str(error), status_of(error))

    @app.exception_handler(RequestValidationError)
    def wrong_request(request: Request, error: RequestValidationError) -> JSONResponse:
        return error_answer(f"the request is not understood: {misunderstanding(request, error)}", 400)

    @app.exception_handler(Exception)
    def failure(request: Request, error: Exception) -> JSONResponse:
        return error_answer("the server failed; its terminal says why", 500)

    app.exception_handler(ClientDisconnect)(answer_nobody)

    @app.exception_handler(HTTPException)
    def wrong_address(request: Request, error: HTTPException) -> JSONResponse:
        return error_answer(str(error.detail), error.status_code)


def error_answer(message: str, status: int) -> JSONResponse:
    """The form of all errors: {"error": one line}."""
    return JSONResponse({"error": message}, status_code=status)


def answer_nobody(request: Request, error: Exception) -> Response:
    """What is answered when a client has left while it sent its request: that is no failure of the server."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)


def misunderstanding(request: Request, error: RequestValidationError) -> str:
    """What is wrong with the body of a request."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    if first["type"] == "json_invalid":
        return f"its body is not JSON ({first['ctx']['error']} at character {where})"
    if not where:
        return 'its body is not a JSON object like {"text": "a man in a red coat"}, of Content-Type: application/json'
    fields, where = REQUESTS[request.url.path].model_fields, where.partition(".")[0]
    if where not in fields:
        return f"there is no {where!r}{did_you_mean(where, fields)}; known are {', '.join(fields)}"
    wanted, inside = fields[where].description, len(first["loc"]) > 2
    if first["type"] == "missing" and not inside:
        return f"{where}, {wanted}, is missing"
    given = error.body[where] if inside else first["input"]
    return f"{where} must be {wanted}, not {shorten(as_json(given))}"


# ---- answers ---------------------------------------------------------------------------


def explanation_as_json(found: Explanation) -> dict[str, Any]:
    attributes = [{"words": one.words, **scores_and_heat(one)} for one in found.attributes]
    return {"path": found.path, **scores_and_heat(found), "attributes": attributes}


def scores_and_heat(found: Explanation | ExplainedAttribute) -> dict[str, Any]:
    return {"match": found.match, "similarity": found.similarity, "heat": found.heat.tolist()}
