"""The sheet of Grad-CAM maps: its parts by hand, and the whole command on tiny models."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from in_process import retrieve
from PIL import Image

from dataset.captions import clean_caption
from evaluation.drawing.panels import coloured_text, flow, overlay, words_in_colours
from evaluation.studies.caption_maps import MapChoice, maps_on_images, peak_of, read_caption, upsample
from evaluation.studies.gradcam import main
from evaluation.studies.gradcam_sheet import character_colours, colour_of, join_pieces
from evaluation.studies.shown_captions import ShownCaption, own_pair
from evaluation.trained import TrainedModel
from utils.errors import UserError

INK, RED, BLUE = (0, 0, 0), (255, 0, 0), (0, 0, 255)


# ---- parts -----------------------------------------------------------------------------


def test_the_peak_is_the_largest_value_in_rows_and_columns():
    assert peak_of(torch.tensor([0.0, 1.0, 5.0, 2.0, 5.0, 0.0]), (3, 2)) == (1, 0)  # the first of equal ones
    assert peak_of(torch.zeros(6), (3, 2)) is None


def test_maps_are_scaled_between_the_middles_of_patches():
    # one row of two patches, 0 and 4, over four pixels: their middles lie at pixels 0.5 and 2.5
    assert upsample(torch.tensor([[0.0, 4.0]]), (1, 2), (1, 4))[0].tolist() == [[0.0, 1.0, 3.0, 4.0]]


def test_heat_covers_in_proportion_to_its_maximum():
    grey = Image.new("RGB", (3, 1), (100, 100, 100))
    cold, middle, hot = (pixel.astype(int) for pixel in np.asarray(overlay(grey, torch.tensor([[0.0, 0.3, 0.6]])))[0])
    assert cold.tolist() == [100, 100, 100]
    assert np.abs(hot - 100).sum() > np.abs(middle - 100).sum() / 2 > 0
    assert np.asarray(overlay(grey, torch.zeros(1, 3))).tolist() == np.asarray(grey).tolist()


def test_words_keep_the_colours_of_their_characters():
    colours = [RED] * 3 + [INK] * 3 + [BLUE] * 2
    assert words_in_colours("red a bu", colours) == [[("red", RED)], [("a", INK)], [("bu", BLUE)]]
    assert words_in_colours("redhat", [RED] * 3 + [BLUE] * 3) == [[("red", RED), ("hat", BLUE)]]


def test_long_captions_break_and_nothing_is_lost():
    one, many = (coloured_text(" ".join(["word"] * n), [RED] * (5 * n - 1), 20, 300) for n in (1, 12))
    assert many.height >= 3 * one.height
    red = [int((np.asarray(sheet)[..., 1] < 128).sum()) for sheet in (one, many)]
    assert red[1] == pytest.approx(12 * red[0], rel=0.1)


def test_pictures_flow_into_lines():
    parts = [Image.new("RGB", (40, height), RED) for height in (10, 20, 30)]
    sheet = flow(parts, 100, 5)
    assert sheet.size == (85, 20 + 5 + 30)


def test_attributes_have_the_same_colour_in_the_caption_as_written():
    caption = ShownCaption(0, "A RED, coat!", None, [[(2, 5), (6, 10)]])  # cleaned: "a red coat"
    assert caption.words_of(0) == "red coat"
    coloured = "".join(
        letter
        for letter, colour in zip(caption.text, character_colours(caption), strict=True)
        if colour == colour_of(0)
    )
    assert coloured == "REDcoat"


def test_pieces_of_a_word_are_joined_and_what_was_cut_off_is_left_out():
    maps = torch.tensor([[9.0], [1.0], [2.0], [4.0], [9.0]])
    offsets = [(0, 0), (0, 3), (4, 6), (6, 8), (0, 0)]  # [CLS] red back ##pack [SEP]
    words = join_pieces("red bapa bag", offsets, maps)
    assert [(span, value.item()) for span, value in words] == [((0, 3), 1.0), ((4, 8), 3.0)]


# ---- maps of a model -------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tiny_run):
    return tiny_run / "checkpoint_last.pth"


@pytest.fixture(scope="module")
def other_checkpoint(benchmark, tmp_path_factory):
    """Vision Mamba, cross-attention in the upper layers alone, no decoder, other words kept."""
    output = tmp_path_factory.mktemp("gradcam") / "vim"
    model = ["image_encoder=vim", "bert_config.full_ca=false", "bert_config.num_hidden_layers=3", "weights.mae=0"]
    settings = [*model, "max_steps=1", "max_words=12", "image_res=[64,32]", "eval_epoch=9"]
    retrieve(output, benchmark, settings=settings)
    return output / "checkpoint_last.pth"


def test_maps_belong_to_the_attributes_they_were_asked_for(checkpoint):
    trained = TrainedModel.open(checkpoint, None, ["max_words=6"], torch.device("cpu"))
    text, image = "A red coat, blue jeans and a black bag", torch.randn(1, 3, *trained.config.image_size)
    spans = [[(16, 21)], [(2, 5), (6, 10)], [(30, 35)]]  # jeans; red coat; black, beyond the words that are kept
    pieces = read_caption(trained, text).offsets
    inside = [
        [row for row, (start, end) in enumerate(pieces) if any(a <= start < end <= b for a, b in one)] for one in spans
    ]
    one = maps_on_images(trained, image, [text], [spans], MapChoice("match", 0), with_words=True)[0]
    assert one.present == [bool(inside[0]), True, False]
    assert one.attributes.shape == (3, trained.model.grid[0] * trained.model.grid[1])
    torch.testing.assert_close(one.attributes[1], one.words[inside[1]].mean(0))
    assert not one.attributes[2].any()
    assert one.attribute_score[2] == 0
    torch.testing.assert_close(one.whole, one.words[1:-1].mean(0))


# ---- the command -----------------------------------------------------------------------


def read(folder):
    with open(folder / "gradcam.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    content = json.loads((folder / "gradcam.json").read_text())
    with Image.open(folder / "gradcam.png") as sheet:
        return rows, content, sheet.copy()


def test_two_models_are_shown_on_the_same_captions(checkpoint, other_checkpoint, tmp_path, capsys):
    arguments = ["--checkpoint", str(checkpoint), str(other_checkpoint), "--label", "baseline", "model"]
    arguments += ["--queries", "2", "--output_dir", str(tmp_path), "--target", "attribute"]
    main(arguments)
    rows, content, sheet = read(tmp_path)
    of = {name: [row for row in rows if row["model"] == name] for name in ("baseline", "model")}
    captions = {row["caption"] for row in of["baseline"]}
    assert len(captions) == 2 and captions == {row["caption"] for row in of["model"]}
    for caption in captions:
        assert len([row for row in of["baseline"] if row["caption"] == caption]) >= 1 + 2  # whole, two attributes
    assert content["layers"] == {"baseline": 0, "model": 1}
    assert len(content["maps"]) == len(rows)
    for row, kept in zip(content["rows"], content["maps"], strict=True):
        grid = torch.tensor(kept["map"])
        assert list(grid.shape) == [row["grid_rows"], row["grid_columns"]]
        assert [row["peak_row"], row["peak_column"]] == list(peak_of(grid.flatten(), tuple(grid.shape)) or [None] * 2)
    assert sheet.width > 600
    assert "| baseline |" in capsys.readouterr().out
    first = (tmp_path / "gradcam.json").read_bytes()
    main(arguments)
    assert (tmp_path / "gradcam.json").read_bytes() == first  # the same seed, the same results


def test_captions_are_shown_on_the_image_they_were_written_for(checkpoint, benchmark, tmp_path, monkeypatch):
    shown = []
    blank = Image.new("RGB", (20, 40))
    monkeypatch.setattr("evaluation.drawing.pictures.load_picture", lambda path, box: shown.append(path) or blank)
    main(["--checkpoint", str(checkpoint), "--captions", "5", "2", "--words", "--output_dir", str(tmp_path)])
    entries = json.loads((benchmark / "processed_data" / "test.json").read_text())
    images = [entry["file_path"] for entry in entries for _ in entry["captions"]]
    assert [path.relative_to(benchmark / "imgs").as_posix() for path in dict.fromkeys(shown)] == [images[5], images[2]]


def test_a_pair_of_ones_own(checkpoint, benchmark, tmp_path):
    image = next((benchmark / "imgs" / "test").rglob("*.jpg"))
    pair = ["--image", str(image), "--text", "A man in a red coat with a black bag.", "--words"]
    settings = ["--set", "test_file=null"]
    main(["--checkpoint", str(checkpoint), *pair, *settings, "--output_dir", str(tmp_path)])
    rows, _, _ = read(tmp_path)
    assert [row["attribute"] for row in rows] == ["", "red coat", "black bag"]
    assert {row["caption"] for row in rows} == {""}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--captions", "99"], "--captions 99: the test split has captions 0 to"),
        (["--queries", "0"], "--queries, --captions: from 1 to 50"),
        (["--text", "a man"], "--image and --text belong together"),
        (["--image", "x.jpg"], "--image and --text belong together"),
        (["--image", "x.jpg", "--text", "a man", "--captions", "1"], "give one of them"),
        (["--image", "x.jpg", "--text", " . "], "--text holds no word"),
        (["--image", "x.jpg", "--text", "a man"], "--image x.jpg does not exist; name another one"),
        (["--image", "missing.jpg", "--text", "a man"], "image missing.jpg"),
        (["--layer", "1"], "layer 1 is the last one, of which the match logit reads CLS alone"),
        (["--layer", "7"], "layer 7 has no cross-attention; choose one from 0 to 1"),
        (["--target", "nothing"], "invalid choice"),
        (["--target", "word"], "this model has those of match and attribute .--layer, --target."),
    ],
)
def test_what_cannot_be_shown_is_refused(checkpoint, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        main(["--checkpoint", str(checkpoint), "--output_dir", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()


def test_a_missing_checkpoint_and_too_many_are_named(checkpoint, tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.pth"):
        main(["--checkpoint", str(tmp_path / "nowhere.pth")])
    with pytest.raises(UserError, match="at most 2"):
        main(["--checkpoint", *(str(tmp_path / f"{n}.pth") for n in range(3))])


def test_captions_without_attributes_are_not_drawn(checkpoint, tmp_path, monkeypatch):
    found = "evaluation.studies.shown_captions.cached_attributes"
    monkeypatch.setattr(found, lambda texts, *_: {text: [[(0, 3)]] for text in texts})
    with pytest.raises(UserError, match="no caption of the test split has 2 attributes"):
        main(["--checkpoint", str(checkpoint), "--output_dir", str(tmp_path)])


@pytest.mark.parametrize("rule", ["published", "visible"])
def test_a_text_of_ones_own_is_read_as_it_is_meant(tmp_path, rule):
    Image.new("RGB", (4, 8)).save(tmp_path / "one.png")
    config = SimpleNamespace(image_size=(8, 4), max_words=20, attributes=rule)
    pair = own_pair("a \u201cred\u201d coat,blue jeans", tmp_path / "one.png", SimpleNamespace(config=config))
    assert clean_caption(pair.text, None) == "a red coat blue jeans"
    assert "blue jeans" in [pair.words_of(number) for number in range(len(pair.attributes))]
