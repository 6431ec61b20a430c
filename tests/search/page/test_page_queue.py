"""The queue of the page, called as a browser does: searches of several people begin at the same time."""

import json
import threading

import pytest

pytest.importorskip("gradio")
pytest.importorskip("pymilvus")

from fastapi.testclient import TestClient

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
