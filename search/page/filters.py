"""Filters of the page: choices of metadata, what makes several images one hit, and the condition that choices mean."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from search.grouping import ALIKE

MOST_VALUES, MOST_FILTERS = 200, 4


def build_filters(columns: Mapping[str, Sequence[Any]]) -> dict[str, gr.Dropdown]:
    """A choice for each column of metadata that has few values."""
    few = {name: values for name, values in columns.items() if len(values) <= MOST_VALUES}
    with gr.Row():
        return {
            name: gr.Dropdown([str(value) for value in values], multiselect=True, label=name, elem_id=f"filter-{name}")
            for name, values in list(few.items())[:MOST_FILTERS]
        }


def build_groups(columns: Mapping[str, Sequence[Any]]) -> gr.Dropdown:
    """A choice of what makes several images one hit."""
    choices = [("each image", ""), ("images that look the same", ALIKE), *((name, name) for name in columns)]
    return gr.Dropdown(choices, value="", label="One hit for", elem_id="group")


def condition(columns: Mapping[str, Sequence[Any]], chosen: Mapping[str, Sequence[str] | None]) -> str:
    """A filter for the chosen values (as text) of each column; no image passes that of an unknown value."""
    parts = []
    for name, wanted in chosen.items():
        if wanted:
            values = [value for value in columns[name] if str(value) in wanted]
            parts.append(f"{name} in {json.dumps(values, ensure_ascii=False)}")
    return " and ".join(parts)
