"""The synthetic benchmark: its files, pictures and masks."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.synthetic.__main__ import build_parser, main
from dataset.synthetic.canvas import Canvas, pattern_tile
from dataset.synthetic.colours import PALETTE
from dataset.synthetic.generate import generate, image_name, person_of, picture_of
from dataset.synthetic.options import CAPTION_STYLES, NUISANCE, PRESETS, VARIED, Options, options_from, parse_size
from dataset.synthetic.person import ATTRIBUTES, NUMBER
from dataset.synthetic.preview import PAPER, legend_strip, mask_colours, with_text, write_preview
from utils.errors import UserError

SMALL = Options(train=6, val=2, test=3, images_per_identity=2, height=96, width=48, seed=3)


def nearest_colour(rgb: tuple[float, float, float]) -> str:
    """The palette name closest to `rgb` in Euclidean distance."""
    return min(PALETTE, key=lambda name: sum((a - b) ** 2 for a, b in zip(PALETTE[name], rgb, strict=True)))


def digest(root: Path) -> dict[str, str]:
    """File name -> hash of its contents, for everything below `root`."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small finished benchmark, only to be read."""
    root = tmp_path_factory.mktemp("benchmark") / "small"
    assert generate(root, SMALL)
    return root


@pytest.fixture(scope="module")
def raw(benchmark: Path) -> list[dict]:
    return json.loads((benchmark / "reid_raw.json").read_text())


@pytest.fixture(scope="module")
def legend(benchmark: Path) -> dict:
    return json.loads((benchmark / "attributes.json").read_text())


def test_files_do_not_depend_on_the_number_of_workers(benchmark, tmp_path):
    generate(tmp_path / "two", SMALL, workers=2)
    assert digest(tmp_path / "two") == digest(benchmark)


def test_another_seed_gives_other_people(benchmark):
    assert person_of(SMALL, 1) != person_of(Options(seed=4), 1)


def test_what_is_varied_is_drawn_for_each_person():
    varied = options_from("start", {})
    drawn = [varied.for_person(identity) for identity in range(1, 200)]
    found = {(one.difficulty, one.caption_style) for one in drawn}
    assert len(found) == 6 and all("varied" not in pair for pair in found)
    assert varied.for_person(7) == varied.for_person(7) and SMALL.for_person(7) is SMALL
    person = person_of(varied, 7)
    told = options_from("start", {"difficulty": varied.for_person(7).difficulty})
    assert np.array_equal(picture_of(varied, 7, 0, person)[0].image, picture_of(told, 7, 0, person)[0].image)


def test_a_picture_depends_only_on_seed_identity_and_image():
    few, many = Options(train=2, seed=5), Options(train=50, seed=5)
    first, _ = picture_of(few, 2, 1, person_of(few, 2))
    second, _ = picture_of(many, 2, 1, person_of(many, 2))
    assert first.image.tobytes() == second.image.tobytes()


def test_raw_entries_have_the_form_of_cuhk_pedes(benchmark, raw):
    assert len(raw) == SMALL.images == 22
    for entry in raw:
        assert set(entry) == {"split", "captions", "file_path", "processed_tokens", "id"}
        assert type(entry["id"]) is int
        assert len(entry["captions"]) == len(entry["processed_tokens"]) == 2
        assert all(caption.strip() for caption in entry["captions"])
        assert all(word == word.lower() for words in entry["processed_tokens"] for word in words)
        assert (benchmark / "imgs" / entry["file_path"]).is_file()


def test_identities_do_not_cross_splits(raw):
    of_split = {split: {e["id"] for e in raw if e["split"] == split} for split in ("train", "val", "test")}
    assert {split: len(ids) for split, ids in of_split.items()} == {"train": 6, "val": 2, "test": 3}
    assert len(set.union(*of_split.values())) == 11


