"""Preparation of data sets with and without planted defects; images are a few pixels large."""

import io
import json

import pytest
from PIL import Image

from dataset.annotation_entries import RawEntry
from dataset.annotation_formats import FORMATS, Format
from dataset.digests import blake2_of, read_digests
from dataset.prepare import main
from utils.errors import UserError

RAW = {
    "CUHK-PEDES": ("reid_raw.json", "file_path"),
    "ICFG-PEDES": ("ICFG-PEDES.json", "file_path"),
    "RSTPReid": ("data_captions.json", "img_path"),
}
SPLITS = ["train"] * 4 + ["val"] * 2 + ["test"] * 2


def picture(seed, kind="JPEG", size=(16, 32)):
    """The bytes of a small image that differs with `seed`."""
    image = Image.effect_noise(size, 40 + seed).convert("RGB")
    image.putpixel((0, 0), (seed % 256, 0, 0))
    content = io.BytesIO()
    image.save(content, kind)
    return content.getvalue()


class DataSet:
    """A clean raw data set: eight identities with two images each; tests spoil parts of it."""

    def __init__(self, root, name):
        self.root, self.name = root, name
        self.file, self.key = RAW[name]
        self.entries = [
            {
                "split": split,
                "captions": [f"A man in a red coat {identity}.", f"He walks {identity} times."],
                self.key: f"cam{view}/{identity:04d}_{view}.jpg",
                "id": identity,
                "processed_tokens": [["a", "man"]],
            }
            for identity, split in enumerate(SPLITS)
            for view in (1, 2)
        ]
        for number, entry in enumerate(self.entries):
            self.put(entry[self.key], picture(number))

    def put(self, image, content):
        path = self.root / "imgs" / image
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def add(self, **fields):
        """A new clean test entry with its own identity and image, changed by `fields`; None drops a key."""
        number = len(self.entries)
        image = f"more/{number}.png"
        self.put(image, picture(number, "PNG"))
        entry = {"split": "test", "captions": [f"A girl with bag {number}."], self.key: image, "id": 1000 + number}
        fields = {self.key if key == "image" else key: value for key, value in fields.items()}
        entry = {key: value for key, value in {**entry, **fields}.items() if value is not None}
        self.entries.append(entry)
        return f"entry {number + 1}"

    def run(self, *options):
        (self.root / self.file).write_text(json.dumps(self.entries), encoding="utf-8")
        return main([self.name, str(self.root), *options])

    def result(self, split):
        return json.loads((self.root / "processed_data" / f"{split}.json").read_text(encoding="utf-8"))


@pytest.fixture(params=list(RAW))
def data(request, tmp_path):
    return DataSet(tmp_path, request.param)


@pytest.fixture
def cuhk(tmp_path):
    return DataSet(tmp_path, "CUHK-PEDES")


@pytest.mark.parametrize("decode", ["quick", "full"])
def test_clean_data_is_converted_without_a_false_alarm(data, capsys, decode):
    assert data.run("--decode", decode) == 0
    shown = capsys.readouterr()
    assert "problem" not in shown.err and "warning" not in shown.err
    assert [len(data.result(split)) for split in ("train", "val", "test")] == [8, 4, 4]
    assert data.result("train")[0] == {
        "split": "train",
        "captions": ["A man in a red coat 0.", "He walks 0 times."],
        "file_path": "cam1/0000_1.jpg",
        "id": 0,
    }
    table = {line.split()[0]: line.split()[1:] for line in shown.out.splitlines() if line}
    # (7 + 4) / 2 words per caption
    assert table["train"] == ["4", "8", "16", "2.00", "5.5"]
    assert table["all"] == ["8", "16", "32", "2.00", "5.5"]


