"""What `python -m search describe` prints, and how `python -m search ask` asks."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset.decoding import Unusable, read_content
from evaluation.description.asking import AnswerWord, parse_answers
from evaluation.description.phrases import PhraseTable, read_phrase_table
from search.describing.describer import CategoryPrediction, Describer, GalleryDescriber, predictions_as_json
from search.describing.questions import (
    Dialogue,
    DialogueRequest,
    QuestionAnswer,
    ask,
    dialogue_as_json,
)
from search.results.lines import print_answer, print_warnings
from utils.errors import UserError, one_line
from utils.files import print_json
from utils.text import counted

MIN_SHOWN, MAX_SHOWN = 0.1, 3  # scores of options that are printed beside the likeliest, and how many options


def describe_images(describer: Describer, images: Sequence[Path], json: bool) -> None:
    """Print what images show. Raises UserError at the end when some could not be read."""
    found: list[dict[str, Any]] = []
    unreadable = 0
    if why := describer.calibration_advice():
        print(one_line(why), file=sys.stderr)
    for path in images:
        try:
            seen = describer.describe(read_content(path))
        except Unusable as fault:
            unreadable += 1
            print(one_line(f"unreadable: {path} {fault}"), file=sys.stderr)
            continue
        found.append({"image": str(path), "categories": predictions_as_json(seen)})
        if not json:
            print("\n".join(lines_of(path, seen)))
    if json:
        print_json(found)
    if unreadable:
        which = f"{unreadable} of {counted(len(images), 'image')}"
        raise UserError(f"{which} could not be read, as was said above; give other files in their place")


def lines_of(path: Path, seen: Sequence[CategoryPrediction]) -> list[str]:
    """The image, and a line for each category of which there is anything."""
    shown = [one for one in seen if one.shown]
    width = max((len(one.category) for one in shown), default=0)
    name = str(path) if str(path).isprintable() else ascii(str(path))
    return [name, *(f"  {one.category:{width}}  {options_of(one)}" for one in shown)]


def options_of(seen: CategoryPrediction) -> str:
    """The likeliest options of a category with their scores, best first."""
    best = list(seen.options.items())[:MAX_SHOWN]
    shown = [*best[:1], *((name, score) for name, score in best[1:] if score >= MIN_SHOWN)]
    return ", ".join(f"{name} {score:.2f}" for name, score in shown)


# ---- asking ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Questioner:
    """The command `ask`: the search, answers given beforehand (None: somebody is asked), and how to print."""

    search: DialogueRequest
    given: list[AnswerWord] | None
    table: PhraseTable
    json: bool

    @classmethod
    def parse(cls, options: argparse.Namespace) -> "Questioner":
        """From the command line. Raises UserError for answers and phrases that are none."""
        names = ("text", "top", "candidates", "where", "group", "among")
        given = None if options.answers is None else parse_answers([*filter(None, options.answers.split(","))])
        search = DialogueRequest(**{name: getattr(options, name) for name in names})
        return cls(search, given, read_phrase_table(options.phrases), options.json)

    def run(self, describer: GalleryDescriber) -> None:
        """Ask until there are no more answers, or no more questions, and print the hits."""
        if why := describer.calibration_advice():
            print(one_line(why), file=sys.stderr)
        gallery, answers = describer.searcher.gallery, list[QuestionAnswer]()
        dialogue = ask(describer, self.search)
        print_warnings(dialogue.result)
        while dialogue.question is not None:
            if self.given is None and not self.json:
                print_answer(dialogue.result, gallery)
            answer = self.next_answer(len(answers), dialogue)
            if answer is None:
                break
            answers.append(QuestionAnswer(dialogue.question, answer))
            dialogue = ask(describer, self.search, answers)
        if dialogue.question is None:
            print("no question would tell these images further apart", file=sys.stderr)
        if self.json:
            known = dialogue_as_json(dialogue, gallery, with_files=True)
            print_json({"query": dialogue.result.query.text, **known})
        elif self.given is not None or dialogue.question is None:
            print_answer(dialogue.result, gallery)
            if dialogue.question is not None:
                print(f"next question: {dialogue.words}")

    def next_answer(self, number: int, dialogue: Dialogue) -> AnswerWord | None:
        """What is answered to the next question, given or typed; None where that is the end."""
        if self.given is not None:
            if number == len(self.given):
                return None
            print(f"{dialogue.words} {self.given[number]}", file=sys.stderr)
            return self.given[number]
        while True:
            print(f"{dialogue.words} [yes/no/unknown; empty ends] ", end="", file=sys.stderr, flush=True)
            line = sys.stdin.readline()
            if not line.strip():
                return None
            try:
                return parse_answers([line])[0]
            except UserError as error:
                print(one_line(str(error)), file=sys.stderr)
