"""Two stages give what an evaluation gives, with bounded memory, and say what they left out."""

import csv
import json
import sys

import numpy as np
import pytest
import torch
from benchmark_data import run
from in_process import call
from PIL import Image

from evaluation.stages.ranking import rank_split
from search.__main__ import main
from search.batching.image_tokens import TokenCache
from search.encoder import Encoder
from search.explain import explain, overlay
from search.gallery.gallery import open_gallery
from search.gallery.indexing import index
from search.searcher import Searcher
from utils.errors import UserError

pytest.importorskip("pymilvus")

SENTENCE = "A woman in a red coat, grey jeans and white sneakers."


def test_it_ranks_as_an_evaluation_does(encoder, benchmark, tmp_path):
    """The same captions, the same gallery: the same ten images after re-ranking."""
    split = encoder.trained.open_split("test")
    k, root = encoder.setting.candidates, split.image_root
    expected = rank_split(encoder.model, split, encoder.setting)
    with open_gallery(str(tmp_path / "gallery"), encoder, root) as gallery:
        index(gallery, encoder)
        gallery.drop([path for path in gallery.records.by_path if path not in set(split.images)])
        searcher = Searcher(encoder, gallery)
        for caption, text in enumerate(split.texts):
            found = searcher.search(text, top=k, candidates=k)
            assert [hit.path for hit in found.hits] == [split.images[i] for i in expected["reranked"].indices[caption]]
            scores = expected["reranked"].scores[caption].tolist()
            assert [hit.score for hit in found.hits] == pytest.approx(scores, abs=1e-4)
            first = searcher.search(text, top=k, candidates=0)
            assert [hit.path for hit in first.hits] == [split.images[i] for i in expected["stage1"].indices[caption]]
            assert all(hit.score is None and hit.match is None for hit in first.hits)


def test_the_cache_is_bounded_and_changes_nothing(searcher):
    whole = searcher.search(SENTENCE)
    assert searcher.tokens.cache.held > 0
    again = searcher.search(SENTENCE)
    assert [(hit.path, hit.score) for hit in again.hits] == [(hit.path, hit.score) for hit in whole.hits]
    small = Searcher(searcher.encoder, searcher.gallery, cache_bytes=3000)
    found = small.search(SENTENCE)
    assert small.tokens.cache.held <= 3000
    assert [hit.path for hit in found.hits] == [hit.path for hit in whole.hits]


def test_the_oldest_tokens_go_first():
    cache = TokenCache(capacity=2 * 40)
    one, two, three = (torch.full((10,), float(n)) for n in range(3))
    cache.put("one", one)
    cache.put("two", two)
    assert cache.get("one") is one
    cache.put("three", three)
    assert cache.get("two") is None and cache.get("one") is one and cache.get("three") is three and cache.held == 80
    cache.put("huge", torch.zeros(100))
    assert cache.get("huge") is None and cache.held == 80


def test_filters_and_numbers(searcher):
    found = searcher.search(SENTENCE, top=1000, where="camera == 'c1'")
    assert found.hits and {hit.metadata["camera"] for hit in found.hits} == {"c1"}
    assert len(searcher.search(SENTENCE, top=3).hits) == 3
    everything = searcher.search(SENTENCE, top=1000, candidates=2)
    assert len(everything.hits) == len(searcher.gallery.records)
    assert [hit.score is None for hit in everything.hits[:3]] == [False, False, True]
    assert not searcher.search(SENTENCE, where="camera == 'none'").hits
    assert searcher.search(SENTENCE, where="camera like 'c%' and not (camera == \"1e5 is text\")").hits
    assert set(everything.milliseconds) == {"reading", "embedding search", "image tokens", "re-ranking"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"text": ""}, "holds no word"),
        ({"text": " ?!., -- "}, "holds no word"),
        ({"text": "a" * 30_000}, "30000 characters"),
        ({"text": "a man", "top": 0}, "top must be from 1"),
        ({"text": "a man", "candidates": 5000}, "candidates from 0 to"),
        ({"text": "a man", "where": "camera = 'c1' or"}, "the filter \"camera = 'c1' or\" is not understood"),
        ({"text": "a man", "where": "camera == c1"}, "(text is written 'c1'); there are camera"),
        ({"text": "a man", "where": "bogus == 'c1'"}, "no metadata are called bogus"),
        ({"text": "a man", "where": "camera > 5"}, "camera holds text, such as 'c0'"),
    ],
)
def test_wrong_questions(searcher, arguments, words):
    with pytest.raises(UserError) as told:
        searcher.search(**arguments)
    assert words in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    "text", ["man " * 1000, "женщина in красном coat", "👩 in 红色 coat", "<script>alert(1)</script> man", "a\x00b"]
)
def test_odd_sentences_are_answered(searcher, text):
    assert searcher.search(text, top=2).hits


