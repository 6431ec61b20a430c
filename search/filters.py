"""Filters on metadata: whether what a user has written can find anything. Milvus finds nothing and does not say why.

A filter is read as Milvus reads it as far as types matter: `or`, `and`, `not`, comparisons, arithmetic, brackets. What
is not understood here, such as functions, is left to Milvus.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.metadata import WORDS, typed, unknown_column
from utils.errors import UserError

TOKEN = re.compile(
    r"""\s*(?:
    (?P<text>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")
    | (?P<number>\.?[0-9](?:[eE][+-][0-9]|[\w.])*)
    | (?P<name>[A-Za-z_]\w*)
    | (?P<sign>==|!=|<>|<=|>=|&&|\|\||\*\*|\$meta|.)
    )""",
    re.VERBOSE | re.DOTALL,
)
NOT_METADATA = {"path", "id"}  # what else an image has
OR, AND, NOT = {"or", "||"}, {"and", "&&"}, {"not", "!"}
COMPARISONS = {"==", "!=", "<>", "<", "<=", ">", ">="}
ARITHMETIC = {"+", "-", "*", "/", "%", "**"}
NUMBER, TEXT = "numbers", "text"

Columns = Mapping[str, Sequence[Any]]
"""Metadata by name with the values they take."""


@dataclass(frozen=True)
class Token:
    kind: str
    text: str

    @property
    def word(self) -> str:
        return self.text.lower()

    @property
    def content(self) -> str:
        """What stands within the quotes of a text."""
        return re.sub(r"\\(.)", r"\1", self.text[1:-1], flags=re.DOTALL)


@dataclass(frozen=True)
class Operand:
    """One side of a comparison. type: NUMBER, TEXT, "truth", or None where it is not known; column: whose values it is;
    text: as it is written."""

    type: str | None = None
    column: str | None = None
    text: str = ""


UNKNOWN = Operand()


def check_filter(where: str, columns: Columns) -> None:
    """Raises UserError for a name that no image has as metadata, and for a comparison of text with numbers."""
    if not where:
        return
    try:
        tokens = tokens_of(where)
        check_names(tokens, columns)
        FilterCheck(tokens, columns).check()
    except UserError as error:
        raise UserError(f"the filter {where!r} is not understood: {error}") from None


def tokens_of(where: str) -> list[Token]:
    found = [Token(match.lastgroup or "", match[match.lastgroup or 0]) for match in TOKEN.finditer(where.strip())]
    return [*found, Token("end", "")]


def check_names(tokens: Sequence[Token], columns: Columns) -> None:
    """Raises UserError for a name that is neither a function nor called so by the metadata of any image."""
    for token, after in itertools.pairwise(tokens):
        if token.kind == "name" and token.word == "between":
            raise UserError("there is no between; write such as 800 <= time and time <= 900")
        known = token.word in WORDS or token.text in NOT_METADATA or token.text in columns
        if token.kind == "name" and after.text != "(" and not known:
            raise UserError(unknown_column(token.text, columns))


class FilterCheck:
    """Reads a filter from left to right, and compares the types on both sides of each comparison."""

    def __init__(self, tokens: Sequence[Token], columns: Columns):
        self.tokens, self.columns, self.place = tokens, columns, 0

    def check(self) -> None:
        """Raises UserError for a comparison that finds nothing whatever the values are."""
        try:
            self.disjunction()
        except (Undecided, RecursionError):  # brackets within thousands of brackets
            return

    @property
    def next(self) -> Token:
        return self.tokens[self.place]

    def take(self, words: Iterable[str]) -> str:
        """The next token where it is one of these words, and nothing otherwise."""
        if self.next.kind == "text" or self.next.word not in words:
            return ""
        self.place += 1
        return self.tokens[self.place - 1].text

    def disjunction(self) -> Operand:
        found = self.conjunction()
        while self.take(OR):
            self.conjunction()
            found = UNKNOWN
        return found

    def conjunction(self) -> Operand:
        found = self.negation()
        while self.take(AND):
            self.negation()
            found = UNKNOWN
        return found

    def negation(self) -> Operand:
        if self.take(NOT):
            self.negation()
            return UNKNOWN
        return self.comparison()

    def comparison(self) -> Operand:
        """A value, or values that are compared; also 800 < time < 900."""
        left, found = self.sum(), None
        while True:
            if sign := self.take(COMPARISONS):
                right = self.sum()
                self.compare(left, sign, right)
                left, found = right, UNKNOWN
            elif self.take({"like"}):
                self.sum()
                if left.column and left.type == NUMBER:
                    raise UserError(f"{self.holds(left.column)}, and like compares text")
                found = UNKNOWN
            elif self.take({"is"}):
                self.take(NOT)
                self.take({"null"})
                found = UNKNOWN
            elif negated := self.negated_in():
                self.compare_with_list(left, negated)
                found = UNKNOWN
            else:
                return found or left

    def negated_in(self) -> str:
        """`in` or `not in`, where that is next."""
        start = self.place
        words = [self.take({"not"}), self.take({"in"})]
        if not words[1]:
            self.place = start
            return ""
        return " ".join(filter(None, words)).lower()

    def compare_with_list(self, left: Operand, word: str) -> None:
        if not self.take({"["}):
            raise Undecided
        values = []
        while not self.take({"]"}):
            values.append(self.sum())
            self.take({","})
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
                raise Undecided
            return inner
        if self.take({"$meta"}):
            return self.dynamic_field()
        token = self.next
        if token.kind == "end":
            raise Undecided
        self.place += 1
        if token.kind in ("text", "number"):
            return Operand(TEXT if token.kind == "text" else NUMBER, None, token.text)
        if token.kind == "name" and token.word in ("true", "false"):
            return Operand("truth", None, token.text)
        if token.kind == "name" and self.take({"("}):
            return self.call()
        if token.kind != "name" or self.next.text == "[" or token.word in WORDS - {"exists"}:
            raise Undecided
        if token.word == "exists":
            self.value()
            return UNKNOWN
        return Operand(type_of(self.columns.get(token.text, ())), token.text, token.text)

    def call(self) -> Operand:
        """What a function returns, which Milvus knows; its arguments are passed over."""
        depth = 1
        while depth:
            if self.next.kind == "end":
                raise Undecided
            depth += {"(": 1, ")": -1}.get(self.next.text, 0)
            self.place += 1
        return UNKNOWN

    def dynamic_field(self) -> Operand:
        """$meta["time"], the long form of time."""
        inside, name = self.take({"["}), self.next
        self.place += 1
        if not inside or name.kind != "text" or not self.take({"]"}):
            raise Undecided
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


class Undecided(Exception):
    """The rest of a filter is left to Milvus."""


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
