"""Every key a configuration may have: type, range, default.

The defaults are MARS on CUHK-PEDES; a YAML file holds what differs. Published names are
kept, `schedular` included.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from utils.config import Section, apply_overrides, read_mapping, validate
from utils.errors import UserError
from utils.files import similar_file

REPOSITORY = Path(__file__).resolve().parent.parent

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(ge=0, lt=1)]
Group = Annotated[int, Field(ge=2)] | None  # None = the whole batch of a process


class Weights(Section):
    """Weight of each loss; 0 leaves it out. Also a list of seven in this order, or RaSa's five."""

    cl: NotNegative = 0.5
    pitm: NotNegative = 1.0
    mlm: NotNegative = 1.0
    prd: NotNegative = 0.5
    mrtd: NotNegative = 0.5
    mae: NotNegative = 1.0
    attribute: NotNegative = 2.0


class Bert(Section):
    """Text and fusion encoder: a BERT JSON file with `fusion_layer`, `encoder_width`, `full_ca`."""

    vocab_size: Count = 30522
    hidden_size: Count = 768
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    intermediate_size: Count = 3072
    max_position_embeddings: Count = 512
    type_vocab_size: Count = 2
    hidden_dropout_prob: Part = 0.1
    attention_probs_dropout_prob: Part = 0.1
    layer_norm_eps: Positive = 1e-12
    initializer_range: Positive = 0.02
    pad_token_id: Whole = 0
    fusion_layer: Count = 6
    encoder_width: Count = 768
    full_ca: bool = False
    hidden_act: Literal["gelu"] = "gelu"
    model_type: Literal["bert"] = "bert"
    position_embedding_type: Literal["absolute"] = "absolute"

    @model_validator(mode="before")
    @classmethod
    def drop_notes(cls, values: Any) -> Any:
        """Keys of Hugging Face files that describe the file and not the network."""
        notes = ("architectures", "transformers_version", "use_cache", "gradient_checkpointing", "classifier_dropout")
        return {k: v for k, v in values.items() if k not in notes} if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def fits(self) -> "Bert":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by {self.num_attention_heads} heads")
        if self.fusion_layer >= self.num_hidden_layers:
            raise ValueError(f"fusion_layer must be below num_hidden_layers ({self.num_hidden_layers})")
        if self.pad_token_id >= self.vocab_size:
            raise ValueError(f"pad_token_id {self.pad_token_id} lies outside the vocabulary of {self.vocab_size}")
        return self