@pytest.mark.parametrize(
    "text",
    ["\u4e00\u4e2a\u5973\u4eba", "\u0436\u0435\u043d\u0449\u0438\u043d\u0430", "\U0001f600 !", "\u9ed1 - \uac70"],
)
def test_a_sentence_without_a_known_word_is_refused(encoder, text):
    with pytest.raises(UserError, match=r"the model knows no word of|holds no word"):
        encoder.encode_query(text)


def test_unknown_words_are_named_and_not_shown_as_read(encoder):
    query = encoder.encode_query("a \u7ea2\u8272 coat and \U0001f600 grey jeans \u7ea2\u8272")
    assert query.unknown == ["\u7ea2\u8272", "\U0001f600"]
    assert query.read_as == "a coat and grey jeans"
    assert encoder.encode_query(SENTENCE).unknown == []
    long = encoder.encode_query("a man " * 200)  # what is cut off is not read
    assert long.read_as == " ".join(["a man"] * 200)[: len(long.read_as)] and len(long.read_as) < len(long.cleaned) + 1


@pytest.mark.parametrize(
    ("text", "words"),
    [("a man " * 30, 60), ("in a red coat. " * 21, 84), ("grey-blue/" * 30, 60), ("\u7ea2 coat " * 30, 60)],
)
def test_a_sentence_that_is_cut_is_told(encoder, text, words):
    query = encoder.encode_query(text)
    assert query.words == words > query.words_read > 10
    assert f"only the first {query.words_read} of its {words} words are read" in query.warnings[-1]
    pieces = encoder.trained.tokenizer.encode(query.cleaned, None).offsets[: encoder.config.max_words - 1]
    assert len(query.cleaned[: pieces[-1][1]].split()) - query.words_read in (0, 1)  # a word may be read in part


def test_a_sentence_that_just_fits_is_not_told_as_cut(encoder):
    most = encoder.config.max_words
    fitting = "a " * (most - 2)  # with [CLS] and [SEP]
    assert encoder.encode_query(fitting).warnings == []
    assert f"the first {most - 2} of its {most - 1} words" in encoder.encode_query(fitting + "a").warnings[0]


@pytest.mark.parametrize("candidates", [0, 1, 128])
def test_a_lost_file_is_left_out_and_said(searcher, candidates):
    """Also while its tokens are in the cache, and when it is not re-ranked."""
    hits = searcher.search(SENTENCE, candidates=candidates).hits
    lost = {hits[0].path, hits[1].path}
    for path in lost:
        (searcher.gallery.image_source.path / path).unlink()
    found = searcher.search(SENTENCE, candidates=candidates)
    assert found.missing == dict.fromkeys(lost, "does not exist")
    assert not lost & {hit.path for hit in found.hits}


def test_another_image_in_the_place_of_one_with_tokens_is_left_out(searcher):
    first, second = (hit.path for hit in searcher.search(SENTENCE, top=2).hits)
    file = searcher.gallery.image_source.path / first
    Image.new("RGB", (20, 40), "red").save(file)
    assert "has changed" in searcher.search(SENTENCE).missing[first]
    (searcher.gallery.image_source.path / second).touch()  # its content is as it was
    assert second in [hit.path for hit in searcher.search(SENTENCE).hits]


def test_an_explanation_is_of_every_attribute(searcher):
    hit = searcher.search(SENTENCE).hits[0]
    found = explain(searcher, SENTENCE, hit.path)
    assert found.match == pytest.approx(hit.match, abs=1e-4)
    assert [one.words for one in found.attributes] == ["red coat", "grey jeans", "white sneakers"]
    rows, columns = searcher.encoder.model.grid
    for one in found.attributes:
        assert one.heat.shape == (rows, columns) and 0 <= one.heat.min() <= one.heat.max() <= 1 and 0 < one.match < 1
    assert overlay(found.image, found.heat).size == (192, 384)
    assert explain(searcher, "somebody walks", hit.path).attributes == []
    typed = explain(searcher, "a grey and white striped coat on her upper body red shoes", hit.path)
    assert [one.words for one in typed.attributes] == ["grey white striped coat", "red shoes"]
    glued = explain(searcher, "red coat,blue jeans.white \u201cshoes\u201d", hit.path)
    assert [one.words for one in glued.attributes] == ["red coat", "blue jeans", "white shoes"]
    with pytest.raises(UserError, match="holds no image"):
        explain(searcher, SENTENCE, "../../etc/passwd")


@pytest.mark.parametrize(
    "typed",
    [
        "red coat,grey jeans",
        "\u201cred\u201d coat\u2014grey jeans",
        "re\u00add coat.\uff47rey jeans",
        "red\u200bcoat;grey jeans",
    ],
)
def test_a_sentence_is_read_as_it_is_meant(encoder, typed):
    query, plain = encoder.encode_query(typed), encoder.encode_query("red coat grey jeans")
    assert (query.text, query.cleaned) == (typed, plain.cleaned)
    assert np.array_equal(query.embedding, plain.embedding)


