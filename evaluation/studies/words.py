"""The nouns, adjectives and attributes of a data set's captions, and their length.

A picture of data and not of a model: it says what a text encoder can learn from and what a query can be expected to
name. Words are counted by their part of speech as the attribute loss sees them (`dataset.attributes`): a colour before
a noun is an adjective. The length is that of the cleaned caption; attributes are those within the words that a model
reads (`max_words`).

Letters: C captions, N words shown.
"""

import argparse
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from tqdm import tqdm

from configs.loading import load_config
from configs.schema import Config, require_files
from dataset.annotation_entries import SPLITS
from dataset.annotations import load_annotations, read_captions
from dataset.attributes import cached_attributes, kind_of_word, load_spacy, worthwhile_processes
from dataset.captions import clean_caption, clean_caption_with_offsets
from evaluation.drawing.figures import COLORS, new_figure, save_figure, tidy
from evaluation.studies.study import Study, add_settings, study
from evaluation.tables import Row, markdown_table
from evaluation.trained import settings_of
from utils.checkpoints.exported import read_trained
from utils.checkpoints.named import checkpoint_path
from utils.errors import CommandParser, UserError
from utils.processes.parallel import map_in_order

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

KINDS = {"noun": "nouns", "adjective": "adjectives"}
PORTION = 256  # captions that a process parses at a time
BIN_COUNT = 30  # most bars of a histogram
MAX_WORDS = 100  # beyond it, bars are too thin to have a name
SHOWN = 10  # words of a kind in the printed table

logger = logging.getLogger(__name__)

Counts = dict[str, Counter[str]]  # kind of word -> word -> how often


def add_options(parser: CommandParser) -> None:
    parser.add_argument("--config", type=Path, help="YAML file that names the data set")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="trained weights, in place of --config")
    add_settings(parser, "settings on top of the YAML file")
    parser.add_argument("--split", default="train", choices=(*SPLITS, "all"), help="whose captions (%(default)s)")
    parser.add_argument("--most", type=int, default=25, metavar="N", help="words of each kind (%(default)s)")


def check(options: argparse.Namespace) -> None:
    """Raises UserError for options that do not fit."""
    if options.config is None and options.checkpoint is None:
        raise UserError("give --config, or --checkpoint of a run, to name the data set")
    if not 1 <= options.most <= MAX_WORDS:
        raise UserError(f"--most must be from 1 to {MAX_WORDS}, not {options.most}")


@study(add_options, results="studies/ in the folder of the checkpoint, else of the annotations")
def main(study: Study) -> None:
    """Count the words and attributes of all captions."""
    options = study.options
    check(options)
    config = open_config(options)
    captions = captions_of(files_of(config, options.split), config)
    beside = checkpoint_path(options.checkpoint) if options.config is None else next(iter(captions))
    study.choose_folder(beside.parent / "studies")
    every = [caption for some in captions.values() for caption in some]
    lengths = np.array([len(clean_caption(caption, None).split()) for caption in every])
    counts = count_words(every)
    attributes = np.fromiter(attributes_of(captions, config, study.folder), int)
    rows = word_rows(counts, options.most)
    title = f"{len(every):,} captions of {'all splits' if options.split == 'all' else f'the {options.split} split'}"
    draw(study.picture, counts, attributes, lengths, options.most, title)
    study.finish(
        rows,
        as_table(rows),
        split=options.split,
        files=list(captions),
        captions=len(every),
        max_words=config.max_words,
        different_words={kind: len(counter) for kind, counter in counts.items()},
        all_words={kind: counter.total() for kind, counter in counts.items()},
        attributes_per_caption=spread_of(attributes) | {"counts": histogram_of(attributes)},
        words_per_caption=spread_of(lengths) | {"counts": histogram_of(lengths)},
    )


# ---- captions --------------------------------------------------------------------------


def open_config(options: argparse.Namespace) -> Config:
    """The configuration that names the data set. Raises UserError when there is none."""
    if options.config is not None:
        return load_config(options.config, options.overrides)
    return settings_of(read_trained(options.checkpoint), None, options.overrides)


def files_of(config: Config, split: str) -> dict[Path, str]:
    """Annotation file -> its split. Raises UserError when one is not set or missing."""
    names = [split] if split != "all" else [name for name in SPLITS if getattr(config, f"{name}_file")]
    require_files(config, tuple(f"{name}_file" for name in names or SPLITS))
    files = {name: getattr(config, f"{name}_file") for name in names}
    return {Path(file): name for name, some in files.items() for file in ([some] if isinstance(some, str) else some)}


def captions_of(files: dict[Path, str], config: Config) -> dict[Path, list[str]]:
    """The captions of each file, read by the configured rules. Raises UserError when one is wrong."""
    entries = {
        file: read_captions(load_annotations(file, split), config.caption_rules) for file, split in files.items()
    }
    return {file: [caption for entry in of_file for caption in entry.captions] for file, of_file in entries.items()}


def attributes_of(captions: dict[Path, list[str]], config: Config, folder: Path) -> Iterable[int]:
    """The number of attributes of every caption, file by file."""
    for file, some in captions.items():
        found = cached_attributes(some, file, folder, config.max_words, config.attributes)
        yield from (len(found[caption]) for caption in some)


# ---- counting ------------------------------------------------------------------------


def count_words(captions: Sequence[str]) -> Counts:
    """How often each lower-case noun and adjective stands in the captions.

    Raises UserError when spaCy or its model is not installed.
    """
    nlp, _ = load_spacy()
    counts: Counts = {kind: Counter() for kind in KINDS}
    portions = [captions[start : start + PORTION] for start in range(0, len(captions), PORTION)]
    workers = worthwhile_processes(len(captions))
    with tqdm(total=len(captions), desc="counting words", unit="caption", leave=False) as progress:
        for portion, found in zip(portions, map_in_order(count_portion, portions, workers, (nlp,), True), strict=True):
            for kind, counter in found.items():
                counts[kind].update(counter)
            progress.update(len(portion))
    return counts


