"""The HTTP API answers, refuses what is wrong in one line, and serves nothing but the gallery."""

import threading

import pytest

pytest.importorskip("gradio")
pytest.importorskip("pymilvus")

from fastapi.testclient import TestClient
from faults.pictures import red_png

from search.page.filters import condition
from search.page.messages import problem, summary
from search.page.reasons import reasons_as_html
from search.serving.api import build_app
from utils.errors import UserError

JSON = {"Content-Type": "application/json"}
SENTENCE = "A woman in a red coat and grey jeans."


def test_search_explain_and_images(client, searcher):
    found = client.post("/api/search", json={"text": SENTENCE, "top": 3, "where": "camera == 'c1'"}).json()
    assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3]
    assert found["read_as"] == "a woman in a red coat and grey jeans"
    assert found["unknown"] == []
    assert {hit["metadata"]["camera"] for hit in found["hits"]} == {"c1"}
    hit = found["hits"][0]
    why = client.post("/api/explain", json={"text": SENTENCE, "id": hit["id"]}).json()
    assert [one["words"] for one in why["attributes"]] == ["red coat", "grey jeans"]
    assert why["match"] == pytest.approx(hit["match"], abs=1e-4)
    image = client.get(f"/api/images/{hit['id']}")
    assert image.content == (searcher.gallery.image_source.path / hit["path"]).read_bytes()
    assert image.headers["content-type"] == "image/jpeg" and image.headers["x-content-type-options"] == "nosniff"
    about = client.get("/api/gallery").json()
    assert about == {"images": len(searcher.gallery.records), "columns": {"camera": ["c0", "c1", "c2"]}}
    documentation = client.get("/docs")
    assert documentation.status_code == 200 and "POST /api/search" in documentation.text
    assert "http:" not in documentation.text and "https:" not in documentation.text  # all of it comes from here
    assert "/api/search" in client.get("/openapi.json").json()["paths"]


def test_a_sentence_that_is_cut_is_told(client, searcher):
    found = client.post("/api/search", json={"text": "a man " * 40, "top": 1}).json()
    assert found["words"] == 80 > found["words_read"] > 30
    said = (
        f"The sentence is longer than the model reads: only the first {found['words_read']} of its 80 words are read."
    )
    assert said in summary(searcher.search("a man " * 40))


def test_unknown_words_are_told(client, searcher):
    text = "a red \u5916\u5957 coat, grey \u88e4 jeans"
    found = client.post("/api/search", json={"text": text, "top": 1}).json()
    assert (found["read_as"], found["unknown"]) == ("a red coat grey jeans", ["\u5916\u5957", "\u88e4"])
    why = client.post("/api/explain", json={"text": text, "id": found["hits"][0]["id"]}).json()
    assert [one["words"] for one in why["attributes"]] == ["red coat", "grey jeans"]
    said = "Not known to the model, and not read: \u5916\u5957, \u88e4."
    assert said in summary(searcher.search(text)) and "Not known" not in summary(searcher.search(SENTENCE))
    refused = client.post("/api/search", json={"text": "\u4e00\u4e2a\u5973\u4eba"})
    assert refused.status_code == 400 and "the model knows no word of" in refused.json()["error"]


