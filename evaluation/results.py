"""What a run leaves behind, read and checked: log.txt, metrics.json and rankings.npz.

C captions, G gallery images, K ranked images kept per caption, P right images of a caption. Rows are captions.
"""

import json
import logging
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StrictFloat,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from evaluation.metrics import CEILING, METRIC_NAMES, STAGE_NAMES
from utils.errors import UserError
from utils.files import read_json

logger = logging.getLogger(__name__)

AGAIN = "write it again by evaluating the run"


# ---- rankings.npz ----------------------------------------------------------------------


def require_matrix(array: np.ndarray, number: type) -> np.ndarray:
    """Raises ValueError unless an array has rows and columns of numbers of this type."""
    if array.ndim != 2 or not np.issubdtype(array.dtype, number):
        raise ValueError(f"must be rows of {number.__name__} numbers")
    return array


def as_texts(array: np.ndarray) -> np.ndarray:
    """A list of texts. Raises ValueError when it has rows and columns."""
    if array.ndim != 1:
        raise ValueError("must be a list")
    return array.astype(str)


Texts = Annotated[np.ndarray, AfterValidator(as_texts)]
Indices = Annotated[np.ndarray, AfterValidator(partial(require_matrix, number=np.integer))]
Scores = Annotated[np.ndarray, AfterValidator(partial(require_matrix, number=np.floating))]


class RankingFile(BaseModel):
    """The best K images of every caption, by stage.

    indices [C, K] int gallery indices, best first; scores [C, K] float, higher is better:
    cosine similarity in `stage1`, ITM logit in `reranked`; ranks [C, P] int of all right images, 1 = first,
    0 = padding (files of earlier versions have none).
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    captions: Texts  # [C]
    caption_identities: Texts  # [C]
    image_paths: Texts  # [G], below image_root
    image_identities: Texts  # [G]
    image_root: Annotated[Path, BeforeValidator(str)]
    indices: dict[str, Indices]
    scores: dict[str, Scores]
    ranks: dict[str, Indices]

    @model_validator(mode="after")
    def require_same_captions(self) -> "RankingFile":
        """Raises ValueError unless all arrays are of the same captions and images."""
        captions, images = len(self.captions), len(self.image_paths)
        by_caption = [self.caption_identities, *self.indices.values(), *self.scores.values(), *self.ranks.values()]
        if any(len(array) != captions for array in by_caption) or len(self.image_identities) != images:
            raise ValueError("they are of different captions or images")
        for stage, indices in self.indices.items():
            if self.scores[stage].shape != indices.shape or not ((indices >= 0) & (indices < images)).all():
                raise ValueError(f"the indices of {stage} are not those of its scores and images")
        for stage, ranks in self.ranks.items():
            if (ranks > images).any():
                raise ValueError(f"the ranks of {stage} are beyond the number of images")
        return self

    @property
    def final_stage(self) -> str:
        """The last stage there is: `reranked`, or `stage1` of a run without re-ranking."""
        return list(self.indices)[-1]

    def right(self, stage: str) -> np.ndarray:
        """[C, K] bool: True where the ranked image shows the caption's identity."""
        return self.image_identities[self.indices[stage]] == self.caption_identities[:, None]

    def hits(self, stage: str = "") -> np.ndarray:
        """[C] bool: True where the first image of a stage (the final one by default) is right; its mean is R@1."""
        return np.asarray(self.right(stage or self.final_stage)[:, :1].any(axis=1))

    def first_right(self, stage: str, caption: int) -> int | None:
        """Rank of the first right image of a caption, None where it is not known: not among the images kept."""
        ranks = self.ranks[stage][caption] if stage in self.ranks else np.flatnonzero(self.right(stage)[caption]) + 1
        ranks = ranks[ranks > 0]
        return int(ranks.min()) if len(ranks) else None


