"""Words are counted by their part of speech, and the picture's numbers are those of the captions."""

import csv
import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from benchmark_data import data_settings
from PIL import Image

from dataset.attributes import kind_of_word, parse_attributes
from evaluation.studies.words import count_words, histogram_of, main, most_frequent, spread_of
from utils.errors import UserError


def test_words_are_counted_by_part_of_speech():
    captions = ["A man wears grey jeans and a red t-shirt.", "The TALL man carries a black bag."]
    counts = count_words(captions)
    # the model calls grey a noun; before one it is an adjective; the t of t-shirt is no word
    assert counts["adjective"] == Counter({"grey": 1, "red": 1, "tall": 1, "black": 1})
    assert counts["noun"] == Counter({"man": 2, "jeans": 1, "shirt": 1, "bag": 1})


def test_a_colour_is_an_adjective_before_the_noun_of_its_chunk():
    navy = SimpleNamespace(pos_="NOUN", lower_="navy", i=2)
    assert kind_of_word(navy, root=3) == "adjective"  # navy jeans
    assert kind_of_word(navy, root=2) == kind_of_word(navy, root=None) == "noun"
    assert kind_of_word(SimpleNamespace(pos_="VERB", lower_="walks", i=1), root=None) is None


def test_equally_frequent_words_come_in_alphabetical_order():
    assert most_frequent(Counter(b=2, a=2, c=3, d=1), 3) == [("c", 3), ("a", 2), ("b", 2)]


def test_spread_of_lengths():
    values = np.array([4, 1, 1, 6])
    found = spread_of(values)
    assert (found["mean"], found["median"], found["least"], found["most"]) == (3.0, 2.5, 1, 6)
    assert histogram_of(values) == {"1": 2, "4": 1, "6": 1}


@pytest.fixture(scope="module")
def drawn(benchmark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    settings = ["--set", *data_settings(benchmark), "max_words=40"]
    main(["--config", "configs/demo.yaml", "--split", "test", "--most", "7", "--output_dir", str(folder), *settings])
    return folder


def test_the_command_counts_the_captions_of_a_split(benchmark, drawn):
    entries = json.loads((benchmark / "processed_data/test.json").read_text())
    captions = [caption for entry in entries for caption in entry["captions"]]
    found = json.loads((drawn / "words.json").read_text())
    assert found["captions"] == len(captions)
    assert found["attributes_per_caption"]["mean"] == np.mean([len(a) for a in parse_attributes(captions, 40)])
    lengths = [len(caption.replace("-", " ").split()) for caption in captions]
    assert found["words_per_caption"]["mean"] == np.mean(lengths)
    assert sum(found["words_per_caption"]["counts"].values()) == len(captions)


def test_the_command_writes_a_table_and_a_picture(drawn):
    with open(drawn / "words.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["noun"] * 7 + ["adjective"] * 7
    counts = [int(row["count"]) for row in rows[:7]]
    assert counts == sorted(counts, reverse=True)
    found = json.loads((drawn / "words.json").read_text())
    assert float(rows[0]["share"]) == pytest.approx(100 * counts[0] / found["all_words"]["noun"])
    with Image.open(drawn / "words.png") as picture:
        assert picture.width >= 900


def test_all_splits_are_every_file_of_the_configuration(benchmark, tmp_path, capsys):
    settings = ["--set", *data_settings(benchmark)]
    main(["--config", "configs/demo.yaml", "--split", "all", "--output_dir", str(tmp_path), *settings])
    found = json.loads((tmp_path / "words.json").read_text())
    files = [benchmark / f"processed_data/{split}.json" for split in ("train", "val", "test")]
    assert found["files"] == [str(file) for file in files]
    assert found["captions"] == sum(len(e["captions"]) for file in files for e in json.loads(file.read_text()))
    assert "| rank | noun" in capsys.readouterr().out


def test_a_checkpoint_names_its_data_set(tiny_run, drawn, tmp_path):
    checkpoint = str(tiny_run / "checkpoint_best.pth")
    main(["--checkpoint", checkpoint, "--split", "test", "--most", "7", "--output_dir", str(tmp_path)])
    assert (tmp_path / "words.csv").read_text() == (drawn / "words.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give --config, or --checkpoint"),
        (["--checkpoint", "missing.pth"], "missing.pth"),
        (["--config", "configs/missing.yaml"], "missing.yaml"),
        (["--config", "configs/demo.yaml", "--most", "0"], "--most must be from 1"),
        (["--config", "configs/demo.yaml", "--split", "val", "--set", "val_file=null"], "val_file"),
        (["--config", "configs/demo.yaml", "--set", "train_file=[missing.json]"], "missing.json does not exist"),
    ],
)
def test_bad_input_is_one_line(arguments, words, tmp_path):
    with pytest.raises(UserError, match=words) as error:
        main([*arguments, "--output_dir", str(tmp_path / "out")])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
