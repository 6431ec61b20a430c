"""Reads the options of the published IRRA and RDE, which they save as `configs.yaml` beside a checkpoint, as our keys.

Such a file is flat and holds every option of their command line (`PublishedOptions`). docs/clip.md has the table of
what each becomes.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from configs.clip import Sides
from configs.schema import REPOSITORY
from dataset.word_noise import AUGMENTED
from models.clip.division import usual_mixture
from models.clip.irra import LOSSES
from models.clip.losses import PAIR_LOSSES
from models.clip.towers import ClipSize
from utils.config import Count, Fraction, NotNegative, Part, Positive, Section, Whole, validate
from utils.errors import did_you_mean

logger = logging.getLogger(__name__)

MARKS = {"loss_names", "pretrain_choice"}  # options that every such file has, and no file of ours
ONLY_RDE = {"noisy_rate", "noisy_file", "tau", "margin", "select_ratio", "txt_aug"}
DATA_FILES = {"CUHK-PEDES": "cuhk_pedes.yaml", "ICFG-PEDES": "icfg_pedes.yaml", "RSTPReid": "rstp_reid.yaml"}
OPTIMIZERS = {"Adam": ("adam", 1e-3), "AdamW": ("adamW", 1e-8), "SGD": ("sgd", None)}  # our name, eps if any
SIZES = ("patch_size", "vision_width", "vision_depth", "text_width", "embedding")
LARGE = (14, 1024, 24, 768, 768)
TRANSFORMERS = {
    "ViT-B/16": tuple(getattr(ClipSize, name) for name in SIZES),
    "ViT-B/32": (32, 768, 12, 512, 512),
    "ViT-L/14": LARGE,
    "ViT-L/14@336px": LARGE,
}
RESNET, TRANSFORMER = re.compile(r"RN\d+(x\d+)?"), re.compile(r"ViT-[^./]*(/[^./]*)?")  # OpenAI's names


class WithoutEffect(Section):
    """Options that say nothing of what is learned or evaluated, or that the published code never reads."""

    name: Any = None
    output_dir: Any = None
    root_dir: Any = None
    log_period: Any = None
    resume: Any = None
    resume_ckpt_file: Any = None
    test: Any = None
    training: Any = None
    local_rank: Any = None
    distributed: Any = None
    gpu: Any = None
    gpu_id: Any = None
    device: Any = None
    world_size: Any = None
    masked_token_rate: Any = None
    masked_token_unchanged_rate: Any = None
    power: Any = None


class PublishedOptions(WithoutEffect):
    """All options under their published names, with the defaults of the published command line."""

    # model
    pretrain_choice: str = "ViT-B/16"
    img_size: Sides = [384, 128]
    stride_size: Count = 16
    text_length: Annotated[int, Field(ge=3, le=ClipSize.text_length)] = 77
    vocab_size: Literal[49408] = 49408
    cmt_depth: Count = 4
    select_ratio: Annotated[float, Field(gt=0, le=1)] = 0.3
    # losses
    loss_names: str = "sdm+id+mlm"
    temperature: Positive = 0.02
    MLM: bool = False
    id_loss_weight: NotNegative = 1.0
    mlm_loss_weight: NotNegative = 1.0
    tau: Positive = 0.015
    margin: NotNegative = 0.1
    # optimizer
    optimizer: Literal["Adam", "SGD", "AdamW"] = "Adam"
    lr: Positive = 1e-5
    lr_factor: Positive = 5.0
    bias_lr_factor: Positive = 2.0
    weight_decay: NotNegative = 4e-5
    weight_decay_bias: NotNegative = 0.0
    alpha: Part = 0.9
    beta: Part = 0.999
    momentum: Part = 0.9
    # learning rate
    num_epoch: Count = 60
    lrscheduler: Literal["cosine", "step"] = "cosine"
    target_lr: NotNegative = 0.0
    warmup_factor: Fraction = 0.1
    warmup_epochs: Whole = 5
    warmup_method: Literal["linear"] = "linear"
    milestones: list[Count] = [20, 50]
    gamma: Positive = 0.1
    # data
    dataset_name: str = "CUHK-PEDES"
    batch_size: Count = 128
    test_batch_size: Count = 512
    num_workers: Whole = 8
    sampler: Literal["random", "identity"] = "random"
    num_instance: Count = 4
    img_aug: bool = False
    txt_aug: bool = False
    noisy_rate: Fraction = 0.2
    noisy_file: str = ""
    # evaluation
    val_dataset: Literal["test", "val"] = "test"
    eval_period: Count = 1

    @property
    def is_rde(self) -> bool:
        """Whether RDE has written them; else IRRA has."""
        return bool(ONLY_RDE & self.model_fields_set)

    @property
    def losses(self) -> list[str]:
        """The parts of `loss_names`."""
        return [part.strip() for part in self.loss_names.split("+")]

    @property
    def pair_loss(self) -> str | None:
        """RDE's loss: the first that it has among the parts, whatever their order. The others only name the run."""
        return next((name for name in PAIR_LOSSES if name in self.losses), None)

    @property
    def noise_file(self) -> str:
        """The permutation that is read; none without noise, whatever file is named."""
        return self.noisy_file if self.noisy_rate > 0 else ""

    @field_validator("dataset_name")
    @classmethod
    def known_data(cls, name: str) -> str:
        if name not in DATA_FILES:
            raise ValueError(f"must be {listed(DATA_FILES)}, not {name!r}{did_you_mean(name, DATA_FILES)}")
        return name

    @field_validator("pretrain_choice")
    @classmethod
    def known_model(cls, name: str) -> str:
        known = f"{listed(TRANSFORMERS)}, or the path of a file"
        if RESNET.fullmatch(name):
            raise ValueError(f"{name} encodes images by a ResNet, which there is not here; name {known}")
        if name not in TRANSFORMERS and (TRANSFORMER.fullmatch(name) or not set(name) & {".", "/"}):
            raise ValueError(f"must be {known}, not {name!r}{did_you_mean(name, TRANSFORMERS)}")
        return name

    @model_validator(mode="after")
    def has_losses(self) -> "PublishedOptions":
        if self.is_rde:
            if self.pair_loss is None:
                raise ValueError(
                    f"`loss_names` must name {listed(PAIR_LOSSES)} among its parts, such as TAL+sr0.3 (it has options"
                    f" of RDE), not {self.loss_names!r}"
                )
            return self
        for part in self.losses:
            if part not in LOSSES:
                known = "+".join(LOSSES)
                raise ValueError(
                    f"`loss_names`: there is no loss {part!r}{did_you_mean(part, LOSSES)}; join some of {known} by +"
                )
        if "mlm" in self.losses and not self.MLM:
            raise ValueError("`MLM`: must be true where `loss_names` has mlm, as no word is masked without it")
        return self


