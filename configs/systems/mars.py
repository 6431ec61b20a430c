"""ALBEF, RaSa, MARS and MAMBA-TBPS: one model, put together by its configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from configs.schema import MarsConfig
from configs.systems.look_alikes import refresh_look_alikes
from configs.systems.system import System, Training, TrainingSetting
from dataset.batch import TrainBatch
from dataset.build import FROM_CAPTIONS, fit_vocabulary, open_loader, open_tokenizer
from dataset.tokens import CaptionTokenizer
from models.build import build_model, compile_model
from models.inspection import describe_batch, describe_step
from models.person_search import PersonSearchModel
from models.randomness import RandomDraws
from models.released import load_trained
from models.start import start_model
from utils.checkpoints.fields import CheckpointFields, read_fields
from utils.training.epoch_log import Step
from utils.training.learning_rate import CosineRate
from utils.training.optimization import make_optimizer


class PoolField(CheckpointFields):
    """Samples among which a run has drawn its hard negatives."""

    negatives_pool: Annotated[int, Field(gt=0)] | None = None


class MarsTraining(Training):
    """Training of ALBEF, RaSa and MARS.

    negatives_pool: samples of a process when the run began, among which it draws hard negatives unless configured.
    """

    model: PersonSearchModel

    def __init__(self, setting: TrainingSetting, model: PersonSearchModel, tokenizer: CaptionTokenizer):
        config: MarsConfig = setting.config
        self.setting, self.config, self.model, self.tokenizer = setting, config, model, tokenizer
        noise = model.noise_source(setting.seed)
        where = setting.device, setting.folder, setting.skipped
        self.loader = open_loader(config, tokenizer, setting.seed, *where, noise)
        compile_model(model, config.compile, config.cuda_graphs)
        self.optimizer = make_optimizer(model.named_parameters(), config.optimizer, model.fast(), model.undecayed())
        self.schedule = CosineRate(self.optimizer, config.schedular)
        self.some_unused = not model.objective.teaches_all
        self.negatives_pool = config.batch_size_train

    def begin(self) -> None:
        self.model.follow(self.config.momentum)  # as published, where every step begins with it

    def prepare_folder(self, folder: Path) -> None:
        if self.config.text_encoder == FROM_CAPTIONS:
            self.tokenizer.save(folder / "tokenizer")

    def open_epoch(self, step: Step) -> None:
        refresh_look_alikes(self.model, self.loader, step, self.setting.precision)

    def inputs(self, batch: TrainBatch, step: Step) -> tuple[TrainBatch, RandomDraws, float | Tensor, int | None]:
        """A batch, its random draws, alpha, groups of negatives."""
        config, device = self.config, self.setting.device
        if config.compile == "step":
            batch = batch.with_few_shapes(self.model.special.pad, self.model.text_encoder.size.max_position_embeddings)
        draws = self.model.make_draws(batch.noise, batch.caption, config.augment_words > 0).to(device)
        share = config.momentum_share(step.epoch, step.iteration / step.iterations)
        alpha = torch.full((), share, dtype=torch.float64, device=device) if config.alpha > 0 else 0.0
        return batch, draws, alpha, config.negatives_within(step.epoch, self.negatives_pool)

    def advance(self, kept: list[Any], taken: Tensor) -> None:
        self.model.advance(kept, taken)

    def state(self) -> dict[str, Any]:
        return {"negatives_pool": self.negatives_pool}

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        found = read_fields(PoolField, checkpoint, checkpoint["path"])
        self.negatives_pool = found.negatives_pool or self.negatives_pool

    def describe(self) -> list[str]:
        batch = next(self.loader.epoch(0))
        return [describe_batch(batch), describe_step(self.model, self.config, self.loader.data.longest_caption())]


def fit(config: MarsConfig, tokenizer: CaptionTokenizer, for_training: bool = False) -> MarsConfig:
    return fit_vocabulary(config, tokenizer)


def start(model: PersonSearchModel, checkpoint: Mapping[str, Any] | None, config: MarsConfig) -> None:
    """See `start_model`: a checkpoint, else a BERT, and an image encoder of its own file."""
    language_model = None if config.text_encoder == FROM_CAPTIONS else config.text_encoder
    start_model(model, checkpoint, config.vision_checkpoint, language_model)


MARS = System(MarsConfig, open_tokenizer, fit, build_model, load_trained, start, MarsTraining)
