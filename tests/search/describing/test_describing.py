"""What pictures show, and questions about hits: in Python, by the commands, over the HTTP API."""

import contextlib
import io
import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from benchmark_data import REPOSITORY
from in_process import call, call_here, restored
from starlette.testclient import TestClient

from evaluation.calibration import Calibration, write_calibration
from evaluation.description.asking import Question, yes_probability
from evaluation.description.meaning import CategoryCalibration
from evaluation.description.phrases import read_phrase_table
from evaluation.trained import TrainedModel
from search.__main__ import main
from search.describing.describer import Describer, GalleryDescriber
from search.describing.questions import DialogueRequest, QuestionAnswer, ask, log_odds_of
from search.files.records import IndexedImage
from search.page.describing import predictions_as_html
from search.searcher import Hit
from search.serving.api import build_app
from search.serving.erasing import erase_image
from utils.errors import NotThere, UserError

pytest.importorskip("pymilvus")

SENTENCE = "a woman in a red coat"


@pytest.fixture(autouse=True)
def anything_is_asked(monkeypatch):
    """The tiny model hardly tells people apart: a question may tell little."""
    monkeypatch.setattr("evaluation.description.asking.MIN_BITS", -1)


@pytest.fixture
def describer(searcher):
    return GalleryDescriber(searcher, read_phrase_table())


def fixed(table, offsets):
    """Calibrations by which every image has the same options: their offsets alone count."""
    return {
        name: CategoryCalibration(
            captions=dict(category.options),
            similarity=0,
            match=0,
            offsets=dict(zip(category.names, offsets[name], strict=True)),
            images=8,
            people=4,
        )
        for name, category in table.items()
        if name in offsets
    }


@pytest.fixture
def small_table(tmp_path):
    """Bags, their colours, and one category that no calibration knows; the file, too."""
    file = tmp_path / "phrases.yaml"
    removed = "".join(f"{name}:\n" for name in read_phrase_table() if name not in ("bag", "bag colour"))
    own = "bag: {phrases: [backpack], nothing: {no bag: A person.}, question: 'with a {}?'}\n"
    own += "bag colour: {phrases: [red, blue], of: bag, question: 'with a {} bag?'}\nbelt: [belt, chain]\n"
    file.write_text(removed + own)
    return read_phrase_table(file), file


def calibrated(trained, copy, table, bag=2.0):
    """A copy of the checkpoint that sees a bag in every picture with log odds of `bag`, 3 to 1 of red."""
    copy.write_bytes(trained.read_bytes())
    known = fixed(table, {"bag": [bag / 2, -bag / 2], "bag colour": [np.log(3) / 2, -np.log(3) / 2]})
    write_calibration(copy, Calibration(model=TrainedModel.open(trained).digest, stages={}, attributes=known))
    return copy


# ---- in Python -------------------------------------------------------------------------


def test_every_category_is_described_by_shares_of_its_options(describer, photos):
    seen = describer.describe(next(iter(photos.rglob("*.jpg"))).read_bytes())
    assert [one.category for one in seen] == list(read_phrase_table())
    for one in seen:
        assert not one.calibrated and one.score == max(one.options.values())
        if read_phrase_table()[one.category].parent is None:
            assert sum(one.options.values()) == pytest.approx(1) and one.shown
    assert "the scores are uncalibrated" in describer.calibration_advice()


def test_the_colour_of_a_thing_counts_as_far_as_it_is_there(encoder, trained, photos, small_table, tmp_path):
    table, _ = small_table
    for bag in (2.0, -2.0):
        copy = calibrated(trained, tmp_path / f"copy{bag}.pth", table, bag)
        found = Describer(type(encoder).open(copy), table)
        seen = {one.category: one for one in found.describe(next(iter(photos.rglob("*.jpg"))).read_bytes())}
        there = 1 / (1 + np.exp(-bag))
        assert seen["bag"].options["backpack"] == pytest.approx(there) and seen["bag"].calibrated
        assert seen["bag colour"].options == pytest.approx({"red": 0.75 * there, "blue": 0.25 * there})
        assert seen["bag colour"].shown is (bag > 0) and seen["bag"].shown
        assert not seen["belt"].calibrated
        assert found.calibration_advice().startswith("the scores of belt are uncalibrated")


