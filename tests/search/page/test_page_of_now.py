"""A page that is opened while images come and go says what the gallery holds by then."""

import shutil
import threading

import pytest

pytest.importorskip("gradio")
pytest.importorskip("pymilvus")
pytest.importorskip("uvicorn")

import uvicorn

from search.access.addresses import open_sockets
from search.gallery.indexing import index
from search.page.filters import Filters
from search.site import build_site
from utils.errors import Unavailable

playwright = pytest.importorskip("playwright.sync_api")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def address(searcher):
    (socket,) = open_sockets("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(build_site(searcher), log_level="critical"))
    thread = threading.Thread(target=server.run, args=([socket],), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    server.should_exit = True
    thread.join(60)


def test_choices_are_those_of_now(searcher):
    filters = Filters({"camera": ["c1"], "gone": ["x"]})
    group, camera, gone = (one.choices for one in filters.choices_of({"camera": ["c1", "c9"], "shop": ["s"]}))
    assert [value for _, value in group][2:] == ["camera", "shop"]
    assert ([value for _, value in camera], gone) == (["c1", "c9"], [])


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium on the PATH")
def test_a_page_that_is_opened_later_has_new_cameras(searcher, address):
    gallery = searcher.gallery
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto(address)
        page.wait_for_selector(f"#header p:has-text('{len(gallery.records)} images.')")
        paths = sorted(image.path for image in gallery.records)
        with searcher.model_lock:
            gallery.forget(paths[:1])
            index(gallery, searcher.encoder, {path: {"camera": "c9"} for path in paths[1:]})
        page.reload()
        page.wait_for_selector(f"#header p:has-text('{len(gallery.records)} images.')")
        page.click("#settings button >> nth=0")
        page.click("#filter-camera input")
        page.locator("ul[role=listbox] li", has_text="c9").click()
        page.keyboard.press("Escape")
        page.fill("#text textarea", "a man")
        page.click("#search")
        page.locator("#hits li button").first.wait_for()
        assert page.locator("#hits img").first.get_attribute("alt").count("camera c9") == 1
        browser.close()


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium on the PATH")
def test_a_page_stays_as_it_is_while_its_gallery_is_out_of_reach(searcher, address, monkeypatch):
    asked = threading.Event()

    def fail():
        asked.set()
        raise Unavailable("the server of the index does not answer")

    monkeypatch.setattr(searcher.gallery, "columns", fail)
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto(address)
        assert asked.wait(60)
        page.wait_for_timeout(1000)  # in which a failure would be shown
        page.wait_for_selector(f"#header p:has-text('{len(searcher.gallery.records)} images.')")
        assert not page.get_by_text("Error", exact=True).count()
        browser.close()
