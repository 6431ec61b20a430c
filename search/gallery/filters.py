"""Filters on metadata: whether what a user has written can find anything. Milvus finds nothing and does not say why.

A filter compares names of metadata with values: `or`, `and`, `not`, comparisons, `in`, `like`, `is null`, arithmetic,
brackets. All else, such as functions, is refused in a line that says what to write: metadata are text and numbers, and
Milvus Lite and servers of Milvus understand different things.
"""

import itertools
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.files.metadata import LARGEST_INTEGER, WORDS, typed, unknown_column
from utils.errors import UserError
from utils.text import shorten

TOKEN = re.compile(
    r"""\s*(?:
    (?P<text>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")
    | (?P<number>\.?[0-9](?:[eE][+-][0-9]|[\w.])*)
    | (?P<name>[^\W\d][^\s!-/:-@\[-^`{-~\u2018-\u201f\u00ab\u00bb]*)
    | (?P<sign>==|!=|<>|<=|>=|&&|\|\||\*\*|\$meta|.)
    )""",
    re.VERBOSE | re.DOTALL,
)
WHOLE_NUMBER, ANY_NUMBER = re.compile("[0-9]+"), re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
QUOTES = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032`\u00b4", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"')
)
INSTEAD = {
    "=": "write ==",
    "<>": "write !=",
    "&": "write and",
    "|": "write or",
    "%": "arithmetic is + - * /",
    "**": "arithmetic is + - * /",
}
LIKE = "like compares text, such as camera like 'c%'"
EXAMPLE = "camera == 'c1' and time < 900"
NOT_METADATA = {"path", "id"}  # what else an image has
OR, AND, NOT = {"or", "||"}, {"and", "&&"}, {"not", "!"}
COMPARISONS = {"==", "!=", "<>", "<", "<=", ">", ">="}
ARITHMETIC = {"+", "-", "*", "/"}
NUMBER, TEXT, TRUTH = "numbers", "text", "truth"

Columns = Mapping[str, Sequence[Any]]
"""Metadata by name with the values they take."""


@dataclass(frozen=True)
class Token:
    kind: str
    text: str

    @property
    def word(self) -> str:
        return self.text.lower()

    def composed(self) -> "Token":
        """Names in the one Unicode form in which metadata have theirs."""
        return Token(self.kind, unicodedata.normalize("NFC", self.text)) if self.kind == "name" else self

    @property
    def for_milvus(self) -> str:
        """Names with letters that servers of Milvus do not take in names, in the long form."""
        return f'$meta["{self.text}"]' if self.kind == "name" and not self.text.isascii() else self.text

    @property
    def content(self) -> str:
        """What stands within the quotes of a text."""
        return re.sub(r"\\(.)", r"\1", self.text[1:-1], flags=re.DOTALL)


@dataclass(frozen=True)
class Operand:
    """One side of a comparison. type: NUMBER, TEXT, TRUTH, or None where it is not known; column: whose values it is;
    text: as it is written."""

    type: str | None = None
    column: str | None = None
    text: str = ""


COMPARED = Operand(TRUTH)


def check_filter(where: str, columns: Columns) -> str:
    """The filter as Milvus is to read it. Raises UserError for what is no filter, and for what can find nothing.

    That is a name that no image has as metadata, and a comparison of text with numbers.
    """
    try:
        tokens = tokens_of(where)
        if tokens[0].kind == "end":
            return ""
        check_tokens(tokens, columns, where)
        FilterParser(tokens, columns).check()
    except UserError as error:
        raise UserError(f"the filter {shorten(repr(where), 200)} is not understood: {error}") from None
    except RecursionError:
        raise UserError("the filter has too many brackets within each other") from None
    if all(token.for_milvus == token.text for token in tokens):
        return where
    return " ".join(token.for_milvus for token in tokens).strip()


def tokens_of(where: str) -> list[Token]:
    found = [Token(match.lastgroup or "", match[match.lastgroup or 0]) for match in TOKEN.finditer(where.strip())]
    return [*(token.composed() for token in found), Token("end", "")]


def check_tokens(tokens: Sequence[Token], columns: Columns, where: str) -> None:
    """Raises UserError for signs, numbers and functions that a filter does not have, and for unknown names."""
    for sign in (token.text for token in tokens if token.kind == "sign"):
        check_sign(sign, where)
    for token, after in itertools.pairwise(tokens):
        if token.kind == "number":
            check_number(token.text)
        if token.kind != "name":
            continue
        if token.word == "between":
            raise UserError("there is no between; write such as 800 <= time and time <= 900")
        if after.text == "(" and token.word not in WORDS:
            raise UserError(f"there are no functions such as {token.text}; compare names with values: {EXAMPLE}")
        if token.word not in WORDS and token.text not in NOT_METADATA and token.text not in columns:
            raise UserError(unknown_column(token.text, columns))


def check_sign(sign: str, where: str) -> None:
    """Raises UserError for a sign that a filter does not have."""
    straight = where.translate(QUOTES)
    if sign.translate(QUOTES) != sign:
        raise UserError(f"quotes are ' or \", not {sign}; write {straight}")
    if sign in "'\"":
        raise UserError(f"a quote {sign} is not closed; text is written 'c1', and a quote within it \\{sign}")
    if sign in INSTEAD:
        raise UserError(f"there is no {sign}; {INSTEAD[sign]}")
    if sign not in COMPARISONS | ARITHMETIC | OR | AND | NOT | {"(", ")", "[", "]", ",", "$meta"}:
        raise UserError(f"there is no {sign}; write such as {EXAMPLE}")


def check_number(text: str) -> None:
    """Raises UserError for what begins with a digit and is no number, or none that the index can hold."""
    if not ANY_NUMBER.fullmatch(text):
        raise UserError(f"{text} is not a number; write such as 830, 0.5 or, as text, '{text}'")
    if math.isinf(float(text)) or (WHOLE_NUMBER.fullmatch(text) and int(text) >= LARGEST_INTEGER):
        raise UserError(f"the number {shorten(text)} is too large; the largest is {LARGEST_INTEGER - 1}")


class FilterParser:
    """Reads a filter from left to right, and compares the types on both sides of each comparison."""

    def __init__(self, tokens: Sequence[Token], columns: Columns):
        self.tokens, self.columns, self.position = tokens, columns, 0

    def check(self) -> None:
        """Raises UserError for what is no filter, and a comparison that finds nothing whatever the values are."""
        self.require_truth(self.disjunction())
        if self.next.text in (")", "]"):
            raise UserError(f"a bracket {self.next.text} is closed that was not opened")
        if self.next.kind != "end":
            raise UserError(f"there is no and or or before {self.next.text}")

    @property
    def next(self) -> Token:
        return self.tokens[self.position]

    def take(self, words: Iterable[str]) -> str:
        """The next token where it is one of these words, and nothing otherwise."""
        if self.next.kind == "text" or self.next.word not in words:
            return ""
        self.position += 1
        return self.tokens[self.position - 1].text

    def disjunction(self) -> Operand:
        return self.several(self.conjunction, OR)

    def conjunction(self) -> Operand:
        return self.several(self.negation, AND)

    def several(self, read: Callable[[], Operand], words: Iterable[str]) -> Operand:
        """One of what `read` reads, or several with one of the words between them."""
        found = read()
        while self.take(words):
            self.require_truth(found)
            found = read()
            self.require_truth(found)
        return found

    def negation(self) -> Operand:
        if self.take(NOT):
            self.require_truth(self.negation())
            return COMPARED
        return self.comparison()

    def require_truth(self, found: Operand) -> None:
        """Raises UserError for a value alone, where a comparison is needed."""
        if found.type != TRUTH:
            raise UserError(f"{found.text or 'a value'} is compared with nothing; write such as {EXAMPLE}")

    def comparison(self) -> Operand:
        """A value, or two that are compared."""
        start = self.position
        left = self.sum()
        if sign := self.take(COMPARISONS):
            middle = self.position
            self.refuse_null(left, sign)
            right = self.sum()
            end = self.position
            self.compare(left, sign, right)
            if again := self.take(COMPARISONS):
                self.sum()
                parts = [self.written(start, end), "and", self.written(middle, end), again]
                raise UserError(
                    f"compare two at a time: write {' '.join(parts)} {self.written(end + 1, self.position)}"
                )
        elif self.take({"like"}):
            if self.sum().type == NUMBER or (left.column and left.type == NUMBER):
                raise UserError(f"{self.holds(left.column)}, and like compares text" if left.column else LIKE)
        elif self.take({"is"}):
            self.take({"not"})
            if not self.take({"null"}):
                raise UserError("write is null, or is not null")
        elif negated := self.negated_in():
            self.compare_with_list(left, negated)
        else:
            return left
        return COMPARED

    def written(self, start: int, end: int) -> str:
        """These tokens as one would write them."""
        return re.sub(r"(?<=[(\[]) | (?=[)\],])|(?<=\$meta) ", "", " ".join(one.text for one in self.tokens[start:end]))

    def refuse_null(self, left: Operand, sign: str) -> None:
        """Raises UserError where a value is compared with null."""
        if self.take({"null"}):
            raise UserError(f"write {left.text or 'camera'} is {'null' if sign == '==' else 'not null'}")

    def negated_in(self) -> str:
        """`in` or `not in`, where that is next."""
        start = self.position
        words = [self.take({"not"}), self.take({"in"})]
        if not words[1]:
            self.position = start
            return ""
        return " ".join(filter(None, words)).lower()

    def compare_with_list(self, left: Operand, word: str) -> None:
        if not self.take({"["}):
            raise UserError(f"after {word}, values stand in square brackets, such as ['c1', 'c2']")
        values = []
        while not self.take({"]"}):
            values.append(self.sum())
            if not self.take({","}) and self.next.text != "]":
                raise UserError("a bracket [ is not closed, or a comma is missing in it")
        if left.column and any(differ(left, value) for value in values):
            plain = [self.as_number(value) for value in values]
            written = None if left.type != NUMBER or None in plain else f"[{', '.join(map(str, plain))}]"
            raise UserError(self.advice(left.column, written and f"{left.text} {word} {written}"))

    def sum(self) -> Operand:
        """A value, or several that are added, multiplied ...: their order does not matter for the type."""
        values = [self.value()]
        while self.take(ARITHMETIC):
            values.append(self.value())
        if len(values) == 1:
            return values[0]
        for value in values:
            if value.column and value.type == TEXT:
                raise UserError(f"{self.holds(value.column)}, and arithmetic needs numbers")
        return Operand(NUMBER, next((value.column for value in values if value.type == NUMBER and value.column), None))

    def value(self) -> Operand:
        if sign := self.take({"-", "+"}):
            value = self.value()
            return Operand(value.type, value.column, f"{sign}{value.text}")
        if self.take({"("}):
            inner = self.disjunction()
            if not self.take({")"}):
                raise UserError("a bracket ( is not closed, or and or or is missing in it")
            return inner
        if self.take({"$meta"}):
            return self.dynamic_field()
        token = self.next
        if token.kind == "end":
            raise UserError("something is missing at its end")
        self.position += 1
        if token.kind in ("text", "number"):
            return Operand(TEXT if token.kind == "text" else NUMBER, None, token.text)
        if token.kind == "name" and token.word in ("true", "false"):
            return Operand(TRUTH, None, token.text)
        if token.kind == "name" and token.word == "exists":
            self.value()
            return COMPARED
        if token.kind != "name" or token.word in WORDS:
            raise UserError(f"a name or a value is missing before {token.text}")
        if self.next.text == "[":
            raise UserError(f"{token.text} is no list; compare it as a whole, such as {token.text} == 'c1'")
        return Operand(type_of(self.columns.get(token.text, ())), token.text, token.text)

    def dynamic_field(self) -> Operand:
        """$meta["time"], the long form of time."""
        inside, name = self.take({"["}), self.next
        self.position += 1
        if not inside or name.kind != "text" or not self.take({"]"}):
            raise UserError('write $meta["time"], or time alone')
        if name.content not in self.columns:
            raise UserError(unknown_column(name.content, self.columns))
        return Operand(type_of(self.columns[name.content]), name.content, f"$meta[{name.text}]")

    # ---- what is told ----

    def compare(self, left: Operand, sign: str, right: Operand) -> None:
        """Raises UserError where a column is compared with what it never holds."""
        if not differ(left, right) or not (left.column or right.column):
            return
        if left.column and right.column:
            raise UserError(f"{self.holds(left.column)}, and {self.holds(right.column)}")
        of_column, other = (left, right) if left.column else (right, left)
        plain = self.as_number(other) if of_column.type == NUMBER and of_column.text else None
        written = f"{left.text} {sign} {plain}" if of_column is left else f"{plain} {sign} {right.text}"
        raise UserError(self.advice(of_column.column or "", None if plain is None else written))

    def advice(self, column: str, written: str | None) -> str:
        return f"{column} holds numbers; write {written}" if written else self.holds(column)

    def holds(self, column: str) -> str:
        """`time holds numbers, such as 830`; of text, a value that shows why it is not numbers."""
        return described(column, self.columns[column])

    def as_number(self, value: Operand) -> str | None:
        """How a number is written that stands in quotes, or without them."""
        text = Token("text", value.text).content.strip() if value.type == TEXT else value.text
        return text if value.type == NUMBER or (value.type == TEXT and is_number(text)) else None


def differ(one: Operand, other: Operand) -> bool:
    return None not in (one.type, other.type) and one.type != other.type


def type_of(values: Sequence[Any]) -> str | None:
    """NUMBER or TEXT where all values are that."""
    if values and all(isinstance(value, str) for value in values):
        return TEXT
    numbers = values and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return NUMBER if numbers else None


def is_number(text: str) -> bool:
    return not isinstance(typed([text])[0], str | None)


def described(column: str, values: Sequence[Any]) -> str:
    """`time holds numbers, such as 830`; of text, an example that shows why it is not numbers."""
    example = next((value for value in values if isinstance(value, str) and not is_number(value)), values[0])
    return f"{column} holds {type_of(values) or 'numbers and text'}, such as {example!r}"