class Optimizer(Section):
    """AdamW; `lr_custm` is the rate of the PRD and m-RTD heads."""

    opt: Literal["adamW", "adamw"] = "adamW"
    lr: Positive = 1e-5
    lr_custm: Positive = 1e-4
    weight_decay: NotNegative = 0.02
    betas: Annotated[list[Part], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    eps: Positive = 1e-8


class Schedule(Section):
    """Learning rate. `cosine` moves by epoch as published, `cosine_step` by step.

    `lr` and `decay_rate` are in published files and change nothing: the rate is the optimizer's, and
    decay belongs to cycles after the first, which there is none of.
    """

    sched: Literal["cosine", "cosine_step"] = "cosine"
    lr: Positive | None = None
    epochs: Count = 30
    min_lr: NotNegative = 1e-6
    decay_rate: Fraction = 1
    warmup_lr: NotNegative = 1e-5
    warmup_epochs: Whole = 1
    cooldown_epochs: Whole = 0


VISION_SIZES = {
    name: {"vision_width": width, "vision_heads": heads}
    for name, width, heads in (("tiny", 192, 3), ("small", 384, 6), ("base", 768, 12))
}
# what an image encoder has unless it is said otherwise
OF_ENCODERS = {"vit": {"vision_depth": 12, "drop_path": 0.0}, "vim": {"vision_depth": 24, "drop_path": 0.1}}


class Config(Section):
    """A whole run: data, model, objective, recipe, evaluation."""

    # data
    train_file: list[str] = []
    val_file: str | None = None
    test_file: str | None = None
    train_image_root: str | None = None
    val_image_root: str | None = None
    test_image_root: str | None = None
    image_res: int | list[int] = 384
    max_words: Annotated[int, Field(ge=3)] = 75
    weak_pos_pair_probability: Fraction = 0.1
    text_encoder: str = "bert-base-uncased"
    vocabulary_size: Annotated[int, Field(ge=50)] = 4000
    workers: Whole = 4
    bad_images: Literal["stop", "skip"] = "stop"
    # model
    checkpoint: str | None = None
    vision_checkpoint: str | None = None
    bert_config: Bert = Bert(full_ca=True)
    image_encoder: Literal["vit", "vim"] = "vit"
    vision_size: Literal["tiny", "small", "base"] | None = None
    vision_width: Count = 768
    vision_depth: Count = 12
    vision_heads: Count = 12
    vision_states: Count = 16
    drop_path: Part = 0.0
    patch_size: Count = 16
    decoder_depth: Count = 4
    decoder_heads: Count = 8
    embed_dim: Count = 256
    # objective
    weights: Weights = Weights()
    temp: Positive = 0.07
    momentum: Fraction = 0.995
    queue_size: Count = 65536
    alpha: Fraction = 0.4
    warm_up: bool = True
    mask_ratio: Part = 0.75
    mlm_probability: Fraction = 0.15
    mrtd_mask_probability: Fraction = 0.3
    mlm_distill_axis: Literal["vocabulary", "positions"] = "vocabulary"
    contrastive_terms: Annotated[list[Literal["i2t", "t2i", "i2i", "t2t"]], Field(min_length=1)] = [
        "i2t",
        "t2i",
        "i2i",
        "t2t",
    ]
    contrastive_keys: Literal["momentum", "online"] = "momentum"
    hard_negatives_within: Group | Annotated[list[Group], Field(min_length=1)] = None
    # recipe
    batch_size_train: Count = 8
    accumulate_steps: Count = 1
    optimizer: Optimizer = Optimizer()
    schedular: Schedule = Schedule()
    clip_grad_norm: Positive | None = None
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    compile: bool = False
    deterministic: bool = False
    max_steps: Count | None = None
    checkpoint_minutes: Positive | None = 20
    checkpoint_steps: Count | None = None
    # evaluation
    batch_size_test: Count = 64
    k_test: Whole = 128
    evaluation_memory: NotNegative = 4
    eval_epoch: Whole = 0
    model_selection: Literal["val", "test"] = "val"

    @model_validator(mode="before")
    @classmethod
    def size_of_vision(cls, values: Any) -> Any:
        """Fill in what follows from `image_encoder` and `vision_size`."""
        values = dict(values)
        encoder, size = str(values.get("image_encoder", "vit")), str(values.get("vision_size"))
        usual = dict(OF_ENCODERS.get(encoder, OF_ENCODERS["vit"]))
        if size in VISION_SIZES:
            of_size = {"vision_depth": usual["vision_depth"], **VISION_SIZES[size]}
            for key, value in of_size.items():
                if values.get(key, value) != value:
                    raise ValueError(f"`{key}`: {values[key]} is not {value}, as vision_size {size} has; leave one out")
            usual |= of_size
            if isinstance(values.get("bert_config"), Mapping):
                values["bert_config"] = {**values["bert_config"], "encoder_width": of_size["vision_width"]}
        return {**usual, **values}

    @field_validator("train_file", mode="before")
    @classmethod
    def one_file_is_a_list(cls, value: Any) -> Any:
        files = as_list(value)
        if not all(isinstance(file, str) for file in files):
            raise ValueError(f"a file or a list of files is expected, not {value!r}")
        return files

    @field_validator("image_res", mode="before")
    @classmethod
    def side_or_sides(cls, value: Any) -> Any:
        sides = value if isinstance(value, list) and len(value) == 2 else [value]
        if not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides):
            raise ValueError(f"a side in pixels or [height, width] is expected, not {value!r}")
        return value

    @field_validator("weights", mode="before")
    @classmethod
    def name_weights(cls, value: Any) -> Any:
        """A list of seven weights, or of RaSa's five (no MAE, no attribute loss), by position."""
        if not isinstance(value, list):
            return value
        names = tuple(Weights.model_fields)
        if len(value) not in (5, 7):
            raise ValueError(f"a list of 5 or 7 numbers is expected ({', '.join(names)}), not {len(value)}")
        return dict(zip(names, [*value, 0, 0][:7], strict=True))

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width = self.image_res if isinstance(self.image_res, list) else [self.image_res] * 2
        return height, width

    def negatives_within(self, epoch: int) -> int | None:
        """Samples among which negatives are drawn in an epoch (0-based); None = those of the process."""
        by_epoch = as_list(self.hard_negatives_within)
        return by_epoch[min(epoch, len(by_epoch) - 1)]

    @model_validator(mode="after")
    def fits(self) -> "Config":
        for name, complaint in self.complaints():
            raise ValueError(f"`{name}`: {complaint}")
        return self

    def complaints(self):
        """Pairs (key, what is wrong) for values that do not fit each other."""
        patch, bert = self.patch_size, self.bert_config
        if any(side % patch or not side for side in self.image_size):
            yield "image_res", f"{self.image_res} is not divisible by patch_size {patch}"
        for name, heads in (("vision_heads", self.vision_heads), ("decoder_heads", self.decoder_heads)):
            if name == "vision_heads" and self.image_encoder != "vit":
                continue  # no attention in it
            if self.vision_width % heads:
                yield name, f"vision_width {self.vision_width} is not divisible by {heads} heads"
        if bert.encoder_width != self.vision_width:
            yield "bert_config.encoder_width", f"is {bert.encoder_width}, but vision_width is {self.vision_width}"
        if self.max_words > bert.max_position_embeddings:
            yield "max_words", f"is beyond bert_config.max_position_embeddings ({bert.max_position_embeddings})"
        if self.queue_size < self.batch_size_train:
            yield "queue_size", f"must hold a batch of {self.batch_size_train}"
        if any(group and self.batch_size_train % group for group in as_list(self.hard_negatives_within)):
            yield (
                "hard_negatives_within",
                (f"{self.hard_negatives_within} must divide batch_size_train ({self.batch_size_train}), or be null"),
            )
        if self.weights.mae and int(self.image_size[0] * self.image_size[1] / patch**2 * (1 - self.mask_ratio)) < 1:
            yield "mask_ratio", "leaves no patch of an image"
        if not any(self.weights.model_dump().values()):
            yield "weights", "every weight is 0, so there is nothing to learn"