def plant_defects(data):
    """Spoil the data in every way; kind -> places that must be named with it."""
    places = {
        "identity in several splits": ["identity 0"],
        "wrong type": [
            data.add(id=True),
            data.add(id=1.5),
            data.add(captions="A girl."),
            data.add(captions=[1]),
            data.add(split=3),
            data.add(image=7),
        ],
        "missing key": [data.add(**{key: None}) for key in ("id", "captions", "split", "image")],
        "unknown split": [data.add(split="tset")],
        "no captions": [data.add(captions=[])],
        "empty caption": [data.add(captions=["A girl in red.", " \t"]), data.add(captions=["-- ?!"])],
        "bad image path": [data.add(image="/a.jpg"), data.add(image="../a.jpg"), data.add(image="a\\b.jpg")],
        "not a number": [data.add(processed_tokens=[float("nan")])],
        "bad text": [data.add(captions=["\ud800 girl"])],
        "missing image": [data.add(image="more/none.jpg"), data.add(image="nowhere/none.jpg")],
        "duplicate image": [
            data.add(image="cam1/0007_1.jpg", id=7),
            data.add(image="./cam2/0007_2.jpg", id=7),
        ],
        "ambiguous identity": ["identity is written 6"],
    }
    data.add(id=0)
    data.add(id="6")
    unreadable = {"empty.jpg": b"", "text.jpg": b"not an image", "half.jpg": picture(1)[:-40]}
    unreadable["half.png"] = picture(2, "PNG")[:-40]
    for image, content in unreadable.items():
        data.put(image, content)
    places["unreadable image"] = [data.add(image=image) for image in unreadable]
    return places


def test_every_planted_defect_is_found_in_one_pass(data, capsys):
    places = plant_defects(data)
    with pytest.raises(UserError) as caught:
        data.run()
    groups = {}
    for line in capsys.readouterr().err.splitlines():
        if line.startswith("problem: "):
            kind, count = line.removeprefix("problem: ").rsplit(" ", 1)
            groups[kind] = [int(count.strip("()"))]
        elif line.startswith("  "):
            groups[kind].append(line.strip())
    assert groups.keys() == places.keys()
    for kind, expected in places.items():
        count, *lines = groups[kind]
        assert count == len(expected) == len(lines), (kind, lines)
        for place, line in zip(sorted(expected), sorted(lines), strict=True):
            assert line.startswith((place + " ", place + ":")), (kind, place, line)
    total = sum(map(len, places.values()))
    assert str(caught.value).startswith(f"{total} problems in ")
    assert not (data.root / "processed_data").exists()


def test_failure_leaves_earlier_results_untouched(cuhk):
    cuhk.run()
    folder = cuhk.root / "processed_data"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    cuhk.add(captions=[])
    with pytest.raises(UserError, match="1 problem in"):
        cuhk.run()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_no_file_is_replaced_when_one_cannot_be_written(cuhk, monkeypatch):
    cuhk.run()
    cuhk.add()
    before = cuhk.result("test")

    synced = []

    def disk_full(descriptor):
        synced.append(descriptor)
        if len(synced) > 1:  # the first file still fits
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("dataset.prepare.os.fsync", disk_full)
    with pytest.raises(UserError, match="No space left"):
        cuhk.run()
    assert cuhk.result("test") == before
    assert len(list((cuhk.root / "processed_data").iterdir())) == 4


def test_something_in_the_way_of_the_output_is_explained(cuhk):
    output = cuhk.root / "processed_data"
    output.write_text("mine")
    with pytest.raises(UserError, match="is not a folder"):
        cuhk.run()
    assert output.read_text() == "mine"
    output.unlink()
    (output / "val.json").mkdir(parents=True)
    with pytest.raises(UserError, match=r"val\.json is a folder"):
        cuhk.run()
    (output / "val.json").rename(output / "image_digests.json")
    with pytest.raises(UserError, match=r"image_digests\.json is a folder"):
        cuhk.run()


