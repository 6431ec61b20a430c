"""People of the synthetic benchmark who look alike, and presets that stay as they were."""

import hashlib
import json
from itertools import combinations

import numpy as np
import pytest

from dataset.synthetic.__main__ import main
from dataset.synthetic.camera import encode
from dataset.synthetic.generate import generate, person_of, picture_of
from dataset.synthetic.lookalikes import DETAILS, code
from dataset.synthetic.options import Options, options_from
from dataset.synthetic.person import ATTRIBUTES, Person
from dataset.synthetic.preview import look_of
from utils.errors import UserError

GROUPED = {"train": 24, "val": 6, "test": 8, "group_size": 4, "height": 64, "width": 32, "caption_style": "thorough"}

# People, captions, masks and images of four identities each, before there were look-alikes.
UNCHANGED = {
    None: "5af249b8655019b3b382232084ee6467b30709a9ce3f1d65cf0f2b5f6296b063",
    "tiny": "27cc21066bb990de8f9a75687d7bb25474ffca24e57317b4bffdb9eb6c15c81b",
    "demo": "caa1901d89a499d28d3778ab30addfcdf1740cefcfb2ed5efbbc3fe61a1c4202",
    "full": "3d83a1fa712c7cec93db042c23bdb20475b8f28c951520ff6f6094d2736bbfe6",
}


def differing(one: Person, other: Person) -> set[str]:
    """Attributes in which two people are not the same."""
    return {name for name in ATTRIBUTES[1:] if one.thing(name) != other.thing(name)}


def groups(options: Options) -> list[list[Person]]:
    """All people by their group."""
    found: dict[int, list[Person]] = {}
    for identity in range(1, options.identities + 1):
        found.setdefault(options.group_of(identity)[0], []).append(person_of(options, identity))
    return list(found.values())


@pytest.mark.parametrize("preset", UNCHANGED)
def test_presets_stay_as_they_were(preset):
    options = options_from(preset, {})
    found = hashlib.sha256()
    for identity in (1, 2, options.train + 1, options.identities):
        person = person_of(options, identity)
        picture, captions = picture_of(options, identity, 0, person)
        found.update(json.dumps([person.describe(), captions]).encode())
        found.update(picture.label.tobytes() + encode(picture.image, "png", 0) + picture.image.tobytes())
    assert found.hexdigest() == UNCHANGED[preset]


@pytest.mark.parametrize("distance", [1, 2, 3, 7])
def test_people_of_a_group_differ_in_the_asked_number_of_details(distance):
    options = Options(**GROUPED, differing_details=distance)
    apart = []
    for people in groups(options):
        for one, other in combinations(people, 2):
            found = differing(one, other)
            assert found <= set(DETAILS)
            assert (one.gender, one.build, one.stature) == (other.gender, other.build, other.stature)
            # both have a differing detail, or a caption of one could not tell it from the other
            assert all(one.worn(name).colour != other.worn(name).colour for name in found)
            apart.append(len(found))
    assert set(apart) == {distance}


@pytest.mark.parametrize(("details", "distance"), [(("shoes", "bag"), 1), (("hair", "glasses", "scarf"), 2)])
def test_only_named_details_differ(details, distance):
    options = Options(**GROUPED, details=details, differing_details=distance)
    found = {
        name for people in groups(options) for one, other in combinations(people, 2) for name in differing(one, other)
    }
    assert found == set(details)


def test_groups_do_not_cross_splits_and_the_last_one_may_be_smaller():
    options = Options(**GROUPED)
    sizes = [len(people) for people in groups(options)]
    assert sizes == [4] * 6 + [4, 2] + [4, 4]
    assert {options.split_of(options.group_of(k)[0])[0] for k in range(25, 31)} == {"val"}
    everyone = [person_of(options, identity) for identity in range(1, options.identities + 1)]
    assert len({json.dumps(person.describe()) for person in everyone}) == options.identities


def test_a_detail_has_another_colour_than_what_it_lies_on():
    options = Options(**GROUPED | {"train": 160}, differing_details=7)
    for identity in range(1, options.identities + 1):
        person = person_of(options, identity)
        below = {"shoes": ("lower",), "bag": ("upper", "dress"), "scarf": ("upper", "dress")}
        for name, garments in below.items():
            colours = {thing.colour for garment in garments if (thing := person.thing(garment)) is not None}
            assert person.worn(name).colour not in colours
        hair, hat = person.hair.colour, person.worn("headwear").colour
        assert (hair, hat) not in {("black", "black"), ("blonde", "yellow"), ("grey", "white"), ("red", "orange")}


def test_a_group_depends_on_the_seed():
    assert person_of(Options(**GROUPED), 1) != person_of(Options(**GROUPED, seed=1), 1)
    assert person_of(Options(**GROUPED), 2) == person_of(Options(**GROUPED), 2)


def test_words_of_a_code_keep_their_distance():
    for size, distance, details in ((4, 2, 7), (20, 2, 3), (5, 4, 4), (50, 3, 7)):
        words = code(size, distance, details)
        assert len(words) == size
        assert min(sum(a != b for a, b in zip(*pair, strict=True)) for pair in combinations(words, 2)) == distance


