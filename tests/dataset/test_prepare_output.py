"""Prepared files go where they are told, and a data set on a read-only disk is left alone."""

import os
from pathlib import Path

import pytest
from PIL import Image

from dataset.digests import read_digests
from dataset.prepare import main
from utils.errors import UserError


@pytest.fixture
def mine(tmp_path) -> Path:
    """A data set of one's own."""
    root = tmp_path / "mine"
    (root / "imgs").mkdir(parents=True)
    rows = ["image,identity,caption,split"]
    for number, split in enumerate(("train", "val", "test")):
        Image.new("RGB", (8, 16), (40 * number, 9, 9)).save(root / f"imgs/{split}.png")
        rows.append(f"{split}.png,{number},a man in a red coat number {number},{split}")
    (root / "annotations.csv").write_text("\n".join(rows) + "\n")
    return root


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("output", ["elsewhere/deep", "new folder", "."])
def test_the_files_go_where_they_are_told(mine, tmp_path, output):
    before = names(mine)
    assert main(["CSV", str(mine), "--output", output, "--directory", str(tmp_path)]) == 0
    assert {"train.json", "val.json", "test.json", "image_digests.json"} <= set(names(tmp_path / output))
    assert names(mine) == before and set(read_digests(tmp_path / output / "train.json")) == {
        "train.png",
        "val.png",
        "test.png",
    }


def test_a_folder_that_cannot_be_written_is_told_before_images_are_read(mine, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr("dataset.prepare.inspect", lambda *of: pytest.fail("images are read"))
    with pytest.raises(UserError, match=r"cannot be written: .* read-only; name another by --output"):
        main(["CSV", str(mine)])
    assert "processed_data" not in names(mine)


def test_a_file_in_place_of_the_folder_is_told(mine):
    with pytest.raises(UserError, match=r"annotations\.csv is not a folder"):
        main(["CSV", str(mine), "--output", str(mine / "annotations.csv")])
    with pytest.raises(UserError, match=r"annotations\.csv is not a folder; name another by --output"):
        main(["CSV", str(mine), "--output", str(mine / "annotations.csv/below")])
