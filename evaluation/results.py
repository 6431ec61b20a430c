"""What a run leaves behind, read and checked: log.txt, metrics.json and rankings.npz.

C captions, G gallery images, K ranked images kept per caption, P right images of a caption. Rows are captions.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.metrics import METRIC_NAMES, STAGE_NAMES
from utils.errors import UserError
from utils.files import read_json

logger = logging.getLogger(__name__)


@dataclass
class Rankings:
    """The best K images of every caption, by stage.

    indices [C, K] int gallery indices, best first; scores [C, K] float, higher is better:
    cosine similarity in `stage1`, ITM logit in `reranked`; ranks [C, P] int of all right images, 1 = first,
    0 = padding (files of earlier versions have none).
    """

    captions: np.ndarray  # [C] str
    caption_identities: np.ndarray  # [C] str
    image_paths: np.ndarray  # [G] str, below image_root
    image_identities: np.ndarray  # [G] str
    image_root: Path
    indices: dict[str, np.ndarray]
    scores: dict[str, np.ndarray]
    ranks: dict[str, np.ndarray]

    @property
    def final_stage(self) -> str:
        """The last stage there is: `reranked`, or `stage1` of a run without re-ranking."""
        return list(self.indices)[-1]

    def right(self, stage: str) -> np.ndarray:
        """[C, K] bool: True where the ranked image shows the caption's identity."""
        return self.image_identities[self.indices[stage]] == self.caption_identities[:, None]

    def hits(self) -> np.ndarray:
        """[C] bool: True where the first image of the final stage is right; its mean is R@1."""
        return self.right(self.final_stage)[:, :1].any(axis=1)


def read_rankings(path: Path) -> Rankings:
    """Read rankings.npz. Raises UserError when it is damaged or does not fit together."""
    arrays = _read_arrays(path)
    names = ["captions", "caption_identities", "image_paths", "image_identities"]
    stages = [stage for stage in STAGE_NAMES if f"{stage}_indices" in arrays]
    needed = [*names, "image_root", "stage1_indices", *(f"{stage}_scores" for stage in stages)]
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise UserError(f"{path} lacks the array {missing[0]}: write it again by evaluating the run")
    rankings = Rankings(
        **{name: arrays[name].astype(str) for name in names},
        image_root=Path(str(arrays["image_root"])),
        indices={stage: arrays[f"{stage}_indices"] for stage in stages},
        scores={stage: arrays[f"{stage}_scores"] for stage in stages},
        ranks={stage: arrays[f"{stage}_ranks"] for stage in stages if f"{stage}_ranks" in arrays},
    )
    _check_shapes(path, rankings)
    return rankings


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # damaged and foreign files make numpy and zipfile raise nearly any type
        advice = getattr(error, "strerror", None) or "write it again by evaluating the run"
        raise UserError(f"{path} is not a readable rankings file: {advice}") from None


def _check_shapes(path: Path, rankings: Rankings) -> None:
    """Raise UserError unless all arrays speak of the same captions and images."""
    captions, images = rankings.captions.shape, rankings.image_paths.shape
    fits = len(captions) == len(images) == 1
    fits = fits and rankings.caption_identities.shape == captions
    fits = fits and rankings.image_identities.shape == images
    for stage, indices in rankings.indices.items():
        fits = fits and indices.ndim == 2 and indices.shape[:1] == captions
        fits = fits and np.issubdtype(indices.dtype, np.integer)
        fits = fits and rankings.scores[stage].shape == indices.shape
        fits = fits and np.issubdtype(rankings.scores[stage].dtype, np.floating)
        fits = fits and bool(((indices >= 0) & (indices < images[0])).all())
    for ranks in rankings.ranks.values():
        fits = fits and ranks.ndim == 2 and ranks.shape[:1] == captions and np.issubdtype(ranks.dtype, np.integer)
    if not fits:
        raise UserError(f"the arrays of {path} do not fit together: write it again by evaluating the run")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read log.txt, one JSON object a line, into one record per epoch in ascending order.

    An epoch that was trained again after resuming counts as its last line says. A last line cut
    off by a crash is left out with a warning. Raises UserError for any other damaged line.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    epochs = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _parse_epoch(line)
        if record is not None:
            epochs[record["epoch"]] = record
        elif number == len(lines):
            logger.warning("%s: the last line is cut off and left out", path)
        else:
            raise UserError(f"line {number} of {path} is not the JSON object of an epoch: remove it")
    return [epochs[epoch] for epoch in sorted(epochs)]


def _parse_epoch(line: str) -> dict[str, Any] | None:
    """The record of one line, or None where it is not one."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not _is_dict(record) or not _is_number(record.get("epoch")):
        return None
    splits = [record.get(name) or {} for name in ("val", "test")]
    stages = [split.get(stage) or {} if _is_dict(split) else None for split in splits for stage in STAGE_NAMES]
    values = [{name: record.get(name) for name in ("lr", "grad_norm", "seconds")}, record.get("train") or {}, *stages]
    return record if all(_is_flat(value) for value in values) and _is_curve(record.get("curve")) else None


def read_metrics(path: Path) -> dict[str, dict[str, Any]]:
    """Read metrics.json: the metrics of each stage in per cent; other entries are left out.

    Raises UserError when a stage holds anything but numbers.
    """
    content = read_json(path, "metrics file")
    content = content if _is_dict(content) else {}
    stages = {stage: content[stage] for stage in STAGE_NAMES if stage in content}
    if not stages:
        raise UserError(f"{path} holds no metrics of {' or '.join(STAGE_NAMES)}: evaluate the run again")
    for stage, metrics in stages.items():
        if not _is_dict(metrics) or not _is_flat({name: metrics.get(name) for name in METRIC_NAMES}):
            raise UserError(f"{path}: the metrics of {stage} must be numbers: evaluate the run again")
    return stages


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _is_flat(value: Any) -> bool:
    """True for a dict of numbers; None stands for a value that was not measured."""
    return _is_dict(value) and all(entry is None or _is_number(entry) for entry in value.values())


def _is_curve(value: Any) -> bool:
    """True for lists of numbers, all of the length of "epoch"; None stands for an epoch without a curve."""
    if value is None:
        return True
    lists = list(value.values()) if _is_dict(value) else [None]
    alike = all(isinstance(numbers, list) for numbers in lists) and len({len(numbers) for numbers in lists}) == 1
    return alike and "epoch" in value and all(_is_number(number) for numbers in lists for number in numbers)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
