"""All that matters of one GPU in one process: steps of training, re-ranking, and what they are made of.

    python -m benchmarks.gpu --out docs/gpu/DATE-CARD.json [--budget 540]    measure
    python -m benchmarks.gpu --show docs/gpu/*.json                          tables of such files, in Markdown

The most valuable comes first. FILE is written after each item, so that a run that is cut off keeps what it has; items
that the budget does not suffice for are listed as left out, those that fail with their error. Steps are those of MARS
as published, with its dropout, on captions of drawn lengths. `--only peaks rerank gallery` measures some of it,
`--device cpu --quick` tries the command without a GPU.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.record import Item, Record, measure_all, require_new
from benchmarks.gpu.tables import draw_file
from utils.errors import CommandParser, UserError, did_you_mean, run_command_line

BUDGET = 540.0  # seconds


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Raises UserError for wrong arguments."""
    parser = CommandParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, metavar="FILE", help="measure, and write this JSON file, which must be new")
    what.add_argument("--show", type=Path, nargs="+", metavar="FILE", help="print the tables of these files")
    parser.add_argument("--budget", type=seconds, default=BUDGET, help="seconds for all (%(default).0f)")
    parser.add_argument("--only", nargs="+", metavar="ITEM", help="items whose names are these or begin so (all)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu with --quick (%(default)s)")
    parser.add_argument("--commit", metavar="NAME", help="what is measured (as git says, where it is there)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the command: figures mean nothing")
    return parser.parse_args(arguments)


def seconds(text: str) -> float:
    """A positive number."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds, not {text}")
    return value


def measure(options: argparse.Namespace) -> None:
    """Raises UserError, before anything is measured, when the device is not there or the file is."""
    from benchmarks.gpu.bench import Bench
    from benchmarks.gpu.items import items_of
    from benchmarks.gpu.machine import describe
    from utils.device import prepare_device, prepare_precision

    require_new(options.out)
    device = prepare_device(options.device)
    if device.type == "cpu" and not options.quick:
        raise UserError("--device cpu has nothing to tell of a GPU: add --quick, which tries the command at tiny size")
    prepare_precision("fp32", device)  # the kernels that every command takes; items set precisions of their own
    about = {**describe(device), "budget": options.budget, "quick": options.quick}
    about["commit"] = options.commit or about["commit"]
    items = choose(items_of(Bench(device, options.quick)), options.only)
    record = Record(about, [item.name for item in items])
    record.write(options.out)
    print(f"{about['card']}; {about['machine']}; {len(items)} items within {options.budget:.0f} s", flush=True)
    measure_all(record, items, options.budget, options.out, tell=lambda line: print(line, flush=True))
    print(f"{options.out}: {len(record.items)} measured, {len(record.left_out)} left out, {len(record.failed)} failed")


def choose(items: Sequence[Item], wanted: Sequence[str] | None) -> list[Item]:
    """The items that are wanted, in their order. Raises UserError when there is no such item."""
    names = [item.name for item in items]
    for one in wanted or ():
        if not one or not any(name.startswith(one) for name in names):
            raise UserError(f"--only '{one}': no item begins so{did_you_mean(one, names)}; they are {', '.join(names)}")
    return [item for item in items if wanted is None or item.name.startswith(tuple(wanted))]


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options = parse(arguments)
    if options.out:
        return measure(options)
    print("\n\n".join(map(draw_file, options.show)))


if __name__ == "__main__":
    run_command_line(main)