def is_published(values: Mapping[str, Any]) -> bool:
    """Whether these are options of the published IRRA or RDE, and not keys of ours."""
    return values.keys() >= MARKS


def translate(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The same settings in our keys; one line is logged for what is read differently.

    `data` is the path of our configuration of the data set, which belongs under all other layers.
    Raises UserError: one line with the option at fault.
    """
    options = validate(PublishedOptions, values, f"{where} (options of the published IRRA or RDE)")
    if options.eval_period != 1:
        logger.warning(f"{where}: eval_period {options.eval_period} is read as 1: every epoch is evaluated")
    if options.MLM and not options.is_rde and "mlm" not in options.losses:
        logger.warning(f"{where}: MLM without mlm in loss_names masks no words here, and did in the published code")
    of_system = rde_keys(options) if options.is_rde else irra_keys(options)
    return {
        **of_system,
        **model_keys(options),
        **data_keys(options),
        "temperature": options.temperature,
        "optimizer": optimizer_keys(options),
        "schedular": schedule_keys(options),
    }


def irra_keys(options: PublishedOptions) -> dict[str, Any]:
    """Losses and cross-modal encoder; a loss that is not named has the weight 0."""
    weights = {"id": options.id_loss_weight, "mlm": options.mlm_loss_weight}
    return {
        "system": "irra",
        "weights": {name: weights.get(name, 1.0) if name in options.losses else 0.0 for name in LOSSES},
        "cross_depth": options.cmt_depth,
    }


def rde_keys(options: PublishedOptions) -> dict[str, Any]:
    """Loss, token selection, noise and the mixture that divides noisy pairs."""
    tight = options.dataset_name == "RSTPReid"
    noise = {"noisy_file": options.noise_file} if options.noise_file else {"noisy_rate": options.noisy_rate}
    return {
        "system": "rde",
        "pair_loss": options.pair_loss,
        "tau": options.tau,
        "margin": options.margin,
        "select_ratio": options.select_ratio,
        "mixture": "tight" if tight else usual_mixture(options.noisy_rate),
        "augment_words": AUGMENTED if options.txt_aug else 0.0,
        **noise,
    }


def model_keys(options: PublishedOptions) -> dict[str, Any]:
    """Sizes; and the file to start from, where one is named by its path."""
    name = options.pretrain_choice
    sizes = TRANSFORMERS.get(name)
    start: dict[str, Any] = {"clip": dict(zip(SIZES, sizes, strict=True))} if sizes else {"checkpoint": name}
    return {
        "image_res": options.img_size,
        "stride_size": options.stride_size,
        "max_words": options.text_length,
        **start,
    }


def data_keys(options: PublishedOptions) -> dict[str, Any]:
    """Data set, batches and what is done to images."""
    strong = {"crop": 10, "erase": 0.5, "erased": "published"} if options.img_aug else {"crop": 0, "erase": 0.0}
    return {
        "data": REPOSITORY / "configs" / "data" / DATA_FILES[options.dataset_name],
        "batch_size_train": options.batch_size,
        "batch_size_test": options.test_batch_size,
        "workers": options.num_workers,
        "sampler": options.sampler,
        "samples_per_identity": options.num_instance,
        "augmentation": {"flip": 0.5, **strong},
        "model_selection": options.val_dataset,
    }


def optimizer_keys(options: PublishedOptions) -> dict[str, Any]:
    """The section `optimizer`."""
    opt, eps = OPTIMIZERS[options.optimizer]
    return {
        "opt": opt,
        "lr": options.lr,
        "lr_factor": options.lr_factor,
        "bias_lr_factor": options.bias_lr_factor,
        "weight_decay": options.weight_decay,
        "weight_decay_bias": options.weight_decay_bias,
        "betas": [options.alpha, options.beta],
        "momentum": options.momentum,
        **({} if eps is None else {"eps": eps}),
    }


def schedule_keys(options: PublishedOptions) -> dict[str, Any]:
    """The section `schedular`."""
    return {
        "sched": options.lrscheduler,
        "epochs": options.num_epoch,
        "min_lr": options.target_lr,
        "warmup_factor": options.warmup_factor,
        "warmup_epochs": options.warmup_epochs,
        "milestones": options.milestones,
        "gamma": options.gamma,
    }


def listed(names: Iterable[str]) -> str:
    """`a, b or c`."""
    *others, last = names
    return f"{', '.join(others)} or {last}"
