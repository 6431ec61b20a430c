"""The page in a real browser: type, search, explain, filter, and what people write who do not mean well."""

import json
import shutil
import subprocess
import sys
import time
import urllib.request

import pytest
from benchmark_data import REPOSITORY, environment, run
from preloaded import Popen

pytest.importorskip("gradio")
pytest.importorskip("pymilvus")
playwright = pytest.importorskip("playwright.sync_api")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium on the PATH")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
PORT = 7893


@pytest.fixture(scope="module")
def served(benchmark, trained, tmp_path_factory):
    """The address of a served gallery whose file names hold script."""
    folder = tmp_path_factory.mktemp("page")
    photos, place = folder / "photos", folder / "gallery"
    shutil.copytree(benchmark / "imgs" / "test", photos)
    one = next(photos.rglob("*.jpg"))
    shutil.copy(one, photos / "<img src=x onerror=document.title='pwned'>.jpg")
    names = [path.relative_to(photos).as_posix() for path in sorted(photos.rglob("*.jpg"))]
    (folder / "meta.csv").write_text("image,camera\n" + "".join(f"{n},c{i % 2}\n" for i, n in enumerate(names)))
    index = [
        sys.executable,
        "-m",
        "search",
        "index",
        photos,
        "--gallery",
        place,
        "--checkpoint",
        trained,
        "--metadata",
        folder / "meta.csv",
    ]
    run(*index)
    serve = [sys.executable, "-m", "search", "serve", "--gallery", str(place), "--port", str(PORT)]
    process = Popen(serve, cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{PORT}"
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{address}/api/gallery", timeout=5)
            break
        except OSError:
            assert process.poll() is None, process.stdout.read().decode()
            time.sleep(0.2)
    yield address
    assert list((place / "page").rglob("*.*"))  # copies of what was shown, nowhere else
    process.terminate()
    process.wait(30)
    assert not (place / "page").exists()


@pytest.fixture
def page(served):
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=BROWSER, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.goto(served)
        page.wait_for_selector("#text textarea")
        yield page
        assert page.title() == "Person search by text"  # no script has run
        browser.close()


def ask(page, text, expect):
    page.fill("#text textarea", text)
    page.click("#search")
    page.wait_for_function(
        "words => document.querySelector('#message').innerText.includes(words)", arg=expect, timeout=60_000
    )


def hits(page):
    return page.locator("#hits .thumbnail-item")


def test_search_and_explain(page):
    ask(page, "a woman in a red coat and blue jeans", "images in")
    hits(page).first.wait_for()
    assert hits(page).count() > 3
    hits(page).first.click()
    page.wait_for_function("document.querySelector('#reasons').innerText.includes('blue jeans')", timeout=60_000)
    page.wait_for_selector("#heats .thumbnail-item")
    assert page.locator("#heats .thumbnail-item").count() == 3  # all words, red coat, blue jeans


def test_enter_searches_and_with_shift_breaks_the_line(page):
    page.fill("#text textarea", "a woman in")
    page.press("#text textarea", "Shift+Enter")
    page.type("#text textarea", "a red coat")
    assert page.input_value("#text textarea") == "a woman in\na red coat"
    assert not page.inner_text("#message").strip()
    page.press("#text textarea", "Enter")
    page.wait_for_function("document.querySelector('#message').innerText.includes('images in')", timeout=60_000)
    assert page.input_value("#text textarea") == "a woman in\na red coat"


def test_filter(page, served):
    page.click("#filter-camera input")
    page.locator("ul[role=listbox] li", has_text="c1").click()
    page.keyboard.press("Escape")
    ask(page, "a man", "images in")
    hits(page).first.wait_for()
    everything = json.load(urllib.request.urlopen(f"{served}/api/gallery"))["images"]
    assert 0 < hits(page).count() <= everything // 2


def test_empty_long_and_odd_queries(page):
    ask(page, "", "the sentence holds no word")
    assert hits(page).count() == 0
    ask(page, "man " * 1000, "images in")
    ask(page, "", "the sentence holds no word")
    ask(page, "😀 <script>document.title='pwned'</script> 红色 \"';--", "images in")
    ask(page, "?!", "the sentence holds no word")


def test_file_names_are_text(page, served):
    question = json.dumps({"text": "a person", "top": 50}).encode()
    request = urllib.request.Request(f"{served}/api/search", question, {"Content-Type": "application/json"})
    found = [hit["path"] for hit in json.load(urllib.request.urlopen(request))["hits"]]
    odd = next(place for place, path in enumerate(found) if path.startswith("<img"))
    page.locator("input[aria-label*='Images shown']").first.fill("50")
    page.keyboard.press("Tab")
    ask(page, "a person", "images in")
    hits(page).nth(odd).click()
    page.wait_for_function("document.querySelector('#reasons').innerText.includes('<img src=x')", timeout=60_000)
    assert page.locator("#reasons img[src=x]").count() == 0
