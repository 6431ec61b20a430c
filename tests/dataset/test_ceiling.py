"""The ceiling of the synthetic benchmark: what a reader of every named attribute can be expected to find."""

import json
import logging
import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset.synthetic import ceiling as ceilings
from dataset.synthetic.captions import write_captions
from dataset.synthetic.ceiling import LARGE, ceiling_of
from dataset.synthetic.claims import CLAIMED, claim_of, claim_of_who, fact_of, true_of
from dataset.synthetic.generate import generate, person_of, picture_of
from dataset.synthetic.marker import digest_of_split, read_ceiling
from dataset.synthetic.options import Options, options_from
from dataset.synthetic.person import ATTRIBUTES, Person, Thing, sample_person
from dataset.synthetic.ties import expected_metrics
from evaluation.metrics import of_captions

SMALL = Options(train=2, val=4, test=6, images_per_identity=2, height=64, width=32, masks=False)


def records_of(options: Options, identities: range) -> list[tuple[list[dict], dict]]:
    """What is drawn of some identities, without files."""
    found = []
    for identity in identities:
        person, entries, images = person_of(options, identity), [], []
        for image in range(options.images_per_identity):
            picture, captions = picture_of(options, identity, image, person)
            texts = [caption["text"] for caption in captions]
            entries.append({"id": identity, "file_path": f"{identity}_{image}.jpg", "captions": texts})
            mentions = [{"mentions": caption["mentions"]} for caption in captions]
            images.append({"view": picture.view, "visible_pixels": picture.visible_pixels(), "captions": mentions})
        found.append((entries, {"id": identity, "attributes": person.describe(), "images": images}))
    return found


# ---- expectations over ties ------------------------------------------------------------


def simulated(scores: np.ndarray, right: np.ndarray, times: int = 1000) -> dict[str, np.ndarray]:
    """Means of the metrics over many random orders of equal scores."""
    rng = np.random.default_rng(0)
    totals: dict[str, np.ndarray] = {}
    most = right.sum(1).max()
    for _ in range(times):
        order = np.lexsort((rng.random(scores.shape), -scores))
        ranks = np.zeros((len(scores), most), np.int64)
        for row, ranked in enumerate(np.take_along_axis(right, order, 1)):
            found = np.flatnonzero(ranked) + 1
            ranks[row, : len(found)] = found
        for name, values in of_captions(torch.from_numpy(ranks)).items():
            totals[name] = totals.get(name, 0) + values.numpy() / times
    return totals


def test_expected_metrics_are_the_means_over_random_orders():
    rng = np.random.default_rng(1)
    scores, right = rng.integers(0, 4, (12, 15)), rng.random((12, 15)) < 0.3
    right[:, 0] = True
    right[0], right[1], scores[2] = False, True, 1
    expected = expected_metrics(scores, right)
    for name, values in simulated(scores, right).items():
        np.testing.assert_allclose(expected[name], values, atol=0.03, err_msg=name)


def test_expected_metrics_without_ties_are_those_of_the_ranking():
    rng = np.random.default_rng(2)
    scores, right = rng.permuted(np.tile(np.arange(20), (9, 1)), axis=1), rng.random((9, 20)) < 0.2
    order = np.argsort(-scores, 1)
    ranks = np.where(np.take_along_axis(right, order, 1), np.arange(1, 21), 0)
    for name, values in of_captions(torch.from_numpy(ranks)).items():
        np.testing.assert_allclose(expected_metrics(scores, right)[name], values.numpy(), atol=1e-12, err_msg=name)


def test_two_tied_images_of_which_one_is_right():
    # it comes first or second: R@1 1/2, average precision (1 + 1/2) / 2, and so the inverse of its rank
    found = expected_metrics(np.array([[7, 7, 1]]), np.array([[True, False, False]]))
    assert {name: values[0] for name, values in found.items()} == pytest.approx(
        {"r1": 0.5, "r5": 1, "r10": 1, "mAP": 0.75, "mINP": 0.75}
    )


def test_captions_without_a_right_image_or_all_of_them_right():
    found = expected_metrics(np.zeros((2, 3), int), np.array([[False] * 3, [True] * 3]))
    assert all(values.tolist() == [0, 1] for values in found.values())