def test_all_problems_are_listed_and_reported(cuhk, capsys, tmp_path):
    for _ in range(25):
        cuhk.add(captions=[])
    report = tmp_path / "report.txt"
    for _ in range(2):  # a report may replace a report
        with pytest.raises(UserError, match=r"25 problems in .* \(listed above\), nothing was written"):
            cuhk.run("--skip_images", "--report", str(report))
    shown = capsys.readouterr().err
    assert shown.count("no captions (25)") == 2
    assert shown.count("empty list of captions") == 50
    assert report.read_text(encoding="utf-8").count("empty list of captions") == 25


def test_a_report_does_not_go_where_a_result_goes(cuhk, tmp_path):
    for name in ("train.json", "image_digests.json"):
        with pytest.raises(UserError, match="is the name of a result; name another file"):
            cuhk.run("--output", str(tmp_path / "out"), "--report", str(tmp_path / "out" / name))
    assert not (tmp_path / "out").exists()


def test_report_never_replaces_another_file(cuhk):
    with pytest.raises(UserError, match="is not a report"):
        cuhk.run("--report", str(cuhk.root / cuhk.file))
    with pytest.raises(UserError, match="is not a folder"):
        cuhk.run("--report", str(cuhk.root / cuhk.file / "new" / "report.txt"))
    assert json.loads((cuhk.root / cuhk.file).read_text()) == cuhk.entries


@pytest.mark.parametrize("spelling", ["--skip_images", "--skip-images"])
def test_skip_images_reads_no_file(cuhk, spelling):
    cuhk.put("cam1/0000_1.jpg", b"")
    (cuhk.root / "imgs" / "cam1" / "0001_1.jpg").unlink()
    assert cuhk.run(spelling) == 0
    with pytest.raises(UserError, match="2 problems"):
        cuhk.run()


@pytest.mark.parametrize("decode", ["quick", "full"])
def test_the_digest_of_every_image_is_written(data, decode):
    data.entries[3][data.key] = "./" + data.entries[3][data.key]
    data.run("--decode", decode)
    folder = data.root / "imgs"
    expected = {str(path.relative_to(folder)): blake2_of(path.read_bytes()) for path in folder.rglob("*.jpg")}
    assert len(expected) == 16
    for split in ("train", "test"):  # one file beside all of them
        assert read_digests(data.root / "processed_data" / f"{split}.json") == expected


def test_digests_of_an_earlier_preparation_do_not_stay_when_images_are_not_looked_at(cuhk):
    cuhk.run()
    cuhk.run("--skip_images")
    assert read_digests(cuhk.root / "processed_data" / "train.json") == {}
    assert len(cuhk.result("train")) == 8


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"algorithm": "blake2b-128", "digests": {"a": 1}}', '{"algorithm": "md5", "digests": {}}'],
)
def test_a_damaged_digest_file_is_refused(cuhk, content):
    cuhk.run()
    path = cuhk.root / "processed_data" / "image_digests.json"
    path.write_text(content)
    with pytest.raises(UserError, match=f"digest file {path} "):
        read_digests(path.with_name("train.json"))


def test_identities_that_look_alike_are_a_warning(cuhk, capsys):
    wide = "\uff21\uff2e\uff2e\uff21"  # ANNA, as Japanese keyboards write it
    for identity in ("Anna", "anna", "07", "7a", "007", wide):
        cuhk.add(id=identity)
    cuhk.add(id=7)
    assert cuhk.run() == 0
    shown = capsys.readouterr().err
    assert "warning: similar identities (2)" in shown
    assert f"  'Anna' in entry 17 (more/16.png) and 'anna' in entry 18 (more/17.png) and '{wide}' in entry 22" in shown
    assert "  '7' in entry 15 (cam1/0007_1.jpg) and '07' in entry 19 (more/18.png) and '007' in entry 21" in shown


def drop_validation(data):
    data.entries = [entry for entry in data.entries if entry["split"] != "val"]