def test_hits_are_described_once_and_forgotten_when_erased(describer, searcher, monkeypatch):
    path = searcher.search(SENTENCE, top=1).hits[0].path
    first = describer.describe_hit(path)
    monkeypatch.setattr(describer.scorer, "score", lambda images: pytest.fail("scored again"))
    assert describer.describe_hit(path) == first
    content = searcher.gallery.records.by_path[path].content_key
    assert content in describer.kept
    erase_image(searcher, path)
    assert content not in describer.kept and searcher.tokens.cache.get(content) is None


def test_scores_are_kept_by_the_content_that_was_scored():
    """Another process may replace or erase an image while it is scored."""
    none = np.zeros(4, np.float32)
    by_path = {name: IndexedImage(name, f"old {name}", none) for name in ("a.jpg", "b.jpg")}

    def score(contents):
        by_path["a.jpg"] = IndexedImage("a.jpg", "new", none)
        del by_path["b.jpg"]
        return SimpleNamespace(select_images=lambda indices: contents[indices[0]])

    gallery = SimpleNamespace(records=SimpleNamespace(by_path=by_path), read_image=lambda image: image.digest)
    gallery.content_of = lambda path: by_path[path].digest
    model = SimpleNamespace(decode_image=lambda content: None)
    describer = GalleryDescriber(SimpleNamespace(gallery=gallery, drops=[], reranker=model), read_phrase_table())
    describer.score = score
    found, missing = describer.evidence(["a.jpg", "b.jpg"])
    assert found == {"a.jpg": "old a.jpg", "b.jpg": "old b.jpg"} and not missing
    assert describer.kept == {"old a.jpg": "old a.jpg", "old b.jpg": "old b.jpg"}


def test_an_image_that_is_gone_is_told(describer, searcher, photos):
    path = searcher.search(SENTENCE, top=1).hits[0].path
    (photos / path).unlink()
    with pytest.raises(NotThere, match=f"image {path} "):
        describer.describe_hit(path)
    erase_image(searcher, path)
    with pytest.raises(NotThere, match=f"image {path} is no longer in the gallery"):
        describer.describe_hit(path)


def test_answers_rank_the_best_hits_again_by_bayes_rule(describer, searcher):
    asked = DialogueRequest(SENTENCE, top=6, among=6)
    start = ask(describer, asked)
    plain = searcher.search(SENTENCE, top=6)
    assert [hit.path for hit in start.result.hits] == [hit.path for hit in plain.hits] and start.question is not None
    said = {"person", "upper body", "upper colour"}
    assert start.question.category not in said and start.words.endswith("?")
    question = Question("glasses", "sunglasses")
    found = ask(describer, asked, [QuestionAnswer(question, "yes")])
    evidence, _ = describer.evidence([hit.path for hit in plain.hits])
    column = read_phrase_table()["glasses"].names.index("sunglasses")
    odds = {
        hit.path: hit.score + np.log(yes_probability(describer.options(evidence[hit.path])["glasses"][0, column]))
        for hit in plain.hits
    }
    assert [hit.path for hit in found.result.hits] == sorted(odds, key=lambda path: -odds[path])
    assert found.answers == (QuestionAnswer(question, "yes"),)
    unknown = ask(describer, asked, [QuestionAnswer(question, "unknown")])
    assert [hit.path for hit in unknown.result.hits] == [hit.path for hit in plain.hits]


def test_hits_behind_those_that_are_asked_about_stay_there(describer):
    plain = ask(describer, DialogueRequest(SENTENCE, top=8, among=3))
    found = ask(describer, DialogueRequest(SENTENCE, top=8, among=3), [QuestionAnswer(Question("glasses", None), "no")])
    paths, before = [hit.path for hit in found.result.hits], [hit.path for hit in plain.result.hits]
    assert paths[3:] == before[3:] and {*paths[:3]} == {*before[:3]} and len(paths) == 8


def test_log_odds_are_those_of_the_best_score_that_is_known():
    def hit(**more):
        return Hit("a", more.pop("similarity", 0.5), more.pop("score", None), {}, **more)

    assert log_odds_of([hit(probability=0.75, score=9.0)]).tolist() == pytest.approx([np.log(3)])
    assert log_odds_of([hit(score=2.0), hit(score=-1.0)]).tolist() == [2, -1]
    assert log_odds_of([hit(similarity=0.5), hit(similarity=0.43)]).tolist() == pytest.approx([0, -1])