@pytest.mark.parametrize(
    ("question", "status", "words"),
    [
        ({"text": " ?! "}, 400, "the sentence holds no word"),
        ({"text": "a man", "where": "camera ="}, 400, "is not understood"),
        ({"text": "a man", "where": "x" * 3000}, 400, "where must be a filter of at most 2000 characters, not"),
        ({"text": "a man", "top": 10**9}, 400, "top must be a whole number from 1 to 1000, not 1000000000"),
        ({"text": "a man", "top": 0}, 400, "top must be a whole number from 1 to 1000, not 0"),
        ({"text": "a man", "top": True}, 400, "top must be a whole number from 1 to 1000, not true"),
        ({"text": "a man", "top": "3"}, 400, 'top must be a whole number from 1 to 1000, not "3"'),
        ({"text": "a man", "top": 2.5}, 400, "top must be a whole number from 1 to 1000, not 2.5"),
        ({"text": "a man", "candidates": None}, 400, "candidates must be a whole number from 0 to 1000, not null"),
        ({"text": "a man", "where": None}, 400, "where must be a filter of at most 2000 characters, not null"),
        ({"text": "a man", "where": ["a"]}, 400, 'where must be a filter of at most 2000 characters, not ["a"]'),
        ({"text": 7}, 400, "text must be a sentence, not 7"),
        ({"text": None}, 400, "text must be a sentence, not null"),
        ({}, 400, "text, a sentence, is missing"),
        ({"text": "a man", "tops": 7}, 400, "there is no 'tops' (did you mean 'top'?); known are text, top"),
        ([], 400, ""),
        ({"text": "a man", "where": "bogus == 1"}, 400, "no metadata are called bogus"),
        ({"text": "a man", "where": "camera == 1"}, 400, "camera holds text, such as 'c0'"),
    ],
)
def test_wrong_questions_are_told(client, question, status, words):
    answer = client.post("/api/search", json=question)
    assert answer.status_code == status and words in answer.json()["error"] and set(answer.json()) == {"error"}


def test_a_whole_number_may_be_written_as_any_number(client):
    assert len(client.post("/api/search", json={"text": "a man", "top": 2.0}).json()["hits"]) == 2


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"text": "a man", "id": 7}, "id must be the id of an image, in quotes, not"),
        ({"text": "a man"}, "is missing"),
    ],
)
def test_wrong_requests_for_reasons_are_told(client, question, words):
    answer = client.post("/api/explain", json=question)
    assert answer.status_code == 400 and words in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "address"),
    [
        ("GET", "/nothing"),
        ("GET", "/api"),
        ("POST", "/"),
        ("GET", "/docs/x"),
        ("POST", "/docs"),
        ("PUT", "/openapi.json"),
    ],
)
def test_errors_outside_the_api_have_its_form(client, method, address):
    answer = client.request(method, address)
    assert (answer.status_code, set(answer.json())) == (404, {"error"}), answer.text
    assert answer.json()["error"].startswith(f"there is no {method} /")


def test_a_failure_of_the_server_has_the_form_of_errors(searcher, monkeypatch):
    def fail(*given):
        raise RuntimeError("secret")

    monkeypatch.setattr(searcher, "search", fail)
    answer = TestClient(build_app(searcher), raise_server_exceptions=False).post("/api/search", json={"text": "a man"})
    assert answer.status_code == 500 and answer.json() == {"error": "the server failed; its terminal says why"}


def test_what_is_no_json_or_text_is_answered_too(client):
    as_json = {"Content-Type": "application/json"}
    answer = client.post("/api/search", content=b"{no json", headers=as_json)
    assert answer.status_code == 400 and "not understood" in answer.json()["error"]
    odd = client.post("/api/search", content=b'{"text": "a\\u0000man \\ud800", "top": 1}', headers=as_json)
    assert odd.status_code == 200 and len(odd.json()["hits"]) == 1
    missing = client.get("/api/nothing")
    assert missing.status_code == 404 and set(missing.json()) == {"error"}