# ---- what captions claim ---------------------------------------------------------------


def thing_person(attribute: str, **fields) -> dict:
    return {"gender": "man", "build": "slim", "sleeves": "long", "upper_open": False, attribute: fields}


@pytest.mark.parametrize(
    ("attribute", "phrase", "true", "false"),
    [
        ("shoes", "a pair of white shoes", ("sneakers", "white"), ("boots", "white")),
        ("shoes", "bright white shoes", ("dress shoes", "white"), ("sneakers", "beige")),
        ("upper", "A dark blue shirt", ("t-shirt", "navy"), ("shirt", "blue")),
        ("upper", "a royal blue button-up shirt", ("shirt", "blue"), ("t-shirt", "blue")),
        ("lower", "a khaki long skirt", ("long skirt", "beige"), ("skirt", "beige")),
        ("headwear", "a green woolen hat", ("beanie", "green"), ("hat", "green")),
        ("glasses", "dark red sunglasses", ("sunglasses", "red"), ("glasses", "red")),
        ("glasses", "sunglasses", ("sunglasses", "black"), ("glasses", "black")),
        ("hair", "a long ginger ponytail", ("ponytail", "red"), ("long", "red")),
        ("hair", "ginger hair tied back", ("ponytail", "red"), ("bun", "red")),
        ("hair", "an afro", ("short", "black"), None),
        ("hair", "a shaved head", ("bald", "grey"), ("short", "grey")),
        ("item", "a coffee cup", ("cup", "white"), ("phone", "white")),
    ],
)
def test_a_phrase_claims_what_it_says_and_no_more(attribute, phrase, true, false):
    claim = claim_of(attribute, phrase)
    for expected, look in ((True, true), (False, false)):
        if look is not None:
            person = thing_person(attribute, kind=look[0], colour=look[1], pattern="plain")
            assert true_of([claim], [fact_of(attribute, person, True)]).item() is expected, look


@pytest.mark.parametrize(
    ("phrase", "pattern", "second", "true"),
    [
        ("a red and white striped sweater", "vertical stripes", "white", True),
        ("a red sweater with white horizontal stripes", "vertical stripes", "white", False),
        ("a red sweater with white stripes", "horizontal stripes", "black", False),
        ("a red polka dot sweater", "dotted", "white", True),
        ("a red sweater with white checks", "plain", None, False),
        ("a red sweater", "checked", "white", True),
        ("a red sweater with a white logo", "logo", "white", True),
        ("a red sweater with a white logo", "logo", "black", False),
        ("a short sleeved red sweater", "plain", None, False),
    ],
)
def test_patterns_and_sleeves_are_claimed(phrase, pattern, second, true):
    look = {"kind": "sweater", "colour": "red", "pattern": pattern}
    person = thing_person("upper", **look, **({"second_colour": second} if second else {}))
    claim = claim_of("upper", phrase)
    assert true_of([claim], [fact_of("upper", person, True)]).item() is true
    if "logo" in phrase:  # which does not show from behind
        assert true_of([claim], [fact_of("upper", person, False)]).item()


def test_whether_something_is_open_does_not_show_from_behind():
    coat, claim = {"kind": "coat", "colour": "red", "pattern": "plain"}, claim_of("upper", "an open red coat")
    opened, closed = ({**thing_person("upper", **coat), "upper_open": is_open} for is_open in (True, False))
    facts = [fact_of("upper", person, front) for front in (True, False) for person in (opened, closed)]
    assert true_of([claim], facts).tolist() == [[True, False, True, True]]


def test_gender_and_build_are_read_from_the_whole_caption():
    claim = claim_of_who("She is walking. The young woman has a thin build and holds a man's large bag of bricks.")
    facts = [fact_of("person", {"gender": "woman", "build": build}, True) for build in ("slim", "heavy")]
    assert true_of([claim_of_who("A woman of thin build.")], facts).tolist() == [[True, False]]
    assert claim.colour == claim_of_who("of slim build").colour


