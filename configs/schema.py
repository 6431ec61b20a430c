"""Every key a configuration may have: type, range, default.

The defaults are MARS on CUHK-PEDES; a YAML file holds what differs. Published names are kept, `schedular` included.
Keys of the networks and of what they learn are declared in `models/settings.py` and `models/objectives.py`, those of
optimizer and learning rate in `utils/training`; all lie side by side in a file.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from dataset.attributes import AttributeRule
from dataset.augmentation import Augmentation
from dataset.captions import CaptionReading
from dataset.images import Resampling
from models.settings import ModelSettings
from utils.config import (
    Count,
    Fraction,
    NotNegative,
    Positive,
    Section,
    Whole,
)
from utils.errors import UserError
from utils.files import similar_file
from utils.paths import PathText
from utils.training.learning_rate import Schedule, ScheduleSettings
from utils.training.optimization import Optimizer, OptimizerSettings

REPOSITORY = Path(__file__).resolve().parent.parent

Group = Annotated[int, Field(ge=2)] | None  # samples; None = the whole batch of a process
GroupByEpoch = Group | Annotated[list[Group], Field(min_length=1)]  # the last one of a list stays


class Config(Section):
    """A run of any system: data, what it starts from, recipe, evaluation. Raises ValueError where keys do not fit.

    max_words: words of a caption, or tokens, that are read. k_test: candidates that are re-ranked; 0 = none are.
    """

    usual: ClassVar[Mapping[str, Any]] = {}  # values, or files that hold them, of keys that others refer to
    system: str
    # data
    train_file: list[PathText] = []
    val_file: PathText | None = None
    test_file: PathText | None = None
    train_image_root: PathText | None = None
    val_image_root: PathText | None = None
    test_image_root: PathText | None = None
    max_words: Annotated[int, Field(ge=3)] = 75
    caption_rules: CaptionReading = "published"
    attributes: AttributeRule = "published"
    workers: Whole = 4
    bad_images: Literal["stop", "skip"] = "stop"
    noisy_rate: Fraction = 0.0
    noisy_file: PathText | None = None
    image_cache: PathText | None = None
    augmentation: Augmentation = Augmentation()
    augment_words: Fraction = 0.0
    # what a run starts from
    checkpoint: PathText | None = None
    # recipe
    weights: dict[str, NotNegative] = {}
    batch_size_train: Count = 8
    accumulate_steps: Count = 1
    optimizer: OptimizerSettings = OptimizerSettings()
    schedular: ScheduleSettings = ScheduleSettings()
    sampler: Literal["random", "identity"] = "random"
    samples_per_identity: Count = 4
    clip_grad_norm: Positive | None = None
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    compile: Literal[False, True, "layers", "step"] = False
    cuda_graphs: bool = False
    deterministic: bool = False
    max_steps: Count | None = None
    checkpoint_minutes: Positive | None = 20
    checkpoint_steps: Count | None = None
    # evaluation
    batch_size_test: Count = 64
    k_test: Whole = 0
    evaluation_memory: NotNegative | None = None
    eval_epoch: Whole = 0
    model_selection: Literal["val", "test"] = "val"

    @field_validator("train_file", mode="before")
    @classmethod
    def one_file_is_a_list(cls, value: Any) -> Any:
        files = as_list(value)
        if not all(isinstance(file, str) for file in files):
            raise ValueError(f"a file or a list of files is expected, not {value!r}")
        return files

    @property
    @abstractmethod
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""

    @property
    def encodes_images_by(self) -> str:
        """The name of what encodes images, for people."""
        return self.system

    @property
    def resampling(self) -> Resampling:
        """How images are resized; as the published work does it."""
        return "bicubic"

    @property
    def epochs(self) -> int | None:
        """Epochs of the run; None = as many as its steps make."""
        return self.schedular.all_epochs

    @property
    def last_step(self) -> int | None:
        """The number of steps with which the run ends; None = with its epochs."""
        return min((end for end in (self.schedular.steps, self.max_steps) if end is not None), default=None)

    @model_validator(mode="after")
    def fits(self) -> "Config":
        for name, conflict in self.conflicts():
            raise ValueError(f"`{name}`: {conflict}")
        return self

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Pairs (key, what is wrong) for values that do not fit each other."""
        if 2 * self.augmentation.crop >= min(self.image_size):
            yield "augmentation.crop", f"{self.augmentation.crop} is half of an image of {self.image_size} or more"
        if self.noisy_file and self.noisy_rate:
            yield "noisy_file", f"says which captions are exchanged; leave it out, or `noisy_rate` {self.noisy_rate}"
        if self.sampler == "identity" and self.batch_size_train % self.samples_per_identity:
            batch = self.batch_size_train
            yield "samples_per_identity", f"{self.samples_per_identity} must divide batch_size_train ({batch})"
        yield from ((f"schedular.{key}", conflict) for key, conflict in self.schedular.conflicts())
        if self.cuda_graphs and self.compile != "step":
            how = str(self.compile).lower()
            yield "cuda_graphs", f"needs `compile: step`, not {how}; set that too, or leave `cuda_graphs` out"
        if self.cuda_graphs and self.accumulate_steps > 1:
            yield "cuda_graphs", "cannot hold gradients of several micro-batches; set accumulate_steps to 1"