def test_images_and_masks_have_the_asked_size(benchmark, raw):
    for entry in raw:
        with Image.open(benchmark / "imgs" / entry["file_path"]) as image:
            assert (image.mode, image.size) == ("RGB", (48, 96))
        with Image.open((benchmark / "masks" / entry["file_path"]).with_suffix(".png")) as mask:
            assert (mask.mode, mask.size) == ("L", (48, 96))


def test_masks_agree_with_the_legend(benchmark, legend):
    assert legend["legend"] == {str(number): name for number, name in enumerate(ATTRIBUTES)}
    for person in legend["identities"]:
        for image in person["images"]:
            mask = np.asarray(Image.open(benchmark / "masks" / image["mask"]))
            numbers, counts = np.unique(mask[mask > 0], return_counts=True)
            found = {ATTRIBUTES[n]: int(c) for n, c in zip(numbers, counts, strict=True)}
            assert found == image["visible_pixels"]
            assert set(found) <= set(person["attributes"])


def test_mentions_point_at_the_phrase_of_a_visible_part(raw, legend):
    captions = {entry["file_path"]: entry["captions"] for entry in raw}
    mentioned = 0
    for person in legend["identities"]:
        for image in person["images"]:
            for caption, record in zip(captions[image["file_path"]], image["captions"], strict=True):
                for mention in record["mentions"]:
                    mentioned += 1
                    name = legend["legend"][str(mention["attribute"])]
                    phrase = caption[mention["start"] : mention["end"]]
                    assert name in image["visible_pixels"]
                    assert phrase and phrase == phrase.strip()
    assert mentioned > 60


def test_colour_inside_a_mask_is_the_named_colour():
    """Median colour over many ideal pictures; shading may move single ones."""
    options = Options(train=40, height=96, width=48, difficulty="easy", occlusion=0.0)
    right = total = 0
    for identity in range(1, 41):
        person = person_of(options, identity)
        picture, _ = picture_of(options, identity, 0, person)
        pixels = np.asarray(picture.image)
        for name in ("upper", "lower", "dress", "bag"):
            thing = person.thing(name)
            if thing is None or thing.pattern != "plain" or name not in picture.noticed():
                continue
            median = np.median(pixels[picture.label == NUMBER[name]], axis=0)
            total += 1
            right += nearest_colour(tuple(median)) == thing.colour
    assert total > 50
    assert right / total > 0.9


def test_an_occluder_takes_pixels_from_the_mask():
    free = Options(train=30, height=96, width=48, occlusion=0.0)
    full = Options(train=30, height=96, width=48, occlusion=1.0)
    visible = []
    for options in (free, full):
        pictures = [picture_of(options, k, 0, person_of(options, k))[0] for k in range(1, 21)]
        visible.append(sum((picture.label > 0).sum() for picture in pictures))
        assert all((p.occlusion != "none") == (options is full) for p in pictures)
    assert visible[1] < 0.95 * visible[0]


def test_glasses_are_not_seen_from_behind():
    options = Options(train=60, height=96, width=48, images_per_identity=3)
    seen = {"front": 0, "back": 0}
    for identity in range(1, 61):
        person = person_of(options, identity)
        for image in range(3 if person.glasses else 0):
            picture, _ = picture_of(options, identity, image, person)
            if picture.view in seen:
                seen[picture.view] += "glasses" in picture.visible_pixels()
    assert seen["front"] > 0
    assert seen["back"] == 0


def test_people_of_the_test_split_look_different():
    options = Options(train=0, val=0, test=100)
    looks = set()
    for identity in range(1, 101):
        things = {name: person_of(options, identity).thing(name) for name in ("upper", "lower", "dress", "shoes")}
        looks.add(tuple((name, t.kind, t.colour) for name, t in things.items() if t))
    assert len(looks) >= 97


def test_palette_colours_are_their_own_nearest():
    assert all(nearest_colour(rgb) == name for name, rgb in PALETTE.items())


