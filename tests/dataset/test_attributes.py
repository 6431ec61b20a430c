"""Attributes: parsing, the map to word pieces, and the cache."""

import json
import logging
from importlib import metadata

import pytest

from dataset import attributes
from dataset.attributes import attribute_ids, cached_attributes, load_spacy, parse_attributes
from dataset.captions import clean_caption
from dataset.tokens import CaptionTokenizer
from utils.errors import UserError
from utils.files import atomic_write

EXAMPLES = {
    "a woman with a red coat, grey jeans and a black backpack": ["red coat", "grey jeans", "black backpack"],
    "A woman: she has a red coat, grey jeans, a black bag.": ["red coat", "grey jeans", "black bag"],
    "The man wears a dark-blue T-shirt and white/grey shoes.": ["dark blue t shirt", "white grey shoes"],
    "She's carrying a woman's brown hand bag.": ["woman brown hand bag"],
    "A MAN WEARING A RED SHIRT, BLACK PANTS AND WHITE SHOES.": ["red shirt", "black pants", "white shoes"],
    "The man has short, dark hair.": ["short dark hair"],
    "A <person> wearing a naïve café-coloured coat.": ["naïve café coloured coat"],
    "He wears  maroon pants , and SILVER shoes .": ["maroon pants", "silver shoes"],
    "she has \ud83d a red coat": ["red coat"],
    "A woman walks down the street.": [],
    "Woman in black.": [],
    "A shirt in army green.": [],  # a colour that stands for itself is a noun
    "She walks.": [],
    "": [],
    " .- ": [],
}


# By the rule `visible`: what the published rule loses or joins in sentences that people type.
VISIBLE = {
    "A woman with a red coat, grey jeans and a black backpack.": ["red coat", "grey jeans", "black backpack"],
    "a blue and yellow striped jumper": ["blue yellow striped jumper"],
    "She has a green and white checkered skirt.": ["green white checkered skirt"],
    "a red, white, and blue scarf": ["red white blue scarf"],
    "wearing a green shirt and beige trousers": ["green shirt", "beige trousers"],
    "his coat is grey and brown shoes": ["brown shoes"],  # not a grey brown shoe
    "she wears a grey tee on her upper body blue shorts on her lower body pink sandals on her feet": [
        "grey tee",
        "blue shorts",
        "pink sandals",
    ],
    "long dress silver sandals": ["long dress", "silver sandals"],
    "beige shorts down to her knees her shoes are new": ["beige shorts"],
    "green coat white trousers brown belt red purse": ["green coat", "white trousers", "brown belt", "red purse"],
    "man in a purple shirt dark jeans": ["purple shirt", "dark jeans"],
    "a grey shirt wtih pink shorts": ["grey shirt", "pink shorts"],  # a misspelt word
    "a long sleeved blouse": ["long sleeved blouse"],
    "a man in long sleeves and a long haired woman": ["long sleeves", "long haired woman"],
    "dark-colored T-shirt, high-heeled boots": ["dark colored t shirt", "high heeled boots"],
    "a green zip-up jacket and a v-neck blue pullover": ["green zip jacket", "v neck blue pullover"],
    "knee high brown boots, shoulder length red hair": ["knee high brown boots", "shoulder length red hair"],
    "blue jean shorts, black dress shoes": ["blue jean shorts", "black dress shoes"],
    "Her upper body, right hand, left shoulder; front right, the other side.": [],
    "a yellow bag in his left hand, dark skin": ["yellow bag", "dark skin"],
    "blue coat.she has red boots,white hat": ["blue coat", "red boots", "white hat"],
    'a black "nike" cap and white "vans"': ["black nike cap", "white vans"],
    "a young man who carried bags": ["young man"],
    "She walks.": [],
    "": [],
}


def words(caption, found, max_words=75):
    """The attributes of one caption as text."""
    cleaned = clean_caption(caption, max_words)
    return [" ".join(cleaned[start:end] for start, end in spans) for spans in found]


# ---- parsing ----


@pytest.fixture(scope="module")
def parsed():
    return dict(zip(EXAMPLES, parse_attributes(list(EXAMPLES), 75), strict=True))


