"""Fits checkpoints to a model: ours and those of ALBEF, RaSa, MARS and Vim, by their own names.

Letters: N image tokens (1 + patches), D width.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from models.image_encoder import in_front, insert_rows, split_rows
from models.person_search import PersonSearchModel
from utils.errors import UserError

logger = logging.getLogger(__name__)

ENCODER = "visual_encoder."
ENCODERS = (ENCODER, "visual_encoder_m.")
POSITIONS = (*(f"{encoder}pos_embed" for encoder in ENCODERS), "visual_decoder_pos_embed")
FOREIGN = "of another image encoder"  # why a tensor is not used
CLASSIFIER = ("head.weight", "head.bias")  # of an image encoder that was trained to classify
COUNTERS = ("idx_queue", "queue_ptr")  # mean nothing outside the run that made them
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
NEEDED_TO_SEARCH = ("visual_encoder.", "text_encoder.bert.", "vision_proj.", "text_proj.", "itm_head.")


@dataclass(frozen=True)
class LoadReport:
    """Names of parameters and buffers: taken as they are, resized, left fresh, not used (with the reason)."""

    loaded: list[str]
    resized: list[str]
    fresh: list[str]
    unused: dict[str, str]

    def __str__(self) -> str:
        fresh = [name for name in self.fresh if name not in COUNTERS]
        unused = [f"{name} ({why})" for name, why in self.unused.items() if name not in COUNTERS]
        lines = [
            f"{len(self.loaded)} tensors loaded, {len(self.resized)} of them resized,"
            f" {len(fresh)} fresh, {len(unused)} unused"
        ]
        lines += [f"  resized: {name}" for name in self.resized]
        lines += [f"  fresh:   {line}" for line in shorten(fresh)]
        lines += [f"  unused:  {line}" for line in shorten(unused)]
        return "\n".join(lines)


def shorten(names: list[str], most: int = 12) -> list[str]:
    """The first names, and how many more there are."""
    return names[:most] + ([f"... and {len(names) - most} more"] if len(names) > most else [])


def load_weights(
    model: PersonSearchModel,
    weights: Mapping[str, Tensor],
    where: str,
    old_grid: tuple[int, int] | None = None,
    image_encoder: bool = True,
    momentum: bool = True,
) -> LoadReport:
    """Copy what fits by name and shape into `model`; positions are interpolated to its grid.

    Identities in the queue belong to the run that made them and start empty. Momentum
    parameters that the checkpoint lacks start at the online ones. old_grid: patches along
    height and width in the checkpoint; None = square. image_encoder: False leaves it, and its
    momentum copy, as they are; so does one of another kind in the checkpoint, of which single
    tensors might fit. momentum: False asks for no momentum copies, which an exported model does not have.

    Raises UserError when less than half of what is asked for is matched: nothing is copied then.
    """
    own = model.state_dict()
    fitting, resized, unused = {}, [], {}
    without = "comes from another file" if not image_encoder else None
    if image_encoder and is_foreign(own, weights):
        without = FOREIGN
    for name, value in weights.items():
        if without and name.startswith(ENCODERS):
            unused[name] = without
        elif name not in own:
            unused[name] = "no such parameter in this model"
        elif name in COUNTERS:
            unused[name] = "belongs to the run that made it"
        elif name in POSITIONS:
            place = model.visual_encoder.cls_index if name.startswith(ENCODERS) else in_front
            fitting[name] = resize_positions(value, name, own[name], old_grid, model.grid, where, place)
            resized += [] if fitting[name] is value else [name]
        elif value.shape != own[name].shape:
            unused[name] = f"shape {list(value.shape)}, here {list(own[name].shape)}"
        else:
            fitting[name] = value
    fresh = [name for name in own if name not in fitting]
    asked = [
        name for name in own if not (without and name.startswith(ENCODERS)) and (momentum or not is_momentum(name))
    ]
    refuse_strangers(asked, fitting, unused, where)
    model.load_state_dict(fitting, strict=False)
    start_momentum(model, fresh)
    return LoadReport(list(fitting), resized, fresh, unused)


def is_foreign(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> bool:
    """Whether the image encoder among `weights` is of another kind than one's own; not when there is none."""
    theirs = {name for name in weights if name.startswith(ENCODER)}
    return bool(theirs) and 2 * len(theirs & set(own)) < min(len(theirs), sum(name.startswith(ENCODER) for name in own))


