"""The page in a real browser: type, search, explain, filter, compare, download, by mouse and by keyboard, and what
people write who do not mean well."""

import csv
import json
import re
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
SETTINGS, COMPARING = "#settings button >> nth=0", "#comparing button >> nth=0"
SENTENCE = "a woman in a red coat and blue jeans"


@pytest.fixture(scope="module")
def served(benchmark, trained, tmp_path_factory):
    """The address of a served gallery whose file names hold script."""
    folder = tmp_path_factory.mktemp("page")
    photos, place = folder / "photos", folder / "gallery"
    shutil.copytree(benchmark / "imgs" / "test", photos)
    one = next(photos.rglob("*.jpg"))
    shutil.copy(one, photos / "<img src=x onerror=document.title='pwned'>.jpg")
    names = [path.relative_to(photos).as_posix() for path in sorted(photos.rglob("*.jpg"))]
    (folder / "meta.csv").write_text(
        "image,camera,time\n" + "".join(f"{n},c{i % 2},{10 * i}\n" for i, n in enumerate(names))
    )
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
    assert not [path for path in (place / "page").rglob("*") if path.is_file()]  # no copy of what was shown
    process.terminate()
    process.wait(30)
    assert not (place / "page").exists()


@pytest.fixture
def page(served):
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=BROWSER, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(60_000)
        asked, failures = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("console", lambda said: failures.append(said.text) if said.type == "error" else None)
        page.goto(served)
        page.wait_for_selector("#text textarea")
        yield page
        elsewhere = [url for url in asked if not url.startswith((f"{served}/", "data:", "blob:"))]
        assert len(asked) > 5 and elsewhere == [] and failures == []
        assert page.title() == "Person search by text"  # no script has run
        browser.close()


def ask(page, text, expect):
    page.fill("#text textarea", text)
    page.click("#search")
    page.wait_for_function(
        "words => document.querySelector('#message').innerText.includes(words)", arg=expect, timeout=60_000
    )


def hits(page):
    return page.locator("#hits li button")


def test_search_and_explain(page):
    ask(page, "a woman in a red coat and blue jeans", "results in")
    hits(page).first.wait_for()
    assert hits(page).count() > 3
    hits(page).first.click()
    page.wait_for_function("document.querySelector('#reasons').innerText.includes('blue jeans')", timeout=60_000)
    pictures = page.locator("#reasons figure")
    assert pictures.all_inner_texts() == ["all words", "red coat", "blue jeans"]


def test_enter_searches_and_with_shift_breaks_the_line(page):
    page.fill("#text textarea", "a woman in")
    page.press("#text textarea", "Shift+Enter")
    page.type("#text textarea", "a red coat")
    assert page.input_value("#text textarea") == "a woman in\na red coat"
    assert not page.inner_text("#message").strip()
    page.press("#text textarea", "Enter")
    page.wait_for_function("document.querySelector('#message').innerText.includes('results in')", timeout=60_000)
    assert page.input_value("#text textarea") == "a woman in\na red coat"


def test_filter(page, served):
    everything = json.load(urllib.request.urlopen(f"{served}/api/gallery"))["images"]
    page.click(SETTINGS)
    page.click("#filter-camera input")
    page.locator("ul[role=listbox] li", has_text="c1").click()
    page.keyboard.press("Escape")
    ask(page, "a man", "results in")
    assert 0 < hits(page).count() <= everything // 2
    page.fill("#filter-time-from input, #filter-time-from textarea", "20")
    page.fill("#filter-time-to input, #filter-time-to textarea", "60")
    ask(page, "a woman", "results in")
    page.wait_for_function("document.querySelector('#hits .asked').dataset.asked == 'a woman'")
    said = [picture.get_attribute("alt") for picture in page.locator("#hits img").all()]
    assert sorted(re.search(r"camera (\w+), time (\d+)", one).groups() for one in said) == [("c1", "30"), ("c1", "50")]
    page.fill("#where textarea, #where input", "time > 40")
    ask(page, "a man", "1 result in")
    page.fill("#where textarea, #where input", "time > ")
    ask(page, "a man", "is not understood")
    assert hits(page).count() == 0


def test_empty_long_and_odd_queries(page):
    ask(page, "", "the sentence holds no word")
    assert hits(page).count() == 0
    ask(page, "man " * 1000, "results in")
    ask(page, "", "the sentence holds no word")
    ask(page, "😀 <script>document.title='pwned'</script> 红色 \"';--", "results in")
    ask(page, "?!", "the sentence holds no word")


