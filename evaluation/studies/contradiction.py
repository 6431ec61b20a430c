"""Wrong, contradicted and vague captions: how far does the right person fall behind?

What does a wrong colour cost, a contradiction ("a red coat and a blue coat"), a vague or a missing attribute? Each edit
changes those captions that allow it, and the same captions are ranked before and after. `repeated` says an attribute
twice, truthfully: what a contradiction costs beyond it is not the price of more words. Captions that would grow beyond
what a model reads are left out of an edit, and counted. The edits: `evaluation.studies.caption_edits`.

Letters: C captions, P right images of the caption that has most.
"""

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from dataset.attributes import Attribute
from dataset.captions import clean_caption
from dataset.evaluation_split import EvaluationSplit
from evaluation.metrics import STAGE_NAMES
from evaluation.statistics import estimate
from evaluation.studies.caption_edits import EDITS, Choice, Palette, choose
from evaluation.studies.comparison import (
    INTERVAL,
    as_columns,
    estimates_of,
    final_stage,
    first_right,
    p_values,
    people_of,
    rank_by,
)
from evaluation.studies.contradiction_diagram import draw
from evaluation.studies.editable_captions import EditableCaption, fits, make_editable, what_is_read
from evaluation.studies.study import ModelStudy, model_study
from evaluation.tables import Row, markdown_table
from evaluation.trained import TrainedModel
from utils.errors import CommandParser, UserError
from utils.text import counted

MAX_EXAMPLES = 100

logger = logging.getLogger(__name__)


@dataclass
class Edited:
    """Captions of one edit. indices: of the captions in the split; texts: after it; too_long: how many are left out."""

    indices: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    too_long: int = 0


Edits = Mapping[str, Edited]


def add_options(parser: CommandParser) -> None:
    names = tuple(EDITS)
    parser.add_argument("--edits", nargs="+", choices=names, default=names, help="default: all")
    about = "captions of each edit in the JSON file (%(default)s)"
    parser.add_argument("--examples", type=int, default=5, metavar="N", help=about)


def check(options: argparse.Namespace) -> None:
    """Order the options. Raises UserError for those that do not fit."""
    if not 0 <= options.examples <= MAX_EXAMPLES:
        raise UserError(f"--examples must be from 0 to {MAX_EXAMPLES}, not {options.examples}")
    options.edits = [name for name in EDITS if name in options.edits]


@model_study(add_options)
def main(study: ModelStudy) -> None:
    """Rank the captions as they are and after each edit."""
    check(study.options)
    readers = Readers(study.models)
    captions, people = editable_captions(study.split.texts, study.attributes, readers), people_of(study.split)
    choices = choices_for(captions, people.tolist(), study.seed)
    edits = edit_split(study.options, captions, choices, readers)
    ranks = {label: rank_edits(model, study.splits[label], captions, edits) for label, model in study.models.items()}
    rows = [
        row
        for label, (before, after) in ranks.items()
        for row in rows_of(label, before, after, edits, people, study.seed)
    ]
    stage = final_stage(before for before, _ in ranks.values())
    last = [row for row in rows if row["stage"] == stage]
    draw(study.picture, last, example_of(captions, edits), f"{STAGE_NAMES[stage]}, {INTERVAL}")
    examples = examples_of(captions, edits, study.options.examples)
    study.finish(rows, printed(last), **study.origin(), captions=len(captions), examples=examples)


# ---- editing ---------------------------------------------------------------------------


class Readers:
    """How several models read captions: a text is as long as the one that reads least has it."""

    def __init__(self, models: Mapping[str, TrainedModel]):
        self.limits = [(model.tokenizer, model.config.max_words) for model in models.values()]

    def read(self, text: str) -> str:
        """The cleaned caption as far as every model reads it."""
        for tokenizer, max_words in self.limits:
            text = what_is_read(text, tokenizer, max_words)
        return text

    def fits(self, text: str) -> bool:
        """True when every model reads the whole text."""
        return all(fits(text, *limit) for limit in self.limits)


def editable_captions(
    texts: Sequence[str], attributes: Mapping[str, Sequence[Attribute]], readers: Readers
) -> list[EditableCaption]:
    """Every caption [C] as it is read, with the attributes that can be edited."""
    captions = []
    for text in texts:
        read = readers.read(text)
        captions.append(make_editable(read, read == clean_caption(text, None), attributes[text]))
    return captions


def choices_for(captions: Sequence[EditableCaption], people: Sequence[int], seed: int) -> list[Choice]:
    """What the edits of each caption [C] replace, and by what; people [C]: number of its person."""
    pairs = list(zip(captions, people, strict=True))
    palette = Palette(pairs)
    return [choose(caption, person, palette, seed, index) for index, (caption, person) in enumerate(pairs)]


def edit_captions(
    name: str, captions: Sequence[EditableCaption], choices: Sequence[Choice], readers: Readers
) -> Edited:
    """The captions that allow an edit and have room for it."""
    edited = Edited()
    for index, (caption, choice) in enumerate(zip(captions, choices, strict=True)):
        words = EDITS[name](caption, choice)
        if words is None:
            continue
        text = " ".join(words)
        if readers.fits(text):
            edited.indices.append(index)
            edited.texts.append(text)
        else:
            edited.too_long += 1
    return edited


