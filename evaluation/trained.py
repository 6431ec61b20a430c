"""Opens what an evaluation needs: tokenizer, model and split, from a configuration and a checkpoint."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from configs.schema import Config, load_config, require_files, resolve_config
from dataset.annotations import check_images, load_annotations
from dataset.build import fit_vocabulary, open_tokenizer
from dataset.digests import read_digests
from dataset.evaluation_split import EvaluationSplit, make_split
from dataset.tokens import CaptionTokenizer
from evaluation.ranking import Setting
from models.build import build_model
from models.person_search import PersonSearchModel
from models.released import grid_of, load_weights, require_trained, saved_config
from utils.checkpoints.files import read_checkpoint
from utils.errors import UserError
from utils.precision import set_precision

logger = logging.getLogger(__name__)

GIB = 2**30


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, its configuration, and how it reads captions. checkpoint: the file it came from."""

    checkpoint: Path
    config: Config
    model: PersonSearchModel
    tokenizer: CaptionTokenizer
    setting: Setting

    def open_split(self, name: str) -> EvaluationSplit:
        """The `val` or `test` split. Raises UserError when its file or an image is missing."""
        return open_split(self.config, name, self.tokenizer)


def open_trained(checkpoint: Path, config: Path | None, overrides: Sequence[str], device: torch.device) -> TrainedModel:
    """Build the model of a checkpoint, ready to be evaluated.

    Its settings are those of `config`, else of config.yaml beside the checkpoint, else those recorded in it, with
    `overrides` (KEY.PATH=VALUE) on top. Raises UserError when there are none, or a file is missing or wrong.
    """
    content = {**read_checkpoint(checkpoint), "path": str(checkpoint)}
    settings = settings_of(content, checkpoint, config, overrides)
    tokenizer = open_tokenizer(settings, content)
    settings = fit_vocabulary(settings, tokenizer)
    model = build_model(settings, tokenizer.special).to(device).eval()
    load_trained(model, content, settings)
    setting = evaluation_setting(settings, device, set_precision(settings.precision, device))
    return TrainedModel(checkpoint, settings, model, tokenizer, setting)


def settings_of(content: Mapping[str, Any], checkpoint: Path, config: Path | None, overrides: Sequence[str]) -> Config:
    beside = checkpoint.parent / "config.yaml"
    if config is None and not beside.is_file():
        saved = saved_config(content)
        if not saved:
            raise UserError(f"checkpoint {checkpoint} does not say how it was trained; give --config")
        return resolve_config(saved, f"checkpoint {checkpoint}: its configuration", list(overrides))
    return load_config(config or beside, list(overrides))


def load_trained(model: PersonSearchModel, content: Mapping[str, Any], config: Config) -> None:
    """Take all weights from a checkpoint (with its "path"). Raises UserError when some are missing."""
    saved, where = saved_config(content), content["path"]
    report = load_weights(model, content["model"], where, grid_of(saved))
    logger.info("checkpoint %s: %s", where, report)
    require_trained(report, where)
    for key in ("image_res", "max_words"):  # at times wanted, and always worth knowing
        trained, here = saved.get(key), getattr(config, key)
        if trained is not None and trained != here:
            logger.warning("checkpoint %s was trained with %s %s, and is evaluated with %s", where, key, trained, here)


def open_split(config: Config, name: str, tokenizer: CaptionTokenizer) -> EvaluationSplit:
    """The `val` or `test` split as gallery and queries.

    Raises UserError when its file or an image is missing.
    """
    require_files(config, (f"{name}_file", f"{name}_image_root"))
    entries = load_annotations(getattr(config, f"{name}_file"), name)
    root = getattr(config, f"{name}_image_root")
    check_images(entries, root)
    return make_split(entries, root, tokenizer, config.max_words, read_digests(getattr(config, f"{name}_file")))


def open_splits(config: Config, only_test: bool, tokenizer: CaptionTokenizer) -> dict[str, EvaluationSplit]:
    """The splits that a run evaluates on, the one for its final results last."""
    chosen = [] if only_test else [config.model_selection]
    names = dict.fromkeys([*chosen, *(["test"] if only_test or config.test_file else [])])
    return {name: open_split(config, name, tokenizer) for name in names}


def evaluation_setting(config: Config, device: torch.device, precision: Callable) -> Setting:
    return Setting(
        device=device,
        precision=precision,
        image_size=config.image_size,
        batch_size=config.batch_size_test,
        candidates=config.k_test,
        workers=config.workers,
        memory=int(config.evaluation_memory * GIB),
    )
