"""One pass over the annotations finds every defect at its place, and nothing where there is none.

Defects of every kind are planted at random places of clean data in each of the three published forms.
FAULTS=full uses ten times as many seeds, and measures the check of 40,000 images.
"""

import argparse
import io
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from dataset.annotation_formats import FORMATS, Format
from dataset.annotations import fingerprint, load_annotations
from dataset.caption_checks import CAPTION_WARNINGS
from dataset.prepare import Inspection, inspect, main
from utils.errors import UserError

pytestmark = pytest.mark.promise("Validation")

FULL = os.environ.get("FAULTS") == "full"
SEEDS = range(40 if FULL else 4)
PUBLISHED = [data_format for data_format in FORMATS if re.fullmatch(r"[\w-]+\.json", data_format.file)]
IMAGE_KEYS = {"RSTPReid": "img_path"}
SPLITS = ["train"] * 6 + ["val", "test"]
CAPTIONS = [
    "A man in a red coat.",
    "Une femme à la veste bleue, très élégante…",
    "一位穿红色外套的女士",
    "مرد با کت قرمز",
    "She wears a 👜 and smiles 🙂",
    "a\tb\nc  d",
    "word " * 3000,
    "x",
    "2",
    '"quoted" \\ backslash / {json: [true]}',
    "NaN Infinity null",
]
NAMES = ["{}.png", "cam {}/a b.png", "ü-{}/ñ.png", "{}/#%&'.jpeg", "deep/{}/er/x.y.z.png", "-{}", "...{}", "{}.PNG"]


