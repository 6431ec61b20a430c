"""Edits captions against their person, and measures how far the person falls behind.

What does a wrong colour cost, a contradiction ("a red coat and a blue coat"), a vague or a missing attribute? Each edit
changes those captions that allow it, and the same captions are ranked before and after. `repeated` says an attribute
twice, truthfully: what a contradiction costs beyond it is not the price of more words. Captions that would grow beyond
what a model reads are left out of an edit, and counted. The edits: `evaluation.studies.caption_edits`.

Letters: C captions, P right images of the caption that has most.
"""

import argparse
import logging
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from dataset.attributes import Attribute
from dataset.captions import clean_caption
from dataset.evaluation_split import EvaluationSplit
from evaluation.drawing.figures import COLORS, MARKERS, new_figure, save_figure, tidy
from evaluation.metrics import STAGE_NAMES
from evaluation.statistics import estimate
from evaluation.studies.caption_edits import (
    EDITS,
    Choice,
    EditableCaption,
    Palette,
    choose,
    fits,
    make_editable,
    what_is_read,
)
from evaluation.studies.comparison import (
    INTERVAL,
    as_columns,
    estimates_of,
    final_stage,
    first_right,
    open_attributes,
    open_same_split,
    p_values,
    people_of,
    rank_by,
)
from evaluation.studies.study import (
    Row,
    labels_of,
    markdown_table,
    open_models,
    open_output,
    study_parser,
    tell,
    write_table,
)
from evaluation.trained import TrainedModel
from utils.errors import UserError

NAME = "contradiction"
TITLES = {
    "wrong": "one wrong colour",
    "contradicted": "one contradicted",
    "repeated": "one said twice",
    "vague-1": "one vague",
    "vague-2": "two vague",
    "vague-all": "all vague",
    "dropped-1": "one dropped",
    "dropped-half": "half dropped",
    "dropped-rest": "all but one dropped",
}
LINE = 112  # characters in a line of the example below the picture
MOST_EXAMPLES = 100

logger = logging.getLogger(__name__)


@dataclass
class Edited:
    """Captions of one edit. places: of the captions in the split; texts: after it; too_long: left out."""

    places: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    too_long: int = 0


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Raises UserError for options that do not fit."""
    parser = study_parser(NAME, __doc__, most=None)
    parser.add_argument("--edits", nargs="+", choices=tuple(EDITS), default=tuple(EDITS), help="default: all")
    parser.add_argument(
        "--examples", type=int, default=5, metavar="N", help="captions of each edit in the JSON file (%(default)s)"
    )
    options = parser.parse_args(arguments)
    labels_of(options)
    if not 0 <= options.examples <= MOST_EXAMPLES:
        raise UserError(f"--examples must be from 0 to {MOST_EXAMPLES}, not {options.examples}")
    options.edits = [name for name in EDITS if name in options.edits]
    return options


# ---- editing ----


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
    """What the edits of each caption [C] take and put; people [C]: number of its person."""
    palette = Palette(zip(captions, people, strict=True))
    return [
        choose(caption, person, palette, seed, place)
        for place, (caption, person) in enumerate(zip(captions, people, strict=True))
    ]


def edit_captions(
    name: str, captions: Sequence[EditableCaption], choices: Sequence[Choice], readers: Readers
) -> Edited:
    """The captions that allow an edit and have room for it."""
    edited = Edited()
    for place, (caption, choice) in enumerate(zip(captions, choices, strict=True)):
        words = EDITS[name](caption, choice)
        if words is None:
            continue
        text = " ".join(words)
        if readers.fits(text):
            edited.places.append(place)
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
            logger.info("%s: %d captions have no room for it and are left out", name, edited.too_long)
        if not edited.places:
            logger.warning("%s: no caption allows this edit, or has room for it; it is left out", name)
    edits = {name: edited for name, edited in edits.items() if edited.places}
    if not edits:
        raise UserError(
            f"--edits: no caption of the {options.split} split has attributes for {' '.join(options.edits)}, or room"
            " within max_words; name other edits"
        )
    return edits


# ---- measuring ----


def rank_edits(
    model: TrainedModel, split: EvaluationSplit, captions: Sequence[EditableCaption], edits: Mapping[str, Edited]
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Ranks by stage of all captions as they are [C, P], and by edit and stage of those that it changes.

    One pass: every image of the gallery is read once for all captions, edited or not.
    """
    places, texts = list(range(len(captions))), [caption.text for caption in captions]
    for edited in edits.values():
        places += edited.places
        texts += edited.texts
    every = split.of_captions(places).with_texts(texts, model.tokenizer, model.config.max_words)
    sizes = [len(captions), *(len(edited.places) for edited in edits.values())]
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
    edits: Mapping[str, Edited],
    people: np.ndarray,
    seed: int,
) -> list[Row]:
    """A row for each edit and stage of one model."""
    return [
        {
            "model": label,
            "edit": name,
            "stage": stage,
            "captions": len(ranks),
            "too_long": edits[name].too_long,
            **compare(before[stage][edits[name].places], ranks, people[edits[name].places], seed),
        }
        for name, stages in after.items()
        for stage, ranks in stages.items()
    ]


def printed(rows: Sequence[Row]) -> str:
    """What each edit costs in one stage."""
    return markdown_table(
        [
            {
                "model": row["model"],
                "edit": row["edit"],
                "captions": row["captions"],
                "R@1": row["r1_before"],
                "R@1 after": row["r1_after"],
                "p": f"{row['p_r1']:.4f}",
                "mAP": row["mAP_before"],
                "mAP after": row["mAP_after"],
                "falls behind %": row["falls_behind"],
                "loses rank 1 %": row["loses_first"],
            }
            for row in rows
        ]
    )


