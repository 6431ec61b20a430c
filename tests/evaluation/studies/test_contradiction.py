"""Edits change what they say and nothing else, and what they cost is measured on the same captions."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from dataset.attributes import parse_attributes
from dataset.captions import clean_caption
from dataset.tokens import CaptionTokenizer
from evaluation.stages.ranking import rank_split, summarise_stages
from evaluation.studies.caption_edits import EDITS, Choice, Palette, choose
from evaluation.studies.comparison import first_right
from evaluation.studies.contradiction import compare, main
from evaluation.studies.editable_captions import colour_runs, fits, is_editable, make_editable, what_is_read
from evaluation.trained import TrainedModel
from utils.errors import UserError

TEXT = "a man in a red coat light blue jeans and black shoes he has an orange bag on his back"
PHRASES = ("red coat", "light blue jeans", "black shoes", "orange bag")


def editable(text, *phrases, is_whole=True):
    """A caption whose attributes are these phrases, every word of them one span."""
    attributes = []
    for phrase in phrases:
        at, spans = text.index(phrase), []
        for word in phrase.split():
            start = text.index(word, at)
            spans.append((start, start + len(word)))
            at = start + len(word)
        attributes.append(spans)
    return make_editable(text, is_whole, attributes)


def edited(name, caption, choice):
    words = EDITS[name](caption, choice)
    return None if words is None else " ".join(words)


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("wrong", "a man in a red coat green jeans and black shoes he has an orange bag on his back"),
        (
            "contradicted",
            "a man in a red coat light blue jeans and green jeans and black shoes he has an orange bag on his back",
        ),
        (
            "repeated",
            "a man in a red coat light blue jeans and light blue jeans and black shoes he has an orange bag on"
            " his back",
        ),
        ("vague-1", "a man in a red coat jeans and black shoes he has an orange bag on his back"),
        ("vague-2", "a man in a red coat jeans and black shoes he has a bag on his back"),
        ("vague-all", "a man in a coat jeans and shoes he has a bag on his back"),
        ("dropped-1", "a man in a red coat black shoes he has an orange bag on his back"),
        ("dropped-half", "a man in a red coat black shoes"),
        ("dropped-rest", "a man in black shoes"),
    ],
)
def test_every_edit_by_hand(name, after):
    choice = Choice(order=(1, 3, 0, 2), target=1, start=6, end=8, colour="green")
    assert edited(name, editable(TEXT, *PHRASES), choice) == after


def test_articles_agree_with_what_follows():
    caption = editable("she carries a red bag", "red bag")
    choice = Choice((0,), 0, 3, 4, "orange")
    assert edited("wrong", caption, choice) == "she carries an orange bag"
    assert edited("contradicted", caption, choice) == "she carries a red bag and an orange bag"
    assert edited("repeated", caption, choice) == "she carries a red bag and a red bag"


def test_edits_without_what_they_need_are_not_made():
    caption = editable("she carries a leather bag", "leather bag")
    choice = Choice((0,))
    for name in ("wrong", "contradicted", "repeated", "vague-2", "dropped-1", "dropped-half", "dropped-rest"):
        assert edited(name, caption, choice) is None
    assert edited("vague-1", caption, choice) == "she carries a bag"


@pytest.mark.parametrize(
    ("text", "phrases", "order", "after"),
    [
        ("he has red hair and is wearing a blue coat", ("red hair", "blue coat"), (0, 1), "he is wearing a blue coat"),
        ("she wears a red coat over a blue shirt", ("red coat", "blue shirt"), (0, 1), "she wears a blue shirt"),
        ("she wears a red coat and a pair of blue jeans", ("red coat", "blue jeans"), (1, 0), "she wears a red coat"),
        ("she wears a red coat and she holds a blue bag", ("red coat", "blue bag"), (0, 1), "she holds a blue bag"),
        (
            "a man has red hair and is wearing a blue coat",
            ("red hair", "blue coat"),
            (0, 1),
            "a man is wearing a blue coat",
        ),
        (
            "he has a blue bag and has red hair and is alone",
            ("blue bag", "red hair"),
            (1, 0),
            "he has a blue bag and is alone",
        ),
        (
            "a lady with red hair tied in a ponytail wears a blue coat",
            ("red hair", "blue coat"),
            (0, 1),
            "a lady wears a blue coat",
        ),
    ],
)
def test_what_is_dropped_takes_its_lead_in_along(text, phrases, order, after):
    assert edited("dropped-1", editable(text, *phrases), Choice(order)) == after


def test_only_things_that_are_told_apart_are_edited():
    assert is_editable(["black", "and", "white", "striped", "shirt"])
    for words in (
        ["young", "man"],
        ["dark", "navy"],
        ["coat"],
        ["black", "zip"],
        ["red", "dress", "grey", "sandals"],
        ["right", "hand"],
    ):
        assert not is_editable(words)


def test_a_cut_caption_may_have_lost_the_noun_at_its_end():
    text = "a red coat and bright denim"
    assert editable(text, "red coat", "bright denim").attributes == ((1, 3), (4, 6))
    assert editable(text, "red coat", "bright denim", is_whole=False).attributes == ((1, 3),)


def test_colours_that_the_parser_missed_belong_to_the_attribute():
    caption = editable("a light blue and purple striped sweater", "purple striped sweater")
    assert caption.attributes == ((1, 7),)


def test_shades_go_with_their_colour():
    words = ["light", "blue", "and", "navy", "blue", "coat"]
    assert colour_runs(words) == [(0, 2), (3, 5)]
    assert colour_runs(words, with_and=True) == [(0, 5)]
    assert colour_runs(["dark", "coat"]) == []


def test_a_wrong_colour_is_none_that_the_person_may_have():
    of_person = [editable("a red coat and grey jeans", "red coat", "grey jeans"), editable("a pink coat", "pink coat")]
    others = [editable(f"a {c} coat", f"{c} coat") for c in ("crimson", "gray", "rose", "green", "red")]
    palette = Palette([*((caption, 0) for caption in of_person), *((caption, 1) for caption in others)])
    for seed in range(30):
        choice = choose(of_person[0], 0, palette, seed, 0)
        if choice.target == 0:  # crimson is a red, gray is mentioned as grey, rose is its pink
            assert choice.colour == "green"
            assert (choice.start, choice.end) == (1, 2)
        assert choice.order[0] == choice.target
        assert choice == choose(of_person[0], 0, palette, seed, 0)


def test_colours_come_as_often_as_things_have_them():
    colours = ["red"] * 90 + ["green"] * 10
    palette = Palette((editable(f"a {colour} coat", f"{colour} coat"), who) for who, colour in enumerate(colours))
    caption = editable("a blue coat", "blue coat")
    drawn = [choose(caption, 1000, palette, seed, 0).colour for seed in range(400)]
    assert drawn.count("red") / 400 == pytest.approx(0.9, abs=0.05)


def test_a_caption_is_edited_as_far_as_it_is_read():
    tokenizer = CaptionTokenizer.train(["a man in a red coat"] * 3, 60)
    assert what_is_read("A man, in a red coat.", tokenizer, 8) == "a man in a red coat"
    assert what_is_read("A man, in a red coat.", tokenizer, 7) == "a man in a red"
    assert fits("a man in a red coat", tokenizer, 8)
    assert not fits("a man in a red coat", tokenizer, 7)
    # the last word has pieces that are not read: it is none
    pieces = len(tokenizer.encode("a man in a redcoated", None).ids)
    assert what_is_read("a man in a redcoated", tokenizer, pieces - 1) == "a man in a"


def test_ranks_and_shares_by_hand():
    before = torch.tensor([[1, 4], [3, 2], [1, 2], [5, 0]])
    after = torch.tensor([[2, 1], [9, 3], [2, 3], [4, 0]])
    assert first_right(before).tolist() == [1, 2, 1, 5]
    row = compare(before, after, np.arange(4), seed=0)
    assert row["falls_behind"] == 50  # the second and the third
    assert row["loses_first"] == 25  # the third
    assert (row["r1_before"], row["r1_after"]) == (50, 25)
    assert row["p_r1"] == 1  # a single difference may have either sign


@pytest.fixture(scope="module")
def studied(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("contradiction")
    checkpoints = [str(tiny_run / f"checkpoint_{name}.pth") for name in ("best", "last")]
    main(["--checkpoint", *checkpoints, "--output_dir", str(folder), "--examples", "100"])
    return folder, json.loads((folder / "contradiction.json").read_text())


def test_each_edit_is_compared_on_its_own_captions(studied, benchmark):
    folder, found = studied
    entries = json.loads((benchmark / "processed_data/test.json").read_text())
    texts = [clean_caption(caption, None) for entry in entries for caption in entry["captions"]]
    assert found["captions"] == len(texts)
    for row in found["rows"]:
        examples = found["examples"][row["edit"]]
        assert len(examples) == row["captions"] > 0
        for example in examples:
            assert example["before"] != example["after"]
            assert any(text.startswith(example["before"]) for text in texts)
    assert {row["edit"] for row in found["rows"]} == set(EDITS)
    assert (folder / "contradiction.csv").read_text().count("\n") == 1 + len(EDITS) * 2 * 2
    with Image.open(folder / "contradiction.png") as picture:
        assert picture.width >= 900


def test_examples_say_what_their_edit_says(studied):
    _, found = studied
    for example in found["examples"]["wrong"]:
        before, after = example["before"].split(), example["after"].split()
        assert len(set(after) - set(before) - {"a", "an"}) == 1
    for example in found["examples"]["repeated"]:
        assert not set(example["after"].split()) - set(example["before"].split()) - {"and", "a", "an"}
    for name in ("vague-all", "dropped-rest"):
        for example in found["examples"][name]:
            assert len(example["after"].split()) < len(example["before"].split())


def test_models_are_compared_on_the_same_edits(studied):
    # both are the same weights
    _, found = studied
    models = list(dict.fromkeys(row["model"] for row in found["rows"]))
    first, second = ([{**row, "model": ""} for row in found["rows"] if row["model"] == model] for model in models)
    assert first == second


def test_captions_before_an_edit_rank_as_in_the_run(tiny_run, tmp_path):
    # with room for whole captions every one that has an attribute is made vague
    settings = ["--set", "max_words=80"]
    checkpoint = str(tiny_run / "checkpoint_best.pth")
    options = ["--edits", "vague-all", "--output_dir", str(tmp_path), "--device", "cpu"]
    main(["--checkpoint", checkpoint, *options, *settings])
    row = json.loads((tmp_path / "contradiction.json").read_text())["rows"][0]
    model = TrainedModel.open(tiny_run / "checkpoint_best.pth", None, settings[1:], torch.device("cpu"))
    split = model.open_split("test")
    attributes = parse_attributes(split.texts, 80)
    captions = [make_editable(clean_caption(t, None), True, a) for t, a in zip(split.texts, attributes, strict=True)]
    places = [place for place, caption in enumerate(captions) if caption.attributes]
    metrics = summarise_stages(rank_split(model.model, split.of_captions(places), model.setting), split)
    assert (row["captions"], row["stage"]) == (len(places), "stage1")
    for name in ("r1", "r10", "mAP"):
        assert row[f"{name}_before"] == pytest.approx(metrics["stage1"][name])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--edits", "wrnog"], "wrnog"),
        (["--examples", "-1"], "--examples must be from 0"),
        ([], "missing.pth"),
    ],
)
def test_bad_input_is_one_line(arguments, words, tmp_path):
    with pytest.raises(UserError, match=words) as error:
        main(["--checkpoint", str(tmp_path / "missing.pth"), "--output_dir", str(tmp_path / "out"), *arguments])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_captions_without_room_are_told(tiny_run, tmp_path):
    checkpoint = str(tiny_run / "checkpoint_best.pth")
    options = ["--edits", "contradicted", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(UserError, match="no caption of the test split"):
        main(["--checkpoint", checkpoint, *options, "--set", "max_words=8"])