@pytest.mark.parametrize("about", [("bag", "rucksack"), ("bags", "backpack"), ("shoes", None)])
def test_what_cannot_be_asked_is_told(describer, about):
    with pytest.raises(UserError, match="there is no question about"):
        ask(describer, DialogueRequest(SENTENCE), [QuestionAnswer(Question(*about), "yes")])


def test_there_is_nothing_to_ask_about_nothing(describer):
    found = ask(describer, DialogueRequest(SENTENCE, where="camera == 'none'"))
    assert found.question is None and found.words == "" and not found.result.hits


# ---- commands --------------------------------------------------------------------------


def test_describe_prints_categories_with_scores(trained, photos, small_table, tmp_path):
    table, file = small_table
    copy = calibrated(trained, tmp_path / "copy.pth", table)
    images = sorted(photos.rglob("*.jpg"))[:2]
    told = call_here(main, "describe", *images, "--checkpoint", copy, "--phrases", file)
    there = 1 / (1 + np.exp(-2))
    lines = told.output.splitlines()
    assert lines[0] == str(images[0]) and lines[4] == str(images[1]) and len(lines) == 8
    assert lines[1] == f"  bag         backpack {there:.2f}, no bag {1 - there:.2f}"
    assert lines[2] == f"  bag colour  red {0.75 * there:.2f}, blue {0.25 * there:.2f}"
    assert "the scores of belt are uncalibrated" in told.errors
    found = json.loads(call_here(main, "describe", images[0], "--checkpoint", copy, "--json").output)
    assert found[0]["image"] == str(images[0])
    assert [one["category"] for one in found[0]["categories"]] == list(read_phrase_table())