def picture(number: int) -> bytes:
    """A file of its own for every number."""
    content = io.BytesIO()
    Image.new("RGB", (2, 3), (number % 256, number // 256 % 256, 7)).save(content, "PNG", compress_level=0)
    return content.getvalue()


class Data:
    """Clean raw data: odd but valid names and captions, identities with two to four images each."""

    def __init__(self, folder: Path, data_format: Format, seed: int, identities: int = 90):
        self.folder, self.format, self.random = folder, data_format, random.Random(f"{seed}/{data_format.name}")
        self.key, self.entries = IMAGE_KEYS.get(data_format.name, "file_path"), []
        written = self.random.choice([int, str])
        for identity in range(identities):
            for _ in range(self.random.randint(2, 4)):
                self.add(written(identity), SPLITS[identity % len(SPLITS)])
        self.random.shuffle(self.entries)

    def add(self, identity: int | str, split: str) -> None:
        number = len(self.entries)
        image = self.random.choice(NAMES).format(number)
        captions = self.random.sample(CAPTIONS, self.random.randint(1, 4))
        self.entries.append({self.key: image, "id": identity, "split": split, "captions": captions})
        if self.random.random() < 0.5:
            self.entries[-1]["processed_tokens"] = [["a", "man"], []]
        (self.folder / "imgs" / image).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / "imgs" / image).write_bytes(picture(number))

    def path(self, entry: dict) -> Path:
        return self.folder / "imgs" / entry[self.key]

    def inspect(self, decode: str = "quick") -> Inspection:
        source = self.folder / self.format.file
        try:
            source.write_text(json.dumps(self.entries, ensure_ascii=False), "utf-8")
        except UnicodeEncodeError:  # half characters can only stand there as \\ud83d
            source.write_text(json.dumps(self.entries))
        options = argparse.Namespace(skip_images=False, decode=decode, workers=None)
        return inspect(source, self.format, self.folder / "imgs", options)


# ---- defects: (data, entry to spoil, sound entry of another identity) -> kind ----------

Defect = Callable[[Data, dict, dict], str]


def setting(kind: str, key: str, *values: object) -> Defect:
    """Puts a wrong value under a key; `image` is the key of the image path."""

    def spoil(data: Data, entry: dict, sound: dict) -> str:
        value = data.random.choice(values)
        entry[data.key if key == "image" else key] = value
        return kind

    return spoil


def drop_a_key(data: Data, entry: dict, sound: dict) -> str:
    del entry[data.random.choice([data.key, "id", "split", "captions"])]
    return "missing key"


def move_to_another_split(data: Data, entry: dict, sound: dict) -> str:
    entry["id"] = sound["id"]
    entry["split"] = next(split for split in ("train", "val", "test") if split != sound["split"])
    return "identity in several splits"


def write_identity_otherwise(data: Data, entry: dict, sound: dict) -> str:
    entry["id"] = str(sound["id"]) if isinstance(sound["id"], int) else int(sound["id"])
    entry["split"] = sound["split"]
    return "ambiguous identity"


def name_an_image_again(data: Data, entry: dict, sound: dict) -> str:
    entry[data.key] = data.random.choice(["{}", "./{}", "x/../{}", ".//{}"]).format(sound[data.key])
    return "duplicate image"


def remove_the_image(data: Data, entry: dict, sound: dict) -> str:
    path = data.path(entry)
    path.unlink()
    if data.random.random() < 0.3:
        path.mkdir()
    elif data.random.random() < 0.3:
        path.symlink_to("nowhere")
    return "missing image"


def damage_the_image(data: Data, entry: dict, sound: dict) -> str:
    path = data.path(entry)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[data.random.randrange(len(whole))] ^= 16
    cut = whole[: data.random.randrange(len(whole) - 12)]
    path.write_bytes(data.random.choice([b"", b"hello", cut, bytes(flipped)]))
    return "unreadable image"


def one_caption(kind: str, *values: object) -> Defect:
    """Puts a wrong one among the captions."""

    def spoil(data: Data, entry: dict, sound: dict) -> str:
        place = data.random.randrange(len(entry["captions"]) + 1)
        entry["captions"] = [*entry["captions"][:place], data.random.choice(values), *entry["captions"][place:]]
        return kind

    return spoil


def put_a_constant(data: Data, entry: dict, sound: dict) -> str:
    value = data.random.choice([float("nan"), float("inf"), -float("inf")])
    entry["processed_tokens"] = data.random.choice([value, [["a", value]], {"deep": [{"er": value}]}])
    return "not a number"


def name_two_images(data: Data, entry: dict, sound: dict) -> str:
    other = "img_path" if data.key == "file_path" else "file_path"
    entry[other] = "another.png"
    return "wrong type"


DEFECTS: dict[str, Defect] = {
    "identity in two splits": move_to_another_split,
    "missing image": remove_the_image,
    "unreadable image": damage_the_image,
    "empty caption": one_caption("empty caption", "", " \t\n", "... !"),
    "caption that is no string": one_caption("wrong type", None, ["a man"], 3),
    "caption that is no text": one_caption("bad text", "half \ud83d", "a\0b"),
    "duplicate image": name_an_image_again,
    "identity of a wrong type": setting("wrong type", "id", True, 1.5, None, [], {}, "", "  ", 2**63, -(10**30)),
    "captions of a wrong type": setting("wrong type", "captions", "a man", None, 3, {"0": "a man"}),
    "image of a wrong type": setting("wrong type", "image", None, 7, ["a.png"]),
    "split of a wrong type": setting("wrong type", "split", None, 1, ["train"]),
    "two images": name_two_images,
    "missing key": drop_a_key,
    "unknown split": setting("unknown split", "split", "", "Train", "tset", "validation", "train "),
    "path out of the folder": setting(
        "bad image path", "image", "../a.png", "/etc/passwd", "x/../../a.png", "C:/a.png", "x\\a.png", "x/", ".", " "
    ),
    "bad text in a path": setting("bad text", "image", "a\0.png", "\ud800.png"),
    "no captions": setting("no captions", "captions", []),
    "ambiguous identity": write_identity_otherwise,
    "NaN": put_a_constant,
}


def plant(data: Data) -> Counter[tuple[str, int]]:
    """Every defect once or twice, each at an entry of an identity that has no other; (kind, entry number)."""
    firsts = {str(entry["id"]): place for place, entry in enumerate(data.entries)}
    places = list(firsts.values())
    data.random.shuffle(places)
    expected: Counter[tuple[str, int]] = Counter()
    for name, defect in DEFECTS.items():
        for _ in range(data.random.randint(1, 2)):
            place, sound = places.pop(), data.entries[places.pop()]
            kind = defect(data, data.entries[place], sound)
            if name == "duplicate image":  # told at the later of the two
                place = max(place, next(n for n, entry in enumerate(data.entries) if entry is sound))
            expected[kind, 1 + place] += 1
    if data.random.random() < 0.5:  # not even an object: told apart from all others by its number alone
        data.entries.append(data.random.choice([None, "text", [], 3]))
        expected["wrong type", len(data.entries)] += 1
    return expected


def found_in(inspection: Inspection, planted: Counter[tuple[str, int]]) -> Counter[tuple[str, int]]:
    """(kind, entry number) of every finding; of the entries that an identity is found in, the planted one."""
    found: Counter[tuple[str, int]] = Counter()
    for problem in inspection.problems:
        named = [int(number) for number in re.findall(r"entry (\d+)\b", problem.where or problem.what)]
        if problem.category in ("identity in several splits", "ambiguous identity"):
            named = [int(number) for number in re.findall(r"entry (\d+)\b", problem.what)]
            assert len(named) == 2, problem
            named = [number for number in named if (problem.category, number) in planted]
        assert len(named) == 1, problem
        found[problem.category, named[0]] += 1
    return found


def unexpected_warnings(inspection: Inspection) -> list:
    """All but those of captions, which are odd here on purpose."""
    return [warning for warning in inspection.warnings if warning.category not in CAPTION_WARNINGS]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("data_format", PUBLISHED, ids=lambda data_format: data_format.name)
def test_every_planted_defect_is_found_at_its_place_and_nothing_else(tmp_path, trials, data_format, seed):
    data = Data(tmp_path, data_format, seed)
    for decode in ("quick", "full"):
        clean = data.inspect(decode)
        assert (clean.problems, unexpected_warnings(clean)) == ([], [])
        assert len(clean.digests) == len(data.entries)
    planted = plant(data)
    trial = trials("defect planted and found at its place", planted.total())
    for decode in ("quick", "full"):
        inspection = data.inspect(decode)
        assert found_in(inspection, planted) == planted
        assert unexpected_warnings(inspection) == []
    with pytest.raises(UserError, match=rf"^{planted.total()} problems in "):
        main([data_format.name, str(tmp_path)])
    assert not (tmp_path / "processed_data").exists()
    trial.survive(planted.total())


def test_the_names_of_defects_are_all_planted(tmp_path):
    planted = Counter(kind for seed in range(3) for kind, _ in plant(Data(tmp_path / str(seed), PUBLISHED[0], seed)))
    assert len(planted) == 13 and min(planted.values()) >= 3  # every kind that preparation knows for JSON


@pytest.mark.parametrize("data_format", PUBLISHED, ids=lambda data_format: data_format.name)
def test_what_is_read_back_is_what_was_clean(tmp_path, data_format):
    data = Data(tmp_path, data_format, 0)
    data.inspect()  # writes the raw file
    assert main([data_format.name, str(tmp_path)]) == 0
    back = [
        (entry.image, entry.identity, list(entry.captions))
        for split in ("train", "val", "test")
        for entry in load_annotations(tmp_path / "processed_data" / f"{split}.json")
    ]
    clean = [(entry[data.key], entry["id"], entry["captions"]) for entry in data.entries]
    assert sorted(back, key=str) == sorted(clean, key=str)


@pytest.mark.skipif(not FULL, reason="writes 40,000 files")
def test_40000_images_are_checked_in_a_minute_and_fingerprinted_in_two_seconds(tmp_path, trials):
    trial = trials("40,000 images", 1)
    entries = []
    for number in range(40_000):
        image = f"cam{number % 6}/{number}.jpg"
        captions = [f"A man number {number} in a red coat, grey jeans and white sneakers." * 2, "He walks."]
        entries.append({"file_path": image, "id": number // 3, "split": "train", "captions": captions})
    for camera in range(6):
        (tmp_path / "imgs" / f"cam{camera}").mkdir(parents=True)
    for number, entry in enumerate(entries):
        Image.new("RGB", (16, 32), (number % 256, number // 256, 0)).save(tmp_path / "imgs" / entry["file_path"])
    (tmp_path / "reid_raw.json").write_text(json.dumps(entries))
    seconds = {}
    for name, options in (("annotations", ["--skip-images"]), ("quick", []), ("full", ["--decode", "full"])):
        began = time.perf_counter()
        assert main(["CUHK-PEDES", str(tmp_path), *options]) == 0
        seconds[name] = time.perf_counter() - began
    training = load_annotations(tmp_path / "processed_data" / "train.json")
    began = time.perf_counter()
    fingerprint(training, tmp_path / "imgs")
    seconds["fingerprint"] = time.perf_counter() - began
    for name, value in seconds.items():
        trial.measure(name, value)
    assert seconds["full"] < 60 and seconds["fingerprint"] < 2
    trial.survive()