class MarsConfig(ModelSettings, Config):
    """ALBEF, RaSa, MARS and MAMBA-TBPS: one model with a momentum copy, fusion and re-ranking."""

    usual: ClassVar[Mapping[str, Any]] = {"bert_config": "configs/config_bert.json"}
    system: Literal["mars"] = "mars"
    # data
    weak_pos_pair_probability: Fraction = 0.1
    text_encoder: PathText = "bert-base-uncased"
    vocabulary_size: Annotated[int, Field(ge=50)] = 4000
    # what a run starts from
    vision_checkpoint: PathText | None = None
    # recipe
    optimizer: Optimizer = Optimizer()
    schedular: Schedule = Schedule()
    alpha: Fraction = 0.4
    warm_up: bool = True
    hard_negatives_within: GroupByEpoch = None
    look_alikes: GroupByEpoch = None
    # evaluation
    k_test: Whole = 128

    @property
    def encodes_images_by(self) -> str:
        return self.image_encoder

    def negatives_within(self, epoch: int, pool: int | None = None) -> int | None:
        """Samples among which negatives are drawn in an epoch (0-based); None = those of the process.

        pool: as many as a process had when its run began, which stay where batches can be divided by them.
        """
        groups = as_list(self.hard_negatives_within)
        configured = groups[min(epoch, len(groups) - 1)]
        return pool if configured is None and pool and self.batch_size_train % pool == 0 else configured

    def momentum_share(self, epoch: int, progress: float) -> float:
        """alpha of a step in an epoch (0-based) of which the share `progress` is done."""
        return self.alpha * (progress if self.warm_up and epoch == 0 else 1)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Pairs (key, what is wrong) for values that do not fit each other."""
        yield from ModelSettings.conflicts(self)
        positions = self.bert_config.max_position_embeddings
        if self.max_words > positions:
            yield "max_words", f"is beyond bert_config.max_position_embeddings ({positions})"
        yield from Config.conflicts(self)
        if self.queue_size < self.batch_size_train:
            yield "queue_size", f"must hold a batch of {self.batch_size_train}"
        for name in ("hard_negatives_within", "look_alikes"):
            groups = getattr(self, name)
            if any(group and self.batch_size_train % group for group in as_list(groups)):
                yield name, f"{groups} must divide batch_size_train ({self.batch_size_train}), or be null"
        if any(as_list(self.look_alikes)) and self.sampler != "random":
            yield "look_alikes", f"makes batches in its own way; leave it out, or `sampler` {self.sampler}"


def as_list(value: Any) -> list[Any]:
    """A list as it is, anything else as a list of one."""
    return value if isinstance(value, list) else [value]


def require_files(config: Config, keys: tuple[str, ...]) -> None:
    """Check that the named keys are set and that what they name exists.

    Raises UserError naming the first key at fault.
    """
    for key in keys:
        value = getattr(config, key)
        if not value:
            raise UserError(f"config: key `{key}` is not set; give it in the YAML file or as --set {key}=...")
        for name in as_list(value):
            if not Path(name).exists():
                raise UserError(f"config: {key} {name} does not exist{similar_file(Path(name))}")