# ---- drawing ----


def draw_points(axes: Axes, rows: Sequence[Row], hollow: str, filled: str) -> None:
    """Two values of each edit and model, by their columns, with a line between them; rows are those of one stage."""
    edits, models = (list(dict.fromkeys(row[key] for row in rows)) for key in ("edit", "model"))
    for row in rows:
        number = models.index(row["model"])
        y = edits.index(row["edit"]) + (number - (len(models) - 1) / 2) * 0.7 / len(models)
        color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        axes.plot([row[hollow], row[filled]], [y, y], color=color, linewidth=1, alpha=0.5)
        for column, face in ((hollow, "white"), (filled, color)):
            reach = [[row[column] - row[f"{column}_low"]], [row[f"{column}_high"] - row[column]]]
            label = row["model"] if row["edit"] == edits[0] and column == filled else None
            axes.errorbar(
                row[column],
                y,
                xerr=reach,
                color=color,
                marker=marker,
                markerfacecolor=face,
                markersize=6,
                linewidth=1,
                capsize=2,
                linestyle="none",
                label=label,
            )
    axes.set_yticks(range(len(edits)), [TITLES[edit] for edit in edits])
    axes.set_ylim(len(edits) - 0.5, -0.5)


def draw_example(axes: Axes, caption: str, texts: Mapping[str, str]) -> None:
    """One caption before and after each edit, as text."""
    axes.axis("off")
    lines = {"as it is": caption, **{TITLES[name]: text for name, text in texts.items()}}
    wrapped = {name: textwrap.wrap(text, LINE, max_lines=2, placeholder=" ...") for name, text in lines.items()}
    total = sum(len(parts) + 0.4 for parts in wrapped.values())
    y = 1.0
    for name, parts in wrapped.items():
        weight = "bold" if name == "as it is" else "normal"
        axes.text(0, y, name, va="top", weight="bold", fontsize="small")
        axes.text(0.19, y, "\n".join(parts), va="top", weight=weight, fontsize="small", parse_math=False)
        y -= (len(parts) + 0.4) / total


def example_of(captions: Sequence[EditableCaption], edits: Mapping[str, Edited]) -> tuple[str, dict[str, str]]:
    """The shortest caption that most edits change, and its texts after them."""
    texts: dict[int, dict[str, str]] = {}
    for name, edited in edits.items():
        for place, text in zip(edited.places, edited.texts, strict=True):
            texts.setdefault(place, {})[name] = text
    # of four attributes, one, half and all but one are different numbers
    best = min(
        texts,
        key=lambda place: (-len(texts[place]), len(captions[place].attributes) < 4, len(captions[place].text), place),
    )
    return captions[best].text, texts[best]


def draw(path: Path, rows: Sequence[Row], example: tuple[str, dict[str, str]], title: str) -> None:
    """R@1 before and after each edit, how often the right person falls behind, and an example below."""
    edits, models = (len({row[key] for row in rows}) for key in ("edit", "model"))
    high = max(2.5, 1.2 + edits * (0.28 + 0.14 * models))
    low = 0.4 + 0.3 * (1 + len(example[1]))
    figure = new_figure(10, high + low, title)
    above, below = figure.subfigures(2, 1, height_ratios=(high, low))
    left, right = above.subplots(1, 2, sharey=True)
    draw_points(left, rows, "r1_before", "r1_after")
    draw_points(right, rows, "loses_first", "falls_behind")
    tidy(left, "R@1\nhollow: before, filled: after", "per cent", "")
    tidy(right, "right person\nhollow: loses rank 1, filled: falls behind", "per cent of captions", "")
    if models > 1:
        above.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=min(4, models), frameon=False)
    draw_example(below.subplots(), *example)
    save_figure(figure, path)


# ---- the command ----


def examples_of(captions: Sequence[EditableCaption], edits: Mapping[str, Edited], most: int) -> dict[str, list[Row]]:
    """The first captions of each edit, before and after."""
    return {
        name: [
            {"before": captions[place].text, "after": text}
            for place, text in zip(edited.places[:most], edited.texts[:most], strict=True)
        ]
        for name, edited in edits.items()
    }


def main(arguments: list[str] | None = None) -> None:
    """The command. Raises UserError when options, a checkpoint or the data are wrong."""
    options = parse_options(arguments)
    folder = open_output(options, options.checkpoint[0].parent)
    models = open_models(options)
    splits = open_same_split(models, options.split)
    split, readers = next(iter(splits.values())), Readers(models)
    attributes = open_attributes(next(iter(models.values())), split, options.split, folder)
    captions, people = editable_captions(split.texts, attributes, readers), people_of(split)
    choices = choices_for(captions, people.tolist(), options.seed)
    edits = edit_split(options, captions, choices, readers)
    ranks = {label: rank_edits(model, splits[label], captions, edits) for label, model in models.items()}
    rows = [
        row
        for label, (before, after) in ranks.items()
        for row in rows_of(label, before, after, edits, people, options.seed)
    ]
    stage = final_stage(before for before, _ in ranks.values())
    last = [row for row in rows if row["stage"] == stage]
    title = f"{STAGE_NAMES[stage]}, {INTERVAL}"
    draw(folder / f"{NAME}.png", last, example_of(captions, edits), title)
    write_table(
        folder,
        NAME,
        rows,
        split=options.split,
        checkpoints=options.checkpoint,
        seed=options.seed,
        captions=len(captions),
        examples=examples_of(captions, edits, options.examples),
    )
    tell(folder, NAME, printed(last))