def test_no_folder_holds_more_than_a_thousand_files():
    options = Options(train=700, val=0, test=0, images_per_identity=3)
    folders: dict[str, int] = {}
    for identity in range(1, 701):
        for image in range(3):
            folder = image_name(options, identity, image).rsplit("/", 1)[0]
            folders[folder] = folders.get(folder, 0) + 1
    assert sum(folders.values()) == 2100
    assert max(folders.values()) <= 1000


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="not made by this program"):
            generate(tmp_path, SMALL, overwrite=overwrite)
    assert digest(tmp_path).keys() == {"thesis.txt"}


def test_a_finished_benchmark_is_kept_unless_told(tmp_path):
    tiny = Options(train=1, val=0, test=0, images_per_identity=1, height=64, width=32)
    other = Options(train=2, val=0, test=0, images_per_identity=1, height=64, width=32)
    assert generate(tmp_path / "b", tiny)
    before = digest(tmp_path / "b")
    assert generate(tmp_path / "b", tiny) is False
    with pytest.raises(UserError, match="--overwrite"):
        generate(tmp_path / "b", other)
    assert digest(tmp_path / "b") == before
    assert generate(tmp_path / "b", other, overwrite=True)
    assert len(json.loads((tmp_path / "b" / "reid_raw.json").read_text())) == 2


def test_an_interrupted_run_leaves_no_annotations_and_can_be_begun_anew(tmp_path, monkeypatch):
    from dataset.synthetic import generate as module

    draw = module.draw_identity

    def fail_at_two(root, options, identity):
        if identity == 2:
            raise UserError("cannot write: disk full")
        return draw(root, options, identity)

    tiny = Options(train=3, val=0, test=0, images_per_identity=1, height=64, width=32)
    monkeypatch.setattr(module, "draw_identity", fail_at_two)
    with pytest.raises(UserError, match="disk full"):
        generate(tmp_path / "a", tiny)
    assert {"reid_raw.json", "attributes.json"}.isdisjoint(digest(tmp_path / "a"))
    monkeypatch.undo()
    generate(tmp_path / "a", tiny)
    generate(tmp_path / "b", tiny)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_two_processes_do_not_draw_into_one_folder(tmp_path, monkeypatch):
    from dataset.synthetic import generate as module

    draw, told = module.draw_identity, []

    def draw_while_another_one_starts(root, options, identity):
        for overwrite in (False, True):
            with pytest.raises(UserError) as refused:
                generate(root, Options(train=2, val=0, test=0, height=64, width=32, seed=1), overwrite=overwrite)
            told.append(str(refused.value))
        return draw(root, options, identity)

    tiny = Options(train=3, val=0, test=0, images_per_identity=1, height=64, width=32)
    monkeypatch.setattr(module, "draw_identity", draw_while_another_one_starts)
    assert generate(tmp_path / "a", tiny)
    assert len(told) == 6 and all("is in use by process" in one for one in told)
    monkeypatch.undo()
    assert not generate(tmp_path / "a", tiny)


def test_command_line_writes_png_without_masks(tmp_path, capsys):
    root = str(tmp_path / "out")
    arguments = [root, "--train", "14", "--val", "1", "--test", "1", "--images-per-identity", "2", "--workers", "1"]
    arguments += ["--size", "64x32", "--image-format", "png", "--no-masks", "--captions-per-image", "3"]
    main(arguments)
    printed = capsys.readouterr().out
    assert "wrote 32 images" in printed and "ceiling of test: R@1 " in printed and printed.count("without details") == 2
    entries = json.loads((tmp_path / "out" / "reid_raw.json").read_text())
    assert all(entry["file_path"].endswith(".png") and len(entry["captions"]) == 3 for entry in entries)
    assert not (tmp_path / "out" / "masks").exists()
    main(arguments)
    assert "nothing to do" in capsys.readouterr().out


