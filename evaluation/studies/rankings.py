"""Queries with their ten best images, right or wrong, by one model or by two, one under the other.

Queries are picked by a rule: at random, those that gain most, those that lose most, or named ones. Gain and loss are
of average precision: of the second model against the first, or, of one model, of re-ranking against stage 1.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from dataset.evaluation_split import EvaluationSplit
from evaluation.drawing.sheet import MAX_ROWS, SheetRow, ranking_sheet
from evaluation.metrics import STAGE_NAMES, average_precision
from evaluation.stages.ranking import StageResult, rank_split
from evaluation.studies.study import ModelStudy, model_study
from evaluation.tables import Row, markdown_table
from utils.errors import CommandParser, UserError

RULES = ("random", "gain", "loss")
SHOWN_IMAGES = 10


def add_options(parser: CommandParser) -> None:
    parser.add_argument("--pick", choices=RULES, default="random", help="which queries (%(default)s)")
    parser.add_argument("--queries", type=int, default=8, help="how many are picked (%(default)s)")
    parser.add_argument("--captions", type=int, nargs="+", default=[], metavar="N", help="these, by number from 0")
    parser.add_argument("--identities", nargs="+", default=[], metavar="ID", help="all captions of these people")


@model_study(add_options, most=2)
def main(study: ModelStudy) -> None:
    """Rank the split by each model, and show the picked queries."""
    options, labels = study.options, study.labels
    most = MAX_ROWS // len(labels)
    if not 1 <= options.queries <= most:
        raise UserError(f"--queries must be from 1 to {most}, not {options.queries}")
    chosen = named(study.split, options.captions, options.identities)
    found = {
        name: rank_split(trained.model, study.splits[name], trained.setting) for name, trained in study.models.items()
    }
    results = {name: list(stages.values())[-1] for name, stages in found.items()}
    # two models are compared, or the stages of one
    compared = list(results.values()) if len(labels) > 1 else list(found[labels[0]].values())
    before, after = precision_of(compared[0]), precision_of(compared[-1])
    chosen = chosen or pick(options.pick, options.queries, after - before, study.seed)
    if not chosen:
        raise UserError(f"--pick {options.pick}: no caption has one; choose another rule")
    drawn, table = rows_of(study.split, results, chosen[:most])
    stage = STAGE_NAMES[list(found[labels[0]])[-1]]
    ranking_sheet(drawn, study.picture, SHOWN_IMAGES, f"{' above '.join(labels)}, {stage}")
    picked = [{"caption": index, "before": float(before[index]), "after": float(after[index])} for index in chosen]
    study.finish(table, markdown_table(picked), pick=options.pick, average_precision=picked)


def precision_of(result: StageResult) -> np.ndarray:
    """Average precision of each caption [C], per cent."""
    return 100 * average_precision(result.ranks.cpu()).numpy()


def pick(rule: str, count: int, change: np.ndarray, seed: int) -> list[int]:
    """`count` captions by a rule; change [C]: of average precision, by which gains and losses are ordered.

    Equal changes keep the order of the captions. What did not gain (or lose) is not picked.
    """
    if rule == "random":
        return sorted(np.random.default_rng(seed).permutation(len(change))[:count].tolist())
    gains = change if rule == "gain" else -change
    order = np.argsort(-gains, kind="stable")[:count]
    return order[gains[order] > 0].tolist()


def named(split: EvaluationSplit, captions: Sequence[int], identities: Sequence[str]) -> list[int]:
    """The captions of these numbers and of these people. Raises UserError for those that are not there."""
    wrong = [number for number in captions if not 0 <= number < len(split.texts)]
    if wrong:
        raise UserError(f"--captions: there is no caption {wrong[0]}; they are numbered 0 to {len(split.texts) - 1}")
    names = [str(identity) for identity in split.identities]
    unknown = [identity for identity in identities if identity not in names]
    if unknown:
        raise UserError(f"--identities: there is no person {unknown[0]} in this split")
    wanted = {names.index(identity) for identity in identities}
    of_people = [index for index, person in enumerate(split.caption_identity.tolist()) if person in wanted]
    return list(dict.fromkeys([*captions, *of_people]))


def sheet_row(split: EvaluationSplit, result: StageResult, caption: int, note: str, with_caption: bool) -> SheetRow:
    """One caption with its best images."""
    person, indices = split.caption_identity[caption], result.indices[caption, :SHOWN_IMAGES].cpu()
    return SheetRow(
        caption=split.texts[caption] if with_caption else "",
        identity=str(split.identities[int(person)]),
        image_paths=[split.image_root / split.images[index] for index in indices.tolist()],
        right=(split.image_identity[indices] == person).tolist(),
        scores=result.scores[caption, :SHOWN_IMAGES].tolist(),
        note=note,
    )


def rows_of(
    split: EvaluationSplit, results: Mapping[str, StageResult], chosen: Sequence[int]
) -> tuple[list[SheetRow], list[Row]]:
    """Rows of the sheet, one for each chosen caption and result, and of the table, one for each image in them."""
    drawn: list[SheetRow] = []
    table: list[Row] = []
    for caption in chosen:
        for number, (name, result) in enumerate(results.items()):
            row = sheet_row(split, result, caption, name if len(results) > 1 else "", with_caption=number == 0)
            drawn.append(row)
            query = {"caption": caption, "identity": row.identity, "text": split.texts[caption], "model": name}
            for rank, (path, right, score) in enumerate(row.ranked(), 1):
                table.append({**query, "rank": rank, "image": str(path), "right": right, "score": score})
    return drawn, table
