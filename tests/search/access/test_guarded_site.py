"""The whole site, page and API of a real gallery, behind the gate: closed without a password, recorded with one."""

import io
import json
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio")
pytest.importorskip("pymilvus")

from PIL import Image
from search_access import HERE, client_of, sign_in

from search.access.action_guard import ActionGuard
from search.access.gate import Gate
from search.access.origins import Origins
from search.access.refusals import Forbidden
from search.site import build_site

SENTENCE = "A woman in a red coat and grey jeans."
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE")
OPEN = {("GET", "/login"), ("POST", "/login")}


@pytest.fixture
def served(guarded, searcher):
    """The gallery behind the gate, with clients of anna, who may search, and otto, who may do all."""
    searcher.authorize = ActionGuard(True, guarded.log)
    site = build_site(searcher, allow_upload=True, allow_forget=True, accounts=True)
    gate = Gate(site, guarded.logins, Origins(["photos.example"]))
    anna, otto = (client_of(gate, headers={"Origin": HERE}) for _ in range(2))
    assert sign_in(anna).status_code == sign_in(otto, "otto").status_code == 303
    return SimpleNamespace(site=site, gate=gate, anna=anna, otto=otto, searcher=searcher, guarded=guarded)


def lines(served):
    return [json.loads(line) for line in served.guarded.audit.read_text().splitlines()]


def paths_of(routes):
    """The paths of all routes of an application, those of what it mounts and includes too."""
    for route in routes:
        path = getattr(route, "path", None)
        if path:
            yield path
        for inner in (getattr(route, "routes", None), getattr(getattr(route, "original_router", None), "routes", None)):
            yield from paths_of(inner or ())


def png():
    content = io.BytesIO()
    Image.new("RGB", (30, 60), "red").save(content, "PNG")
    return content.getvalue()


def test_no_route_of_the_served_site_answers_without_a_password(served):
    paths = {
        path.replace("{path:path}", "x").replace("{", "").replace("}", "") for path in paths_of(served.site.routes)
    }
    assert {"/api/search", "/config", "/gradio_api/queue/join", "/gradio_api/vibe-code", "/openapi.json"} <= paths
    assert len(paths) > 60
    stranger = client_of(served.gate)
    for path in sorted(paths | {"/nothing", "/gradio_api/file=/etc/passwd"}):
        for method in METHODS:
            if (method, path) in OPEN:
                continue
            answer = stranger.request(method, path, headers={"Origin": HERE})
            assert answer.status_code == 401, (method, path, answer.status_code)
            assert set(answer.json() if method != "HEAD" else {"error": ""}) == {"error"}
        shown = stranger.get(path, headers={"Accept": "text/html"})
        assert shown.status_code == (200 if path == "/login" else 303), path
    assert "gradio" not in stranger.get("/login").text.lower()


def test_who_signed_in_searches_and_it_is_recorded(served):
    found = served.anna.post("/api/search", json={"text": SENTENCE, "top": 3, "where": "camera == 'c1'"}).json()["hits"]
    served.anna.post("/api/explain", json={"text": SENTENCE, "id": found[0]["id"]})
    assert served.anna.get(f"/api/images/{found[0]['id']}").status_code == 200
    query, why, image = lines(served)[2:]
    assert (query["who"], query["by"], query["address"], query["action"]) == ("anna", "password", "testclient", "query")
    assert (query["text"], query["where"], query["hits"]) == (SENTENCE, "camera == 'c1'", 3)
    assert (why["action"], why["who"], why["text"], why["image"]) == ("explain", "anna", SENTENCE, found[0]["path"])
    assert (image["action"], image["image"]) == ("image", found[0]["path"])


def test_roles_decide_who_uploads_and_erases(served):
    gallery, before = served.searcher.gallery, len(served.searcher.gallery.records)
    record = next(iter(gallery.records))
    assert served.anna.post("/api/images", content=png()).status_code == 403
    assert served.anna.delete(f"/api/images/{record.id}").status_code == 403
    assert len(gallery.records) == before
    program = client_of(served.gate, headers={"Authorization": f"Bearer {served.guarded.camera}"})
    added = program.post("/api/images", content=png()).json()
    assert program.post("/api/search", json={"text": SENTENCE}).status_code == 403
    assert served.otto.delete(f"/api/images/{added['id']}").json() == {"erased": added["path"], "images": before}
    assert served.otto.delete(f"/api/images/{added['id']}").status_code == 404
    told = [(line["action"], line["who"], line["by"], line["image"]) for line in lines(served)[2:]]
    assert told == [("upload", "camera", "token", added["path"]), ("erase", "otto", "password", added["path"])]
    hits = served.anna.post("/api/search", json={"text": SENTENCE, "top": 1000}).json()["hits"]
    assert added["path"] not in [hit["path"] for hit in hits] and gallery.store.count() == before


def test_nothing_is_done_that_cannot_be_recorded(served):
    gallery, before = served.searcher.gallery, len(served.searcher.gallery.records)
    record = next(iter(gallery.records))
    served.guarded.audit.chmod(0o644)
    for method, path, body in (
        ("POST", "/api/search", {"json": {"text": SENTENCE}}),
        ("POST", "/api/explain", {"json": {"text": SENTENCE, "id": record.id}}),
        ("GET", f"/api/images/{record.id}", {}),
        ("POST", "/api/images", {"content": png()}),
        ("DELETE", f"/api/images/{record.id}", {}),
    ):
        answer = served.otto.request(method, path, **body)
        assert answer.status_code == 503 and "audit log" in answer.json()["error"], (path, answer.text)
    assert len(gallery.records) == before and not (gallery.image_source.path / "uploads").exists()


