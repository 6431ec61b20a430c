"""Opening of training data: digests are checked, and bad images stop the run or are left out."""

import json
import logging
import struct
import zlib
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from two_processes import results_of_two

from configs.loading import load_config
from configs.schema import Config
from dataset import attributes
from dataset.batch_plan import BatchPlan
from dataset.build import find_attributes, open_loader, open_tokenizer, open_training_set, read_files
from dataset.decoding import image_fault
from dataset.digests import blake2_of, digest_file
from dataset.tokens import CaptionTokenizer
from dataset.train_set import TrainLoader, TrainSet
from evaluation.trained import open_split
from utils.errors import UserError
from utils.processes.distributed import Launch, process_group

IMAGES = 1000  # of which one may be bad
TOKENIZER = CaptionTokenizer.train(["a man in a red coat"], 100, 1)


@dataclass(frozen=True)
class Data:
    """A training file with so many images of a few pixels, and one image of every kind of fault to put in."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "imgs"

    @property
    def file(self) -> Path:
        return self.folder / "train.json"

    def config(self, **settings: str) -> Config:
        given = {"weights.attribute": 0, "image_res": 32, "train_file": [str(self.file)], **settings}
        given["train_image_root"] = str(self.root)
        return load_config(None, [f"{key}={json.dumps(value)}" for key, value in given.items()])

    def open(self, skipped: list[str] | None = None, **settings: str) -> TrainSet:
        return open_training_set(self.config(**settings), TOKENIZER, 0, self.folder, skipped)

    def images(self) -> list[str]:
        return [entry["file_path"] for entry in json.loads(self.file.read_text())]

    def record_digests(self) -> None:
        found = {image: blake2_of((self.root / image).read_bytes()) for image in self.images()}
        (self.folder / "image_digests.json").write_text(json.dumps(digest_file(found)))


@pytest.fixture
def data(tmp_path) -> Data:
    made = Data(tmp_path)
    entries = []
    for number in range(IMAGES):
        image = f"{number % 7}/{number}.png"
        (made.root / image).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((2, 2, 3), number % 250, np.uint8)).save(made.root / image)
        entries.append({"file_path": image, "id": number // 3, "captions": ["a man", "a red coat"]})
    made.file.write_text(json.dumps(entries))
    return made


def break_file(data: Data, number: int) -> str:
    (data.root / data.images()[number]).write_bytes(b"hello")
    return data.images()[number]


def break_pixels(data: Data, number: int) -> str:
    """A PNG that is whole, checksums included, but for the coded pixels."""
    path = data.root / data.images()[number]
    head, coded = path.read_bytes().split(b"IDAT")
    data_chunk = b"IDAT" + b"no zlib stream"
    path.write_bytes(
        head[:-4] + struct.pack(">I", 14) + data_chunk + struct.pack(">I", zlib.crc32(data_chunk)) + coded[-12:]
    )
    assert image_fault(path.read_bytes()) is None
    return data.images()[number]


def remove_file(data: Data, number: int) -> str:
    (data.root / data.images()[number]).unlink()
    return data.images()[number]


def change_file(data: Data, number: int) -> str:
    data.record_digests()
    Image.new("RGB", (2, 2), "red").save(data.root / data.images()[number])
    return data.images()[number]


FAULTS = {
    "is no image": break_file,
    "is damaged": break_pixels,
    "no such file": remove_file,
    "changed since it was prepared": change_file,
}


def read_through(found: TrainSet, workers: int = 0) -> set[str]:
    """The images of one epoch."""
    loader = TrainLoader(found, BatchPlan(len(found), 9, 0, 1, 0), workers, False)
    places = torch.cat([batch.index for batch in loader.epoch(0)]).tolist()
    return {found.samples[place].image for place in places}


# ---- stop ------------------------------------------------------------------------------


def test_whole_data_are_opened_as_they_are(data, caplog):
    for setting in ("stop", "skip"):
        found = data.open(bad_images=setting)
        assert found.skipped == () and len(found) == 2 * IMAGES
    assert not caplog.records


@pytest.mark.promise("Images")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fault", ["is no image", "is damaged", "changed since it was prepared"])
def test_a_bad_image_stops_training_by_its_name(data, fault, workers):
    bad = FAULTS[fault](data, 400)
    found = data.open()
    with pytest.raises(UserError, match=f"image {data.root / bad} {fault}"):
        read_through(found, workers)


def test_a_missing_image_stops_opening(data):
    bad = remove_file(data, 400)
    with pytest.raises(UserError, match=rf"1 of {IMAGES} images is missing in .*: {bad} \(no such file\)"):
        data.open()


def test_images_prepared_elsewhere_are_not_checked(data):
    change_file(data, 400)
    (data.folder / "image_digests.json").unlink()
    assert len(read_through(data.open())) > IMAGES * 0.9


def test_digests_of_every_training_file_count(data, tmp_path):
    data.record_digests()
    more = tmp_path / "more"
    more.mkdir()
    Image.new("RGB", (2, 2)).save(data.root / "new.png")
    (more / "train.json").write_text(json.dumps([{"file_path": "./new.png", "id": 1, "captions": ["a man"] * 20}]))
    (more / "image_digests.json").write_text(json.dumps(digest_file({"new.png": "0" * 32})))
    found = data.open(train_file=[str(data.file), str(more / "train.json")])
    with pytest.raises(UserError, match=r"new\.png changed since it was prepared"):
        read_through(found)


# ---- skip ------------------------------------------------------------------------------


@pytest.mark.promise("Images")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_image_is_left_out_and_said(data, fault, caplog):
    bad = FAULTS[fault](data, 400)
    with caplog.at_level(logging.WARNING):
        found = data.open(bad_images="skip")
    assert found.skipped == (bad,)
    assert [sample.image for sample in found.samples] == [i for i in data.images() if i != bad for _ in range(2)]
    (message,) = caplog.messages
    assert f"1 of {IMAGES} training images in {data.root} (0.10%) are skipped: {bad} ({fault}" in message
    assert bad not in read_through(found, workers=2)


@pytest.mark.promise("Images")
def test_a_thousandth_of_the_images_may_be_bad_and_one_more_may_not(data):
    break_file(data, 7)
    assert len(data.open(bad_images="skip").skipped) == 1
    break_file(data, 8)
    with pytest.raises(UserError, match=r"2 of 1000 training images in .* \(0\.20%\) cannot be used"):
        data.open(bad_images="skip")


@pytest.mark.promise("Images")
@pytest.mark.parametrize("workers", ["0", "3"])
def test_too_many_bad_images_are_counted_and_some_are_named(data, workers):
    bad = [change_file(data, 8), break_file(data, 7), remove_file(data, 990), break_file(data, 995)]
    with pytest.raises(UserError) as caught:
        data.open(bad_images="skip", workers=int(workers))
    message = str(caught.value)
    assert f"4 of {IMAGES} training images in {data.root} (0.40%) cannot be used, more than the 0.1%" in message
    assert f"{bad[1]} (is no image" in message and f"{bad[0]} (changed since" in message
    assert f"{bad[2]} (no such file), ...; replace them" in message and bad[3] not in message
    assert "\n" not in message


def test_images_are_counted_once_however_often_they_are_listed(data):
    entries = json.loads(data.file.read_text())
    bad = break_file(data, 3)
    data.file.write_text(json.dumps([*entries, {**entries[3], "file_path": "./" + bad}]))
    assert data.open(bad_images="skip").skipped == (bad,)
    assert all(bad not in sample.image for sample in data.open(bad_images="skip").samples)


def test_a_missing_folder_is_no_bad_image(data):
    data.root.rename(data.folder / "moved")
    with pytest.raises(UserError, match=r"image folder .* does not exist"):
        data.open(bad_images="skip")


def test_an_image_that_goes_bad_later_stops_the_run(data):
    found = data.open(bad_images="skip")
    bad = break_file(data, 400)
    with pytest.raises(UserError, match=f"image {data.root / bad} is no image"):
        read_through(found)


def test_a_resumed_run_leaves_out_what_it_left_out_before_without_looking(data, monkeypatch):
    bad = break_file(data, 400)
    first = data.open(bad_images="skip")
    Image.new("RGB", (2, 2)).save(data.root / bad)  # repaired in between: the run goes on without it
    break_file(data, 500)
    monkeypatch.setattr("dataset.bad_images.read_images", None)
    for setting in ("skip", "stop"):
        again = data.open(list(first.skipped), bad_images=setting)
        assert again.skipped == first.skipped and again.samples == first.samples
    assert len(data.open([], bad_images="skip")) == 2 * IMAGES  # a run that left out nothing
    remove_file(data, 400)  # not needed any more
    assert data.open([bad]).samples == first.samples


def test_recorded_images_of_other_data_are_refused(data):
    with pytest.raises(UserError, match=r"left out image x\.png, which the training files do not name"):
        data.open(["x.png"])


def open_in_process(data: Data, rank: int, results) -> None:
    with process_group(Launch(rank, 2, rank), torch.device("cpu"), f"file://{data.folder}/meeting"):
        if rank == 1:  # what this process would see must not matter
            (data.root / data.images()[9]).rename(data.root / "away.png")
            Image.new("RGB", (2, 2)).save(data.root / data.images()[9])
        torch.distributed.barrier()
        import dataset.bad_images

        looks = []
        read_images = dataset.bad_images.read_images
        dataset.bad_images.read_images = lambda *a, **k: looks.append(1) or read_images(*a, **k)
        found = data.open(bad_images="skip")
        results.put((rank, len(looks), found.skipped, [sample.image for sample in found.samples]))


def test_the_main_process_looks_for_all(data):
    bad = break_file(data, 400)
    main, other = results_of_two(open_in_process, data)
    assert main == (0, 1, (bad,), other[3]) and other == (1, 0, (bad,), main[3])
    assert len(main[3]) == 2 * (IMAGES - 1)


def test_the_configured_image_cache_is_made_and_used_but_not_for_a_look_at_the_data(data, tmp_path):
    folder = tmp_path / "cache"
    for settings in ({}, {"image_cache": ""}, {"image_cache": str(folder)}):
        found = open_training_set(data.config(**settings), TOKENIZER, 0, None)
        assert found.cache is None
    assert data.open(image_cache="").cache is None and not folder.exists()
    plain, kept = data.open(), data.open(image_cache=str(folder))
    assert len(list(folder.glob("*.images"))) == 1
    for number in (0, 1, IMAGES - 1):
        assert torch.equal(kept.cache.load(number), plain.files.load(number))


def test_an_image_cache_holds_no_images_that_are_skipped(data, tmp_path):
    bad = break_file(data, 3)
    with pytest.raises(UserError, match=f"image .*{bad} is no image"):
        data.open(image_cache=str(tmp_path / "cache"))
    found = data.open(image_cache=str(tmp_path / "cache"), bad_images="skip")
    assert found.skipped == (bad,) and found.cache.count == IMAGES - 1
    assert read_through(found) == set(data.images()) - {bad}


def test_people_and_samples_of_each_make_batches_where_that_is_configured(data):
    config = data.config(sampler="identity", samples_per_identity=3, batch_size_train=6, workers=0)
    loader = open_loader(config, TOKENIZER, 0, torch.device("cpu"), data.folder)
    (identity,) = (batch.identity.tolist() for batch in islice(loader.epoch(0), 1))
    loader.close()
    assert identity[:3] == [identity[0]] * 3 and identity[3:] == [identity[3]] * 3 and identity[0] != identity[3]


def test_only_the_two_settings_are_known(data):
    with pytest.raises(UserError, match="bad_images"):
        data.config(bad_images="ignore")


@pytest.mark.parametrize(("rule", "words"), [("published", 4), ("visible", 2)])
def test_attributes_are_found_by_the_configured_rule(tmp_path, rule, words):
    Image.new("RGB", (4, 8)).save(tmp_path / "one.png")
    caption = "short skirt black sandals"  # one noun chunk, and two things to see
    (tmp_path / "train.csv").write_text(f"image,identity,caption\none.png,1,{caption}\n")
    given = {"train_file": [str(tmp_path / "train.csv")], "train_image_root": str(tmp_path), "attributes": rule}
    config = load_config(None, [f"{key}={json.dumps(value)}" for key, value in given.items()])
    for cache in (tmp_path, None):
        data = open_training_set(config, TOKENIZER, 0, cache)
        assert data.table.attributes(0).tolist() == [0, *(1 + place // words for place in range(4)), 0]


def test_attributes_of_all_files_stay_packed(tmp_path, monkeypatch):
    captions = {"one": "a red coat", "two": "blue jeans and a black hat"}
    for name, caption in captions.items():
        (tmp_path / f"{name}.csv").write_text(f"image,identity,caption\n{name}.png,{name},{caption}\n")
    config = load_config(None, [f"train_file={[str(tmp_path / f'{name}.csv') for name in captions]}"])
    for cache in (tmp_path, None):
        unpacked = []
        with monkeypatch.context() as patch:
            patch.setattr(attributes, "_unpack", unpacked.append)
            found = find_attributes(config, read_files(config), cache)
        assert not unpacked and set(found) == set(captions.values())
        assert found["a red coat"] == [[(2, 5), (6, 10)]] and len(found["blue jeans and a black hat"]) == 2


@pytest.mark.parametrize(
    ("rules", "read"), [("published", "red coatblue jeans red coatblue jeans"), ("plain", "red coat blue jeans " * 2)]
)
def test_captions_are_cleaned_by_the_configured_rules(tmp_path, rules, read):
    config = data_in_words(tmp_path, "red coat;blue jeans", caption_rules=rules)
    tokenizer = open_tokenizer(config)
    data, split = open_training_set(config, tokenizer, 0, None), open_split(config, "test", tokenizer)
    assert data.captions() == [read.strip()]
    assert data.table.ids(0).tolist() == tokenizer.encode(read.strip(), None).ids
    assert split.captions.ids == [tokenizer.encode(read.strip(), None).ids]
    assert tokenizer.unknown not in split.captions.ids[0]


def data_in_words(folder: Path, caption: str, **settings: object) -> Config:
    """The configuration of data of one image, with this caption in its training and test file."""
    Image.new("RGB", (4, 8)).save(folder / "one.png")
    (folder / "data.csv").write_text(f"image,identity,caption\none.png,1,{caption} {caption}\n", encoding="utf-8")
    given = {"train_file": [str(folder / "data.csv")], "train_image_root": str(folder), "weights.attribute": 0}
    given |= {"test_file": str(folder / "data.csv"), "test_image_root": str(folder), "text_encoder": "from_captions"}
    return load_config(None, [f"{key}={json.dumps(value)}" for key, value in (given | settings).items()])


@pytest.mark.parametrize("caption", ["\u7ea2\u8272 \u5916\u5957", "\u043a\u0440\u0430\u0441\u043d\u043e\u0435"])
def test_captions_of_another_vocabulary_are_warned_of(tmp_path, caplog, caption):
    config = data_in_words(tmp_path, caption)
    own = open_tokenizer(config)
    open_training_set(config, own, 0, None)
    open_split(config, "test", own)
    assert not caplog.records
    checkpoint = {
        "config": {"text_encoder": "from_captions", "vocabulary_size": 4000},
        "tokenizer": TOKENIZER.to_json(),
    }
    taken = open_tokenizer(config, checkpoint)
    assert not caplog.records  # the same size: nothing is ignored
    open_training_set(config, taken, 0, None)
    open_split(config, "test", taken)
    whose = [record.message.split(":")[0] for record in caplog.records]
    assert whose == ["training captions", "test split"]
    assert all("100.0 % of the word pieces" in record.message for record in caplog.records)


def test_an_ignored_size_of_the_vocabulary_is_said(tmp_path, caplog):
    config = data_in_words(tmp_path, "red coat", vocabulary_size=300)
    saved = {"text_encoder": "from_captions", "vocabulary_size": 1000}
    checkpoint = {"config": saved, "tokenizer": TOKENIZER.to_json(), "path": "a/checkpoint_best.pth"}
    open_tokenizer(config, checkpoint)
    assert not caplog.records  # whoever evaluates wants no vocabulary
    open_tokenizer(config, checkpoint, for_training=True)
    said = "vocabulary_size 300 is ignored: the vocabulary is that of checkpoint a/checkpoint_best.pth"
    assert said in caplog.text and "(vocabulary_size 1000)" in caplog.text