def count_portion(nlp: "Language", captions: Sequence[str]) -> Counts:
    """`count_words` of a few captions; the parser reads them with their punctuation, as attributes are found."""
    texts = (clean_caption_with_offsets(caption, None, keep_punctuation=True)[0] for caption in captions)
    counts: Counts = {kind: Counter() for kind in KINDS}
    for doc in nlp.pipe(texts, batch_size=PORTION):
        for word, kind in words_of(doc):
            counts[kind][word] += 1
    return counts


def words_of(doc: "Doc") -> Iterator[tuple[str, str]]:
    """The nouns and adjectives of a parsed caption: word and kind. A single letter (the t of t-shirt) is not a word."""
    roots = {token.i: chunk.root.i for chunk in doc.noun_chunks for token in chunk}
    for token in doc:
        kind = kind_of_word(token, roots.get(token.i))
        if kind and sum(map(str.isalpha, token.lower_)) > 1:
            yield token.lower_, kind


def most_frequent(counter: Counter[str], most: int) -> list[tuple[str, int]]:
    """The `most` most frequent words and their counts; equal counts in alphabetical order."""
    return sorted(counter.items(), key=lambda pair: (-pair[1], pair[0]))[:most]


def word_rows(counts: Counts, most: int) -> list[Row]:
    """A row for each frequent word; share: of all words of its kind, in per cent."""
    return [
        {"kind": kind, "rank": rank, "word": word, "count": count, "share": 100 * count / counter.total()}
        for kind, counter in counts.items()
        for rank, (word, count) in enumerate(most_frequent(counter, most), 1)
    ]


def spread_of(values: np.ndarray) -> dict[str, float | int]:
    """Mean, median, extremes and quartiles of values [C]."""
    low, quarter, half, three_quarters, high = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    return {
        "mean": float(values.mean()),
        "median": float(half),
        "least": int(low),
        "most": int(high),
        "first_quartile": float(quarter),
        "third_quartile": float(three_quarters),
    }


def histogram_of(values: np.ndarray) -> dict[str, int]:
    """How often each value of [C] occurs."""
    return {str(value): int(count) for value, count in zip(*np.unique(values, return_counts=True), strict=True)}


def as_table(rows: Sequence[Row]) -> str:
    """The first words of each kind side by side."""
    kinds = {kind: [row for row in rows if row["kind"] == kind][:SHOWN] for kind in KINDS}
    nothing = {"word": "-", "count": 0, "share": 0.0}
    table = []
    for index in range(max(map(len, kinds.values()))):
        line: dict[str, Any] = {"rank": index + 1}
        for kind, of_kind in kinds.items():
            row = of_kind[index] if index < len(of_kind) else nothing
            line |= {kind: row["word"], f"{kind} count": row["count"], f"{kind} %": row["share"]}
        table.append(line)
    return markdown_table(table)


# ---- the diagram -----------------------------------------------------------------------


def draw_words(axes: Axes, kind: str, counter: Counter[str], most: int, captions: int) -> None:
    """Bars of the most frequent words of a kind, the first one on top; per 100 captions."""
    words = most_frequent(counter, most)
    rates = [100 * count / captions for _, count in words]
    axes.barh(range(len(words)), rates, color=COLORS[list(KINDS).index(kind)], height=0.75)
    axes.set_yticks(range(len(words)), [word for word, _ in words], parse_math=False)
    axes.set_ylim(len(words) - 0.4, -0.6)
    tidy(axes, f"{len(words)} of {len(counter):,} {KINDS[kind]}", "per 100 captions", "")
    axes.grid(visible=False, axis="y")
    axes.set_axisbelow(True)


def draw_spread(axes: Axes, values: np.ndarray, x: str, color: str) -> None:
    """A histogram of whole numbers [C] with their mean and median."""
    width = max(1, int(np.ceil((values.max() - values.min() + 1) / BIN_COUNT)))
    edges = (np.arange(values.min(), values.max() + width + 1, width) - 0.5).tolist()
    axes.hist(values, edges, weights=np.full(len(values), 100 / len(values)), color=color, alpha=0.75, rwidth=0.9)
    mean, median = values.mean(), np.median(values)
    axes.axvline(mean, color="black", linewidth=1.4)
    axes.axvline(median, color="black", linewidth=1.4, linestyle="--")
    tidy(axes, f"mean {mean:.1f}, median {median:g} (dashed)", x, "% of captions")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_axisbelow(True)


def draw(path: Path, counts: Counts, attributes: np.ndarray, lengths: np.ndarray, most: int, title: str) -> None:
    """Words on the left, attributes and lengths of captions [C] on the right."""
    longest = max(len(most_frequent(counter, most)) for counter in counts.values())
    figure = new_figure(10, max(5.5, 1.6 + 0.22 * longest), title)
    grid = figure.add_gridspec(2, 3, width_ratios=(1, 1, 1.25))
    for column, (kind, counter) in enumerate(counts.items()):
        draw_words(figure.add_subplot(grid[:, column]), kind, counter, most, len(lengths))
    right = [figure.add_subplot(grid[row, 2]) for row in (0, 1)]
    draw_spread(right[0], attributes, "attributes of a caption", COLORS[2])
    draw_spread(right[1], lengths, "words of a caption", COLORS[3])
    save_figure(figure, path)