@pytest.mark.parametrize("details", [2, 3, 7])
def test_words_of_small_codes_differ_in_no_more_letters_than_asked(details):
    for distance in range(1, details + 1):
        for variant in (0, 5):
            pairs = combinations(code(4, distance, details, variant), 2)
            assert {sum(a != b for a, b in zip(*pair, strict=True)) for pair in pairs} == {distance}


def test_thorough_captions_name_nearly_all_that_shows():
    options = options_from("lookalikes", {})
    named = shown = vague = total = 0
    for identity in range(1, 25):
        person = person_of(options, identity)
        picture, captions = picture_of(options, identity, 0, person)
        for caption in captions:
            shown += len(picture.noticed() - {"skin"})
            named += len(caption["mentions"])
            vague += not caption["mentions"]
            total += 1
    assert named / shown > 0.93
    assert vague / total < 0.05


@pytest.mark.parametrize("detail", ["shoes", "headwear", "hair", "glasses", "scarf", "item"])
def test_a_smallest_detail_makes_small_ones_larger(detail):
    pixels = []
    for smallest in (0, 5):
        options = Options(**GROUPED, smallest_detail=smallest, details=(detail,), differing_details=1, occlusion=0.0)
        pictures = [picture_of(options, k, 0, person_of(options, k))[0] for k in range(1, 9)]
        pixels.append(sum(picture.visible_pixels().get(detail, 0) for picture in pictures))
    assert pixels[1] > 1.2 * pixels[0] > 0


@pytest.mark.parametrize("detail", DETAILS)
def test_a_differing_detail_shows_in_nearly_every_image(detail):
    given = {"group_size": 4, "details": (detail,), "differing_details": 1, "occlusion": 0.0}
    options = options_from("lookalikes", given)
    pictures = [picture_of(options, k, 0, person_of(options, k))[0] for k in range(1, 29)]
    if detail == "glasses":
        pictures = [picture for picture in pictures if picture.view == "front"]
    assert np.mean([detail in picture.noticed() for picture in pictures]) > 0.85


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"group_size": 0}, "group size is 0"),
        ({"group_size": 6, "details": ("shoes", "bag"), "differing_details": 2}, "groups of 5 or fewer"),
        ({"group_size": 9, "details": ("hair",), "differing_details": 1}, "groups of 5 or fewer"),
        ({"differing_details": 3, "details": ("shoes", "bag")}, "from 1 to 2"),
        ({"differing_details": 0}, "differing details is 0"),
        ({"details": ("shoes", "glases")}, "did you mean 'glasses'"),
        ({"details": ("shoes", "shoes")}, "name each once"),
        ({"details": ()}, "no detail is named"),
        ({"smallest_detail": 17}, "smallest detail is 17 pixels; choose from 0 to 16"),
        ({"smallest_detail": -1}, "smallest detail is -1"),
        ({"differing_details": 1}, "add --group_size 4"),
        ({"details": ("shoes", "bag")}, "add --group_size 4"),
        ({"caption_style": "thorugh"}, "did you mean 'thorough'"),
    ],
)
def test_groups_that_cannot_be_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        Options(**given)


def test_the_command_line_takes_details_and_says_what_is_wrong_with_them(tmp_path):
    arguments = [
        "--preset",
        "lookalikes",
        "--size",
        "60x30",
        "--train",
        "2",
        "--val",
        "0",
        "--test",
        "0",
        "--preview",
        str(tmp_path / "sheet.png"),
    ]
    main([*arguments, "--details", "shoes, Bag,hair", "--differing-details", "1", "--group-size", "2"])
    assert (tmp_path / "sheet.png").is_file()
    with pytest.raises(UserError, match="detail 'shoe' is unknown"):
        main([*arguments, "--details", "shoe,bag"])
    with pytest.raises(UserError, match="no detail is named"):
        main([*arguments, "--details", ""])


def test_the_preview_says_in_what_people_of_a_group_differ():
    options = Options(**GROUPED, details=("hair", "bag"), differing_details=1)
    seen = [look_of(options, identity) for identity in range(1, 9)]
    assert len(set(seen)) == 8
    assert [text.partition(":")[0] for text in seen] == [", group of identity 1"] * 4 + [", group of identity 5"] * 4
    for text, identity in zip(seen, range(1, 9), strict=True):
        person = person_of(options, identity)
        looks = [f"{person.hair.colour} {person.hair.kind} hair"]
        looks += [f"{person.bag.colour} {person.bag.kind}"] if person.bag else []
        assert text.partition(": ")[2] in looks
    assert look_of(Options(), 1) == ""


def test_a_benchmark_of_an_earlier_version_is_known_again(tmp_path):
    tiny = Options(train=1, val=0, test=0, images_per_identity=1, height=64, width=32)
    generate(tmp_path / "b", tiny)
    marker = json.loads((tmp_path / "b" / "synthetic.json").read_text())
    for name in ("group_size", "differing_details", "details", "smallest_detail", "caption_style"):
        del marker["options"][name]
    (tmp_path / "b" / "synthetic.json").write_text(json.dumps(marker))
    assert generate(tmp_path / "b", tiny) is False
    with pytest.raises(UserError, match="--overwrite"):
        generate(tmp_path / "b", Options(**GROUPED))
