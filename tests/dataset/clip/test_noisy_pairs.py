"""Noisy correspondence: published permutations, drawing, reading and writing them, and whose captions are exchanged."""

import os
from pathlib import Path

import numpy as np
import pytest
from clip_golden import clip_parts

from dataset.annotations import Entry
from dataset.batch_plan import BatchPlan
from dataset.noisy_pairs import draw_permutation, exchange_captions, read_permutation, truly_clean, write_permutation
from utils.errors import UserError

GOLDEN = clip_parts("noise")
PUBLISHED = Path(os.environ.get("NOISE_DIR") or os.devnull)  # the published files, which are no part of the project
PAIRS = {"CUHK-PEDES": 68126, "ICFG-PEDES": 34674, "RSTPReid": 37010}


def write(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


# ---- published numbers -----------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN)
def test_captions_are_exchanged_as_published(name):
    part = {key: value.numpy() for key, value in GOLDEN[name].items()}
    permutation = part["permutation"]
    entries = [Entry(f"{pair}.png", pair, (str(pair),)) for pair in range(len(permutation))]
    given = [int(entry.captions[0]) for entry in exchange_captions(entries, permutation)]
    assert given == part["caption_of_sample"].tolist()
    assert np.array_equal(truly_clean(permutation), part["real_correspondence"].astype(bool))


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("name", PAIRS)
def test_published_files_are_read(name, rate):
    path = PUBLISHED / f"{name}_{rate}.npy"
    if not path.exists():
        pytest.skip("NOISE_DIR names no folder with the published files")
    permutation = read_permutation(path, PAIRS[name])
    noisy = int((~truly_clean(permutation)).sum())
    assert int(rate * PAIRS[name]) - 10 <= noisy <= int(rate * PAIRS[name])  # few of those shuffled got their own
    with pytest.raises(UserError, match=f"is for {PAIRS[name]} pairs, but the training set has 100"):
        read_permutation(path, 100)


# ---- whose captions --------------------------------------------------------------------


def test_images_and_identities_stay_and_captions_move():
    entries = [Entry("a.png", 7, ("a1", "a2")), Entry("b.png", 8, ()), Entry("c.png", 9, ("c1",))]
    exchanged = exchange_captions(entries, np.array([2, 1, 0]))
    assert exchanged == [Entry("a.png", 7, ("c1", "a2")), Entry("b.png", 8, ()), Entry("c.png", 9, ("a1",))]
    assert truly_clean(np.array([2, 1, 0])).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="of 2 pairs for 3"):
        exchange_captions(entries, np.array([0, 1]))


# ---- drawing ---------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0, 0.2, 0.5, 1])
def test_a_drawn_permutation_moves_as_many_as_asked_for(rate):
    permutation = draw_permutation(1001, rate, seed=3)
    assert permutation.dtype == np.int64 and sorted(permutation.tolist()) == list(range(1001))
    noisy = int((~truly_clean(permutation)).sum())
    assert int(rate * 1001) - 10 <= noisy <= int(rate * 1001)


def test_a_drawn_permutation_depends_on_its_seed():
    assert np.array_equal(draw_permutation(100, 0.5, 1), draw_permutation(100, 0.5, 1))
    assert not np.array_equal(draw_permutation(100, 0.5, 1), draw_permutation(100, 0.5, 2))
    assert draw_permutation(0, 0.5, 1).shape == (0,)


@pytest.mark.parametrize("epoch", range(3))
@pytest.mark.parametrize("seed", [0, 3, 2**40])
def test_noisy_pairs_come_at_any_time_of_an_epoch(seed, epoch):
    noisy = ~truly_clean(draw_permutation(1000, 0.2, seed))
    order = BatchPlan(1000, batch=10, rank=0, world=1, seed=seed).order(epoch)
    in_fifths = noisy[order].reshape(5, 200).mean(1)
    assert np.abs(in_fifths - 0.2).max() < 0.1  # four standard deviations


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(UserError, match="is not between 0 and 1"):
        draw_permutation(10, rate, 0)


# ---- files -----------------------------------------------------------------------------


def test_what_is_written_is_read_and_never_overwritten(tmp_path):
    path, permutation = tmp_path / "noise" / "mine_0.5.npy", draw_permutation(50, 0.5, 0)
    write_permutation(path, permutation)
    assert [file.name for file in path.parent.iterdir()] == ["mine_0.5.npy"]
    assert np.array_equal(read_permutation(path, 50), permutation)
    with pytest.raises(UserError, match="exists and is not overwritten"):
        write_permutation(path, draw_permutation(50, 0.5, 1))
    assert np.array_equal(read_permutation(path, 50), permutation)
    with pytest.raises(UserError, match=r"its name must end with \.npy"):
        write_permutation(tmp_path / "mine", permutation)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    write(tmp_path / "nine.npy", np.arange(9))
    with pytest.raises(UserError, match=r"noise file .*none\.npy does not exist \(did you mean 'nine\.npy'\?\)"):
        read_permutation(tmp_path / "none.npy", 3)
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_permutation(tmp_path, 3)


def test_a_file_is_read_from_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    path, allowed = write(tmp_path / "noise.npy", np.arange(3)), os.access
    # as of a disk that is mounted for reading; a system's administrator may write to any other folder
    monkeypatch.setattr(os, "access", lambda name, mode: not mode & os.W_OK and allowed(name, mode))
    assert read_permutation(path, 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.array([0.0, 1, 2]), r"holds float64 of shape \(3,\), not a row of int64"),
        (np.array([0, 1, 2], np.int32), "holds int32"),
        (np.zeros((3, 1), np.int64), r"of shape \(3, 1\)"),
        (np.array(0), r"of shape \(\)"),
        (np.array([0, 1]), "is for 2 pairs, but the training set has 3"),
        (np.array([0, 1, 1]), "is not a permutation"),
        (np.array([0, 1, 3]), "is not a permutation"),
        (np.array([-1, 0, 1]), "is not a permutation"),
    ],
)
def test_an_array_that_is_no_permutation_is_refused_in_a_line(tmp_path, array, problem):
    with pytest.raises(UserError, match=problem) as raised:
        read_permutation(write(tmp_path / "noise.npy", array), 3)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_no_array_is_refused(tmp_path):
    file = tmp_path / "noise.npy"
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fortran_order': False, 'shape': (4000000000000,), }"
    unclosed, cut = b"\x93NUMPY\x01\x00\x10\x00" + b"{" * 16, write(file, np.arange(9)).read_bytes()[:-8]
    for content in (b"", b"noise", b"PK\x03\x04", unclosed, header.ljust(128) + b"\n", cut):
        file.write_bytes(content)
        with pytest.raises(UserError, match="is not a readable"):
            read_permutation(file, 3)
    with pytest.raises(UserError, match="is not a readable"):
        read_permutation(write(file, np.array([print], object)), 3)  # code, which is not run
    np.savez(tmp_path / "several.npz", a=np.arange(3))
    with pytest.raises(UserError, match="holds several arrays"):
        read_permutation(tmp_path / "several.npz", 3)
