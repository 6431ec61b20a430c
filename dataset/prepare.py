"""Turn a data set as published into train.json, val.json and test.json, or list all that is wrong with it.

    python -m dataset.prepare NAME ROOT [options]

Nothing is written unless everything is fine, and then all three files are, with the digests of
the images (`dataset.digests`).
"""

import argparse
import contextlib
import os
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataset.annotation_checks import check_entries, check_image_files, warn_entries
from dataset.annotation_entries import SPLITS, Problem, RawEntry
from dataset.annotation_formats import FIRST_RELEASE, FORMATS, WITHOUT_SPLITS, Format, find_format
from dataset.annotations import WITHOUT_SPLIT, entry_of, summarise
from dataset.caption_checks import CAPTION_WARNINGS
from dataset.crops import check_frames, cut_persons
from dataset.digests import FILE as DIGESTS
from dataset.digests import digest_file
from utils.errors import CommandParser, UserError, one_line, run_command_line
from utils.files import as_json, atomic_write, require_writable_file, require_writable_folder
from utils.paths import not_a_folder, tidy
from utils.text import counted

WARNINGS_PER_CATEGORY, OF_CAPTIONS = 20, 5  # that are shown; captions are many, and odd ones alike
RESULTS = "processed_data"  # the folder of the results within that of the data set
CROPS = "crops"  # the folder of persons who were cut out, within that of the data set or that of the results
RESULT_FILES = (*(f"{split}.json" for split in SPLITS), DIGESTS)
HOLD_OUT_SEED = 42
REPORT_TITLE = "Annotation report of "


def main(arguments: Sequence[str] | None = None) -> int:
    """Check and convert one data set; 0 on success. Raises UserError, after listing the problems."""
    options = _parse_arguments(arguments)
    data_format = find_format(options.name)
    root = tidy(Path(options.directory, options.root))
    source = _find_source(root, data_format)
    output = tidy(Path(options.directory, options.output)) if options.output else root / RESULTS
    report = tidy(Path(options.directory, options.report)) if options.report else None
    _check_output_folder(output, source)
    images = root / data_format.images
    crops = (output if options.output else root) / CROPS if data_format.framed else None
    if crops:
        _check_cutting(crops, options)
    if report:
        _check_report_path(report, output)

    found = inspect(source, data_format, images, options, crops)
    _show("problem", found.problems, None)
    _show("warning", found.warnings, WARNINGS_PER_CATEGORY)
    if report:
        _write_report(report, source, found)
    if found.problems:
        raise UserError(f"{counted(len(found.problems), 'problem')} in {source} (listed above), nothing was written")

    splits = divide(found.entries)
    if options.val_identities is not None:
        seed = HOLD_OUT_SEED if options.seed is None else options.seed
        splits = hold_out_identities(splits, options.val_identities, seed)
    _warn_empty_splits(splits)
    digests = found.digests
    if crops and digests is not None:
        digests = digests | cut_persons(found.uncut, images, crops, options.workers)
    write_splits(splits, output, digests)
    print(summary_table(splits))
    if crops:
        print(f"persons: {crops}, the image root of all splits ({len(found.uncut)} cut out now)")
    print(f"written: {output}{os.sep}{{{','.join(SPLITS)}}}.json")
    return 0


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = ", ".join(data_format.name for data_format in FORMATS)
    parser = CommandParser(
        prog="bash shell/data_process.sh",
        description="Check a data set and write {train,val,test}.json.",
    )
    parser.add_argument("name", metavar="NAME", help=f"{names} (CSV: your own ROOT/annotations.csv)")
    parser.add_argument("root", type=Path, metavar="ROOT", help="its folder: the annotation file and the images")
    parser.add_argument(
        "--val_identities",
        "--val-identities",
        type=int,
        metavar="N",
        help="hold out N training identities when there is no validation split",
    )
    parser.add_argument("--seed", type=int, help=f"chooses the held out identities (default: {HOLD_OUT_SEED})")
    parser.add_argument(
        "--decode",
        choices=("quick", "full"),
        default="quick",
        help="full: decode every pixel, as training does (default: quick)",
    )
    parser.add_argument("--skip_images", "--skip-images", action="store_true", help="do not read the image files")
    parser.add_argument("--workers", type=int, metavar="N", help="threads that read images")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help=f"where to write (default: ROOT/{RESULTS})")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all problems and warnings to FILE")
    start = "where relative paths start from (default: here)"
    parser.add_argument("--directory", type=Path, metavar="DIR", default=Path(), help=start)
    options = parser.parse_args(arguments)
    if options.skip_images and options.decode == "full":
        raise UserError("--skip_images and --decode full exclude each other; give one of them")
    if options.seed is not None and options.val_identities is None:
        raise UserError("--seed chooses whom --val_identities holds out; give both, or leave --seed out")
    for option in ("val_identities", "workers"):
        value = getattr(options, option)
        if value is not None and value < 1:
            raise UserError(f"--{option} must be at least 1, found {value}")
    return options


