"""Training of the CLIP systems: pairs of an image and a caption, a loss on each batch of them."""

from typing import Any

from configs.clip import DualEncoderConfig
from configs.systems.system import Training, TrainingSetting
from dataset.batch import PairBatch
from dataset.build import open_pair_loader
from dataset.tokens import TextTokenizer
from models.build import compile_blocks
from models.clip.clip_model import ClipModel
from models.clip.parameter_groups import make_clip_optimizer
from models.inspection import describe_pair_step, describe_pairs
from utils.training.epoch_log import Step
from utils.training.learning_rate import FactorRate


class PairTraining(Training):
    """full_rows, mask_words: as of `open_pair_loader`."""

    model: ClipModel
    config: DualEncoderConfig

    def __init__(
        self,
        setting: TrainingSetting,
        model: ClipModel,
        tokenizer: TextTokenizer,
        full_rows: bool = False,
        mask_words: float = 0.0,
    ):
        config = setting.config
        self.setting, self.config, self.model = setting, config, model
        where = setting.device, setting.folder, setting.skipped
        self.loader = open_pair_loader(config, tokenizer, setting.seed, *where, full_rows, mask_words)
        compile_blocks(model, config.compile)
        self.optimizer = make_clip_optimizer(model.named_parameters(), config.optimizer)
        self.schedule = FactorRate(self.optimizer, config.schedular)

    def inputs(self, batch: PairBatch, step: Step) -> tuple[Any, ...]:
        return (batch,)

    def describe(self) -> list[str]:
        batch = next(self.loader.epoch(0))
        return [describe_pairs(batch), describe_pair_step(self.model, batch, self.config.precision)]