def test_nothing_but_the_gallery_is_served(client, searcher, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("my secret")
    (searcher.gallery.image_source.path / "link.jpg").symlink_to(secret)
    for path in (
        "/api/images/../../../etc/passwd",
        "/api/images/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        f"/api/images/{secret}",
        f"/gradio_api/file={secret}",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../etc/passwd",
        "/file=/etc/passwd",
        f"/gradio_api/file={searcher.gallery.address.folder / 'gallery.json'}",
        f"/static/../../..{secret}",
        "/api/images/" + "0" * 32,
        "/api/images/link.jpg",
    ):
        answer = client.get(path)
        assert answer.status_code >= 400, path
        assert "secret" not in answer.text.replace(str(secret), "") and "root:" not in answer.text, path


def test_what_took_the_place_of_an_image_is_not_served(client, searcher, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("my secret")
    record = next(iter(searcher.gallery.records))
    file = searcher.gallery.image_source.path / record.path
    file.unlink()
    file.symlink_to(secret)
    answer = client.get(f"/api/images/{record.id}")
    assert answer.status_code == 404 and "has changed since it was indexed" in answer.json()["error"]
    found = client.post("/api/search", json={"text": SENTENCE, "top": 1000}).json()
    assert record.path in found["missing"]
    why = client.post("/api/explain", json={"text": SENTENCE, "id": record.id})
    assert why.status_code == 404 and "has changed" in why.json()["error"]


def test_what_is_not_there_is_404(client, searcher):
    record = next(iter(searcher.gallery.records))
    (searcher.gallery.image_source.path / record.path).unlink()
    for image, words in ((record.id, "does not exist"), ("xyz", "no image of this id"), ("0" * 64, "of this id")):
        for answer in (
            client.get(f"/api/images/{image}"),
            client.post("/api/explain", json={"text": SENTENCE, "id": image}),
        ):
            assert answer.status_code == 404 and words in answer.json()["error"], answer.json()


def test_other_methods_are_404(client):
    for method in ("OPTIONS", "HEAD", "PUT", "DELETE", "PATCH", "TRACE", "BREW"):
        for address in ("/api/search", "/api/gallery", "/api/images/xyz", "/api/nothing", "/api/"):
            answer = client.request(method, address)
            assert answer.status_code == 404, (method, address)
            assert method == "HEAD" or answer.json() == {"error": f"there is no {method} {address}; see /docs"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "its body is not a JSON object like"),
        ({"content": b"{no json", "headers": JSON}, "its body is not JSON (Expecting property name"),
        ({"content": b"", "headers": JSON}, "its body is not a JSON object like"),
        ({"content": b'{"text": "a man"}'}, "Content-Type: application/json"),
        ({"data": {"text": "a man"}}, "Content-Type: application/json"),
        ({"json": None}, "its body is not a JSON object like"),
        ({"json": ["a man"]}, "its body is not a JSON object like"),
        ({"content": b'{"text": "\xe9"}', "headers": JSON}, "parsing the body"),
    ],
)
def test_a_body_that_is_not_understood_is_told(client, body, words):
    for address in ("/api/search", "/api/explain"):
        answer = client.post(address, **body)
        assert answer.status_code == 400 and words in answer.json()["error"], answer.json()