def edit_split(
    options: argparse.Namespace, captions: Sequence[EditableCaption], choices: Sequence[Choice], readers: Readers
) -> dict[str, Edited]:
    """The edits that any caption allows. Raises UserError when there is none."""
    edits = {name: edit_captions(name, captions, choices, readers) for name in options.edits}
    for name, edited in edits.items():
        if edited.too_long:
            logger.info("%s: left out for want of room: %s", name, counted(edited.too_long, "caption"))
        if not edited.indices:
            logger.warning("%s: no caption allows this edit, or has room for it; it is left out", name)
    edits = {name: edited for name, edited in edits.items() if edited.indices}
    if not edits:
        raise UserError(
            f"--edits: no caption of the {options.split} split has attributes for {' '.join(options.edits)}, or room"
            " within max_words; name other edits"
        )
    return edits


# ---- measuring -------------------------------------------------------------------------


def rank_edits(
    model: TrainedModel, split: EvaluationSplit, captions: Sequence[EditableCaption], edits: Edits
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Ranks by stage of all captions as they are [C, P], and by edit and stage of those that it changes.

    One pass: every image of the gallery is read once for all captions, edited or not.
    """
    indices, texts = list(range(len(captions))), [caption.text for caption in captions]
    for edited in edits.values():
        indices += edited.indices
        texts += edited.texts
    every = split.of_captions(indices).with_texts(texts, model.tokenizer, model.config.max_words)
    sizes = [len(captions), *(len(edited.indices) for edited in edits.values())]
    before: dict[str, Tensor] = {}
    after: dict[str, dict[str, Tensor]] = {name: {} for name in edits}
    for stage, ranks in rank_by(model, every).items():
        before[stage], *parts = ranks.split(sizes)
        for name, part in zip(edits, parts, strict=True):
            after[name][stage] = part
    return before, after


def compare(before: Tensor, after: Tensor, people: np.ndarray, seed: int) -> Row:
    """Metrics of the same captions [C, P] before and after an edit, and how often the right person falls behind.

    falls_behind, loses_first: per cent of captions whose first right image has a worse rank, or had rank 1 and has not.
    """
    was, now = first_right(before), first_right(after)
    shares = {
        "falls_behind": estimate(100 * (now > was).double().numpy(), people, seed),
        "loses_first": estimate(100 * ((was == 1) & (now > 1)).double().numpy(), people, seed),
    }
    return {
        **as_columns(estimates_of(before, people, seed), "_before"),
        **as_columns(estimates_of(after, people, seed), "_after"),
        **p_values(before, after, people, seed),
        **as_columns(shares),
    }


def rows_of(
    label: str,
    before: Mapping[str, Tensor],
    after: Mapping[str, Mapping[str, Tensor]],
    edits: Edits,
    people: np.ndarray,
    seed: int,
) -> list[Row]:
    """A row for each edit and stage of one model."""
    rows: list[Row] = []
    for name, stages in after.items():
        own = edits[name].indices
        for stage, ranks in stages.items():
            known = {"model": label, "edit": name, "stage": stage, "captions": len(ranks)}
            found = compare(before[stage][own], ranks, people[own], seed)
            rows.append({**known, "too_long": edits[name].too_long, **found})
    return rows


def printed(rows: Sequence[Row]) -> str:
    """What each edit costs in one stage."""
    columns = {"model": "model", "edit": "edit", "captions": "captions", "R@1": "r1_before", "R@1 after": "r1_after"}
    columns |= {"p": "p_r1", "mAP": "mAP_before", "mAP after": "mAP_after"}
    columns |= {"falls behind %": "falls_behind", "loses rank 1 %": "loses_first"}
    lines = [{title: row[column] for title, column in columns.items()} for row in rows]
    return markdown_table([{**line, "p": f"{line['p']:.4f}"} for line in lines])


# ---- examples --------------------------------------------------------------------------


def example_of(captions: Sequence[EditableCaption], edits: Edits) -> tuple[str, dict[str, str]]:
    """The shortest caption that most edits change, and its texts after them."""
    texts: dict[int, dict[str, str]] = {}
    for name, edited in edits.items():
        for index, text in zip(edited.indices, edited.texts, strict=True):
            texts.setdefault(index, {})[name] = text

    def order(index: int) -> tuple[int, bool, int, int]:
        # of four attributes, one, half and all but one are different numbers
        few_attributes = len(captions[index].attributes) < 4
        return -len(texts[index]), few_attributes, len(captions[index].text), index

    best = min(texts, key=order)
    return captions[best].text, texts[best]


def examples_of(captions: Sequence[EditableCaption], edits: Edits, most: int) -> dict[str, list[Row]]:
    """The first captions of each edit, before and after."""
    return {
        name: [
            {"before": captions[index].text, "after": text}
            for index, text in zip(edited.indices[:most], edited.texts[:most], strict=True)
        ]
        for name, edited in edits.items()
    }