def _find_source(root: Path, data_format: Format) -> Path:
    """The annotation file. Raises UserError that says what was found in its place."""
    if not root.is_dir():
        raise UserError(f"data set folder {root} {not_a_folder(root)}")
    found = data_format.find_files(root)
    if len(found) > 1:
        several = ", ".join(path.name for path in found)
        raise UserError(f"{root} holds {several}; leave there only the annotation file of {data_format.name}")
    for other in FORMATS:
        if other is not data_format and (theirs := other.find_files(root)) and "*" not in other.file:
            if found == theirs:  # a pattern has found it
                raise UserError(f"{theirs[0]} is of {other.name}: is the data set {other.name}?")
            if not found:
                missing = root / data_format.file
                raise UserError(f"{missing} does not exist, but {other.file} does: is the data set {other.name}?")
    if found:
        return found[0]
    source = root / data_format.file
    folders = (folder for folder in sorted(root.glob("*/")) if folder.name != RESULTS)
    for nested in (path for folder in folders for path in data_format.find_files(folder)):
        raise UserError(f"{source} does not exist, but {nested} does: give {nested.parent} as ROOT")
    for early in (root / FIRST_RELEASE, *sorted(root.glob(f"*/{FIRST_RELEASE}"))):
        if early.exists():
            raise UserError(f"{source} does not exist, but {early} does: {WITHOUT_SPLITS}")
    raise UserError(f"{source} does not exist; put the annotations of {data_format.name} there")


@dataclass(frozen=True)
class Inspection:
    """A whole data set as it was found; `digests` of its images are None when they were not looked at.

    uncut: persons that are still to be cut out of their frames; their digests are not known yet.
    """

    entries: list[RawEntry]
    problems: list[Problem]
    warnings: list[Problem]
    digests: dict[str, str] | None = None
    uncut: Sequence[RawEntry] = ()


def inspect(
    source: Path, data_format: Format, image_root: Path, options: argparse.Namespace, crops: Path | None = None
) -> Inspection:
    """Everything about a data set in one pass; crops: where its persons are cut out to, where its images are frames.

    Raises UserError when its annotations cannot be read at all.
    """
    entries, problems = data_format.read(source, True)
    if not entries and not problems:
        raise UserError(f"annotation file {source} holds no entries")
    problems += check_entries(entries)
    warnings = warn_entries(entries)
    if options.skip_images:
        return Inspection(entries, problems, warnings)
    if not image_root.is_dir():
        missing = Problem("missing image", "", f"image folder {image_root} {not_a_folder(image_root)}")
        return Inspection(entries, [*problems, missing], warnings)
    if crops:
        frames = check_frames(entries, image_root, crops, options.workers)
        return Inspection(entries, problems + frames.problems, warnings, frames.digests, frames.uncut)
    images = check_image_files(entries, image_root, options.decode == "full", options.workers)
    return Inspection(entries, problems + images.problems, warnings + images.warnings, images.digests)


def _check_cutting(crops: Path, options: argparse.Namespace) -> None:
    """Raise UserError, before the long pass, when persons cannot be cut out of frames as the options say."""
    if options.skip_images:
        raise UserError(f"--skip_images cannot be used with {options.name}: its persons are cut out of the images")
    require_writable_folder(crops, "the folder of the persons that are cut out", " by --output")


def divide(entries: Sequence[RawEntry]) -> dict[str, list[RawEntry]]:
    """Split -> its entries in file order; every split is present."""
    splits: dict[str, list[RawEntry]] = {name: [] for name in SPLITS}
    for entry in entries:
        if entry.split is not None:  # without problems, all have one
            splits[entry.split].append(entry)
    return splits


def hold_out_identities(splits: dict[str, list[RawEntry]], count: int, seed: int) -> dict[str, list[RawEntry]]:
    """Move `count` training identities, chosen by `seed` alone, to the validation split.

    Raises UserError when there is a validation split or too few training identities.
    """
    if splits["val"]:
        raise UserError("the data set has a validation split; leave --val_identities out")
    identities = sorted({entry.identity for entry in splits["train"]}, key=lambda i: (str(type(i)), i))
    if count >= len(identities):
        people = counted(len(identities), "training identity", "training identities")
        raise UserError(f"--val_identities {count} leaves nothing of {people}")
    held_out = set(random.Random(seed).sample(identities, count))
    return {
        **splits,
        "train": [entry for entry in splits["train"] if entry.identity not in held_out],
        "val": [replace(entry, split="val") for entry in splits["train"] if entry.identity in held_out],
    }


