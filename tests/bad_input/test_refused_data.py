"""Wrong annotations and images: one clear line, exit code 2, nothing changed."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest
from benchmark_data import run
from PIL import Image
from refusals import Ending, Ground, check_refusal, entries_of, snapshot

# ---- annotations -----------------------------------------------------------------------

ENTRY = {"captions": ["A man in a red coat."], "file_path": "a.jpg", "id": 1, "split": "train"}

ANNOTATIONS = {
    "empty list": ([], "holds no entries"),
    "not JSON": ("hello", "is not valid JSON"),
    "zero bytes": ("", "is empty"),
    "cut off": (json.dumps([ENTRY])[:40], "is not valid JSON"),
    "an object": ({"train": [ENTRY]}, "must hold a list of entries, found an object"),
    "entries without keys": ([{"caption": "x"}], "entry 1: has no 'file_path'"),
    "boolean identity": ([{**ENTRY, "id": True}], "entry 1 (a.jpg): 'id' must be an integer or a string, found true"),
    "no captions": ([{**ENTRY, "captions": []}], "entry 1 (a.jpg): has no captions, which only gallery images"),
    "caption without words": ([{**ENTRY, "captions": ["..."]}], "caption 1 has no words"),
    "nested too deeply": ("[" * 100_000, "is not valid JSON"),
    "other encoding": ('["caf\xe9"]'.encode("latin-1"), "is not UTF-8"),
    "one identity written two ways": ([ENTRY, {**ENTRY, "file_path": "b.jpg", "id": "1"}], "write it one way"),
    "one image of two people": ([ENTRY, {**ENTRY, "id": 2}], "identity 2, but 1 in entry 1"),
    "image outside its folder": ([{**ENTRY, "file_path": "../a.jpg"}], "leaves the image folder"),
    "missing image": ([ENTRY], "1 of 1 image is missing", "a.jpg (no such file)"),
}


@pytest.mark.parametrize("case", ANNOTATIONS)
def test_a_wrong_training_file_is_refused(ground, case):
    content, *parts = ANNOTATIONS[case]
    warned = case == "missing image"  # other splits have words that a vocabulary of its one caption has not
    ground.refuses(*parts, settings=(f"train_file={ground.write('wrong.json', content)}",), alone=not warned)


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("case", ["empty list", "not JSON", "missing image"])
def test_a_wrong_file_of_another_split_is_refused_before_training(ground, case, split):
    content, *parts = ANNOTATIONS[case]
    ground.refuses(*parts, settings=(f"{split}_file={ground.write('wrong.json', content)}",))


@pytest.mark.parametrize("case", ["empty list", "missing image"])
def test_a_wrong_test_file_is_refused_before_evaluation(ground, case, finished):
    content, *parts = ANNOTATIONS[case]
    path = ground.write("wrong.json", content)
    checkpoint = ("--evaluate", "--checkpoint", finished / "checkpoint_best.pth")
    ground.refuses(*parts, arguments=checkpoint, settings=(f"test_file={path}",))


def test_a_dry_run_finds_missing_test_images(ground):
    ground.refuses(
        "1 of 1 image is missing",
        arguments=("--dry_run",),
        settings=(f"test_file={ground.write('wrong.json', [ENTRY])}",),
    )


def test_an_annotation_file_of_another_kind_is_refused(ground):
    ground.refuses("must end in .json, .csv or .tsv", settings=(f"train_file={ground.folder}",))


def test_a_file_in_place_of_the_image_folder_is_refused(ground):
    ground.refuses("a.txt is not a folder", settings=(f"val_image_root={ground.write('a.txt', 'x')}",))


def test_evaluation_without_a_test_file_is_refused(ground, finished):
    checkpoint = ("--evaluate", "--checkpoint", finished / "checkpoint_best.pth")
    ground.refuses("`test_file` is not set", arguments=checkpoint, settings=("test_file=",))


# ---- images ----------------------------------------------------------------------------


def png(path: Path) -> bytes:
    """The picture of a file as PNG."""
    buffer = io.BytesIO()
    Image.open(path).save(buffer, "PNG")
    return buffer.getvalue()


BROKEN_IMAGES = {
    "text": (lambda path: b"hello", "is no image"),
    "zero bytes": (lambda path: b"", "is no image"),
    "cut off JPEG": (lambda path: path.read_bytes()[: path.stat().st_size // 2], "truncated"),
    "cut off PNG": (lambda path: png(path)[: len(png(path)) // 2], "truncated"),
}


@pytest.fixture
def own_ground(ground) -> Ground:
    """A ground with a copy of the benchmark that may be damaged."""
    shutil.copytree(ground.data, ground.folder / "data")
    return Ground(ground.folder / "data", ground.folder)


@pytest.mark.parametrize("case", BROKEN_IMAGES)
def test_training_stops_at_a_broken_image_and_names_it(own_ground, case):
    damage, part = BROKEN_IMAGES[case]
    path = own_ground.data / "imgs" / entries_of(own_ground)[3]["file_path"]
    path.write_bytes(damage(path))
    ending = own_ground.retrieve(settings=("max_steps=4",))  # one epoch: every image is read
    check_refusal(ending, str(path), part, alone=False)
    assert not list(own_ground.output.glob("checkpoint*"))


def test_a_broken_image_of_one_process_stops_all_with_its_name(own_ground):
    path = own_ground.data / "imgs" / entries_of(own_ground)[3]["file_path"]
    path.write_bytes(b"hello")
    settings = ("max_steps=4", "batch_size_train=4")
    done = run(
        sys.executable,
        "-m",
        "utils.processes.launch",
        "2",
        "Retrieval.py",
        *own_ground.arguments(settings=settings),
        check=False,
    )
    check_refusal(Ending(done.returncode, done.stderr), str(path), "is no image", alone=False)


def test_a_broken_image_leaves_the_checkpoints_of_a_resumed_run_alone(finished, own_ground):
    shutil.copytree(finished, own_ground.output)
    for entry in entries_of(own_ground):
        path = own_ground.data / "imgs" / entry["file_path"]
        path.write_bytes(bytes(path.stat().st_size))  # as long as before: else it is other data
    before = snapshot(own_ground.output)
    ending = own_ground.retrieve("--resume", settings=("max_steps=4", "workers=2"))
    check_refusal(ending, "is no image", alone=False)
    after = snapshot(own_ground.output)
    for name in ("checkpoint_last.pth", "checkpoint_best.pth", "metrics.json", "rankings.npz"):
        assert after[str(own_ground.output / name)] == before[str(own_ground.output / name)]


def test_evaluation_stops_at_a_broken_image_and_names_it(finished, own_ground):
    path = own_ground.data / "imgs" / entries_of(own_ground, "test")[3]["file_path"]
    path.write_bytes(b"hello")
    ending = own_ground.retrieve("--evaluate", "--checkpoint", finished / "checkpoint_best.pth")
    check_refusal(ending, str(path), "is no image", alone=False)
    assert not own_ground.output.exists()


def test_a_folder_in_place_of_an_image_is_refused(own_ground):
    path = own_ground.data / "imgs" / entries_of(own_ground)[3]["file_path"]
    path.unlink()
    path.mkdir()
    own_ground.refuses("1 of 16 images is missing", path.name)