def test_file_names_are_text(page, served):
    question = json.dumps({"text": "a person", "top": 50}).encode()
    request = urllib.request.Request(f"{served}/api/search", question, {"Content-Type": "application/json"})
    found = [hit["path"] for hit in json.load(urllib.request.urlopen(request))["hits"]]
    odd = next(place for place, path in enumerate(found) if path.startswith("<img"))
    page.click(SETTINGS)
    page.locator("input[aria-label*='Images shown']").first.fill("50")
    page.keyboard.press("Tab")
    ask(page, "a person", "results in")
    hits(page).nth(odd).click()
    page.wait_for_function("document.querySelector('#reasons').innerText.includes('<img src=x')", timeout=60_000)
    assert page.locator("#reasons img[src=x]").count() == 0


def focused(page):
    """The element that the keyboard acts on: its id, its tag, and what it says."""
    return page.evaluate("(one => [one.closest('[id]')?.id ?? '', one.tagName, one.innerText])(document.activeElement)")


def tab_until(page, wanted, most=40):
    """Go on by Tab to what `wanted` says is meant, past nothing whose focus cannot be seen."""
    for _ in range(most):
        page.keyboard.press("Tab")
        outline = page.evaluate("getComputedStyle(document.activeElement).outline")
        assert "none" not in outline and "0px" not in outline, (focused(page), outline)
        if wanted(*focused(page)):
            return
    raise AssertionError(f"Tab does not reach it within {most} steps")


def test_the_keyboard_alone_suffices(page):
    tab_until(page, lambda part, tag, said: tag == "TEXTAREA", 4)
    page.keyboard.type(SENTENCE)
    page.keyboard.press("Enter")
    hits(page).first.wait_for()
    tab_until(page, lambda part, tag, said: part == "settings" and tag == "BUTTON")
    page.keyboard.press("Enter")
    page.wait_for_selector("#filter-camera input")
    tab_until(page, lambda part, tag, said: part == "filter-time-to")
    tab_until(page, lambda part, tag, said: said.startswith("1 "))
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.innerText == 'Why result 1 was found'")
    tab_until(page, lambda part, tag, said: said == "Back to result 1", 1)
    page.keyboard.press("Enter")
    assert focused(page)[2].startswith("1 ")
    tab_until(page, lambda part, tag, said: part == "download-csv")
    with page.expect_download() as downloading:
        page.keyboard.press("Enter")
    assert downloading.value.suggested_filename == "results.csv"


