"""What the page shows of hits to who sees it, and says to who does not; how far a search is, and how long it took."""

import base64
import html
import io
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio")
pytest.importorskip("pymilvus")

from fastapi.testclient import TestClient
from PIL import Image

from search.batching.image_tokens import ENCODED_AT_ONCE
from search.batching.progress import progress_callback, report_progress
from search.page.hits import (
    PICTURE,
    chosen_path,
    hits_as_html,
    image_as_html,
    label_of,
    picture_of,
    surroundings,
)
from search.page.layout import part
from search.page.messages import problem, stages_of, summary
from search.searcher import SearchResult
from search.site import build_site
from utils.errors import Unavailable, UserError

SENTENCE = "a woman in a red coat and blue jeans"


def test_each_hit_is_a_button_whose_picture_says_rank_and_scores(searcher):
    hits = searcher.search(SENTENCE, top=3).hits
    page = hits_as_html(searcher.gallery, hits, SENTENCE)
    said = [html.unescape(one) for one in re.findall(r" alt='([^']*)'", page)]
    assert said == [
        f"Result {rank}: {label_of(hit)}, camera {hit.metadata['camera']}. Show why."
        for rank, hit in enumerate(hits, 1)
    ]
    assert re.findall(r"<button type='button' data-index='(\d+)'>", page) == ["0", "1", "2"]
    assert f"data-asked='{SENTENCE}' data-count='3'" in page


def test_what_users_write_cannot_be_script(searcher):
    hostile = "'><script>alert(1)</script>"
    page = hits_as_html(searcher.gallery, [], hostile) + image_as_html(Image.new("RGB", (2, 2)), hostile)
    assert "<script" not in page and page.count("&#x27;&gt;&lt;script&gt;") == 2


def test_a_picture_is_part_of_the_page():
    page = image_as_html(Image.new("L", (30, 60), 200), "grey")
    content = base64.b64decode(re.search(r"base64,([^']+)'", page)[1])
    picture = Image.open(io.BytesIO(content))
    assert (picture.format, picture.size) == ("JPEG", (30, 60)) and "width='30' height='60'" in page
    assert all(abs(value - 200) < 3 for value in picture.getpixel((5, 5)))


def test_a_picture_that_is_out_of_reach_is_a_grey_field():
    """The server of the index may be stopped between a search and its pictures."""

    def out_of_reach(path):
        raise Unavailable("the server of the index does not answer")

    gallery = SimpleNamespace(content_of=out_of_reach, frame_of=out_of_reach)
    assert picture_of(gallery, "a.jpg").size == PICTURE
    ((picture, name),) = surroundings(gallery, "a.jpg#1,2,3,4", ["b.jpg"])
    assert picture.size == PICTURE and name == "another moment"


@pytest.mark.parametrize("index", [-1, 2, None, "0", [0, 0]])
def test_what_is_none_of_the_hits_is_not_chosen(index):
    assert chosen_path(["a.jpg", "b.jpg"], index) == "" and chosen_path(["a.jpg", "b.jpg"], 1) == "b.jpg"


def test_what_is_no_text_is_told_by_escapes():
    assert problem(UserError("there is no \ud800 <b>")) == "<strong>there is no \\ud800 &lt;b&gt;</strong>"


def answered(searcher, **milliseconds):
    return SearchResult(
        searcher.encoder.encode_query(SENTENCE),
        [],
        {name.replace("_", " "): one for name, one in milliseconds.items()},
        {},
    )


def test_it_is_told_how_long_each_stage_took(searcher):
    times = {"reading": 4, "embedding_search": 9, "image_tokens": 300, "re-ranking": 40}
    found = answered(searcher, **times)
    assert stages_of(found) == "nearest embeddings 13 ms; re-ranking 340 ms, of which 300 ms to read images"
    assert summary(found) == "Nothing found in 0.4 s."  # 353 ms
    assert summary(answered(searcher, reading=12)) == "Nothing found in 0.01 s."
    assert stages_of(answered(searcher, reading=4, embedding_search=9)) == "nearest embeddings 13 ms"
    assert stages_of(answered(searcher, reading=4, waiting=50)) == "nearest embeddings 4 ms; waiting 50 ms"
    assert re.match(r"2 results in \d+\.\d+ s \(nearest embeddings ", summary(searcher.search(SENTENCE, top=2)))


def test_a_search_tells_how_far_it_is(searcher):
    told = []
    images = len(searcher.gallery.records)
    with report_progress(lambda done, of: told.append((done, of))):
        searcher.search(SENTENCE)
    assert told == [(done, images) for done in range(ENCODED_AT_ONCE, images + 1, ENCODED_AT_ONCE)]
    progress_callback()(1, 2)  # nobody waits
    assert len(told) == images // ENCODED_AT_ONCE


def test_the_page_names_no_other_machine(searcher):
    """Every address in what the page is made of, and in what its own files name, is one of this server."""
    client = TestClient(build_site(searcher))
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';") and "http" not in policy
    loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=\"([^\"]+)\"", answer.text)
    assert loaded and not [one for one in loaded if re.match(r"(https?:)?//", one)]
    for path in loaded:
        assert client.get(path.removeprefix(".")).status_code == 200, path
    theme = client.get("/theme.css").text
    assert theme and not re.search(r"url\(['\"]?(https?:)?//|@import", theme)
    for name in ("page.css", "page.js", "hits.js"):
        assert not re.search(r"https?:|//[a-z]+\.|@import|fetch\(|XMLHttp|sendBeacon|WebSocket", part(name)), name


def test_an_installed_package_has_what_the_browser_gets():
    tomllib = pytest.importorskip("tomllib")
    root = Path(__file__).resolve().parents[3]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["search"]
    declared = {path for pattern in patterns for path in (root / "search").glob(pattern)}
    files = {path for path in (root / "search").rglob("*") if path.suffix not in (".py", ".pyc") and path.is_file()}
    assert files == declared and {path.name for path in files} == {"page.css", "page.js", "hits.js"}