def test_images_that_cannot_be_read_are_named_and_the_others_described(trained, photos, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    good = next(iter(photos.rglob("*.jpg")))
    told = call(main, "describe", tmp_path / "broken.jpg", good, tmp_path / "gone.jpg", "--checkpoint", trained)
    assert told.code == 2 and str(good) in told.output and "Traceback" not in told.errors
    assert f"unreadable: {tmp_path / 'broken.jpg'} " in told.errors and "gone.jpg" in told.errors
    assert told.errors.splitlines()[-1] == (
        "error: 2 of 3 images could not be read, as was said above; give other files in their place"
    )


@pytest.fixture
def gallery(trained, photos, tmp_path):
    call_here(main, "index", photos, "--checkpoint", trained, "--gallery", tmp_path / "asked")
    return "--gallery", tmp_path / "asked"


def test_ask_takes_answers_and_prints_the_next_question(gallery):
    told = call_here(main, "ask", SENTENCE, "--answers", "yes,unknown", "--top", 3, *gallery)
    assert len(told.output.splitlines()) == 4 and told.output.splitlines()[-1].startswith("next question: ")
    assert [line.rpartition(" ")[2] for line in told.errors.splitlines() if "? " in line][:2] == ["yes", "unknown"]
    found = json.loads(call_here(main, "ask", SENTENCE, "--answers", "no", "--json", "--among", 5, *gallery).output)
    assert found["answers"][0]["answer"] == "no" and -1e-9 < found["question"]["bits"] < 1
    assert found["answers"][0]["question"] != found["question"]["question"] and len(found["hits"]) == 8
    queried = json.loads(call_here(main, "query", SENTENCE, "--json", *gallery).output)
    assert found.keys() == {*queried, "answers", "question"}
    assert [hit.keys() for hit in found["hits"]] == [hit.keys() for hit in queried["hits"]]


def test_ask_says_as_query_does_what_a_model_cannot_read(gallery):
    queried = call_here(main, "query", f"{SENTENCE} 服", *gallery).errors
    asked = call_here(main, "ask", f"{SENTENCE} 服", "--answers", "no", *gallery).errors
    assert "服" in queried and set(queried.splitlines()) <= set(asked.splitlines())


def test_json_of_ask_is_json_on_a_terminal_of_few_letters(gallery):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    with restored(), contextlib.redirect_stdout(terminal):
        os.chdir(REPOSITORY)
        sys.argv = ["search", "ask", f"{SENTENCE} ü", "--answers", "no", "--json", *map(str, gallery)]
        main()
    terminal.flush()
    assert json.loads(terminal.buffer.getvalue())["query"] == f"{SENTENCE} ü"


def test_ask_reads_answers_from_who_sits_there(gallery, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("perhaps\ny\n\n"))
    told = call_here(main, "ask", SENTENCE, "--top", 2, *gallery)
    assert "an answer is yes, no or unknown, not 'perhaps" in told.errors
    assert told.errors.count("[yes/no/unknown; empty ends]") == 3 and len(told.output.splitlines()) == 4


def test_wrong_answers_are_told_before_a_model_is_opened(gallery, monkeypatch):
    monkeypatch.setattr("search.__main__.open_both", lambda options: pytest.fail("a model was opened"))
    told = call(main, "ask", SENTENCE, "--answers", "yes,perhaps", *gallery)
    assert told.code == 2 and "an answer is yes, no or unknown, not 'perhaps'" in told.errors


# ---- HTTP API and page -----------------------------------------------------------------


@pytest.fixture
def client(searcher):
    return TestClient(build_app(searcher))


def test_the_api_describes_and_asks(client, searcher):
    hits = client.post("/api/search", json={"text": SENTENCE}).json()["hits"]
    seen = client.post("/api/describe", json={"id": hits[0]["id"]}).json()
    assert seen["path"] == hits[0]["path"] and [one["category"] for one in seen["categories"]] == list(
        read_phrase_table()
    )
    assert seen["categories"][0]["phrase"] in ("man", "woman")
    first = client.post("/api/ask", json={"text": SENTENCE, "among": 4}).json()
    assert [hit["id"] for hit in first["hits"]] == [hit["id"] for hit in hits] and first["answers"] == []
    question = first["question"]
    about = {"category": question["category"], "phrase": question["phrase"], "answer": "no"}
    second = client.post("/api/ask", json={"text": SENTENCE, "among": 4, "answers": [about]}).json()
    assert second["answers"] == [{**about, "question": question["question"]}]
    assert second["question"]["question"] != question["question"]
    assert {hit["id"] for hit in second["hits"]} == {hit["id"] for hit in hits}


@pytest.mark.parametrize(
    ("address", "body", "status", "words"),
    [
        ("describe", {"id": "none"}, 404, "the gallery holds no image of this id"),
        ("describe", {}, 400, "id, the id of an image, in quotes, is missing"),
        ("ask", {"text": "a man", "among": 1}, 400, "among must be a whole number from 2 to 1000, not 1"),
        ("ask", {"text": "a man", "answers": [{"category": "bag"}]}, 400, "answers must be a list such as"),
        ("ask", {"text": "a man", "answers": 7}, 400, "answers must be a list such as"),
        (
            "ask",
            {"text": "a man", "answers": [{"category": "bag", "phrase": "x", "answer": "yes"}]},
            400,
            "there is no question about 'x' of the category 'bag'",
        ),
        ("ask", {"text": "?"}, 400, "the sentence holds no word"),
        ("ask", {"text": "a man", "tops": 1}, 400, "there is no 'tops' (did you mean 'top'?)"),
    ],
)
def test_wrong_requests_are_told(client, address, body, status, words):
    answer = client.post(f"/api/{address}", json=body)
    assert answer.status_code == status and words in answer.json()["error"] and "\n" not in answer.json()["error"]


def test_what_is_described_and_asked_is_watched(searcher):
    told = []
    searcher.authorize = lambda action, **details: told.append((action, details))
    describer = GalleryDescriber(searcher, read_phrase_table())
    ask(describer, DialogueRequest(SENTENCE, top=1, among=2), [QuestionAnswer(Question("bag", "backpack"), "no")])
    path = searcher.search(SENTENCE, top=1).hits[0].path
    describer.describe_hit(path)
    assert told[0] == ("ask", {"text": SENTENCE, "answers": "with a backpack? no"})
    assert [action for action, _ in told] == ["ask", "query", "query", "describe"]


def test_the_page_shows_what_is_seen_as_text(describer, searcher):
    path = searcher.search(SENTENCE, top=1).hits[0].path
    shown = predictions_as_html("<b>.jpg", describer.describe_hit(path), describer.calibration_warning())
    assert "&lt;b&gt;.jpg" in shown and shown.count("<tr>") >= 10
    assert "The scores are uncalibrated" in shown and str(describer.encoder.trained.checkpoint) not in shown
