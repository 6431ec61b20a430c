"""Fits checkpoints to a model by the names of their tensors: of ALBEF, RaSa, MARS and ours, and of image encoders."""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from models.clip.open_clip import settings_from_open_clip
from models.image_encoder import CLS_IN_FRONT, PositionLayout
from models.load_report import COUNTERS, LoadReport
from models.person_search import PersonSearchModel
from models.positions import Grid, grid_of, resize_positions
from utils.checkpoints.run_folder import settings_of_run
from utils.errors import UserError
from utils.text import agreeing, counted

logger = logging.getLogger(__name__)

ENCODER = "visual_encoder."
ENCODERS = (ENCODER, "visual_encoder_m.")
FOREIGN = "of another image encoder"  # why a tensor is not used
OF_CLIP = ("visual.class_embedding", "base_model.")  # names in files of CLIP, and of IRRA and RDE
OF_THE_MODEL = (  # settings that decide which tensors there are
    "image_encoder",
    "vision_size",
    "vision_width",
    "vision_depth",
    "patch_size",
    "image_res",
    "bert_config",
    "decoder_depth",
    "embed_dim",
    "queue_size",
    "weights",
)
OF_A_RUN = (*COUNTERS, "image_queue", "text_queue")  # states of a run, not of the networks

# ---- which names a file has, and what becomes of them ----------------------------------


@dataclass(frozen=True)
class Source:
    """A family of files, by the names of their tensors.

    prefix: what the names that count begin with in it, and one of them must; it is left out, and other names are not
    looked at. renames: pattern -> replacement, of what has another name here. dropped: why names that begin so are not
    taken.
    """

    prefix: str
    renames: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)


# Whole models: ALBEF, RaSa, MARS and ours share their names.
MODEL = Source("", dropped=dict.fromkeys(COUNTERS, "belongs to the run that made it"))

NOT_OF_THE_ENCODER = {
    "head.": "classifier",
    "head_dist.": "classifier",
    "pre_logits.": "classifier",
    "mask_token": "belongs to its pre-training",
}
NAMES_OF_TIMM = {
    r"gamma_([12])$": r"ls\1.gamma",  # layer scale in files of DeiT III
    r"^fc_norm\.": "norm.",  # the last norm, where this model takes CLS and the file a mean of patches
}
# Image encoders, in the order in which they are tried.
IMAGE_ENCODERS = {
    "a checkpoint of ours": Source(ENCODER, dropped=NOT_OF_THE_ENCODER),
    "OpenCLIP with an encoder of timm": Source("visual.trunk.", NAMES_OF_TIMM, NOT_OF_THE_ENCODER),
    "CLIP with an encoder of timm": Source("visual.", NAMES_OF_TIMM, NOT_OF_THE_ENCODER),
    "a training loop that wraps its model": Source("model.", NAMES_OF_TIMM, NOT_OF_THE_ENCODER),
    "timm, DeiT, Vim": Source("", NAMES_OF_TIMM, NOT_OF_THE_ENCODER),
}


def source_of(weights: Iterable[str]) -> Source:
    """The family of a file with an image encoder that has these names."""
    return next(source for source in IMAGE_ENCODERS.values() if any(name.startswith(source.prefix) for name in weights))


def common_part(names: Iterable[str]) -> str:
    """The module below which all these names are, such as "trunk.", or nothing."""
    modules = {name.partition(".")[0] for name in names}
    return f"{modules.pop()}." if len(modules) == 1 else ""


def own_name(name: str, source: Source, own: Mapping[str, Tensor], below: str) -> str:
    """What the encoder calls what a file of this family calls `name`."""
    if below + name in own:
        return below + name
    renamed = (re.sub(pattern, replacement, name) for pattern, replacement in source.renames.items())
    return next((below + other for other in renamed if below + other in own), below + name)


@dataclass
class Fit:
    """The tensors of a file that fit a model, under its names; why the others do not."""

    fitting: dict[str, Tensor] = field(default_factory=dict)
    resized: list[str] = field(default_factory=list)
    unused: dict[str, str] = field(default_factory=dict)


