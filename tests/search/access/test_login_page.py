"""Signing in, searching, erasing and signing out in a real browser, which loads nothing from anywhere else."""

import json
import shutil

import pytest
from search_access import OTHER, PASSWORD, start

pytest.importorskip("gradio")
pytest.importorskip("pymilvus")
playwright = pytest.importorskip("playwright.sync_api")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium on the PATH")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FLAGS += ["--disable-sync", "--no-first-run"]


@pytest.fixture
def served(indexed):
    """The address of a server that asks for a password, and its log."""
    log = indexed / "browser.jsonl"
    people = ["--password_file", indexed / "people.json", "--audit_log", log]
    process, _, port = start("--gallery", indexed / "gallery", *people, "--allow_forget", "--allow_upload")
    yield f"http://127.0.0.1:{port}", log
    process.terminate()
    process.wait(30)


@pytest.fixture
def page(served):
    """A page of a browser, and what it asked for."""
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=BROWSER, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(served[0], timeout=120_000)
        yield page
        browser.close()


def sign_in(page, user, password):
    page.fill("input[name=user]", user)
    page.fill("input[name=password]", password)
    page.click("button")


def test_who_signs_in_searches_erases_and_signs_out(page, served):
    address, log = served
    assert page.url == f"{address}/login" and page.title() == "Person search by text"
    sign_in(page, "otto", OTHER)
    assert "the user or the password is wrong" in page.inner_text(".wrong")
    sign_in(page, "otto", PASSWORD)
    page.wait_for_selector("#text textarea", timeout=60_000)
    page.fill("#text textarea", "a woman in a red coat and blue jeans")
    page.click("#search")
    page.wait_for_function("document.querySelector('#message').innerText.includes('results in')", timeout=60_000)
    page.locator("#hits li button").first.click()
    page.wait_for_function("document.querySelector('#reasons').innerText.includes('blue jeans')", timeout=60_000)
    assert page.locator("#history li").count() == 1  # in this page alone, as others may use this browser
    assert page.evaluate("localStorage.length + sessionStorage.length") == 0
    path = page.input_value("#erasing textarea, #erasing input")
    page.check("#sure input")
    page.click("#erase")
    page.wait_for_function("document.querySelector('#message').innerText.includes('is erased')", timeout=60_000)
    assert {url.split("/")[2] for url in page.asked if url.startswith("http")} == {address.split("/")[2]}
    cookies = page.context.cookies()
    assert [(one["httpOnly"], one["sameSite"], one["expires"]) for one in cookies if "search" in one["name"]] == [
        (True, "Strict", -1)
    ]
    page.goto(f"{address}/account")
    assert "signed in as otto" in page.inner_text("main")
    page.click("button")
    page.wait_for_url(f"{address}/login")
    page.goto(address)
    assert page.url == f"{address}/login"
    told = [(line["action"], line["who"]) for line in map(json.loads, log.read_text().splitlines())]
    expected = ["login refused", "login", "query", "explain", "erase", "logout"]
    assert told == [(action, "otto") for action in expected]
    assert json.loads(log.read_text().splitlines()[4])["image"] == path