def test_many_at_once_are_all_answered(client):
    expected = client.post("/api/search", json={"text": SENTENCE}).json()["hits"]
    found = []

    def ask():
        found.append(client.post("/api/search", json={"text": SENTENCE}).json().get("hits"))

    threads = [threading.Thread(target=ask) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(found) == 32 and all(hits == expected for hits in found)


def test_what_users_write_is_text():
    hostile = UserError("no <img src=x onerror=alert(1)> **bold** [x](javascript:alert(1))")
    assert problem(hostile).count("<") == 2 and "&lt;img src=x" in problem(hostile)


def test_choices_become_a_filter():
    columns = {"camera": ["c'1", 'c"2'], "time": [1, 2, 30]}
    assert condition(columns, {"camera": [], "time": None}) == ""
    assert condition(columns, {"camera": ['c"2'], "time": ["2", "30"]}) == 'camera in ["c\\"2"] and time in [2, 30]'
    assert condition(columns, {"camera": ["unknown"], "time": []}) == "camera in []"


def test_reasons_cannot_hold_script(searcher):
    from search.explain import ExplainedAttribute, Explanation

    heat = [[0.0]]
    found = Explanation("<script>.jpg", 0.5, heat, [ExplainedAttribute("<b>red</b>", 0.25, heat)], heat)
    page = reasons_as_html(found)
    assert "<script>" not in page and "<b>" not in page and "&lt;b&gt;red" in page and "25%" in page


def test_other_sites_cannot_use_the_api(client, photos, searcher):
    before = len(searcher.gallery.records)
    for origin, status in (("http://evil.example", 403), ("null", 403), ("http://testserver", 200), (None, 200)):
        headers = {"Origin": origin} if origin else {}
        assert client.post("/api/search", json={"text": SENTENCE}, headers=headers).status_code == status, origin
        if status == 403:
            assert client.post("/api/images", content=red_png(), headers=headers).status_code == 403
    assert len(searcher.gallery.records) == before


OTHER_SITES = [
    {"Origin": "http://evil.example"},
    {"Origin": "http://testserver:9999"},
    {"Origin": "https://testserver"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "http://testserver", "Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("headers", OTHER_SITES, ids=str)
def test_other_sites_cannot_use_what_the_page_calls(client, searcher, headers):
    for path in ("/config", "/gradio_api/info", "/gradio_api/queue/data?session_hash=a", "/gradio_api/heartbeat/a"):
        answer = client.get(path, headers=headers)
        assert (answer.status_code, set(answer.json())) == (403, {"error"}), path
    assert client.post("/gradio_api/upload", files={"files": ("a.png", red_png())}, headers=headers).status_code == 403
    for path in ("/gradio_api/queue/join", "/gradio_api/cancel", "/login", "/", "/nothing"):
        assert client.post(path, json={}, headers=headers).status_code == 403, path
    asks = {**headers, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    for path in ("/gradio_api/queue/join", "/api/images/x", "/"):
        assert client.options(path, headers=asks).status_code == 403, path
    assert not searcher.gallery.page.exists()


def test_the_page_and_programs_use_what_the_page_calls(client):
    page = {"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    for headers in ({}, page, {"Sec-Fetch-Site": "none"}):
        answers = [client.get(path, headers=headers) for path in ("/", "/config", "/gradio_api/info")]
        answers.append(client.post("/gradio_api/upload", files={"files": ("a.png", red_png())}, headers=headers))
        assert [answer.status_code for answer in answers] == [200] * 4
        assert not [name for answer in answers for name in answer.headers if name.startswith("access-control")]


def test_links_of_other_sites_may_be_followed_to_what_is_shown(client):
    visit = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    status = {
        path: client.get(path, headers=visit).status_code for path in ("/", "/docs", "/config", "/gradio_api/info")
    }
    assert list(status.values()) == [200, 200, 403, 403], status
    assert client.get("/", headers={**visit, "Sec-Fetch-Dest": "iframe"}).status_code == 403


@pytest.mark.parametrize(
    ("host", "asked", "status"),
    [
        ("127.0.0.1", "127.0.0.1:7860", 200),
        ("127.0.0.1", "localhost:7860", 200),
        ("127.0.0.1", "[::1]:7860", 200),
        ("127.0.0.1", "evil.example:7860", 403),
        ("127.0.0.1", "127.0.0.1.evil.example", 403),
        ("127.0.0.1", "", 403),
        ("::1", "[::1]:7860", 200),
        ("[::1]", "127.0.0.1:7860", 200),
        ("::1", "evil.example:7860", 403),
        ("::1", "[::2]:7860", 403),
        ("::1", "[::1", 403),
        ("::ffff:127.0.0.1", "evil.example", 403),
        ("LOCALHOST", "evil.example", 403),
        ("::", "[2001:db8::1]:7860", 200),
        ("localhost", "evil.example", 403),
        ("0.0.0.0", "photos.example", 200),
    ],
)
def test_a_site_for_this_machine_has_no_other_names(searcher, host, asked, status):
    client = TestClient(build_app(searcher, host=host))
    assert client.get("/api/gallery", headers={"Host": asked}).status_code == status