def test_missing_validation_split_is_empty_with_advice(cuhk, capsys):
    drop_validation(cuhk)
    cuhk.run()
    assert cuhk.result("val") == [] and "--val_identities N" in capsys.readouterr().err


def test_held_out_identities_move_whole_and_depend_on_the_seed_alone(cuhk):
    drop_validation(cuhk)

    def held_out(seed):
        cuhk.run("--val_identities", "2", "--seed", str(seed))
        train, val = ({entry["id"] for entry in cuhk.result(split)} for split in ("train", "val"))
        assert len(val) == 2 and train | val == {0, 1, 2, 3} and not train & val
        assert len(cuhk.result("val")) == 4 and {entry["split"] for entry in cuhk.result("val")} == {"val"}
        return val

    first = [held_out(seed) for seed in range(6)]
    cuhk.entries.reverse()
    assert [held_out(seed) for seed in range(6)] == first
    assert any(chosen != first[0] for chosen in first)


def test_holding_out_is_refused_where_it_makes_no_sense(cuhk):
    with pytest.raises(UserError, match="has a validation split"):
        cuhk.run("--val_identities", "1")
    drop_validation(cuhk)
    with pytest.raises(UserError, match="leaves nothing of 4"):
        cuhk.run("--val_identities", "4")
    for spelling in ("--val_identities", "--val-identities"):
        with pytest.raises(UserError, match="--val_identities must be at least 1"):
            cuhk.run(spelling, "0")


def test_oddities_are_warnings(cuhk, capsys):
    twin = (cuhk.root / "imgs" / "cam1" / "0007_1.jpg").read_bytes()
    cuhk.put("twin.jpg", twin)
    cuhk.put("cam1/0006_1.jpg", (cuhk.root / "imgs" / "cam2" / "0006_2.jpg").read_bytes())  # same identity
    cuhk.put("CAM1/0007_1.jpg", picture(99))
    cuhk.add(image="twin.jpg")
    cuhk.add(image="CAM1/0007_1.jpg", captions=["A girl.", "A girl."])
    assert cuhk.run("--decode", "full") == 0
    shown = capsys.readouterr().err
    for kind in ("same picture, different identities", "similar image path", "repeated caption"):
        assert f"warning: {kind} (1)" in shown


def test_odd_captions_are_counted_with_examples_and_forbid_nothing(cuhk, capsys, tmp_path):
    for _ in range(7):
        cuhk.add(captions=["todo"])
    cuhk.add(captions=["A man <br> in red.", "一位穿红色外套的女士。"])
    report = tmp_path / "report.txt"
    assert cuhk.run("--report", str(report)) == 0
    shown = capsys.readouterr().err
    assert "warning: same sentence, different identities (1)\n  'todo' stands for 7 people: identity 1016 in" in shown
    assert "warning: caption with fragments of code (1)\n  entry 24 (more/23.png): 'A man <br> in red.' holds" in shown
    assert "warning: caption in another script (1)\n  entry 24 (more/23.png): '一位穿红色外套的女士。' has" in shown
    assert "warning: caption of fewer than three words (7)\n" in shown and "... and 2 more (all of them: --rep" in shown
    assert report.read_text(encoding="utf-8").count("'todo'") == 8


def test_csv_of_ones_own_is_prepared(tmp_path):
    (tmp_path / "imgs").mkdir()
    for number, name in enumerate(("a.jpg", "b.jpg", "c.jpg")):
        (tmp_path / "imgs" / name).write_bytes(picture(number))
    rows = ["image,identity,caption,split", "a.jpg,1,a man,train", "a.jpg,1,in red,train"]
    rows += ["b.jpg,x,a girl,val", "c.jpg,y,a boy,test"]
    (tmp_path / "annotations.csv").write_text("\n".join(rows), encoding="utf-8")
    assert main(["csv", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "processed_data" / "train.json").read_text())
    assert written == [{"split": "train", "captions": ["a man", "in red"], "file_path": "a.jpg", "id": "1"}]
    (tmp_path / "annotations.csv").write_text("image,identity,caption\na.jpg,1,a man\n", encoding="utf-8")
    with pytest.raises(UserError, match="no column 'split'"):
        main(["csv", str(tmp_path)])


