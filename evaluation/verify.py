"""Is a checkpoint what its run says it is: whole, of this data, with these metrics?"""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter, ValidationError

from configs.loading import resolve_config
from configs.schema import Config, as_list
from dataset.annotation_entries import SPLITS
from dataset.annotations import fingerprint, load_annotations
from dataset.bad_images import leave_out
from evaluation.evaluate import Metrics, evaluate
from evaluation.metrics import STAGE_NAMES
from evaluation.trained import TrainedModel
from models.released import saved_config
from utils.checkpoints.files import read_checkpoint
from utils.checkpoints.named import checkpoint_path
from utils.checkpoints.run_folder import settings_of_run
from utils.errors import UserError
from utils.processes.distributed import on_main

logger = logging.getLogger(__name__)

Evaluated = Literal["val", "test"]
METRICS = TypeAdapter(dict[Evaluated, Metrics])


def fingerprints(config: Config, skipped: Sequence[str]) -> dict[str, str | None]:
    """What identifies the data of each split; None = not configured. skipped: images that training leaves out."""

    def found() -> dict[str, str | None]:
        return {name: fingerprint_of(config, name, skipped if name == "train" else ()) for name in SPLITS}

    return on_main(found)()


def fingerprint_of(config: Config, split: str, skipped: Sequence[str]) -> str | None:
    files, root = as_list(getattr(config, f"{split}_file") or []), getattr(config, f"{split}_image_root")
    if not files or root is None:
        return None
    entries = [entry for file in files for entry in load_annotations(file, split, may_be_empty=True)]
    return fingerprint(leave_out(entries, skipped), root)


def verify(path: Path, device: torch.device) -> None:
    """Check a checkpoint against its own record, a line for each thing that is right.

    The checksum of the file is right, its values are finite, its configuration is valid, the data are those that it was
    trained and evaluated on, and an evaluation gives its metrics again, digit by digit, on the type of device and in
    the environment of its run.

    Raises UserError at the first thing that is wrong.
    """
    path = checkpoint_path(path)
    checkpoint = read_checkpoint(path)
    logger.info("%s: %s", path, "the checksum is right" if checkpoint.get("format", 0) >= 2 else "has no checksum")
    require_finite(checkpoint["model"], path)
    logger.info("all values are finite")
    config = recorded_config(checkpoint, path)
    logger.info("the configuration is valid")
    check_data(config, checkpoint, path)
    check_metrics({**checkpoint, "path": str(path)}, config, device)


def require_finite(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"checkpoint {path}: {name} holds values that are not finite")


def recorded_config(checkpoint: Mapping[str, Any], path: Path) -> Config:
    if not isinstance(checkpoint.get("config"), dict):
        raise UserError(f"checkpoint {path} does not say with which configuration it was trained; evaluate it instead")
    return resolve_config(saved_config(checkpoint), f"checkpoint {path}: its configuration")


def check_data(config: Config, checkpoint: Mapping[str, Any], path: Path) -> None:
    recorded, skipped = checkpoint.get("data"), checkpoint.get("skipped_images", [])
    if not isinstance(recorded, dict) or not isinstance(skipped, list):
        raise UserError(f"checkpoint {path} does not say on which data it was trained; evaluate it instead")
    for name, here in fingerprints(config, skipped).items():
        if recorded.get(name) != here:
            raise UserError(
                f"checkpoint {path}: {name}_file {getattr(config, f'{name}_file')} or its images are not those of"
                " its run"
            )
    logger.info("the data are those of its run: %s", ", ".join(name for name, mark in recorded.items() if mark))


def require_same_data(checkpoint: Mapping[str, Any], data: Mapping[str, str | None]) -> None:
    """Raises UserError unless a checkpoint was trained on the training data with these `fingerprints`."""
    recorded = checkpoint.get("data")
    if not isinstance(recorded, dict) or recorded.get("train") != data["train"]:
        raise UserError(
            f"checkpoint {checkpoint['path']} was trained on other data than train_file and train_image_root now hold;"
            f" {settings_of_run(checkpoint['path'])}; to start from its weights, leave out --resume"
        )


def check_metrics(checkpoint: dict[str, Any], config: Config, device: torch.device) -> None:
    """Evaluate again on the split that the metrics are of."""
    path, recorded = checkpoint["path"], recorded_metrics(checkpoint)
    if not recorded:
        logger.warning("it has no metrics: it was saved where its run did not evaluate")
        return
    trained = TrainedModel.build(checkpoint, config, device)
    for name, metrics in recorded.items():
        found = evaluate(trained.model, trained.open_split(name), trained.setting)
        compare(metrics, found, f"checkpoint {path}: on the {name} split")
        logger.info("the metrics on the %s split are those of its run", name)


def recorded_metrics(checkpoint: Mapping[str, Any]) -> dict[Evaluated, Metrics]:
    """The metrics in a checkpoint by split; empty without any. Raises UserError when they are something else."""
    try:
        return METRICS.validate_python(checkpoint.get("metrics") or {})
    except ValidationError:
        raise UserError(f"checkpoint {checkpoint['path']}: its metrics are not those of an evaluation") from None


def compare(recorded: Metrics, found: Metrics, where: str) -> None:
    """Raises UserError unless all recorded metrics of the stages are found again."""
    for stage, numbers in ((stage, recorded[stage]) for stage in STAGE_NAMES if stage in recorded):
        for name, value in numbers.items():
            here = found.get(stage, {}).get(name, math.nan)
            if here != value:
                raise UserError(f"{where}, {stage} {name} is {here:g}, and its run had {value:g}")