def _warn_empty_splits(splits: dict[str, list[RawEntry]]) -> None:
    """Say which splits have no entries; one to evaluate on alone needs no other."""
    for name, entries in splits.items():
        if not entries:
            hint = f"; {WITHOUT_SPLIT[name]}" if name in WITHOUT_SPLIT and splits["train"] else ""
            print(f"warning: the data set has no {name} split, {name}.json is an empty list{hint}", file=sys.stderr)


def write_splits(splits: dict[str, list[RawEntry]], folder: Path, digests: dict[str, str] | None) -> None:
    """Write SPLIT.json for every split, and the digests; none is replaced before all are on disk.

    Without digests (images not looked at) earlier ones are removed: they may not be of these images.

    Raises UserError when the folder cannot be written.
    """
    files: dict[str, Any] = {f"{name}.json": prepared_form(entries) for name, entries in splits.items()}
    if digests is not None:
        files[DIGESTS] = digest_file(digests)
    with contextlib.ExitStack() as moves:
        for name, content in files.items():
            temporary = moves.enter_context(atomic_write(folder / name))
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(as_json(content) + "\n")
                file.flush()
                os.fsync(file.fileno())  # a full disk must show before the first file is replaced
    if digests is None:
        (folder / DIGESTS).unlink(missing_ok=True)


def prepared_form(entries: Sequence[RawEntry]) -> list[dict[str, Any]]:
    """Entries as train.json, val.json and test.json hold them."""
    return [
        {
            "split": entry.split,
            "captions": list(entry.captions),
            "file_path": entry.image,
            "id": entry.identity,
        }
        for entry in entries
    ]


def summary_table(splits: dict[str, list[RawEntry]]) -> str:
    """One row per split, then all of them."""
    every = [entry for entries in splits.values() for entry in entries]
    lines = [f"{'split':<6}{'identities':>12}{'images':>9}{'captions':>10}{'captions/image':>16}{'words/caption':>15}"]
    for name, entries in {**splits, "all": every}.items():
        row = summarise([entry_of(entry) for entry in entries])
        lines.append(
            f"{name:<6}{row['identities']:>12}{row['images']:>9}{row['captions']:>10}"
            f"{row['captions_per_image']:>16.2f}{row['words_per_caption']:>15.1f}"
        )
    return "\n".join(lines)


def _grouped(name: str, findings: Sequence[Problem], limit: int | None) -> list[str]:
    """Lines: for each category a headline with its count, then its findings up to `limit`."""
    groups: dict[str, list[Problem]] = defaultdict(list)
    for finding in findings:
        groups[finding.category].append(finding)
    lines = []
    for category, members in groups.items():
        shown = limit and min(limit, OF_CAPTIONS) if category in CAPTION_WARNINGS else limit
        lines.append(f"{name}: {category} ({len(members)})")
        lines += [f"  {finding}" for finding in members[:shown]]
        if shown is not None and len(members) > shown:
            lines.append(f"  ... and {len(members) - shown} more (all of them: --report FILE)")
    return lines


def _show(name: str, findings: Sequence[Problem], limit: int | None) -> None:
    for line in _grouped(name, findings, limit):
        print(one_line(line), file=sys.stderr)


def _check_output_folder(folder: Path, source: Path) -> None:
    """Raise UserError, before the long pass, when the files cannot be written, or something stands where they go.

    source: the annotation file, which some data sets let have any name.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is not a folder; move it away")
    require_writable_folder(folder, "the folder of the results", " by --output")
    for name in RESULT_FILES:
        require_writable_file(folder / name, "result")
    if _is_result(source, folder):
        raise UserError(f"{source} is the annotation file, and a result would replace it; name another --output")


def _is_result(path: Path, folder: Path) -> bool:
    """Whether a result that is written to `folder` would take the place of a file."""
    return os.path.realpath(path) in (os.path.realpath(folder / name) for name in RESULT_FILES)


def _check_report_path(report: Path, output: Path) -> None:
    """Raise UserError unless `report` is free or an earlier report, which may be replaced, and no result goes there."""
    require_writable_file(report, "--report")
    if _is_result(report, output):
        raise UserError(f"--report {report} is the name of a result; name another file")
    if not report.exists():
        return
    try:
        with open(report, "rb") as file:
            is_report = file.read(len(REPORT_TITLE)) == REPORT_TITLE.encode()
    except OSError as error:
        raise UserError(f"--report {report} cannot be read: {error.strerror}; name another file") from None
    if not is_report:
        raise UserError(f"--report {report} exists and is not a report of this command; name another file")


def _write_report(report: Path, source: Path, found: Inspection) -> None:
    lines = [
        f"{REPORT_TITLE}{source}",
        f"{counted(len(found.problems), 'problem')}, {counted(len(found.warnings), 'warning')}",
        *_grouped("problem", found.problems, None),
        *_grouped("warning", found.warnings, None),
    ]
    with atomic_write(report) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")


if __name__ == "__main__":
    run_command_line(main)