def test_the_command_line(trained, photos, tmp_path):
    """The first commands as processes of their own, which share nothing but the gallery."""

    def search(*arguments):
        done = run(sys.executable, "-m", "search", *map(str, arguments), check=False)
        assert "Traceback" not in done.stderr
        return done

    place = tmp_path / "gallery"
    done = search("index", photos, "--gallery", place, "--checkpoint", trained, "--set", "precision=fp32")
    assert done.returncode == 0 and "images" in done.stdout, done.stderr
    done = search(
        "query",
        SENTENCE,
        "--gallery",
        place,
        "--top",
        3,
        "--json",
        "--sheet",
        tmp_path / "hits.png",
        "--csv",
        tmp_path / "hits.csv",
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3]
    assert all(str(photos) in hit["file"] for hit in answer["hits"])
    assert Image.open(tmp_path / "hits.png").width > 300
    with open(tmp_path / "hits.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["rank"], row["image"]) for row in table] == [(str(hit["rank"]), hit["path"]) for hit in answer["hits"]]
    assert [float(row["similarity"]) for row in table] == [hit["similarity"] for hit in answer["hits"]]
    gone, whole = answer["hits"][0]["path"], answer["hits"][1]["file"]
    assert call(main, "forget", gone, whole, "--gallery", place).code == 0
    ending = call(main, "query", SENTENCE + " \u7ea2\u8272", "--gallery", place, "--top", 3, "--json")
    again = json.loads(ending.output)
    assert gone not in [hit["path"] for hit in again["hits"]]
    assert again["words"] == again["words_read"] > 5
    assert again["unknown"] == ["\u7ea2\u8272"] and "\u7ea2" not in again["read_as"]
    assert "not known to the model, and not read: \u7ea2\u8272" in ending.errors
    for arguments, words in (
        (["forget", "nobody.jpg", "--gallery", place], "holds no image 'nobody.jpg'"),
        (["query", "a man", "--gallery", tmp_path / "none"], "there is no gallery"),
        (["index", tmp_path / "none", "--gallery", place, "--checkpoint", trained], "is not a folder of images"),
        (["query", "a man", "--gallery", place, "--set", "max_words=7"], "was made with max_words"),
    ):
        ending = call(main, *arguments)
        assert ending.code == 2 and words in ending.errors.splitlines()[-1], ending.errors


def test_a_sheet_that_cannot_be_written_is_told_before_the_search(searcher, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr(Encoder, "open", lambda *given, **named: pytest.fail("a model was opened"))
    for sheet, part in (
        (tmp_path / "hits.jpg", "let its name end in .png"),
        (tmp_path / "file" / "hits.png", f"cannot be written: {tmp_path / 'file'} is not a folder"),
        (tmp_path / "folder.png", "is a folder; name a file"),
    ):
        ending = call(main, "query", "a man", "--gallery", tmp_path / "gallery", "--sheet", sheet)
        assert ending.code == 2 and f"--sheet {sheet}" in ending.errors and part in ending.errors


def test_a_table_that_cannot_be_written_is_told_before_the_search(tmp_path, monkeypatch):
    monkeypatch.setattr(Encoder, "open", lambda *given, **named: pytest.fail("a model was opened"))
    (tmp_path / "file").write_text("x")
    for table, part in ((tmp_path / "file" / "hits.csv", "is not a folder"), (tmp_path, "is a folder; name a file")):
        ending = call(main, "query", "a man", "--gallery", tmp_path / "gallery", "--csv", table)
        assert ending.code == 2 and f"--csv {table}" in ending.errors and part in ending.errors


def test_the_answer_is_printed_whatever_becomes_of_its_sheet(encoder, photos, tmp_path, monkeypatch):
    Image.new("RGB", (48, 96)).save(photos / "one.png")
    with open_gallery(str(tmp_path / "gallery"), encoder, photos) as gallery:
        index(gallery, encoder)
    monkeypatch.setattr(Encoder, "open", lambda *given, **named: encoder)

    def full(*given, **named):
        raise UserError("the disk is full")

    monkeypatch.setattr("search.results.sheet.ranking_sheet", full)
    query = ("query", "a man", "--gallery", tmp_path / "gallery", "--sheet")
    ending = call(main, *query, tmp_path / "hits.png")
    assert ending.code == 2 and "the disk is full" in ending.errors
    assert ending.output.count("similarity") > 1
    ending = call(main, *query, photos / "one.png")
    assert ending.code == 2 and "is an image of the gallery" in ending.errors and not ending.output


def test_arrays_stay_small(searcher):
    """Metadata of any kind come back as they were."""
    assert isinstance(searcher.search(SENTENCE).hits[0].metadata["camera"], str)
    assert np.isfinite([hit.similarity for hit in searcher.search(SENTENCE).hits]).all()
