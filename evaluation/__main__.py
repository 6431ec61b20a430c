"""The commands that look into trained models: `python -m evaluation NAME ...`; without a name, all are listed."""

import importlib
import sys

from utils.errors import UserError, nearest, run_command_line
from utils.logs import set_up_logging

STUDIES = {
    "gradcam": "where each word and attribute of a caption looks in its image",
    "rankings": "queries with their ten best images, right or wrong",
    "words": "the nouns, adjectives and attributes of a data set's captions, and their length",
    "curves": "losses, learning rate, gradient norm, throughput and metrics of runs",
    "reconstruction": "what the masked autoencoder fills in, with a right and with a wrong caption",
    "ablation": "trains variants with several seeds: which differences are more than chance?",
    "density": "metrics by length of captions and number of attributes",
    "occlusion": "metrics when a growing part of the gallery's images is hidden",
    "contradiction": "wrong, contradicted and vague captions: how far does the right person fall behind?",
    "grounding": "do the maps of attributes lie on their pixels? (synthetic benchmark)",
    "cost": "metrics and seconds per query against the number of re-ranked candidates",
    "cross_domain": "one model on several data sets",
}
COMMANDS = {**STUDIES, "report": "curves, rankings and a page to browse of a finished run"}


def overview() -> str:
    """All commands with a line each."""
    lines = [f"  {name:16}{about}" for name, about in COMMANDS.items()]
    return "\n".join(["usage: python -m evaluation NAME [options]    (NAME --help lists its options)", "", *lines])


def main(arguments: list[str]) -> None:
    """Run the command that is named first. Raises UserError when there is no such command."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return
    name, *options = arguments
    if name not in COMMANDS:
        raise UserError(f"there is no command {name!r}{nearest(name, COMMANDS)}; python -m evaluation lists them")
    room = "evaluation.studies" if name in STUDIES else "evaluation"
    importlib.import_module(f"{room}.{name}").main(options)


if __name__ == "__main__":
    set_up_logging(is_main=True)
    run_command_line(lambda: main(sys.argv[1:]))