def test_options_are_written_with_underscores_or_with_hyphens():
    arguments = ["--images_per_identity=3", "--captions_per_image=1", "--image_format=png", "--no_masks"]
    plain = build_parser().parse_args(arguments)
    assert (plain.images_per_identity, plain.captions_per_image, plain.image_format, plain.masks) == (
        3,
        1,
        "png",
        False,
    )
    assert build_parser().parse_args([argument.replace("_", "-") for argument in arguments]) == plain


def test_fewer_images_than_can_be_trained_on_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"31 images are too few .* ask for 32 or more"):
        main([str(tmp_path / "a"), "--train", "29", "--val", "1", "--test", "1", "--images-per-identity", "1"])
    assert not (tmp_path / "a").exists()


def test_preview_is_a_png(tmp_path):
    main(["--preview", str(tmp_path / "sheet.png"), "--preset", "tiny", "--size", "64x32"])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 100
    with pytest.raises(UserError, match=r"\.png"):
        main(["--preview", str(tmp_path / "sheet.pdf"), "--preset", "tiny"])


@pytest.mark.parametrize("pattern", ["horizontal stripes", "vertical stripes", "checked", "dotted"])
def test_a_pattern_goes_on_beyond_its_tile_and_takes_no_memory_of_the_canvas(pattern):
    """Tiles are kept, so that one of each period must not be as large as a frame."""
    tile, period = pattern_tile(pattern, 9), 9
    assert tile.shape == (2 * period, 2 * period) and 0.1 < (tile == 255).mean() < 0.9
    canvas = Canvas(Image.new("RGB", (100, 80)), 20 * period, 1)
    shown = np.asarray(canvas._patterned(Image.new("L", (70, 50), 255), (13, 11, 83, 61), pattern))
    assert (shown == np.tile(tile, (6, 6))[11:61, 13:83]).all()


def test_a_preview_of_small_pictures_cuts_off_neither_captions_nor_legend(tmp_path):
    text = "A young woman with shoulder length brown hair wears a mustard yellow wide-brimmed hat and walks away."
    row = np.asarray(with_text(Image.new("RGB", (48, 10)), ["identity 1", text]))[10:]
    assert (row < 100).any() and (row[:, -3:] == PAPER).all() and (row[-3:] == PAPER).all()
    write_preview(tmp_path / "sheet.png", Options(height=96, width=48, images_per_identity=1), identities=2)
    with Image.open(tmp_path / "sheet.png") as file:
        sheet = np.asarray(file)
    for legend in (sheet[-100:], np.asarray(legend_strip(60)), np.asarray(legend_strip(2000))):
        assert all((legend == colour).all(2).sum() == 11 * 11 for colour in mask_colours()[1:])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train": -1}, "train"),
        ({"train": 0, "val": 0, "test": 0}, "no identities"),
        ({"height": 96, "width": 1000}, "no shape"),
        ({"difficulty": "nrmal"}, "did you mean 'normal'"),
        ({"occlusion": 1.5}, "probability"),
        ({"occlusion": float("nan")}, "probability"),
        ({"image_format": "gif"}, "image format"),
        ({"seed": -1}, "seed"),
    ],
)
def test_options_that_make_no_sense_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        Options(**given)


def test_a_preset_gives_way_to_options():
    options = options_from("demo", {"train": 7, "seed": None})
    assert (options.train, options.test, options.height, options.seed) == (7, 100, 128, 0)
    with pytest.raises(UserError, match="did you mean 'demo'"):
        options_from("dmo", {})
    assert parse_size("192X96") == (192, 96)
    with pytest.raises(UserError, match="HEIGHTxWIDTH"):
        parse_size("192")


def test_the_help_names_every_choice():
    about = {action.dest: action.help for action in build_parser()._actions}
    choices = {"preset": [*PRESETS], "difficulty": [*NUISANCE, VARIED], "caption_style": [*CAPTION_STYLES, VARIED]}
    for name, values in choices.items():
        assert all(value in about[name] for value in values), name
