"""The study of questions: ranks and answers by hand, and the commands `ask` and `calibrate` on a tiny model."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.calibration import calibration_beside, read_calibration
from evaluation.description.asking import Question
from evaluation.description.meaning import Evidence, probabilities_of
from evaluation.description.phrases import captions_of, columns_of, read_phrase_table
from evaluation.description.scoring import PhraseScorer, score_images
from evaluation.description.truth import DOES_NOT_APPLY, OTHER, UNKNOWN
from evaluation.stages.encoding import KeptTokens
from evaluation.stages.reranking import score_candidates
from evaluation.studies import ask, calibrate
from evaluation.studies.ask import Searches, owners_of, ranks_after, reordered, true_answer
from evaluation.studies.described import fit_attributes, rows_of
from evaluation.trained import TrainedModel
from utils.errors import UserError


def test_right_images_take_the_ranks_of_the_new_order():
    # images of ranks 1 to 4 with these odds come in the order 3, 1, 4, 2; beyond them nothing moves
    odds = np.array([0.5, -2.0, 3.0, 0.1])
    assert reordered(torch.tensor([1, 2, 3, 7, 0]), odds).tolist() == [2, 4, 1, 7, 0]
    assert reordered(torch.tensor([2, 5]), np.zeros(4)).tolist() == [2, 5]


@pytest.mark.parametrize(
    ("phrase", "option", "answer"),
    [
        ("backpack", 0, "yes"),
        ("backpack", 1, "no"),
        ("backpack", 5, "no"),
        ("backpack", OTHER, "no"),
        ("backpack", UNKNOWN, "unknown"),
        (None, 0, "yes"),
        (None, OTHER, "yes"),
        (None, 5, "no"),
        (None, UNKNOWN, "unknown"),
    ],
)
def test_people_answer_the_truth(phrase, option, answer):
    assert true_answer(read_phrase_table(), Question("bag", phrase), option) == answer


def test_who_has_no_bag_has_no_red_one():
    assert true_answer(read_phrase_table(), Question("bag colour", "red"), DOES_NOT_APPLY) == "no"


def searches(table, text="somebody"):
    """Three images, of which the last alone has glasses; the caption is of the last."""
    flat = {name: np.full((3, len(one.names)), 1 / len(one.names)) for name, one in table.items()}
    flat["glasses"] = np.array([[0, 0, 1], [0, 0, 1], [1.0, 0, 0]])
    truth = {name: np.full(3, UNKNOWN) for name in table} | {"glasses": np.array([2, 2, 0])}
    return Searches(table, [text], np.array([[0, 1, 2]]), np.array([[1.0, 0.5, 0.0]]), flat, truth, np.array([2]))


def test_an_answer_brings_the_right_image_to_the_top():
    ranks = torch.tensor([[3]])
    after = ranks_after(searches(read_phrase_table()), ranks, 2, "informative", 0)
    # 0.95 / 0.05 for glasses: log odds of 0 + log 19 exceed those of 1 - 0
    assert [one.tolist() for one in after] == [[[3]], [[1]], [[1]]]
    said = ranks_after(searches(read_phrase_table(), "somebody with glasses"), ranks, 1, "informative", 0)
    assert said[1].tolist() == [[3]]  # nothing is asked that the sentence says
    assert ranks.tolist() == [[3]]


# ---- scores ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tiny_run):
    return TrainedModel.open(tiny_run / "checkpoint_best.pth")


def test_phrases_are_scored_as_captions_are(model):
    texts = [
        *captions_of(read_phrase_table())[:7],
        "A much longer caption of a person who wears a red coat, jeans and boots.",
    ]
    split = model.open_split("test")
    found = score_images(PhraseScorer(model, texts), split, model.setting)
    asked = split.of_captions(range(len(texts))).with_texts(texts, model.tokenizer, model.config.max_words)
    everything = torch.arange(len(split.images)).repeat(len(texts), 1)
    with torch.inference_mode():
        expected = score_candidates(model.model, asked, model.setting, everything, KeptTokens(0))
    assert abs(found.match.T - expected.double().numpy()).max() < 1e-4
    image = PhraseScorer(model, texts[:2]).score(torch.zeros(1, 3, *model.config.image_size, dtype=torch.uint8))
    assert image.match.shape == image.similarity.shape == (1, 2) and abs(image.similarity).max() <= 1.001


def test_a_model_without_a_matching_head_compares_cosines(model, monkeypatch):
    texts = captions_of(read_phrase_table())[:3]
    scorer = PhraseScorer(model, texts)
    scorer.prefixes = None
    pixels = torch.zeros(2, 3, *model.config.image_size, dtype=torch.uint8)
    found = scorer.score(pixels)
    assert found.match is None
    assert found.similarity == pytest.approx(PhraseScorer(model, texts).score(pixels).similarity)


def test_few_words_at_once_give_the_same_scores(model, monkeypatch):
    texts = captions_of(read_phrase_table())[:9]
    pixels = torch.randint(0, 256, (3, 3, *model.config.image_size), dtype=torch.uint8)
    whole = PhraseScorer(model, texts).score(pixels).match
    few = type("Few", (), {"words": 20, "images": 1})
    monkeypatch.setattr("evaluation.description.scoring.at_once", lambda model, device: few)
    assert PhraseScorer(model, texts).score(pixels).match == pytest.approx(whole, abs=1e-4)


def test_rows_say_how_often_the_likeliest_is_right():
    table = {"bag": read_phrase_table()["bag"]}
    scores = np.zeros((4, len(table["bag"].names)))
    scores[:, 0] = [9, 9, 9, -9]
    evidence = Evidence(scores[:, [columns_of(table)["bag"].index(k) for k in columns_of(table)["bag"]]])
    truth = {"bag": np.array([0, 0, 1, UNKNOWN])}
    (row,) = rows_of("m", table, evidence, {}, truth, np.arange(4), 0)
    assert (row["images"], row["calibrated"]) == (3, False)
    assert row["accuracy"] == pytest.approx(200 / 3) and row["common"] == pytest.approx(200 / 3)
    sure = probabilities_of(table, evidence, {})["bag"].max(1)[0]
    assert row["ece"] == pytest.approx(100 * (sure - 2 / 3), abs=1e-6)


# ---- commands --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def studied(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ask")
    checkpoint = str(tiny_run / "checkpoint_best.pth")
    ask.main(["--checkpoint", checkpoint, "--output_dir", str(folder), "--answers", "1", "--among", "4"])
    return folder


def test_the_study_has_a_row_for_each_way_and_number_of_answers(studied, model):
    found = json.loads((studied / "ask.json").read_text())
    keys = [(row["questions"], row["answers"]) for row in found["rows"]]
    assert keys == [("informative", 0), ("informative", 1), ("random", 0), ("random", 1)]
    split = model.open_split("test")
    for row in found["rows"]:
        assert row["captions"] == len(split.texts)
        for key in ("r1", "mAP"):
            assert 0 <= row[f"{key}_low"] <= row[key] <= row[f"{key}_high"] <= 100
        assert ("p_r1" in row) is (row["answers"] > 0)
    assert found["rows"][0]["r1"] == found["rows"][2]["r1"]
    assert found["models"]["run"] == {"calibration_of_checkpoint": False, "among": 4}
    assert {row["category"] for row in found["description"]} <= set(read_phrase_table())
    assert (studied / "ask.csv").read_text().startswith("model,questions,answers,captions,r1,r1_low,r1_high")
    with Image.open(studied / "ask.png") as picture:
        assert picture.width > 800


def test_before_an_answer_ranks_are_those_of_the_search(studied, model):
    from evaluation.stages.ranking import rank_split
    from evaluation.studies.comparison import values_of

    found = json.loads((studied / "ask.json").read_text())["rows"][0]
    ranks = rank_split(model.model, model.open_split("test"), model.setting)["reranked"].ranks
    assert found["r1"] == pytest.approx(values_of(ranks)["r1"].mean())
    assert found["mAP"] == pytest.approx(values_of(ranks)["mAP"].mean())


def test_calibrate_keeps_what_phrases_mean_beside_the_checkpoint(tiny_run, tmp_path, capsys):
    copy = tmp_path / "copy.pth"
    shutil.copy(tiny_run / "checkpoint_best.pth", copy)
    calibrate.main(["--checkpoint", str(copy), "--output_dir", str(tmp_path / "out")])
    assert "| category " in capsys.readouterr().out
    kept = read_calibration(calibration_beside(copy), "it")
    trained = TrainedModel.open(copy)
    fitted = fit_attributes(trained, trained.open_split("val"), read_phrase_table())
    assert kept.attributes == fitted and "upper colour" in fitted and fitted["upper colour"].people == 4
    others = json.loads((tmp_path / "out" / "calibrate.json").read_text())["calibration"]["attributes"]
    assert others.keys() == fitted.keys()
    # other data say nothing of phrases: what was known stays
    moved = tmp_path / "moved"
    shutil.copytree(trained.config.val_image_root, moved / "imgs")
    files = moved / "processed_data"
    files.mkdir()
    shutil.copy(trained.config.val_file, files / "val.json")
    other = ["--set", f"val_file={files / 'val.json'}", f"val_image_root={moved / 'imgs'}"]
    calibrate.main(["--checkpoint", str(copy), "--output_dir", str(tmp_path / "out"), *other])
    printed = capsys.readouterr().out
    assert "phrases: what was known is kept, as what the people of this data have is not known" in printed
    assert read_calibration(calibration_beside(copy), "it").attributes == fitted
    assert ask.attributes_for(TrainedModel.open(copy), read_phrase_table()) == (fitted, True)


def test_data_of_which_nothing_is_known_are_told_in_one_line(tiny_run, tmp_path):
    trained = TrainedModel.open(tiny_run / "checkpoint_best.pth")
    (tmp_path / "files").mkdir()
    shutil.copytree(trained.config.test_image_root, tmp_path / "files" / "imgs")
    shutil.copy(trained.config.test_file, tmp_path / "files" / "test.json")
    own = [f"test_file={tmp_path}/files/test.json", f"test_image_root={tmp_path}/files/imgs"]
    best = ["--checkpoint", str(tiny_run / "checkpoint_best.pth"), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(UserError, match=r"what the people of this data have is not known: there is no") as told:
        ask.main([*best, "--set", *own])
    assert "\n" not in str(told.value)
    for wrong in (["--answers", "0"], ["--among", "1"], ["--words", "0"]):
        with pytest.raises(UserError, match=r"--answers must be from 1 to 20, --among 2 or more|--words must be 1 or"):
            ask.main([*best, *wrong])


def test_captions_can_be_cut_after_some_words(model):
    split = model.open_split("test")
    short = ask.cut(split, model, 3)
    assert short.texts == [" ".join(text.split()[:3]) for text in split.texts]
    assert len(short.captions.ids[0]) <= len(split.captions.ids[0]) and short.images is split.images
    assert ask.cut(split, model, None) is split


def test_the_owner_of_a_caption_is_an_image_of_its_person(model):
    split = model.open_split("test")
    assert torch.equal(split.image_identity[owners_of(split)], split.caption_identity)