def read_rankings(path: Path) -> RankingFile:
    """Read rankings.npz. Raises UserError when it is damaged or does not fit together."""
    arrays = _read_arrays(path)
    names = ["captions", "caption_identities", "image_paths", "image_identities", "image_root"]
    stages = [stage for stage in STAGE_NAMES if f"{stage}_indices" in arrays]
    needed = [*names, "stage1_indices", *(f"{stage}_scores" for stage in stages)]
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise UserError(f"{path} lacks the array {missing[0]}: {AGAIN}")
    by_stage = {
        part: {stage: arrays[f"{stage}_{part}"] for stage in stages if f"{stage}_{part}" in arrays}
        for part in ("indices", "scores", "ranks")
    }
    try:
        return RankingFile.model_validate({**{name: arrays[name] for name in names}, **by_stage})
    except ValidationError as error:
        raise UserError(f"the arrays of {path} do not fit together ({problem_of(error)}): {AGAIN}") from None


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # damaged and foreign files make numpy and zipfile raise nearly any type
        advice = getattr(error, "strerror", None) or AGAIN
        raise UserError(f"{path} is not a readable rankings file: {advice}") from None


# ---- log.txt and metrics.json ----------------------------------------------------------


def stages_of(metrics: Any) -> Any:
    """The metrics of the known stages, and the ceiling; other entries are free."""
    known = isinstance(metrics, dict)
    return {stage: metrics[stage] for stage in (*STAGE_NAMES, CEILING) if stage in metrics} if known else metrics


def metrics_of(stage: Any) -> Any:
    """The known metrics of a stage; other entries are free."""
    known = isinstance(stage, dict)
    return {name: stage[name] for name in METRIC_NAMES if name in stage} if known else stage


Number = StrictFloat  # takes integers too, and no booleans
Numbers = dict[str, Number | None]  # None stands for a value that was not measured
ByStage = Annotated[dict[str, Numbers | None], BeforeValidator(stages_of)]
METRICS = TypeAdapter(dict[str, Annotated[Numbers, BeforeValidator(metrics_of)]])


def same_length(curve: dict[str, list[Number]]) -> dict[str, list[Number]]:
    """Raises ValueError unless all lists of a curve are as long as that of `epoch`."""
    if len({len(values) for values in curve.values()}) != 1 or "epoch" not in curve:
        raise ValueError("must be lists of the length of `epoch`")
    return curve


class Epoch(BaseModel):
    """A line of log.txt as far as it is read here. Losses and metrics are numbers by name, whatever their names."""

    epoch: Number
    train: Numbers | None = None
    lr: Number | None = None
    grad_norm: Number | None = None
    seconds: Number | None = None
    curve: Annotated[dict[str, list[Number]], AfterValidator(same_length)] | None = None
    val: ByStage | None = None
    test: ByStage | None = None


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
        try:
            record = _parse_epoch(line)
        except ValueError as error:
            if number < len(lines):
                problem = f"line {number} of {path} is not the JSON object of an epoch"
                raise UserError(f"{problem} ({error}): remove it") from None
            logger.warning("%s: the last line is cut off and left out", path)
        else:
            epochs[record["epoch"]] = record
    return [epochs[epoch] for epoch in sorted(epochs)]


def _parse_epoch(line: str) -> dict[str, Any]:
    """The record of one line, as it was written. Raises ValueError, saying what is wrong."""
    try:
        record = json.loads(line)
        Epoch.model_validate(record)
    except ValidationError as error:
        raise ValueError(problem_of(error)) from None
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    return record


def read_metrics(path: Path) -> dict[str, dict[str, Any]]:
    """Read metrics.json: the metrics of each stage, and the ceiling, in per cent; other entries are left out.

    Raises UserError when a stage holds anything but numbers.
    """
    stages = stages_of(read_json(path, "metrics file"))
    if not isinstance(stages, dict) or not stages.keys() - {CEILING}:
        raise UserError(f"{path} holds no metrics of any stage: evaluate the run again")
    try:
        METRICS.validate_python(stages)
    except ValidationError as error:
        raise UserError(f"{path}: the metrics are not numbers ({problem_of(error)}): evaluate the run again") from None
    return stages


PLAIN_WORDS = {
    **dict.fromkeys(("dict_type", "model_type"), "must be an object of names and values"),
    "float_type": "must be a number",
    "list_type": "must be a list",
    "missing": "is missing",
}


def problem_of(error: ValidationError) -> str:
    """The first problem in plain words: the field, and what it must be."""
    problem = error.errors()[0]
    what = PLAIN_WORDS.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    return " ".join([".".join(map(str, problem["loc"])), what]).strip()
