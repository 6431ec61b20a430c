"""The table of phrases: the built-in one, files on top of it, and what is wrong with others, in one line."""

import re

import pytest
from benchmark_data import REPOSITORY

from evaluation.description.phrases import captions_of, columns_of, read_phrase_table
from evaluation.description.truth import FACTS
from utils.errors import UserError


def written(tmp_path, text):
    file = tmp_path / "own.yaml"
    file.write_text(text)
    return file


def test_the_built_in_table_has_what_drawn_people_have():
    table = read_phrase_table()
    assert table.keys() == FACTS.keys()
    assert table["bag"].names == ["backpack", "shoulder bag", "handbag", "suitcase", "shopping bag", "no bag"]
    assert table["bag"].options["backpack"] == "A person is carrying a backpack."
    assert table["bag"].none_option == "no bag" and table["bag colour"].parent == "bag"
    assert table["lower body"].questions["trousers"] == "wearing pants?"
    captions = captions_of(table)
    assert len(captions) == len(set(captions))
    for name, columns in columns_of(table).items():
        assert [captions[column] for column in columns] == list(table[name].options.values())


def test_a_file_adds_replaces_and_removes(tmp_path):
    table = read_phrase_table(
        written(tmp_path, "belt: [belt, chain]\nglasses:\nshoes: {template: 'In {}.', phrases: {a: b, c: d}}")
    )
    assert table["belt"].options == {"belt": "A person with belt.", "chain": "A person with chain."}
    assert "glasses" not in table and table["shoes"].options == {"a": "In b.", "c": "In d."}
    assert table["bag"] == read_phrase_table()["bag"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b", "it is a table of categories, such as `bag:"),
        ("belt: [belt]", "category 'belt': one phrase alone has nothing to be compared with"),
        ("belt: [a, a]", "the phrase 'a' is there twice"),
        ("belt: [1, 2]", "1 among the phrases is not text; put it into quotes"),
        ("belt: {phrases: [a, b], template: no slot}", "the template must hold {} once"),
        ("belt: {phrases: [a, b], question: 'a {} {}?'}", "the question must hold {} once"),
        (
            "belt: {phrases: [a, b], templates: 'A {}.'}",
            "templates: Extra inputs are not permitted (did you mean 'template'?)",
        ),
        ("belt: {phrases: [a, b], of: bags}", "of: there is no other category 'bags'"),
        ("belt: {phrases: [a, b], of: shoes}", "of: 'shoes' must have `nothing`"),
        ("belt: {phrases: [a, b], any: is there one?}", "`any` asks whether there is anything"),
        ("belt: {phrases: [a], nothing: {a: A person.}}", "'a' is a phrase, and cannot be what `nothing` is called"),
        ("bag:", "category 'bag colour': of: there is no other category 'bag'"),
        ("belt: {phrases: []}", "phrases: "),
        ("belt: 7", "belt"),
        ("belt: [a, b", "own.yaml"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, text, words):
    with pytest.raises(UserError) as told:
        read_phrase_table(written(tmp_path, text))
    assert words in str(told.value) and "\n" not in str(told.value) and "--phrases" in str(told.value)


def test_the_example_of_the_manual_is_a_table(tmp_path):
    (example,) = re.findall(r"```\n(belt: .*?)```", (REPOSITORY / "docs" / "describe.md").read_text(), re.DOTALL)
    table = read_phrase_table(written(tmp_path, example))
    assert table["umbrella"].options["open"] == "A person is holding an open umbrella."
    assert (
        table["umbrella colour"].parent == "umbrella"
        and "glasses" not in table
        and len(table) == len(read_phrase_table()) + 2
    )


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match=r"--phrases .*missing.yaml cannot be read: No such file"):
        read_phrase_table(tmp_path / "missing.yaml")