def test_the_first_link_leads_past_all_that_is_asked(page):
    ask(page, SENTENCE, "results in")
    page.evaluate("document.activeElement.blur(); getSelection().removeAllRanges()")
    page.locator("a.skip").focus()
    assert page.locator("a.skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert focused(page)[2].startswith("1 ")


def test_who_does_not_see_it_is_told(page):
    assert page.get_attribute("html", "lang") == "en"
    for role, count in (("main", 1), ("search", 1), ("region", 2)):
        playwright.expect(page.get_by_role(role)).to_have_count(count, timeout=60_000)
    assert page.get_by_role("textbox", name="Who?").count() == 1
    assert page.get_attribute("#message", "aria-live") == "polite"
    page.fill("#text textarea", SENTENCE)
    said = "() => document.querySelector('#busy').innerText"
    page.evaluate(
        "window.told = []; new MutationObserver(() => window.told.push(document.querySelector('#busy')"
        ".textContent)).observe(document.querySelector('#busy'), {childList: true})"
    )
    page.press("#text textarea", "Enter")
    hits(page).first.wait_for()
    page.wait_for_function(f"({said})() == ''")
    assert page.evaluate("window.told") == ["Searching", ""]
    assert re.match(
        rf"{hits(page).count()} results in \d+\.\d+ s ",
        page.get_by_role("status").filter(has_text="results").inner_text(),
    )
    first = page.get_by_role("button", name=re.compile("^Result 1: match [0-9]+%, cos. -?[0-9.]+, camera c[01], time"))
    assert first.count() == 1


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out_of_the_window(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.click(SETTINGS)
    page.click(COMPARING)
    ask(page, SENTENCE, "results in")
    page.fill("#other textarea", "a man")
    page.press("#other textarea", "Enter")
    page.wait_for_selector("#comparison li")
    hits(page).first.click()
    page.wait_for_selector("#reasons figure")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate(
        "[...document.querySelectorAll('button, input, textarea, img, h1, h2, h3, p, label')].filter(one => {"
        " const box = one.getBoundingClientRect(); return box.width > 1 && box.left > -999 &&"
        " (box.left < 0 || box.right > innerWidth); }).map(one => one.outerHTML.slice(0, 80))"
    )
    assert outside == []


def test_two_sentences_are_compared(page, served):
    page.fill("#text textarea", SENTENCE)
    page.click(COMPARING)
    page.fill("#other textarea", "a man")
    page.click("#compare")
    page.wait_for_selector("#comparison li")
    found = []
    for text in (SENTENCE, "a man"):
        request = urllib.request.Request(
            f"{served}/api/search", json.dumps({"text": text}).encode(), {"Content-Type": "application/json"}
        )
        found.append([hit["path"] for hit in json.load(urllib.request.urlopen(request))["hits"]])
    common = len(set(found[0]) & set(found[1]))
    assert page.locator("#comparison section:first-child li.common").count() == common
    assert page.locator("#comparison li").count() == sum(map(len, found))
    assert f"{common} {'is' if common == 1 else 'are'} in both" in page.inner_text("#compared")


def test_ones_own_searches_stay_in_this_browser(page, served):
    assert not page.is_visible("#history summary")
    for text in ("a man in a hat", SENTENCE, "a man in a hat"):
        ask(page, text, "results in")
        page.wait_for_function("text => document.querySelector('#hits .asked').dataset.asked == text", arg=text)
    ask(page, "?!", "the sentence holds no word")
    page.reload()
    page.click("#history summary")
    assert page.locator("#history li").all_inner_texts() == ["a man in a hat", SENTENCE]
    page.locator("#history li button").nth(1).click()
    hits(page).first.wait_for()
    assert page.input_value("#text textarea") == SENTENCE
    page.wait_for_function("text => document.querySelector('#history li').innerText == text", arg=SENTENCE)
    stranger = page.context.browser.new_context().new_page()  # another user, of another browser
    stranger.goto(served)
    stranger.wait_for_selector("#text textarea")
    assert stranger.locator("#history li").count() == 0 and "a man in a hat" not in stranger.content()
    page.click("#history .forget")
    assert page.evaluate("localStorage.length") == 0 and not page.is_visible("#history summary")


def test_results_are_downloaded(page):
    ask(page, SENTENCE, "results in")
    hits(page).first.wait_for()
    kept = {}
    for name in ("csv", "json"):
        with page.expect_download() as downloading:
            page.click(f"#download-{name}")
        kept[name] = downloading.value.path().read_text(encoding="utf-8")
        assert downloading.value.suggested_filename == f"results.{name}"
    ask(page, SENTENCE + " ?", "results in")
    assert page.locator("textarea, input").filter(visible=True).count() == 1  # no field that Gradio carries texts in
    found = json.loads(kept["json"])
    assert found["text"] == SENTENCE and len(found["hits"]) == hits(page).count()
    rows = list(csv.DictReader(kept["csv"].splitlines()))
    assert [row["image"] for row in rows] == [hit["path"] for hit in found["hits"]]
    assert [(row["camera"], row["time"]) for row in rows] == [
        (hit["metadata"]["camera"], str(hit["metadata"]["time"])) for hit in found["hits"]
    ]
    assert [float(row["match"]) for row in rows] == [hit["match"] for hit in found["hits"]]


def test_what_a_hit_shows_is_said_once_it_is_asked_for(page):
    ask(page, "a woman in a red coat", "results in")
    hits(page).first.wait_for()
    assert not page.locator("#describe").is_visible()
    hits(page).first.click()
    page.click("#describe")
    page.wait_for_function("document.querySelector('#seen').innerText.includes('upper colour')", timeout=60_000)
    assert "uncalibrated" in page.inner_text("#seen")


def test_questions_are_answered_until_none_is_left(page):
    page.locator("#search").wait_for()
    assert not page.locator("#ask").is_visible()  # nothing has been found
    ask(page, "a woman in a red coat", "results in")
    hits(page).first.wait_for()
    before = hits(page).count()
    page.click("#ask")
    page.wait_for_function("(document.querySelector('#question') || {innerText: ''}).innerText.length", timeout=60_000)
    if "No question" not in page.inner_text("#question"):  # the tiny model may see all people alike
        asked = page.inner_text("#question")
        page.click("#answer-no")
        page.wait_for_function(
            "asked => document.querySelector('#question').innerText !== asked", arg=asked, timeout=60_000
        )
        assert hits(page).count() == before
    ask(page, "a man", "results in")
    page.wait_for_function("!document.querySelector('#question')?.offsetParent", timeout=60_000)
