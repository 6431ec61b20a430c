"""Filters of the page: cameras, other choices, times from and to, a condition in words, and what makes one hit."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from search.gallery.filters import NUMBER, TEXT, Columns, check_filter, described, is_number, type_of
from search.gallery.grouping import ALIKE
from search.milvus.literals import literal, literals
from search.serving.api import MAX_FILTER
from utils.errors import UserError

MAX_VALUES, MAX_CHOICES, MAX_TIMES = 200, 4, 2
CAMERAS = ("camera", "cameras", "camera_id", "cam", "device")  # what comes first, in any case
TIMES = ("time", "timestamp", "datetime", "date", "second", "seconds", "frame")
# text whose order is that of time: dates, with times or without, and times of a day, as far as they are written
MOMENT = re.compile(
    r"\d{4}(-\d\d(-\d\d([T ]\d\d(:\d\d(:\d\d(\.\d+)?)?)?(Z|[+-]\d\d:?\d\d)?)?)?)?|\d\d:\d\d(:\d\d(\.\d+)?)?", re.ASCII
)

Parts = Sequence[gr.Dropdown | gr.Textbox]


class Filters:
    """What one may filter by: choices, columns of few values; times, columns of which one may name first and last."""

    def __init__(self, columns: Columns):
        self.times = [name for name in columns if name.lower() in TIMES and tells_time(columns[name])][:MAX_TIMES]
        few = [name for name, values in columns.items() if name not in self.times and len(values) <= MAX_VALUES]
        self.choices = sorted(few, key=lambda name: name.lower() not in CAMERAS)[:MAX_CHOICES]

    def build(self, columns: Columns) -> Parts:
        """The fields, in the order in which `where` takes their values."""
        with gr.Row():
            choices = [build_choice(name, columns[name]) for name in self.choices]
        times = []
        for name in self.times:
            with gr.Row():
                times += [build_bound(name, end, columns[name][index]) for end, index in (("from", 0), ("to", -1))]
        about = "Names of metadata compared with values" if columns else "This gallery has no metadata to filter by"
        example = f"such as: {example_of(columns)}" if columns else ""
        words = gr.Textbox(
            label="Filter in words",
            info=f"{about}{', ' if example else ''}{example}",
            max_length=MAX_FILTER,
            elem_id="where",
            interactive=bool(columns),
        )
        return [*choices, *times, words]

    def choices_of(self, columns: Columns) -> list[gr.Dropdown]:
        """What may be chosen by now, of what makes one hit and of the choices; what is chosen stays."""
        values = [columns.get(name, ()) for name in self.choices]
        return [gr.Dropdown(group_choices(columns)), *(gr.Dropdown([str(one) for one in few]) for few in values)]

    def where(self, columns: Columns, values: Sequence[Any]) -> str:
        """The filter for what stands in the fields. Raises UserError for what cannot be compared."""
        *values, words = values
        count = len(self.choices)
        parts = [in_brackets(words or "", columns)]
        parts.append(condition(columns, dict(zip(self.choices, values[:count], strict=True))))
        ends = zip(values[count::2], values[count + 1 :: 2], strict=True)
        parts += [between(name, columns.get(name, ()), *bounds) for name, bounds in zip(self.times, ends, strict=True)]
        return " and ".join(part for part in parts if part)


def build_choice(name: str, values: Sequence[Any]) -> gr.Dropdown:
    """A choice of several values of a column."""
    return gr.Dropdown([str(value) for value in values], multiselect=True, label=name, elem_id=f"filter-{name}")


def build_bound(name: str, end: str, example: Any) -> gr.Textbox:
    """The first or last value of a column that is wanted; end: from or to."""
    return gr.Textbox(label=f"{name} {end}", placeholder=str(example), max_length=100, elem_id=f"filter-{name}-{end}")


def build_groups(columns: Columns) -> gr.Dropdown:
    """A choice of what makes several images one hit."""
    return gr.Dropdown(group_choices(columns), value="", label="One hit for", elem_id="group")


def group_choices(columns: Columns) -> list[tuple[str, str]]:
    """What one may choose as what makes one hit, with its value."""
    return [("each image", ""), ("images that look the same", ALIKE), *((name, name) for name in columns)]


# ---- what they mean --------------------------------------------------------------------


def tells_time(values: Sequence[Any]) -> bool:
    """Whether the order of values is that of time: numbers, or text of the form of `MOMENT`."""
    texts = type_of(values) == TEXT and all(MOMENT.fullmatch(value) for value in values)
    return texts or type_of(values) == NUMBER


def example_of(columns: Columns) -> str:
    """A condition on the first column."""
    name, values = next(iter(columns.items()))
    return f"{name} == {literal(values[0])}"


def in_brackets(words: str, columns: Columns) -> str:
    """A filter that somebody wrote, to be joined with others. Raises UserError when it is none, or too long."""
    if len(words) > MAX_FILTER:
        raise UserError(f"the filter in words has {len(words)} characters; the most are {MAX_FILTER}")
    return f"({words.strip()})" if check_filter(words, columns) else ""


def condition(columns: Columns, chosen: Mapping[str, Sequence[str] | None]) -> str:
    """A filter for the chosen values (as text) of each column; no image passes that of an unknown value."""
    parts = []
    for name, wanted in chosen.items():
        if wanted:
            values = [value for value in columns.get(name, ()) if str(value) in wanted]
            parts.append(f"{name} in {literals(values)}")
    return " and ".join(parts)


def between(name: str, values: Sequence[Any], first: str | None, last: str | None) -> str:
    """A filter for values from `first` to `last`, both of them included, each as it was typed and empty for none.

    A date without a time, as `last`, includes the whole day. Raises UserError for what is written otherwise than the
    values of the column.
    """
    if not values and any((text or "").strip() for text in (first, last)):
        raise UserError(f"no image has {name} any more; leave {name} from and to empty")
    bounds = [bound(name, values, end, text or "") for end, text in (("from", first), ("to", last))]
    parts = [f"{name} >= {bounds[0]}"] if bounds[0] else []
    if bounds[1] and type_of(values) == TEXT:
        parts.append(f'({name} <= {bounds[1]} or {name} like {bounds[1][:-1]}%")')
    elif bounds[1]:
        parts.append(f"{name} <= {bounds[1]}")
    return " and ".join(parts)


def bound(name: str, values: Sequence[Any], end: str, text: str) -> str:
    """One end as a filter writes it; empty for none. Raises UserError, as `between`."""
    text = text.strip()
    if not text:
        return ""
    of_text = type_of(values) == TEXT
    if not (MOMENT.fullmatch(text) if of_text else is_number(text)):
        raise UserError(f"{name} {end}: {described(name, values)}, and is not compared with {text!r}")
    return literal(text) if of_text else text