def call(client, name, data, **event):
    """Call what the page calls of this name, through its queue, as the page does; returns what comes back."""
    config = client.get("/config").json()
    number = next(one["id"] for one in config["dependencies"] if one["api_name"] == name)
    body = {"fn_index": number, "data": data, "session_hash": "abc", **event}
    joined = client.post("/gradio_api/queue/join", json=body)
    assert joined.status_code == 200, joined.text
    with client.stream("GET", "/gradio_api/queue/data?session_hash=abc") as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if message.get("msg") == "process_completed":
                return message
    raise AssertionError("the queue ended without an answer")


def test_the_page_acts_in_the_name_of_who_signed_in(served):
    with served.anna:  # starts the queue
        done = call(served.anna, "answer", [SENTENCE, 2, 0, "", [], ""])
        assert done["success"] and done["output"]["data"][0].count("data:image/jpeg;base64,") == 2
        table = call(served.anna, "download_csv", [None])["output"]["data"][0]
        assert table.splitlines()[0].startswith("rank,moment,image") and len(table.splitlines()) == 3
        both = call(served.anna, "compare", [SENTENCE, "a man", 1, 0, "", [], ""])["output"]["data"][0]
        assert both.count("data:image/jpeg;base64,") == 2
        assert served.anna.post("/gradio_api/upload", files={"files": ("a.png", png())}).status_code == 403
    told = [(line["action"], line["who"], line["text"], line["hits"]) for line in lines(served)[2:]]
    assert told == [
        ("query", "anna", SENTENCE, 2),
        ("download", "anna", SENTENCE, 2),
        ("query", "anna", SENTENCE, 1),
        ("query", "anna", "a man", 1),
    ]


def test_nothing_is_downloaded_that_cannot_be_recorded(served):
    with served.anna:
        call(served.anna, "answer", [SENTENCE, 2, 0, "", [], ""])
        served.guarded.audit.chmod(0o644)
        for name in ("download_csv", "download_json"):
            done = call(served.anna, name, [None])
            assert not done["success"] and "audit log" in done["output"]["error"]


@pytest.mark.parametrize(("user", "may"), [("anna", False), ("otto", True)])
def test_the_button_of_the_page_erases_for_who_may(served, user, may):
    gallery, before, client = served.searcher.gallery, len(served.searcher.gallery.records), getattr(served, user)
    with client:
        call(client, "answer", [SENTENCE, 2, 0, "", [], ""])
        event = {"event_data": {"index": 0, "value": None}}
        chosen = call(client, "choose", [None], **event)["output"]["data"][2]
        assert chosen in gallery.records.by_path
        unsure = call(client, "erase", [None, False])["output"]["data"][0]
        assert "tick the box first" in unsure and len(gallery.records) == before
        said = call(client, "erase", [None, True])["output"]["data"][0]
        assert ("needs the role forget" in said) is not may and (chosen in gallery.records.by_path) is not may
        table = call(client, "download_csv", [None])["output"]["data"][0]
        assert (chosen in table) is not may and len(table.splitlines()) == (2 if may else 3)  # of what was found before
    assert [line["who"] for line in lines(served) if line["action"] == "erase"] == (["otto"] if may else [])


def test_nobody_acts_without_a_name(served):
    """Also where something would reach the search past the gate."""
    with pytest.raises(Forbidden, match="needs the role search"):
        served.searcher.search(SENTENCE)
    assert len(lines(served)) == 2


def test_the_page_leads_nowhere_else(served):
    seen = {"X-Forwarded-Host": "evil.example", "X-Gradio-Server": "https://evil.example"}
    assert served.anna.get("/config", headers=seen).json()["root"] == HERE
    page = served.anna.get("/", headers=seen)
    assert "evil.example" not in page.text and "default-src 'self'" in page.headers["content-security-policy"]
    assert "/account" in page.text


def test_the_page_is_served_below_the_path_of_a_proxy(guarded, searcher):
    site = build_site(searcher, root_path="/people", accounts=True)
    gate = Gate(site, guarded.logins, Origins(["photos.example"], ["10.0.0.1"]), "/people")
    said = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
    client = client_of(gate, "http://photos.example", client=("10.0.0.1", 1), headers=said)
    cookie = {"Cookie": sign_in(client, Origin=HERE).headers["set-cookie"].partition(";")[0]}
    assert client.get("/people/config", headers=cookie).json()["root"] == f"{HERE}/people"
    page = client.get("/people/", headers=cookie).text
    assert "/people/account" in page and "/people/docs" in page
    assert client.get("/people/openapi.json", headers=cookie).json()["paths"]


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../etc/passwd",
        "/gradio_api/file=http://169.254.169.254/",
        "/gradio_api/proxy=http://169.254.169.254/",
        "/static/%2e%2e/%2e%2e/etc/passwd",
        "/assets//etc/passwd",
        "/svelte/%2fetc%2fpasswd",
        "/api/images/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/gradio_api/file=SECRETS",
    ],
)
def test_who_signed_in_reads_no_file_of_the_server(served, path):
    for secret in (served.guarded.users, served.guarded.audit, served.searcher.gallery.address.folder / "gallery.json"):
        answer = served.otto.get(path.replace("SECRETS", str(secret)))
        assert answer.status_code >= 400 and "root:" not in answer.text and "scrypt" not in answer.text, path
