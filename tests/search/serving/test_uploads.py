"""Images that are uploaded are searched at once; what is none is refused, and little memory is taken."""

import asyncio
import io
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

pytest.importorskip("gradio")
pytest.importorskip("pymilvus")

from fastapi.testclient import TestClient
from faults.pictures import chunk, png_header, red_png

from search.serving import upload
from search.site import build_site


def test_an_upload_is_searched_at_once(client, searcher):
    before = len(searcher.gallery.records)
    answer = client.post("/api/images", content=red_png()).json()
    assert answer["path"].startswith("uploads/") and answer["path"].endswith(".png")
    assert len(searcher.gallery.records) == before + 1
    assert client.post("/api/images", content=red_png()).json() == answer  # the same image is one image
    assert len(searcher.gallery.records) == before + 1
    found = client.post("/api/search", json={"text": "a man", "top": 1000}).json()
    assert answer["id"] in [hit["id"] for hit in found["hits"]]


@pytest.mark.parametrize("instead", [None, b"another file"])
def test_an_upload_whose_file_is_gone_is_written_again(client, searcher, instead):
    answer = client.post("/api/images", content=red_png()).json()
    file = searcher.gallery.image_source.path / answer["path"]
    before = len(searcher.gallery.records)
    file.unlink()
    if instead:
        file.write_bytes(instead)
    assert client.get(f"/api/images/{answer['id']}").status_code == 404
    assert client.post("/api/images", content=red_png()).json() == answer
    assert file.read_bytes() == red_png() == client.get(f"/api/images/{answer['id']}").content
    assert len(searcher.gallery.records) == before


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF", "MPO"])
def test_what_can_be_indexed_can_be_uploaded(client, kind):
    content = io.BytesIO()
    Image.new("RGB", (20, 40), "green").save(content, kind)
    path = client.post("/api/images", content=content.getvalue()).json()["path"]
    assert path.endswith({"BMP": ".bmp", "GIF": ".gif", "TIFF": ".tif", "MPO": ".jpg"}[kind])


def bomb():
    """A whole PNG of 30,000 x 30,000 black pixels, for which Pillow would take seconds and gigabytes."""
    rows = bytes(1 + 30_000 // 8) * 30_000
    return png_header(30_000, 30_000, 1, 0) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"<svg onload=alert(1)>", "no image of a known format"),
        (red_png()[:60], "upload"),
        (b"x" * (upload.LARGEST_UPLOAD + 1), "more than 20 MiB"),
        (bomb, "pixels"),
    ],
    ids=["empty", "svg", "cut off", "huge", "bomb"],
)
def test_bad_uploads_are_refused(client, searcher, content, words):
    before = len(searcher.gallery.records)
    answer = client.post("/api/images", content=content() if callable(content) else content)
    assert answer.status_code == 400 and words in answer.json()["error"]
    assert len(searcher.gallery.records) == before and not list(searcher.gallery.image_source.path.rglob("uploads/*"))


def scope_of(path, **headers):
    """A POST request as a web server tells of it."""
    listed = [(name.replace("_", "-").encode(), value.encode()) for name, value in {"host": "here", **headers}.items()]
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    return {**scope, "headers": listed, "scheme": "http", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)}


@pytest.mark.parametrize("path", ["/api/images", "/gradio_api/upload", "/api/search"])
def test_who_leaves_during_an_upload_leaves_nothing(client, searcher, path):
    form = b'--xx\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nabc'
    messages, statuses = [{"type": "http.request", "body": form, "more_body": True}], []

    async def receive():
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message):
        statuses.extend([message["status"]] if "status" in message else [])

    asyncio.run(client.app(scope_of(path, content_type="multipart/form-data; boundary=xx"), receive, send))  # no fault
    assert len(statuses) == 1 and 400 <= statuses[0] < 500  # which nobody reads
    assert not (searcher.gallery.image_source.path / "uploads").exists()


def test_without_leave_nothing_is_uploaded(searcher):
    client = TestClient(build_site(searcher))
    answer = client.post("/api/images", content=red_png())
    assert answer.status_code == 403 and "--allow_upload" in answer.json()["error"]
    assert client.post("/gradio_api/upload", files={"files": ("a.png", red_png())}).status_code == 403
    assert not (searcher.gallery.image_source.path / "uploads").exists() and not searcher.gallery.page.exists()


def test_few_uploads_are_decoded_at_once(searcher, monkeypatch):
    decode, lock, now, most = searcher.encoder.decode_image, threading.Lock(), [0], [0]

    def count(change):
        with lock:
            now[0] += change
            most[0] = max(most[0], now[0])

    def decode_slowly(content):
        count(1)
        time.sleep(0.02)
        try:
            return decode(content)
        finally:
            count(-1)

    monkeypatch.setattr(searcher.encoder, "decode_image", decode_slowly)
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda width: upload.add_image(searcher, red_png((width, 60))), range(20, 28)))
    assert len({image.path for image in added}) == 8 and most[0] == 2
