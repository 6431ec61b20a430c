"""The queue of the page, called as a browser does: searches of several people begin at the same time."""

import io
import json
import os
import threading
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("gradio")
pytest.importorskip("pymilvus")

from fastapi.testclient import TestClient

from search.serving.erasing import erase_image
from search.site import build_site

SENTENCE = "a woman in a red coat"


@pytest.fixture
def client(searcher):
    with TestClient(build_site(searcher, allow_upload=True)) as client:  # which starts the queue
        yield client


def callbacks(client):
    return {one["api_name"]: one["id"] for one in client.get("/config").json()["dependencies"]}


def call(client, number, data, session):
    """What a callback answers, by its number, in a session of its own."""
    body = {"fn_index": number, "data": data, "session_hash": session}
    assert client.post("/gradio_api/queue/join", json=body).status_code == 200
    with client.stream("GET", f"/gradio_api/queue/data?session_hash={session}") as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if message.get("msg") == "process_completed":
                return message
    raise AssertionError("the queue ended without an answer")


def test_searches_of_the_page_wait_for_the_model_together(client, searcher, monkeypatch):
    numbers, all_there, real = callbacks(client), threading.Barrier(5, timeout=60), searcher.search

    def search(*given, **more):
        all_there.wait()
        return real(*given, **more)

    monkeypatch.setattr(searcher, "search", search)
    inputs, done = [2, 0, "", [], ""], []
    asked = [("answer", [f"{SENTENCE} {number}", *inputs]) for number in range(4)] + [("begin", [SENTENCE, *inputs])]
    threads = [
        threading.Thread(target=lambda at=at, name=name, data=data: done.append(call(client, numbers[name], data, at)))
        for at, (name, data) in zip("abcde", asked, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [one["success"] for one in done] == [True] * 5 and not all_there.broken


def test_all_searches_of_the_page_leave_threads_for_the_rest(client):
    page = next(route.app.get_blocks() for route in client.app.routes if hasattr(getattr(route, "app", None), "blocks"))
    names = [
        one
        for one in page.fns.values()
        if one.api_name and one.api_name.startswith(("answer", "compare", "begin", "replied"))
    ]
    assert len(names) >= 6 and {(one.concurrency_id, one.concurrency_limit) for one in names} == {("searches", 32)}
    assert page.max_threads > 32


def upload(client):
    """Where the page keeps an image that is uploaded, before it has said what to do with it."""
    content = io.BytesIO()
    Image.new("RGB", (30, 60), "red").save(content, "PNG")
    return Path(client.post("/gradio_api/upload", files={"files": ("a.png", content.getvalue())}).json()[0])


def test_what_is_being_uploaded_is_kept_while_somebody_erases(client, searcher):
    number, file = callbacks(client)["upload"], upload(client)
    given = [{"path": str(file), "meta": {"_type": "gradio.FileData"}, "orig_name": "a.png"}]
    one, other = list(searcher.gallery.records.by_path)[:2]
    erase_image(searcher, one)
    said = call(client, number, given, "a")
    assert said["success"] and said["output"]["data"][0].startswith("Added as uploads/")

    (added,) = [path for path in searcher.gallery.records.by_path if path.startswith("uploads/")]
    erase_image(searcher, added)
    assert not [path for path in searcher.gallery.page.rglob("*") if path.is_file()]  # also the copy is erased
    failed = call(client, number, given, "b")
    assert not failed["success"] and str(file.parent) not in json.dumps(failed)

    abandoned = upload(client)
    os.utime(abandoned, (0, 0))
    erase_image(searcher, other)
    assert not abandoned.exists()
