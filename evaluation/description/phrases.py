"""The table of what describes people: categories, their phrases, and the captions that phrases are scored by.

It is phrases.yaml beside this file, with categories of a file of one's own added to it, or put in place of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from utils.config import Section, parse_yaml
from utils.errors import UserError, did_you_mean
from utils.text import shorten

BUILT_IN = Path(__file__).with_name("phrases.yaml")
SLOT = "{}"  # of a template, where the words of a phrase stand
TEMPLATE, QUESTION = "A person with {}.", "with {}?"  # of a category that is a bare list
MAX_PHRASES = 200  # of one category

Words = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\w")]


class CategoryKeys(Section):
    """A category as it stands in a file; docs/describe.md says what the keys mean."""

    template: Words = TEMPLATE
    question: Words = QUESTION
    phrases: Annotated[dict[Words, Words], Field(min_length=1, max_length=MAX_PHRASES)]
    nothing: Annotated[dict[Words, Words], Field(max_length=1)] = {}
    any: Words | None = None
    of: Words | None = None
    about: Words | None = None
    nouns: list[Words] = []
    said: list[Words] = []

    @model_validator(mode="before")
    @classmethod
    def lists_are_their_own_words(cls, given: Any) -> Any:
        """A bare list is one of phrases; a list of phrases is of words that stand for themselves."""
        given = {"phrases": given} if isinstance(given, list) else given
        if isinstance(given, dict) and isinstance(given.get("phrases"), list):
            phrases = given["phrases"]
            for phrase in phrases:
                if not isinstance(phrase, str):
                    raise ValueError(f"{phrase!r} among the phrases is not text; put it into quotes")
                if phrases.count(phrase) > 1:
                    raise ValueError(f"the phrase {phrase!r} is there twice")
            return {**given, "phrases": {phrase: phrase for phrase in phrases}}
        return given

    @model_validator(mode="after")
    def is_whole(self) -> "CategoryKeys":
        for key in ("template", "question"):
            if getattr(self, key).count(SLOT) != 1:
                raise ValueError(f"the {key} must hold {SLOT} once, where a phrase stands, such as {TEMPLATE!r}")
        if len(self.phrases) + len(self.nothing) < 2:
            raise ValueError("one phrase alone has nothing to be compared with; add another, or `nothing`")
        if same := self.phrases.keys() & self.nothing.keys():
            raise ValueError(f"{min(same)!r} is a phrase, and cannot be what `nothing` is called")
        if self.any and not self.nothing:
            raise ValueError("`any` asks whether there is anything; say what `nothing` is called")
        return self


@dataclass(frozen=True)
class Category:
    """One attribute of a person, such as bag or bag colour.

    options: its phrases and, last, `none_option` (that the person has no such thing) if there is one, each with the
    caption that it is scored by. questions: one for each phrase. existence_question: whether the person has any.
    parent: the category that must be present for this one to apply, as the bag for its colour. described_item: the
    category whose item this one describes further. nouns: words in a sentence that name the item; mention_words: words
    that already state this attribute.
    """

    name: str
    options: Mapping[str, str]
    questions: Mapping[str, str]
    none_option: str | None = None
    existence_question: str | None = None
    parent: str | None = None
    described_item: str | None = None
    nouns: tuple[str, ...] = ()
    mention_words: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Of options, in their order."""
        return list(self.options)


PhraseTable = Mapping[str, Category]


def read_phrase_table(file: Path | None = None) -> PhraseTable:
    """The built-in categories by name, and those of a file, which replace what has the same name.

    A category of a file that is empty is left out. Raises UserError when a file is not such a table.
    """
    found = read_keys(BUILT_IN)
    where = str(BUILT_IN)
    if file is not None:
        found, where = {**found, **read_keys(file)}, f"--phrases {file}"
    keys = {name: each for name, each in found.items() if each is not None}
    if not keys:
        raise UserError(f"{where}: no category is left; keep one")
    for name, each in keys.items():
        require_others(name, each, keys, where)
    return {name: category_of(name, each) for name, each in keys.items()}


def read_keys(file: Path) -> dict[str, CategoryKeys | None]:
    """The categories of one file; None = that one is left out. Raises UserError."""
    where = f"--phrases {file}"
    try:
        content = parse_yaml(file.read_text(encoding="utf-8"), where)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise UserError(f"{where} cannot be read: {reason}") from None
    if not isinstance(content, dict) or not all(isinstance(name, str) and name.strip() for name in content):
        raise UserError(f"{where}: it is a table of categories, such as `bag: [backpack, handbag]`")
    return {name: None if given in (None, []) else keys_of(name, given, where) for name, given in content.items()}


def keys_of(name: str, given: Any, where: str) -> CategoryKeys:
    """One category of a file. Raises UserError that names it and what is wrong."""
    try:
        return CategoryKeys.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"] if part != "[key]")
        hint = did_you_mean(at, CategoryKeys.model_fields) if first["type"] == "extra_forbidden" else ""
        reason = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{where}: category {shorten(name, 40)!r}: {at and at + ': '}{reason}{hint}") from None


def require_others(name: str, keys: CategoryKeys, known: Mapping[str, CategoryKeys], where: str) -> None:
    """Raises UserError unless the categories that this one names are there."""
    for key in ("of", "about"):
        other = getattr(keys, key)
        if other is not None and (other == name or other not in known):
            raise UserError(f"{where}: category {name!r}: {key}: there is no other category {other!r}")
    if keys.of is not None and (not known[keys.of].nothing or known[keys.of].of is not None):
        raise UserError(f"{where}: category {name!r}: of: {keys.of!r} must have `nothing`, and no `of` of its own")
    if keys.of is not None and keys.nothing:
        raise UserError(f"{where}: category {name!r}: it is of {keys.of!r}, whose `nothing` is its own too")


def category_of(name: str, keys: CategoryKeys) -> Category:
    """The category that these keys mean."""
    filled = {phrase: keys.template.replace(SLOT, words) for phrase, words in keys.phrases.items()}
    return Category(
        name=name,
        options={**filled, **keys.nothing},
        questions={phrase: keys.question.replace(SLOT, words) for phrase, words in keys.phrases.items()},
        none_option=next(iter(keys.nothing), None),
        existence_question=keys.any,
        parent=keys.of,
        described_item=keys.of or keys.about,
        nouns=tuple(keys.nouns),
        mention_words=tuple(keys.said),
    )


def captions_of(table: PhraseTable) -> list[str]:
    """The captions of all options, each once, in order of appearance."""
    return list(dict.fromkeys(text for category in table.values() for text in category.options.values()))


def columns_of(table: PhraseTable) -> dict[str, list[int]]:
    """For each category, the numbers of its captions among those of `captions_of`."""
    number = {text: index for index, text in enumerate(captions_of(table))}
    return {name: [number[text] for text in category.options.values()] for name, category in table.items()}


def nouns_of(category: Category) -> Sequence[str]:
    """Words that name a thing of a category: its phrases, and those given."""
    return [*category.questions, *category.nouns]
