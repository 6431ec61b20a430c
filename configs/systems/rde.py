"""RDE: pairs, of which each epoch's beginning tells the clean from the noisy."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from configs.clip import RdeConfig
from configs.systems.open_architecture import follow_open_clip
from configs.systems.pair_division import divide_pairs, shares_of
from configs.systems.pairs import PairTraining
from configs.systems.system import System, TrainingSetting
from dataset.batch import PairBatch
from dataset.build import open_clip_tokenizer
from dataset.tokens import TextTokenizer
from models.clip.build import load_rde, start_clip
from models.clip.division import MIXTURES
from models.clip.rde import EMBEDDINGS
from models.clip.rde import RDE as Model
from utils.errors import UserError
from utils.training.epoch_log import Step


class RdeTraining(PairTraining):
    """clean [N] bool, on the device: the pairs that the loss of this epoch is taken of; None = of all."""

    model: Model
    config: RdeConfig

    def __init__(self, setting: TrainingSetting, model: Model, tokenizer: TextTokenizer):
        super().__init__(setting, model, tokenizer)
        self.clean: Tensor | None = None
        # without a weight for the embedding of selected tokens, the layers that make it get no gradient
        self.some_unused = model.settings.learned != EMBEDDINGS

    def open_epoch(self, step: Step) -> None:
        """Divide all pairs, unless the epoch is resumed: it goes on with the division that its checkpoint holds."""
        if self.config.division and step.iteration == 0:
            mixture, seed = MIXTURES[self.config.chosen_mixture], self.setting.seed
            clean = divide_pairs(self.model, self.loader, step.epoch, self.setting.precision, mixture, seed)
            self.clean = clean.to(self.setting.device)

    def inputs(self, batch: PairBatch, step: Step) -> tuple[Any, ...]:
        if self.clean is None:
            return (batch,)
        return (replace(batch, clean=self.clean[batch.index]),)

    def record(self) -> dict[str, Any]:
        return {} if self.clean is None else {"division": shares_of(self.clean.cpu(), self.loader.data.truly_clean)}

    def state(self) -> dict[str, Any]:
        return {"clean_pairs": None if self.clean is None else self.clean.cpu()}

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        found = checkpoint.get("clean_pairs")
        fits = isinstance(found, Tensor) and found.dtype == torch.bool and found.shape == (len(self.loader.data),)
        if found is not None and not fits:
            raise UserError(
                f"checkpoint {checkpoint['path']}: its division of clean and noisy pairs is not of these training data;"
                " resume it with the settings of its run"
            )
        self.clean = None if found is None else found.to(self.setting.device)


def fit(config: RdeConfig, tokenizer: TextTokenizer, for_training: bool = False) -> RdeConfig:
    return config


def build(config: RdeConfig, special: object) -> Model:
    """Freshly initialised."""
    return Model(config.size, config.rde, config.gradient_checkpointing)


def start(model: Model, checkpoint: Mapping[str, Any] | None, config: RdeConfig) -> None:
    start_clip(model, checkpoint)


RDE = System(RdeConfig, open_clip_tokenizer, fit, build, load_rde, start, RdeTraining, follow_open_clip)
