"""The forms that annotations come in. A data set that `dataset.prepare` shall know is one line of `FORMATS`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dataset.annotation_csv import read_csv_entries
from dataset.annotation_entries import Problem, RawEntry
from dataset.annotation_json import read_json_entries
from dataset.frame_annotations import read_cuhk_sysu, read_prw
from dataset.image_folders import is_left_out
from utils.errors import UserError, did_you_mean

Reader = Callable[[Path, bool], tuple[list[RawEntry], list[Problem]]]
"""Reads an annotation file, given whether its entries must name their split. Raises UserError when it cannot."""


@dataclass(frozen=True)
class Format:
    """A data set as it is published: the name of its annotation file, what reads that, and the folder of its images.

    file: a pattern (`*.json`) where the release does not say the name of its only file. images: relative to the
    data set; framed: they are whole frames, out of which persons are cut (`dataset.crops`).
    """

    name: str
    file: str
    read: Reader
    images: str = "imgs"
    framed: bool = False

    def find_files(self, folder: Path) -> list[Path]:
        """The files of a folder that may be its annotation file; hidden ones, as macOS leaves (`._name`), are not."""
        if "*" in self.file:
            return sorted(path for path in folder.glob(self.file) if path.is_file() and not is_left_out(path.name))
        return [path] if (path := folder / self.file).exists() else []


FORMATS = (
    Format("CUHK-PEDES", "reid_raw.json", read_json_entries),
    Format("ICFG-PEDES", "ICFG-PEDES.json", read_json_entries),
    Format("RSTPReid", "data_captions.json", partial(read_json_entries, image_key="img_path")),
    Format("UFine6926", "*.json", read_json_entries, images=""),
    Format("UFine3C", "*.json", read_json_entries, images=""),
    Format("PRW-TBPS", "PRW-TBPS_train", read_prw, images="frames", framed=True),
    Format("CUHK-SYSU-TBPS", "CUHK-SYSU-TBPS_train", read_cuhk_sysu, images="Image/SSM", framed=True),
    Format("CSV", "annotations.csv", read_csv_entries),
)

FIRST_RELEASE = "caption_all.json"
"""CUHK-PEDES as it was first released: the same entries without their splits."""
WITHOUT_SPLITS = (
    f"{FIRST_RELEASE} is CUHK-PEDES as first released, without the splits train, val and test; what is missing is "
    "reid_raw.json, the same entries with their split, which its authors have too: ask them for it "
    "(https://github.com/ShuangLI59/Person-Search-with-Natural-Language-Description)"
)

READERS: dict[str, Reader] = {".json": read_json_entries, ".csv": read_csv_entries, ".tsv": read_csv_entries}
"""What reads the files that training and evaluation are given, by their suffix."""


def find_format(name: str) -> Format:
    """The format of a name in any case, hyphens optional. Raises UserError naming the nearest."""

    def plain(text: str) -> str:
        return "".join(filter(str.isalnum, text)).lower()

    by_name = {data_format.name.lower(): data_format for data_format in FORMATS}
    for data_format in FORMATS:
        if plain(name) == plain(data_format.name):
            return data_format
    hint = did_you_mean(name.lower(), by_name)
    for lower, data_format in by_name.items():
        hint = hint.replace(f"'{lower}'", f"'{data_format.name}'")
    known = ", ".join(data_format.name for data_format in FORMATS)
    raise UserError(f"data set '{name}' is not known{hint}; use one of {known}")