@pytest.mark.parametrize("caption", EXAMPLES)
def test_attributes_are_adjectives_with_their_nouns(parsed, caption):
    assert words(caption, parsed[caption]) == EXAMPLES[caption]


@pytest.fixture(scope="module")
def visible():
    return dict(zip(VISIBLE, parse_attributes(list(VISIBLE), 75, rule="visible"), strict=True))


@pytest.mark.parametrize("caption", VISIBLE)
def test_visible_attributes_are_whole_and_apart(visible, caption):
    assert words(caption, visible[caption]) == VISIBLE[caption]


def test_each_rule_has_a_cache_of_its_own(folders):
    caption = "her upper body is in a short sleeved top"
    rules = ("published", "visible")
    found = {rule: dict(cached_attributes([caption], *folders, 75, rule)) for rule in rules}
    assert found["published"] != found["visible"]
    assert found == {rule: dict(cached_attributes([caption], *folders, 75, rule)) for rule in rules}
    names = sorted(path.name for path in folders[0].parent.iterdir())
    assert names == ["train.attributes.json", "train.visible_attributes.json"]


def test_spans_are_characters_of_the_cleaned_caption(parsed):
    # "the man wears a dark blue t shirt and white grey shoes"
    found = parsed["The man wears a dark-blue T-shirt and white/grey shoes."]
    assert found == [[(16, 20), (21, 25), (26, 27), (28, 33)], [(38, 43), (44, 48), (49, 54)]]


@pytest.mark.parametrize(
    ("max_words", "expected"),
    [
        (11, ["red coat", "big black backpack"]),
        (10, ["red coat", "big black"]),  # two adjectives are still an attribute
        (9, ["red coat"]),
        (6, ["red coat"]),
        (5, []),
        (0, []),
    ],
)
def test_words_beyond_the_limit_are_dropped(max_words, expected):
    caption = "A woman with a red coat, and a big black backpack."
    (found,) = parse_attributes([caption], max_words)
    assert words(caption, found, max_words) == expected


def test_a_very_long_caption_is_read_only_as_far_as_needed():
    caption = "A woman with a red coat. " + "word " * 200_000  # beyond what spaCy accepts
    (found,) = parse_attributes([caption], 6)
    assert words(caption, found, 6) == ["red coat"]


def test_several_processes_find_the_same(parsed):
    assert parse_attributes(list(EXAMPLES), 75, processes=2) == list(parsed.values())


def test_the_model_says_who_it_is():
    nlp, identity = load_spacy()
    name, version = identity.split()
    assert f"{nlp.meta['lang']}_{nlp.meta['name']}" == name
    assert nlp.meta["version"] == version
    assert not {"ner", "lemmatizer"} & set(nlp.pipe_names)


def test_the_official_model_is_preferred(monkeypatch):
    monkeypatch.setattr(attributes.metadata, "version", lambda name: "9.9")
    assert attributes._installed_model() == ("en_core_web_sm", "9.9")


def test_a_model_that_does_not_load_is_an_error_of_one_line(monkeypatch):
    def fail(*_, **__):
        raise OSError("[E050] gone\nmore")

    monkeypatch.setattr("spacy.load", fail)
    with pytest.raises(UserError, match=r"does not load \(\[E050\] gone\): run `python -m spacy download"):
        load_spacy()