def as_list(value: Any) -> list[Any]:
    """A list as it is, anything else as a list of one."""
    return value if isinstance(value, list) else [value]


def load_config(path: str | Path | None, overrides: list[str] = ()) -> Config:
    """Defaults < file named by `base` < YAML file < `key.path=value` overrides.

    Raises UserError: one line with file, key and nearest valid name.
    """
    values = read_layers(Path(path)) if path else {}
    return resolve_config(values, f"config {path}" if path else "config", overrides)


def read_layers(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML file on top of the one it names as its `base` (relative to its own folder), section by section.

    Raises UserError when a base is missing, or rests on itself.
    """
    values, where = read_mapping(path, "config"), f"config {path}"
    values = expand(values, where)
    if "base" not in values:
        return values
    base = values.pop("base")
    if not isinstance(base, str):
        raise UserError(f"{where}: `base` must be the name of a YAML file, not {base!r}")
    if path.resolve() in above:
        raise UserError(f"{where}: `base` {base} leads back to this file")
    return merge(read_layers(path.parent / base, (*above, path.resolve())), values)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` on top of `below`; sections are merged, all other values replaced."""
    merged = dict(below)
    for key, value in above.items():
        sections = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if sections else value
    return merged


def resolve_config(values: Mapping[str, Any], where: str, overrides: list[str] = ()) -> Config:
    """Read what `values` refer to, apply overrides one by one, validate."""
    values = expand({"bert_config": "configs/config_bert.json", **values}, where)
    settings = override(values, overrides)
    try:
        return validate(Config, settings, where)
    except UserError:
        guilty = to_blame(values, overrides)
        if guilty is None:
            raise
    return validate(Config, settings, f"--set {guilty}")


def override(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """`values` with the settings on top, one after the other."""
    values = dict(values)
    for setting in overrides:
        values = expand(apply_overrides(values, [setting]), f"--set {setting}")
    return values


def to_blame(values: Mapping[str, Any], overrides: Sequence[str]) -> str | None:
    """The first setting without which the configuration is right; None when the file is to blame, or several."""
    for place, setting in enumerate(overrides):
        try:
            validate(Config, override(values, [*overrides[:place], *overrides[place + 1 :]]), "")
        except UserError:
            continue
        return setting
    return None


def expand(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`bert_config` given as a file and `weights` given as a list, as mappings."""
    values = dict(values)
    if isinstance(values.get("bert_config"), str):
        values["bert_config"] = read_mapping(find_file(values["bert_config"]), f"{where}: bert_config")
    if isinstance(values.get("weights"), list) and len(values["weights"]) in (5, 7):
        values["weights"] = Config.name_weights(values["weights"])
    return values


def find_file(name: str) -> Path:
    """A file named relative to the current folder, else to the repository."""
    return Path(name) if Path(name).exists() else REPOSITORY / name


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
