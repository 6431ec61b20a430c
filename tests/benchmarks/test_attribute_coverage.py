"""The benchmark of what attributes cover: counts that can be checked by hand."""

import json

import pytest

from benchmarks.attribute_coverage import Count, captions_in, descriptions_in, main, read_captions
from utils.errors import UserError


def spans_of(caption, *attributes):
    """The spans of attributes that are written as words of the caption, in its order."""
    found, end = [], 0
    for attribute in attributes:
        spans = []
        for word in attribute.split():
            start = caption.index(word, end)
            end = start + len(word)
            spans.append((start, end))
        found.append(spans)
    return found


def test_a_description_is_adjectives_and_a_garment():
    caption = "a man in dark blue dress shoes and a t shirt with a long red coat"
    words = caption.split(" ")
    assert [" ".join(words[i] for i in one) for one in descriptions_in(words)] == [
        "dark blue dress shoes",
        "long red coat",
    ]


@pytest.mark.parametrize(
    ("attributes", "found", "of_two"),
    [
        (["red coat", "white dress shoes"], 2, 0),
        (["red coat white dress shoes"], 0, 1),
        (["red coat", "dress shoes"], 1, 0),
        ([], 0, 0),
    ],
)
def test_counts_by_hand(attributes, found, of_two):
    caption, count = "a red coat white dress shoes", Count()
    count.add(caption, spans_of(caption, *attributes))
    assert (count.described, count.found, count.of_two, count.attributes) == (2, found, of_two, len(attributes))
    assert count.without == (not attributes)
    assert count.missed.total() == 2 - found


def test_the_command_reads_any_json_of_captions(tmp_path, capsys):
    people = [
        {"id": 1, "captions": ["short skirt black sandals"]},
        {"people": [{"description": "a grey and white striped dress"}, {"caption": ["", None]}]},
    ]
    (tmp_path / "captions.json").write_text(json.dumps(people))
    assert read_captions(tmp_path / "captions.json", "odd") == ["a grey and white striped dress"]
    main([str(tmp_path / "captions.json")])
    published, visible = capsys.readouterr().out.split("\nvisible")
    assert "of their own: 0 of 3" in published and "missed most often: " in published
    assert "of their own: 3 of 3 (100.00 %)" in visible and "missed" not in visible


def test_a_file_without_captions_is_an_error(tmp_path):
    (tmp_path / "other.json").write_text('{"people": [{"name": "no"}]}')
    with pytest.raises(UserError, match="holds no captions; they stand under captions, caption, description"):
        read_captions(tmp_path / "other.json", "all")


@pytest.mark.parametrize(
    ("content", "captions"),
    [
        ({"captions": ["a", "b"], "description": "c"}, ["a", "b", "c"]),
        ({"captions": None, "people": [{"caption": "a"}, {"caption": 5}]}, ["a"]),
        ({"captions": [{"caption": "a", "id": 1}, {"caption": "b", "id": 2}]}, ["a", "b"]),
        ({"captions": {"1.jpg": {"caption": "a"}}}, ["a"]),  # names of images are no captions
    ],
)
def test_captions_are_the_sentences_below_their_keys_and_nothing_else(content, captions):
    assert list(captions_in(content)) == captions


def test_half_of_one_caption_is_none(tmp_path):
    (tmp_path / "one.json").write_text('{"captions": ["a red coat"]}')
    assert read_captions(tmp_path / "one.json", "even") == ["a red coat"]
    with pytest.raises(UserError, match="holds no captions of the odd part"):
        read_captions(tmp_path / "one.json", "odd")
