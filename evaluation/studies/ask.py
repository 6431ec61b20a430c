"""How many people come first once a few questions about them are answered?

A truthful person answers for each caption of the test split. Each next question is the one whose answer is expected to
tell the best images of the search apart best, by what the model sees in them (docs/describe.md), and is not about what
the caption says; `random` draws it from all that may be asked. What people have is known of drawn ones alone
(`python -m dataset.synthetic`): of other data the study says so and ends. Calibrations are those of the checkpoint, or,
where it has none, fitted on its validation split for this study alone. The rows of `description` say how often what the
model sees is true.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset.evaluation_split import EvaluationSplit
from evaluation.description.asking import (
    AnswerWord,
    Beliefs,
    Question,
    best_question,
    open_questions,
    update_beliefs,
)
from evaluation.description.meaning import probabilities_of
from evaluation.description.mentions import mentioned_categories
from evaluation.description.phrases import PhraseTable, read_phrase_table
from evaluation.description.truth import DOES_NOT_APPLY, UNKNOWN, read_truth
from evaluation.drawing.figures import draw_estimates, legend_of_models, new_figure, save_figure, tidy
from evaluation.metrics import METRIC_NAMES
from evaluation.stages.ranking import StageResult, rank_split
from evaluation.statistics import Estimate
from evaluation.studies.comparison import INTERVAL, as_columns, estimates_of, open_same_split, p_values, people_of
from evaluation.studies.described import add_phrases, attributes_for, rows_of, score_split
from evaluation.studies.open_searches import calibration_for
from evaluation.studies.study import ModelStudy, model_study
from evaluation.tables import Row, markdown_table
from evaluation.trained import TrainedModel
from utils.errors import CommandParser, UserError

MEASURED_ON = "test"
AMONG = 20  # best images that questions are about
WAYS = ("informative", "random")
SUREST = 1e-9  # how close to 0 or 1 a probability of the search may be
MAX_ANSWERS = 20
DRAWN = ("r1", "mAP")


def add_options(parser: CommandParser) -> None:
    parser.add_argument("--answers", type=int, default=2, metavar="N", help="questions that are answered (%(default)s)")
    among = "best images that questions are about, of those that are re-ranked (%(default)s)"
    parser.add_argument("--among", type=int, default=AMONG, metavar="N", help=among)
    words = "cut captions after so many words, as of somebody who says little (default: whole captions)"
    parser.add_argument("--words", type=int, metavar="N", help=words)
    add_phrases(parser)


@dataclass(frozen=True)
class Searches:
    """The searches of a split: what is asked about, who answers, and what is true of them.

    indices, log_odds [C, N]: the best images of each caption, and how likely each is right. options: of each category
    [G, K]. truth: of each category [G]; owner [C]: an image of the person of a caption.
    """

    table: PhraseTable
    texts: Sequence[str]
    indices: np.ndarray
    log_odds: np.ndarray
    options: Mapping[str, np.ndarray]
    truth: Mapping[str, np.ndarray]
    owner: np.ndarray

    def begin(self, caption: int) -> Beliefs:
        """What is known before a question."""
        options = {name: found[self.indices[caption]] for name, found in self.options.items()}
        return Beliefs(
            self.log_odds[caption], options, frozenset(mentioned_categories(self.table, self.texts[caption]))
        )

    def answer(self, caption: int, question: Question) -> AnswerWord:
        """What the person of a caption truly says."""
        return true_answer(self.table, question, int(self.truth[question.category][self.owner[caption]]))


@model_study(add_options, any_split=False)
def main(study: ModelStudy) -> None:
    """Search the test split by every model, and let its people answer questions."""
    count, among = study.options.answers, study.options.among
    if not 1 <= count <= MAX_ANSWERS or among < 2:
        raise UserError(f"--answers must be from 1 to {MAX_ANSWERS}, --among 2 or more")
    if study.options.words is not None and study.options.words < 1:
        raise UserError("--words must be 1 or more")
    table = read_phrase_table(study.options.phrases)
    splits = open_same_split(study.models, MEASURED_ON)
    rows, description, facts = list[Row](), list[Row](), dict[str, Any]()
    for label, model in study.models.items():
        split = cut(splits[label], model, study.options.words)
        truth = read_truth(table, split, model.config, MEASURED_ON)
        calibrations, own = attributes_for(model, table)
        evidence = score_split(model, split, table)
        people = split.image_identity.numpy()
        description += rows_of(label, table, evidence, calibrations, truth, people, study.seed)
        options = probabilities_of(table, evidence, calibrations)
        result, best = search(model, split, among)
        searches = Searches(table, split.texts, *best, options, truth, owners_of(split))
        ranks = {way: ranks_after(searches, result.ranks.cpu(), count, way, study.seed) for way in WAYS}
        rows += rows_of_answers(label, ranks, people_of(split), study.seed)
        facts[label] = {"calibration_of_checkpoint": own, "among": searches.indices.shape[1]}
    cut_to = f" of at most {study.options.words} words" if study.options.words else ""
    draw(study.picture, rows, f"{len(split.texts):,} captions{cut_to}, {len(split.images):,} images, {INTERVAL}")
    study.finish(
        rows,
        f"{printed(rows)}\n\n{printed_description(description)}",
        checkpoints=study.checkpoints,
        seed=study.seed,
        split=MEASURED_ON,
        words=study.options.words,
        models=facts,
        description=description,
    )


# ---- searches --------------------------------------------------------------------------


def cut(split: EvaluationSplit, trained: TrainedModel, words: int | None) -> EvaluationSplit:
    """The same searches by the first words of each caption; None = by all."""
    if words is None:
        return split
    texts = [" ".join(text.split()[:words]) for text in split.texts]
    return split.with_texts(texts, trained.tokenizer, trained.config.max_words)


def search(
    trained: TrainedModel, split: EvaluationSplit, among: int
) -> tuple[StageResult, tuple[np.ndarray, np.ndarray]]:
    """The ranking of a model, and the best images of each caption [C, N] with the log odds that they are right."""
    results = rank_split(trained.model, split, trained.setting, keep=among)
    stage = "reranked" if "reranked" in results else "stage1"
    calibration, _ = calibration_for(trained)
    indices, scores = results[stage].indices[:, :among].cpu(), results[stage].scores[:, :among].cpu()
    chance = calibration.stages[stage].probabilities(scores.double().numpy(), len(split.images))
    chance = chance.clip(SUREST, 1 - SUREST)
    return results[stage], (indices.numpy(), np.log(chance) - np.log1p(-chance))


def owners_of(split: EvaluationSplit) -> np.ndarray:
    """An image of the person of each caption [C]."""
    of_person = {number: image for image, number in reversed(list(enumerate(split.image_identity.tolist())))}
    return np.array([of_person[number] for number in split.caption_identity.tolist()])


def true_answer(table: PhraseTable, question: Question, option: int) -> AnswerWord:
    """What a person says of whom this option of the category is true (as `read_truth`)."""
    category = table[question.category]
    if option == UNKNOWN:
        return "unknown"
    if option == DOES_NOT_APPLY:
        return "no"
    true = None if option < 0 else category.names[option]
    is_so = true != category.none_option if question.phrase is None else true == question.phrase
    return "yes" if is_so else "no"


def ranks_after(searches: Searches, ranks: Tensor, count: int, way: str, seed: int) -> list[Tensor]:
    """Ranks of the right images [C, P] after 0, 1, ... `count` answers; `ranks`: before any."""
    rng = np.random.default_rng(seed)
    rankings = [ranks.clone() for _ in range(count + 1)]
    for caption in range(len(searches.texts)):
        beliefs = searches.begin(caption)
        for number in range(1, count + 1):
            question = next_question(searches.table, beliefs, way, rng)
            if question is not None:
                beliefs = update_beliefs(searches.table, beliefs, question, searches.answer(caption, question))
            rankings[number][caption] = reordered(ranks[caption], beliefs.log_odds)
    return rankings


def next_question(table: PhraseTable, beliefs: Beliefs, way: str, rng: np.random.Generator) -> Question | None:
    """The question that a way of asking chooses; None when it has none left."""
    if way == "informative":
        found = best_question(table, beliefs)
        return found[0] if found else None
    questions = open_questions(table, beliefs)
    return questions[rng.integers(len(questions))] if questions else None


def reordered(ranks: Tensor, log_odds: np.ndarray) -> Tensor:
    """Ranks of right images [P], once the first N images are in the order of their log odds [N]; below 1 = padding."""
    order = np.argsort(-log_odds, kind="stable")
    rank_of = torch.empty(len(order), dtype=ranks.dtype)
    rank_of[torch.from_numpy(order)] = torch.arange(1, len(order) + 1, dtype=ranks.dtype)
    inside = (ranks >= 1) & (ranks <= len(order))
    return torch.where(inside, rank_of[(ranks - 1).clamp(0, len(order) - 1)], ranks)


# ---- results ---------------------------------------------------------------------------


def rows_of_answers(label: str, ranks: Mapping[str, Sequence[Tensor]], people: np.ndarray, seed: int) -> list[Row]:
    """A row for each way of asking and number of answers, with intervals and, against no answer, p-values."""
    return [
        {
            "model": label,
            "questions": way,
            "answers": number,
            "captions": len(after),
            **as_columns(estimates_of(after, people, seed)),
            **(p_values(of_way[0], after, people, seed) if number else {}),
        }
        for way, of_way in ranks.items()
        for number, after in enumerate(of_way)
    ]


def printed(rows: Sequence[Row]) -> str:
    """R@1 and mAP after each answer."""
    columns = ("model", "questions", "answers")
    return markdown_table(
        [
            {**{name: row[name] for name in columns}, **{METRIC_NAMES[key]: shown(row, key) for key in DRAWN}}
            for row in rows
        ]
    )


def printed_description(rows: Sequence[Row]) -> str:
    """How often the likeliest option of each category is true."""
    return markdown_table(
        [
            {
                "model": row["model"],
                "category": row["category"],
                "images": row["images"],
                "commonest": f"{row['common']:.1f}",
                "accuracy": shown(row, "accuracy"),
                "ECE": shown(row, "ece"),
            }
            for row in rows
        ]
    )


def shown(row: Row, key: str) -> str:
    return f"{row[key]:.1f} [{row[f'{key}_low']:.1f}, {row[f'{key}_high']:.1f}]"


def draw(path: Path, rows: Sequence[Row], title: str) -> None:
    """R@1 and mAP against the number of answers, a line for each model and way of asking."""
    figure = new_figure(9, 4.4, title)
    names = list(dict.fromkeys((row["model"], row["questions"]) for row in rows))
    numbers = sorted({row["answers"] for row in rows})
    for axes, metric in zip(figure.subplots(1, len(DRAWN)), DRAWN, strict=True):
        lines = {
            f"{model}, {way}": [
                Estimate.from_row(row, metric, "captions")
                for row in rows
                if (row["model"], row["questions"]) == (model, way)
            ]
            for model, way in names
        }
        draw_estimates(axes, numbers, lines)
        axes.set_xticks(numbers)
        tidy(axes, "", "questions answered", f"{METRIC_NAMES[metric]} (%)")
    legend_of_models(figure, axes)
    save_figure(figure, path)
