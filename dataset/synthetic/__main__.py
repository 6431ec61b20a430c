"""Command line: `python -m dataset.synthetic ROOT [options]` or `--preview FILE.png [options]`."""

import argparse
import logging
import re
import time
from pathlib import Path

from dataset.annotation_entries import SPLITS
from dataset.synthetic.generate import generate, read_marker
from dataset.synthetic.lookalikes import DETAILS
from dataset.synthetic.marker import SEARCHED
from dataset.synthetic.options import (
    CAPTION_STYLES,
    FORMATS,
    NUISANCE,
    PRESETS,
    VARIED,
    Options,
    options_from,
    parse_size,
)
from dataset.synthetic.preview import write_preview
from utils.errors import CommandParser, UserError, run_command_line
from utils.processes.parallel import available_cores
from utils.text import agreeing, counted

MIN_IMAGES = 32


def build_parser() -> argparse.ArgumentParser:
    """All options; those left out come from the preset or the defaults of `Options`."""
    default = Options()
    parser = CommandParser(
        prog="python -m dataset.synthetic",
        description="Draw pedestrians with known attributes and write them in the raw form of CUHK-PEDES.",
    )
    add = parser.add_argument
    add("root", type=Path, nargs="?", help="folder to make; must be new, empty, or made by this program")
    preview = "only draw a sheet of the first identities, captions and masks"
    add("--preview", type=Path, metavar="FILE.png", help=preview)
    add("--preset", help=f"sizes to start from: {', '.join(PRESETS)}; other options go over it")
    for split in SPLITS:
        add(
            f"--{split}",
            type=int,
            metavar="N",
            help=f"{split} identities (default {getattr(default, split)})",
        )
    add(
        "--images_per_identity",
        "--images-per-identity",
        type=int,
        metavar="N",
        help=f"default {default.images_per_identity}",
    )
    add(
        "--captions_per_image",
        "--captions-per-image",
        type=int,
        metavar="N",
        help=f"default {default.captions_per_image}",
    )
    add("--size", metavar="HxW", help=f"height x width in pixels (default {default.height}x{default.width})")
    add("--seed", type=int, metavar="N", help="other seed, other people (default 0)")
    vary = f"{', '.join(NUISANCE)} or {VARIED}: of each person another (default {default.difficulty})"
    add("--difficulty", help=f"how much light, blur, framing and occlusion vary: {vary}")
    add(
        "--occlusion",
        type=float,
        metavar="P",
        help="probability of something in front (default by difficulty)",
    )
    add_looks(parser)
    add("--image_format", "--image-format", help=f"{' or '.join(FORMATS)} (default {default.image_format})")
    add("--no_masks", "--no-masks", dest="masks", action="store_false", default=None, help="do not write masks/")
    add("--workers", type=int, metavar="N", help="processes (default: all cores)")
    add("--overwrite", action="store_true", help="replace a finished benchmark of this program")
    return parser


def add_looks(parser: argparse.ArgumentParser) -> None:
    """Options of people who look alike."""
    add, default = parser.add_argument, Options()
    people = "people who are alike in everything large (default 1: nobody)"
    add("--group_size", "--group-size", type=int, metavar="N", help=people)
    differing = f"details in which any two of a group differ at least (default {default.differing_details})"
    add("--differing_details", "--differing-details", type=int, metavar="N", help=differing)
    add("--details", metavar="A,B", help=f"what they may differ in (default {','.join(DETAILS)})")
    smallest = "pixels of the image that a detail measures across at least (default 0: by nature)"
    add("--smallest_detail", "--smallest-detail", type=int, metavar="PIXELS", help=smallest)
    usual, thorough = CAPTION_STYLES
    about = f"{usual}, {thorough} (nearly all that shows is named) or {VARIED} (default {default.caption_style})"
    add("--caption_style", "--caption-style", metavar="STYLE", help=about)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Raises UserError for bad input."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    given = vars(build_parser().parse_args(arguments))
    if given["size"] is not None:
        given["height"], given["width"] = parse_size(given["size"])
    if given["details"] is not None:
        given["details"] = tuple(re.findall(r"[^\s,;]+", given["details"].lower()))
    options = options_from(given["preset"], given)
    if given["preview"]:
        for name, where in (("root", "a folder"), ("workers", "--workers"), ("overwrite", "--overwrite")):
            if given[name] not in (None, False):
                raise UserError(f"--preview draws a sheet alone, for which {where} has no use; leave out one of them")
        write_preview(given["preview"], options)
        print(f"wrote {given['preview']}")
        return
    if not given["root"]:
        raise UserError("no folder is named; run `python -m dataset.synthetic ROOT` or add --preview FILE.png")
    if options.images < MIN_IMAGES:
        raise UserError(
            f"{counted(options.images, 'image')} {agreeing(options.images, 'is', 'are')} too few to train and evaluate"
            f" on; ask for {MIN_IMAGES} or more, with more identities or --images_per_identity"
        )
    root, start = given["root"], time.perf_counter()
    try:
        workers = available_cores() if given["workers"] is None else given["workers"]
        made = generate(root, options, workers, given["overwrite"])
    except KeyboardInterrupt:
        raise UserError(f"interrupted; run the same command again to begin {root} anew") from None
    if not made:
        print(f"{root} is finished already, with the same options; nothing to do")
        return
    seconds = time.perf_counter() - start
    images, people = counted(options.images, "image"), counted(options.identities, "identity", "identities")
    print(f"wrote {images} of {people} to {root} in {seconds:.0f} s")
    ceilings = read_marker(root)["ceiling"]
    for split in (split for split in SEARCHED if split in ceilings):
        found, without = ceilings[split], ceilings["without_details"][split]
        large = f"{without['r1']:.2f} and {without['mAP']:.2f} without details"
        print(f"ceiling of {split}: R@1 {found['r1']:.2f} and mAP {found['mAP']:.2f}, {large}")


if __name__ == "__main__":
    run_command_line(main)