def read_lines(path, split_required):
    """A form of its own: `IMAGE IDENTITY SPLIT CAPTION`."""
    cells = [line.split(" ", 3) for line in path.read_text().splitlines()]
    entries = [
        RawEntry(f"line {number}", split, image, identity, (caption,))
        for number, (image, identity, split, caption) in enumerate(cells, start=1)
    ]
    return entries, []


def test_a_data_set_of_another_form_is_one_line(tmp_path, monkeypatch):
    formats = (*FORMATS, Format("UFine", "all.txt", read_lines))
    for module in ("annotation_formats", "prepare"):
        monkeypatch.setattr(f"dataset.{module}.FORMATS", formats)
    (tmp_path / "imgs").mkdir()
    for number, name in enumerate("abc"):
        (tmp_path / "imgs" / f"{name}.jpg").write_bytes(picture(number))
    (tmp_path / "all.txt").write_text("a.jpg 1 train a man\nb.jpg 2 val a girl\nc.jpg 3 test a boy in red\n")
    assert main(["ufine", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "processed_data" / "test.json").read_text())
    assert written == [{"split": "test", "captions": ["a boy in red"], "file_path": "c.jpg", "id": "3"}]
    with pytest.raises(UserError, match=r"reid_raw\.json does not exist, but all\.txt does: is the data set UFine"):
        main(["CUHK-PEDES", str(tmp_path)])
    with pytest.raises(UserError, match=r"use one of CUHK-PEDES, ICFG-PEDES, .*, CSV, UFine$"):
        main(["nothing", str(tmp_path)])


def test_wrong_folders_are_explained(cuhk):
    cuhk.run()
    with pytest.raises(UserError, match="is the data set CUHK-PEDES"):
        main(["RSTPReid", str(cuhk.root)])
    with pytest.raises(UserError, match=r"give .* as ROOT"):
        main(["CUHK-PEDES", str(cuhk.root.parent)])
    with pytest.raises(UserError, match=r"folder .* does not exist"):
        main(["CUHK-PEDES", str(cuhk.root / "absent")])
    with pytest.raises(UserError, match=rf"data set folder .*{cuhk.file} is not a folder$"):
        main(["CUHK-PEDES", str(cuhk.root / cuhk.file)])


def test_a_file_in_place_of_the_images_is_told_as_one(cuhk, capsys):
    (cuhk.root / "imgs").rename(cuhk.root / "photos")
    (cuhk.root / "imgs").write_text("photos")
    with pytest.raises(UserError, match="1 problem in"):
        cuhk.run()
    assert f"image folder {cuhk.root / 'imgs'} is not a folder" in capsys.readouterr().err


def test_relative_root_starts_from_the_given_directory(cuhk, monkeypatch):
    (cuhk.root / cuhk.file).write_text(json.dumps(cuhk.entries))
    monkeypatch.chdir("/")
    assert main(["CUHK-PEDES", cuhk.root.name, "--directory", str(cuhk.root.parent)]) == 0
    assert len(cuhk.result("test")) == 4


@pytest.mark.parametrize("kept", ["train", "test"])
def test_a_data_set_of_one_split_is_advised_what_it_can_do(cuhk, capsys, kept):
    cuhk.entries[:] = [entry for entry in cuhk.entries if entry["split"] == kept]
    cuhk.run("--skip_images")
    shown = capsys.readouterr().err
    assert "the data set has no val split" in shown
    assert ("--val_identities" in shown) == (kept == "train")


def test_a_wrong_option_names_the_script(cuhk):
    with pytest.raises(UserError, match=r"see bash shell/data_process\.sh --help"):
        cuhk.run("--nothing")