def load_image_encoder(
    model: PersonSearchModel, weights: Mapping[str, Tensor], where: str, old_grid: tuple[int, int] | None = None
) -> LoadReport:
    """Start the image encoder and its momentum copy from a file of its own (Vim, or a checkpoint of ours).

    A classifier is left out and positions are interpolated; all else must be there as it is.
    Raises UserError when it is not: nothing is copied then.
    """
    encoder = model.visual_encoder
    own, fitting, resized = encoder.state_dict(), {}, []
    held = {name.removeprefix(ENCODER): value for name, value in weights.items() if name.startswith(ENCODER)} or weights
    unused = {name: "classifier" for name in CLASSIFIER if name in held and name not in own}
    for name, value in held.items():
        if name == "pos_embed":
            fitting[name] = resize_positions(value, name, own[name], old_grid, encoder.grid, where, encoder.cls_index)
            resized += [] if fitting[name] is value else [ENCODER + name]
        elif name not in unused:
            fitting[name] = value
    wrong = [
        *(f"lacks {name}" for name in own if name not in fitting),
        *(f"holds {name}, which the configured one does not have" for name in fitting if name not in own),
        *(
            f"holds {name} of shape {list(value.shape)} instead of {list(own[name].shape)}"
            for name, value in fitting.items()
            if name in own and value.shape != own[name].shape
        ),
    ]
    if wrong:
        raise UserError(
            f"vision_checkpoint {where} is no image encoder as configured ({len(wrong)} tensors do not fit): it"
            f" {wrong[0]}; check image_encoder, vision_size and patch_size"
        )
    encoder.load_state_dict(fitting)
    start_momentum(model, [name for name in model.state_dict() if name.startswith(ENCODERS[1])])
    return LoadReport([ENCODER + name for name in fitting], resized, [], unused)


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
        raise UserError(
            f"checkpoint {where} was made with another configuration: {reason}; resume with the config.yaml of its run"
        )
    model.load_state_dict(held)


def needed_to_search(name: str) -> bool:
    """Whether search reads this tensor: of the encoders, projections and the matching head, not of momentum copies."""
    return name.startswith(NEEDED_TO_SEARCH)


def require_trained(report: LoadReport, where: str) -> None:
    """Raises UserError when what search relies on was not in the checkpoint, or more than the model has."""
    missing, unused = (
        [name for name in names if needed_to_search(name) and not name.endswith("position_ids")]
        for names in (report.fresh, report.unused)
    )
    if FOREIGN in report.unused.values():
        raise UserError(
            f"checkpoint {where} has another kind of image encoder than the configured one; evaluate it with the"
            " configuration it was trained with (image_encoder)"
        )
    if unused:
        raise UserError(
            f"checkpoint {where} holds {len(unused)} tensors that the configured model does not have, such as"
            f" {unused[0]}; evaluate it with the configuration it was trained with (full_ca, image_encoder, sizes)"
        )
    if missing:
        raise UserError(
            f"checkpoint {where} lacks {len(missing)} tensors that search needs, such as {missing[0]};"
            " check that the configuration is the one it was trained with (full_ca, image_encoder, sizes)"
        )


def resize_positions(
    old: Tensor,
    name: str,
    like: Tensor,
    old_grid: tuple[int, int] | None,
    grid: tuple[int, int],
    where: str,
    cls_index: Callable[[int], int] = in_front,
) -> Tensor:
    """Interpolate position embeddings [(1,) N, D] of patches (bicubic) to `grid`; that of CLS stays as it is.

    cls_index: where CLS stands among so many patches. `old` itself when the grids are equal; as many
    patches in another grid are interpolated.
    Raises UserError when the number of positions is no grid, or the width differs.
    """
    wrong = UserError(
        f"checkpoint {where}: {name} has shape {list(old.shape)}, which is no grid of width {like.shape[-1]}"
    )
    if old.ndim < 2 or old.shape[-1] != like.shape[-1]:
        raise wrong
    rows = old.reshape(-1, old.shape[-1])
    old_grid = grid_of_positions(rows.shape[0] - 1, old_grid, grid)
    if old_grid == grid and old.shape == like.shape:
        return old
    if old_grid is None:
        raise wrong
    patches, cls = split_rows(rows.float(), cls_index(len(rows) - 1))
    patches = interpolate(patches.T.reshape(1, -1, *old_grid), size=grid, mode="bicubic", align_corners=False)
    patches = patches.flatten(2)[0].T
    return insert_rows(patches, cls, cls_index(len(patches))).reshape(like.shape)


def grid_of_positions(patches: int, stated: tuple[int, int] | None, here: tuple[int, int]) -> tuple[int, int] | None:
    """The first with so many patches: the grid that the checkpoint states, a square, the grid of this model."""
    side = round(patches**0.5)
    return next((grid for grid in (stated, (side, side), here) if grid and grid[0] * grid[1] == patches > 0), None)


def saved_config(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration in a checkpoint of ours; empty for others."""
    return checkpoint["config"] if isinstance(checkpoint.get("config"), dict) else {}


def grid_of(saved: Mapping[str, Any]) -> tuple[int, int] | None:
    """Patches along height and width of the model that a checkpoint's configuration describes."""
    sides, patch = saved.get("image_res"), saved.get("patch_size", 16)
    if isinstance(sides, int):
        sides = [sides, sides]
    fits = isinstance(sides, list) and len(sides) == 2 and all(isinstance(side, int) for side in [*sides, patch])
    return (sides[0] // patch, sides[1] // patch) if fits and patch > 0 else None


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