def test_every_caption_is_true_of_its_person():
    for seed in range(150):
        rng = random.Random(seed)
        person = sample_person(rng)
        view = rng.choice(("front", "back", "side"))
        visible = {name for name in CLAIMED[1:] if person.thing(name)}
        for caption in write_captions(person, visible, view, True, 2, rng, thorough=seed % 2 == 0):
            text, facts = caption["text"], person.describe()
            claims = {"person": claim_of_who(text)}
            for mention in caption["mentions"]:
                name = ATTRIBUTES[mention["attribute"]]
                claims[name] = claim_of(name, text[mention["start"] : mention["end"]])
                assert claims[name].kinds, text[mention["start"] : mention["end"]]
            for name, claim in claims.items():
                assert true_of([claim], [fact_of(name, facts, view == "front")]).all(), (name, text)


# ---- the ceiling of a split ------------------------------------------------------------


def drawn(people: list[Person], visible: list[dict], captions: list[list[tuple[str, dict]]]) -> list:
    """People with an image each; a caption is its text, and its phrases by attribute."""
    found = []
    for number, (person, pixels, texts) in enumerate(zip(people, visible, captions, strict=True)):
        mentions = [
            [
                {"attribute": ATTRIBUTES.index(name), "start": text.index(words), "end": text.index(words) + len(words)}
                for name, words in phrases.items()
            ]
            for text, phrases in texts
        ]
        image = {"view": "front", "visible_pixels": pixels, "captions": [{"mentions": own} for own in mentions]}
        entry = {"id": number, "file_path": f"{number}.jpg", "captions": [text for text, _ in texts]}
        found.append(([entry], {"id": number, "attributes": person.describe(), "images": [image]}))
    return found


def man(**worn: Thing) -> Person:
    plain = {name: Thing(kind, "black", (0, 0, 0)) for name, kind in (("skin", "fair"), ("shoes", "boots"))}
    hair, upper = Thing("short", "black", (0, 0, 0)), Thing("coat", "red", (200, 0, 0))
    return Person("man", "average", 1.0, **({**plain, "hair": hair, "upper": upper} | worn))


def test_a_detail_that_an_image_does_not_show_contradicts_nothing():
    people = [man(), man(scarf=Thing("scarf", "blue", (0, 0, 200))), man(scarf=Thing("scarf", "red", (200, 0, 0)))]
    seen = {"upper": 900, "scarf": 200}
    captions = [[("He wears a red coat.", {"upper": "a red coat"})], [], []]
    captions[1] = [("He wears a red coat and a blue scarf.", {"upper": "a red coat", "scarf": "a blue scarf"})]
    found = ceiling_of(drawn(people, [seen] * 3, captions), 2048)
    assert found["r1"] == pytest.approx(100 * (1 / 3 + 1) / 2)  # the first caption is true of all three
    captions[0] = []
    hidden = drawn(people, [seen, {"upper": 900}, seen], captions)  # as if its own scarf were out of sight
    assert ceiling_of(hidden, 2048)["r1"] == 100  # the others show no blue scarf, or another one


def test_look_alikes_can_be_told_apart():
    options = options_from("lookalikes", {"train": 0, "val": 0, "test": 16})
    people = records_of(options, range(1, 17))
    found = ceiling_of(people, options.pixels)
    assert found["r1"] >= 95
    # eight people in each group, and whoever knows garments alone cannot choose among them
    assert ceiling_of(people, options.pixels, LARGE)["r1"] < 20
    assert found["images"] == 64 and found["captions"] == 128


def test_fewer_differing_details_and_vaguer_captions_lower_the_ceiling():
    given = {"train": 0, "val": 0, "test": 16, "details": ("shoes", "glasses"), "height": 64, "width": 32}
    given["group_size"] = 4
    found = [
        ceiling_of(records_of(options, range(1, 17)), options.pixels)["r1"]
        for options in (
            options_from("lookalikes", {**given, "differing_details": 2}),
            options_from("lookalikes", {**given, "differing_details": 1}),
            options_from("lookalikes", {**given, "differing_details": 1, "caption_style": "usual"}),
        )
    ]
    assert found[0] > found[1] + 2 > found[2] + 4


def test_the_ceiling_does_not_depend_on_how_many_captions_are_scored_at_once(monkeypatch):
    people = records_of(SMALL, range(1, 13))
    whole = ceiling_of(people, SMALL.pixels)
    monkeypatch.setattr(ceilings, "SCORES_AT_ONCE", 50)
    assert ceiling_of(people, SMALL.pixels) == whole