def fit_tensors(
    weights: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    positions: Mapping[str, PositionLayout],
    grids: tuple[Grid | None, Grid],
    where: str,
) -> Fit:
    """Tensors under the model's names against those that it has; positions are resized from the first grid."""
    fit = Fit()
    for name, value in weights.items():
        if name not in own:
            fit.unused[name] = "no such parameter in this model"
        elif name in positions:
            fit.fitting[name] = resize_positions(value, name, own[name], *grids, where, positions[name])
            fit.resized += [] if fit.fitting[name] is value else [name]
        elif value.shape != own[name].shape:
            fit.unused[name] = f"shape {list(value.shape)}, here {list(own[name].shape)}"
        else:
            fit.fitting[name] = value
    return fit


def drop(weights: Mapping[str, Tensor], reasons: Mapping[str, str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(the tensors that are taken, why the others are not): reasons by what a name begins with."""
    why = {
        name: reason
        for name in weights
        if (reason := next((reason for start, reason in reasons.items() if name.startswith(start)), None))
    }
    return {name: value for name, value in weights.items() if name not in why}, why


# ---- whole models ----------------------------------------------------------------------


def load_weights(
    model: PersonSearchModel,
    weights: Mapping[str, Tensor],
    where: str,
    old_grid: Grid | None = None,
    image_encoder: bool = True,
) -> LoadReport:
    """Copy what fits by name and shape into `model`; positions are interpolated to its grid.

    Identities in the queue belong to the run that made them and start empty. Momentum
    parameters that the checkpoint lacks start at the online ones. old_grid: patches along
    height and width in the checkpoint; None = square. image_encoder: False leaves it, and its
    momentum copy, as they are; so does one of another type in the checkpoint, of which single
    tensors might fit.

    Raises UserError when less than half of the model is matched, not counting momentum copies where the checkpoint, as
    an exported model, has none: nothing is copied then.
    """
    own, without = model.state_dict(), "" if image_encoder else "comes from another file"
    if image_encoder and is_foreign(own, weights):
        without = FOREIGN
    left_out = dict.fromkeys(ENCODERS, without) if without else {}
    taken, dropped = drop(weights, {**MODEL.dropped, **left_out})
    positions = positions_of(model)
    if without:  # the decoder of an encoder of another width does not fit either
        positions = {name: layout for name, layout in positions.items() if same_width(weights.get(name), own.get(name))}
    fit = fit_tensors(taken, own, positions, (old_grid, model.grid), where)
    unused = {name: dropped.get(name) or fit.unused[name] for name in weights if name not in fit.fitting}
    momentum = any(map(is_momentum, weights))
    asked = [name for name in own if not name.startswith(tuple(left_out)) and (momentum or not is_momentum(name))]
    refuse_strangers(asked, fit.fitting, unused, where)
    fresh = [name for name in own if name not in fit.fitting]
    model.load_state_dict(fit.fitting, strict=False)
    start_momentum(model, fresh)
    return LoadReport(list(fit.fitting), fit.resized, fresh, unused)


def positions_of(model: PersonSearchModel) -> dict[str, PositionLayout]:
    """The positions of image encoder, momentum copy and decoder, by name."""
    of_encoder = model.visual_encoder.positions.items()
    named = {encoder + name: layout for encoder in ENCODERS for name, layout in of_encoder}
    return {**named, "visual_decoder_pos_embed": CLS_IN_FRONT}


def same_width(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and one.shape[-1:] == other.shape[-1:]


def is_foreign(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> bool:
    """Whether the image encoder among `weights` is of another type than one's own; not when there is none."""
    theirs = {name for name in weights if name.startswith(ENCODER)}
    return bool(theirs) and 2 * len(theirs & set(own)) < min(len(theirs), sum(name.startswith(ENCODER) for name in own))


# ---- image encoders --------------------------------------------------------------------


def load_image_encoder(
    model: PersonSearchModel, weights: Mapping[str, Tensor], where: str, old_grid: Grid | None = None
) -> LoadReport:
    """Start the image encoder and its momentum copy from a file of its own, of one of IMAGE_ENCODERS.

    A classifier is left out and positions are interpolated; all else must be there as it is.
    Raises UserError when it is not: nothing is copied then.
    """
    state = model.state_dict()
    own = {name.removeprefix(ENCODER): value for name, value in state.items() if name.startswith(ENCODER)}
    source = source_of(weights)
    held = {name[len(source.prefix) :]: value for name, value in weights.items() if name.startswith(source.prefix)}
    below = "" if own.keys() & held.keys() else common_part(own)
    taken, dropped = drop(held, source.dropped)
    named = {own_name(name, source, own, below): value for name, value in taken.items()}
    fit = fit_tensors(named, own, model.visual_encoder.positions, (old_grid, model.grid), where)
    require_whole(own, fit, where)
    model.load_state_dict({ENCODER + name: value for name, value in fit.fitting.items()}, strict=False)
    start_momentum(model, [name for name in state if name.startswith(ENCODERS[1])])
    resized = [ENCODER + name for name in fit.resized]
    return LoadReport([ENCODER + name for name in fit.fitting], resized, [], dropped)


def require_whole(own: Mapping[str, Tensor], fit: Fit, where: str) -> None:
    """Raises UserError when a tensor of the image encoder is missing, or there is one too many."""
    wrong = [f"holds {name} ({why})" for name, why in fit.unused.items()]
    wrong += [f"lacks {name}" for name in own if name not in fit.fitting and name not in fit.unused]
    if wrong:
        raise UserError(
            f"vision_checkpoint {where} is not the configured image encoder"
            f" ({counted(len(wrong), 'tensor')} {agreeing(len(wrong), 'does', 'do')} not fit): it {wrong[0]}; check"
            " image_encoder, vision_size and patch_size"
        )


@torch.no_grad()
def start_momentum(model: PersonSearchModel, fresh: list[str]) -> None:
    """Set the momentum parameters among `fresh` to the online ones; the others keep their own past."""
    state = model.state_dict()
    for name in fresh:
        if is_momentum(name):
            part, _, rest = name.partition(".")
            state[name].copy_(state[f"{part.removesuffix('_m')}.{rest}"])


def is_momentum(name: str) -> bool:
    """Whether a tensor belongs to the momentum copy of a part."""
    return name.partition(".")[0].endswith("_m")


def refuse_strangers(asked: list[str], fitting: Mapping, unused: Mapping[str, str], where: str) -> None:
    """Raises UserError when less than half of the tensors that were asked for were found."""
    networks = [name for name in asked if name not in OF_A_RUN]
    matched = sum(name in fitting for name in networks)
    if 2 * matched < len(networks):
        if any(name.startswith(OF_CLIP) for name in unused):
            raise UserError(f"checkpoint {where} is of CLIP, IRRA or RDE, which system=clip and system=rde evaluate")
        example = next((f"; for example {name}: {why}" for name, why in unused.items()), "")
        raise UserError(
            f"checkpoint {where} matches only {matched} of {len(networks)} tensors of the configured model"
            f"{example}; check bert_config, image_encoder, vision_width, vision_depth and the loss weights"
        )


def resume_model(model: PersonSearchModel, checkpoint: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """All parameters and queues of an interrupted run, configured by `settings`.

    Raises UserError when the checkpoint is of no run, or of one with another model; it names the settings that differ.
    """
    where = checkpoint["path"]
    if "optimizer" not in checkpoint or "step" not in checkpoint:
        raise UserError(
            f"checkpoint {where} holds no interrupted run; resume from a checkpoint_last.pth, or leave out --resume to"
            " start from its weights"
        )
    own, held = model.state_dict(), checkpoint["model"]
    shapes, theirs = ({name: value.shape for name, value in tensors.items()} for tensors in (own, held))
    wrong = [name for name in (*own, *held) if shapes.get(name) != theirs.get(name)]
    if wrong:
        before = saved_config(checkpoint)
        other = [key for key in OF_THE_MODEL if key in before and before[key] != settings[key]]
        short = [key for key in other if not isinstance(before[key], dict)]
        values = {key: f" ({before[key]} there, {settings[key]} here)" for key in short}
        reason = ", ".join(f"another {key}{values.get(key, '')}" for key in other) or f"{wrong[0]} does not fit"
        raise UserError(f"checkpoint {where} was made with another configuration: {reason}; {settings_of_run(where)}")
    model.load_state_dict(held)


def needed_to_search(name: str) -> bool:
    """Whether search reads this tensor: of the encoders, projections and the matching head, not of momentum copies."""
    return name.startswith(PersonSearchModel.search_parts)


def require_trained(report: LoadReport, where: str) -> None:
    """Raises UserError when what search relies on was not in the checkpoint, or more than the model has."""
    missing, unused = (
        [name for name in names if needed_to_search(name) and not name.endswith("position_ids")]
        for names in (report.fresh, report.unused)
    )
    if FOREIGN in report.unused.values():
        raise UserError(
            f"checkpoint {where} has another type of image encoder than the configured one; evaluate it with the"
            " configuration it was trained with (image_encoder)"
        )
    if unused:
        raise UserError(
            f"checkpoint {where} holds {counted(len(unused), 'tensor')} that the configured model does not have,"
            f" such as {unused[0]}; evaluate it with the configuration it was trained with (full_ca, image_encoder,"
            " sizes)"
        )
    if missing:
        raise UserError(
            f"checkpoint {where} lacks {counted(len(missing), 'tensor')} that search needs, such as {missing[0]};"
            " check that the configuration is the one it was trained with (full_ca, image_encoder, sizes)"
        )


def load_trained(model: PersonSearchModel, checkpoint: Mapping[str, Any]) -> None:
    """Take all weights from a checkpoint (with its "path"). Raises UserError when search needs others."""
    where = checkpoint["path"]
    report = load_weights(model, checkpoint["model"], where, grid_of(saved_config(checkpoint)))
    logger.info("checkpoint %s: %s", where, report.without_unneeded(needed_to_search))
    require_trained(report, where)


def saved_config(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration in a checkpoint of ours, or what open_clip writes beside one; empty for others.

    Exported models may say `compile: auto`, a former default, which is read as false.

    Raises UserError when open_clip's is of another architecture than ours.
    """
    if "open_clip" in checkpoint:
        return settings_from_open_clip(checkpoint["open_clip"], f"checkpoint {checkpoint['path']}")
    saved = checkpoint["config"] if isinstance(checkpoint.get("config"), dict) else {}
    return {**saved, "compile": False, "cuda_graphs": False} if saved.get("compile") == "auto" else saved


def load_language_model(model: PersonSearchModel, name: str) -> bool:
    """Start the text encoder from a pre-trained BERT (folder or hub name); False when it has no weights.

    Cross-attention starts fresh. Raises UserError when the weights do not fit.
    """
    import transformers

    try:
        bert = transformers.AutoModelForMaskedLM.from_pretrained(name)
    except (OSError, ValueError) as error:
        logger.warning("no BERT weights in %s (%s): the text encoder starts fresh", name, str(error).splitlines()[0])
        return False
    except Exception as error:  # damaged files make safetensors and torch raise nearly any type
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"text_encoder {name}: its weights cannot be read ({reason}); download them again") from None
    own = model.text_encoder.state_dict()
    weights = {key: value for key, value in bert.state_dict().items() if key in own}
    lacking = [key for key in own if key not in weights and not key.endswith("position_ids")]
    lacking = [key for key in lacking if "crossattention" not in key]
    if lacking:
        raise UserError(f"text_encoder {name} has no {lacking[0]}; a BERT of at least num_hidden_layers layers fits")
    wrong = [key for key, value in weights.items() if value.shape != own[key].shape]
    if wrong:
        raise UserError(
            f"text_encoder {name}: {wrong[0]} has shape {list(weights[wrong[0]].shape)}, bert_config asks for"
            f" {list(own[wrong[0]].shape)}"
        )
    model.text_encoder.load_state_dict(weights, strict=False)
    model.copy_to_momentum()
    return True