def test_a_missing_model_is_an_error_with_the_command(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(attributes.metadata, "version", missing)
    with pytest.raises(UserError, match="run `python -m spacy download en_core_web_sm`"):
        load_spacy()


# ---- word pieces ----


def test_word_pieces_are_numbered_by_attribute():
    # "red backpack": back ##pack belong together
    offsets = [(0, 0), (0, 1), (2, 5), (6, 10), (10, 14), (15, 18), (19, 24), (25, 29), (0, 0)]
    spans = [[(2, 5), (6, 14)], [(19, 24), (25, 29)]]
    assert attribute_ids(spans, offsets, 11) == [0, 0, 1, 1, 1, 0, 2, 2, 0, 0, 0]


def test_an_attribute_may_start_at_the_first_character():
    assert attribute_ids([[(0, 4), (5, 8)]], [(0, 0), (0, 4), (5, 8), (0, 0)], 4) == [0, 1, 1, 0]


def test_a_piece_that_holds_part_of_a_word_belongs_to_it():
    # "womans": only "woman" is the noun, but the piece is the whole
    assert attribute_ids([[(0, 5), (7, 10)]], [(0, 0), (0, 6), (7, 10), (0, 0)], 4) == [0, 1, 1, 0]


def test_attributes_without_a_piece_get_no_number():
    offsets = [(0, 0), (0, 3), (4, 8), (0, 0)]
    assert attribute_ids([[(20, 25)], [(0, 3), (4, 8)]], offsets, 4) == [0, 1, 1, 0]
    assert attribute_ids([[(0, 3), (4, 8)]], offsets, 2) == [0, 1]  # truncated
    assert attribute_ids([], offsets, 4) == [0, 0, 0, 0]


def test_a_piece_of_two_attributes_belongs_to_the_first():
    # "coat,red hat" is cleaned to "coatred hat"
    assert attribute_ids([[(0, 4)], [(4, 7), (8, 11)]], [(0, 7), (8, 11)], 2) == [1, 2]


def test_a_caption_goes_all_the_way_to_word_piece_numbers(parsed):
    caption = "a woman with a red coat, grey jeans and a black backpack"
    vocabulary = ["a woman with red coat grey jeans and black back pack"] * 2
    tokenizer = CaptionTokenizer.train([*vocabulary, "backpack"], vocabulary_size=500, min_frequency=2)
    encoded = tokenizer.encode(clean_caption(caption, 75), None)
    numbers = attribute_ids(parsed[caption], encoded.offsets, len(encoded.ids))
    by_attribute = {}
    for number, (start, end) in zip(numbers, encoded.offsets, strict=True):
        by_attribute[number] = by_attribute.get(number, "") + clean_caption(caption, 75)[start:end]
    assert by_attribute == {0: "awomanwithaanda", 1: "redcoat", 2: "greyjeans", 3: "blackbackpack"}
    assert numbers.count(3) > 2  # backpack is more than one piece


# ---- the cache ----


class Parser:
    """Stands in for `parse_attributes`: remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, captions, max_words, processes, rule):
        self.asked.append(list(captions))
        return [[[(0, len(caption)), (1, 2)], [(3, 4)]] if caption else [] for caption in captions]


@pytest.fixture
def parser(monkeypatch):
    fake = Parser()
    monkeypatch.setattr(attributes, "parse_attributes", fake)
    return fake


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "train.json", tmp_path / "run"


def test_captions_are_parsed_once(parser, folders):
    for _ in range(2):
        found = cached_attributes(["red", "", "red"], *folders, 75)
        assert dict(found) == {"red": [[(0, 3), (1, 2)], [(3, 4)]], "": []}
    assert parser.asked == [["red", ""]]
    assert (folders[0].parent / "train.attributes.json").exists()
    assert not folders[1].exists()


def test_real_attributes_come_back_from_the_cache_as_parsed(parsed, folders):
    cached_attributes(list(EXAMPLES), *folders, 75)
    assert dict(cached_attributes(list(EXAMPLES), *folders, 75)) == parsed


def test_new_captions_are_added(parser, folders):
    cached_attributes(["one", "two"], *folders, 75)
    assert list(cached_attributes(["two", "three"], *folders, 75)) == ["two", "three"]
    assert parser.asked == [["one", "two"], ["three"]]
    cached_attributes(["one", "two", "three"], *folders, 75)
    assert len(parser.asked) == 2


def test_another_max_words_is_parsed_again(parser, folders, caplog):
    cached_attributes(["one"], *folders, 75)
    cached_attributes(["one"], *folders, 50)
    assert len(parser.asked) == 2
    assert "train.attributes.json is stale (max_words 75, now 50)" in caplog.text


@pytest.mark.parametrize(
    ("name", "replacement", "reason"),
    [
        ("CAPTION_RULES", "2", "caption_rules"),
        ("CACHE_FORMATS", {"published": "attributes of captions, 99"}, "format"),
        ("_installed_model", lambda: ("en_core_web_sm", "9.9"), "now en_core_web_sm 9.9"),
        ("_version", lambda package: "9.9", "now 9.9"),
    ],
)
def test_other_rules_or_models_are_parsed_again(parser, folders, monkeypatch, caplog, name, replacement, reason):
    cached_attributes(["one"], *folders, 75)
    monkeypatch.setattr(attributes, name, replacement)
    cached_attributes(["one"], *folders, 75)
    assert len(parser.asked) == 2
    assert "is stale" in caplog.text and reason in caplog.text
    cached_attributes(["one"], *folders, 75)
    assert len(parser.asked) == 2


def broken(text):
    """A way to break a cache: replace its text, or change its content."""
    return lambda content: text if isinstance(text, str) else json.dumps(text(content))


@pytest.mark.parametrize(
    "damage",
    [
        broken(""),
        broken('{"made_with": {'),
        broken("\x00\x01"),
        broken(lambda content: content | {"attributes": []}),
        broken(lambda content: content | {"attributes": {"one": "1-2 3"}}),
        broken(lambda content: content | {"attributes": {"one": [[1, 2]]}}),
        broken(lambda content: {"made_with": content["made_with"]}),
    ],
)
def test_a_broken_cache_is_parsed_again(parser, folders, caplog, damage):
    cached_attributes(["one"], *folders, 75)
    path = folders[0].parent / "train.attributes.json"
    path.write_text(damage(json.loads(path.read_text())))
    found = cached_attributes(["one"], *folders, 75)
    assert found["one"] == [[(0, 3), (1, 2)], [(3, 4)]]
    assert "train.attributes.json" in caplog.text and "parsed again" in caplog.text
    cached_attributes(["one"], *folders, 75)
    assert parser.asked == [["one"]] * 2


@pytest.mark.parametrize("text", ['{"one": 1}', "[1, 2]", '{"made_with": "love"}'])
def test_a_file_that_is_no_cache_is_left_alone(parser, folders, caplog, text):
    path = folders[0].parent / "train.attributes.json"
    path.write_text(text)
    cached_attributes(["one"], *folders, 75)
    cached_attributes(["one"], *folders, 75)
    assert path.read_text() == text
    assert "is no attribute cache" in caplog.text
    assert parser.asked == [["one"]]
    assert (folders[1] / "train.attributes.json").exists()


def refuse(monkeypatch, *folders, error=None):
    """Let these folders be read-only."""

    def write(path):
        if path.parent in folders:
            raise error or UserError(f"cannot write {path}: Read-only file system")
        return atomic_write(path)

    monkeypatch.setattr(attributes, "atomic_write", write)


@pytest.mark.parametrize("error", [UserError("cannot write it"), OSError(30, "Read-only file system")])
def test_a_read_only_folder_has_its_cache_in_the_run_folder(parser, folders, monkeypatch, error):
    refuse(monkeypatch, folders[0].parent, error=error)
    cached_attributes(["one"], *folders, 75)
    cached_attributes(["one"], *folders, 75)
    assert parser.asked == [["one"]]
    assert not (folders[0].parent / "train.attributes.json").exists()
    assert (folders[1] / "train.attributes.json").exists()


def test_both_caches_are_read(parser, folders, monkeypatch):
    cached_attributes(["one"], *folders, 75)
    refuse(monkeypatch, folders[0].parent)
    cached_attributes(["one", "two"], *folders, 75)
    cached_attributes(["two", "one"], *folders, 75)
    assert parser.asked == [["one"], ["two"]]


def test_without_any_place_the_run_goes_on(parser, folders, monkeypatch, caplog):
    refuse(monkeypatch, folders[0].parent, folders[1])
    assert cached_attributes(["one"], *folders, 75)["one"] == [[(0, 3), (1, 2)], [(3, 4)]]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "could not be cached" in caplog.text


def test_an_interrupted_write_leaves_the_old_cache(parser, folders, monkeypatch):
    cached_attributes(["one"], *folders, 75)
    path = folders[0].parent / "train.attributes.json"
    before = path.read_text()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        cached_attributes(["one", "two"], *folders, 75)
    assert path.read_text() == before
    assert [file.name for file in path.parent.iterdir()] == ["train.attributes.json"]


def test_any_caption_can_be_a_key(parser, folders):
    captions = ['a "quoted"\ncoat', "naïve 外套 😀", "half \ud83d"]
    cached_attributes(captions, *folders, 75)
    assert list(cached_attributes(captions, *folders, 75)) == captions
    assert len(parser.asked) == 1
