"""Command line: `python -m dataset.synthetic.street ROOT [options]`."""

from pathlib import Path

from dataset.synthetic.options import parse_size
from dataset.synthetic.street.files import draw_street
from dataset.synthetic.street.scene import StreetOptions
from utils.errors import CommandParser, UserError, run_command_line
from utils.processes.parallel import available_cores
from utils.text import counted

ABOUT = {
    "--people": "people, who all pass every camera once",
    "--cameras": "cameras",
    "--frames": "frames of each camera",
    "--seconds": "seconds from one frame to the next",
    "--seed": "other seed, other people and walks",
}


def build_parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m dataset.synthetic.street",
        description="Draw frames of a street with the boxes and tracks of all who walk there, and captions of them.",
    )
    default = StreetOptions()
    parser.add_argument("root", type=Path, help="folder to make; must be new, empty, or made by this program")
    for flag, about in ABOUT.items():
        usual = getattr(default, flag.removeprefix("--"))
        parser.add_argument(flag, type=type(usual), default=usual, metavar="N", help=f"{about} (default {usual})")
    size = f"{default.height}x{default.width}"
    parser.add_argument("--size", default=size, metavar="HxW", help=f"height x width of a frame (default {size})")
    parser.add_argument("--workers", type=int, default=available_cores(), metavar="N", help="processes (all cores)")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Raises UserError for bad input."""
    given = vars(build_parser().parse_args(arguments))
    root, workers = given.pop("root"), given.pop("workers")
    if workers < 1:
        raise UserError(f"workers is {workers}; choose 1 or more")
    height, width = parse_size(given.pop("size"))
    options = StreetOptions(height=height, width=width, **given)
    frames = counted(options.cameras * options.frames, "frame")
    try:
        made = draw_street(root, options, workers)
    except KeyboardInterrupt:
        raise UserError(f"interrupted; run the same command again to begin {root} anew") from None
    if not made:
        print(f"{root} is finished already, with the same options; nothing to do")
        return
    people = counted(options.people, "person", "people")
    print(f"wrote {frames} of {counted(options.cameras, 'camera')} with {people} to {root}")


if __name__ == "__main__":
    run_command_line(main)