def test_a_split_of_the_size_of_the_demo_takes_a_moment():
    people = records_of(SMALL, range(1, 9))
    many = [([{**entry, "id": k} for entry in own], {**record, "id": k}) for k, (own, record) in enumerate(people * 25)]
    start = time.perf_counter()
    assert ceiling_of(many, SMALL.pixels)["images"] == 400
    assert time.perf_counter() - start < 5


# ---- in synthetic.json -----------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("ceiling") / "made"
    generate(root, SMALL)
    return root


def images_of(root: Path, split: str) -> list[tuple[str, int, list[str]]]:
    entries = [entry for entry in json.loads((root / "reid_raw.json").read_text()) if entry["split"] == split]
    return [(entry["file_path"], entry["id"], entry["captions"]) for entry in entries]


def test_the_marker_holds_the_ceilings_of_val_and_test(made):
    found = json.loads((made / "synthetic.json").read_text())["ceiling"]
    assert found.keys() == {"attributes", "val", "test", "without_details"}
    assert {"gender", "build", "shoes", "glasses"} <= set(found["attributes"])
    for name, images in (("val", 8), ("test", 12)):
        assert found[name]["images"] == images
        assert 0 < found["without_details"][name]["r1"] <= found[name]["r1"]
        assert found[name]["digest"] == digest_of_split(images_of(made, name))
        assert 0 < found[name]["mAP"] <= 100 and 0 < found[name]["r1"] <= found[name]["r5"] <= found[name]["r10"] <= 100
        assert read_ceiling(images_of(made, name), [made.parent, made]).items() <= found[name].items()


def test_other_images_identities_or_captions_have_no_ceiling(made):
    images = images_of(made, "test")
    assert read_ceiling(images, [made])["images"] == 12
    assert read_ceiling(images[:-1], [made]) == read_ceiling(images[::-1], [made]) == {}
    name, identity, captions = images[0]
    for other in ((f"x{name}", identity, captions), (name, identity + 1, captions), (name, identity, captions[:1])):
        assert read_ceiling([other, *images[1:]], [made]) == {}
    assert read_ceiling(images_of(made, "train"), [made]) == {}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        '{"made_by": "dataset.synthetic"}',
        '{"made_by": "dataset.synthetic", "ceiling": 3}',
        '{"made_by": "dataset.synthetic", "ceiling": {"test": {"digest": "DIGEST"}}}',
        '{"made_by": "dataset.synthetic", "ceiling": {"test": {"digest": "DIGEST", "r1": NaN}}}',
        '{"made_by": "dataset.synthetic", "ceiling": {"test": {"digest": "DIGEST", "r1": 1e9}}}',
        '{"made_by": "another", "ceiling": {"test": {"digest": "DIGEST", "r1": 1}}}',
    ],
)
def test_a_marker_that_is_damaged_or_of_another_program_has_no_ceiling(content, made, tmp_path):
    images = images_of(made, "test")
    (tmp_path / "synthetic.json").write_text(content.replace("DIGEST", digest_of_split(images)))
    assert read_ceiling(images, [tmp_path]) == {}
    assert read_ceiling(images, [tmp_path, made])["images"] == 12


def test_a_finished_benchmark_of_an_earlier_version_is_given_its_ceiling(made, tmp_path, caplog):
    root = tmp_path / "earlier"
    generate(root, SMALL)
    whole = (root / "synthetic.json").read_bytes()
    marker = json.loads(whole)
    wanted = marker.pop("ceiling")
    (root / "synthetic.json").write_text(json.dumps(marker))
    assert generate(root, SMALL) is False
    assert json.loads((root / "synthetic.json").read_text())["ceiling"] == wanted
    assert (root / "synthetic.json").read_bytes() == whole
    (root / "synthetic.json").write_text(json.dumps(marker))
    (root / "attributes.json").write_text('{"identities": [{"split": "test"}]}')
    with caplog.at_level(logging.WARNING):
        assert generate(root, SMALL) is False
    assert "stays unknown" in caplog.text
