"""Reads files of CLIP, IRRA and RDE: sizes from the shapes of their tensors, positions fitted to another grid."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from models.clip.towers import HEAD_WIDTH, ClipSize, DualEncoder
from models.load_report import LoadReport
from models.positions import Grid, resize_positions
from utils.errors import UserError
from utils.text import counted

BASE = "base_model."  # before the names of CLIP's parameters in files of IRRA and RDE
POSITIONS = "visual.positional_embedding"
DROPPED = (
    *("logit_scale", "input_resolution", "context_length", "vocab_size"),
    *("logit_bias", "attn_mask"),  # in files of open_clip
)
SHAPES = {  # what sizes are read from, with the dimensions of each
    "visual.conv1.weight": 4,
    POSITIONS: 2,
    "visual.proj": 2,
    "token_embedding.weight": 2,
    "positional_embedding": 2,
    "text_projection": 2,
}
OF_LIBRARY = ("visual.trunk.", "text.")  # names of towers in other files of open_clip
WHAT_FITS = (
    "a CLIP with a Vision Transformer of OpenAI's layout, such as ViT-B/16, or a checkpoint of IRRA or RDE, fits"
)


def dual_encoder_tensors(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of both towers under OpenAI's names, of a file of CLIP, IRRA or RDE."""
    if is_whole_model(weights):
        return {name.removeprefix(BASE): value for name, value in weights.items() if name.startswith(BASE)}
    return {name: value for name, value in weights.items() if name not in DROPPED}


def is_whole_model(weights: Iterable[str]) -> bool:
    """Whether a file is of IRRA or RDE, and not of CLIP alone."""
    return any(name.startswith(BASE) for name in weights)


def size_of(
    weights: Mapping[str, Tensor], where: str, image_size: tuple[int, int], stride: int | None = None
) -> ClipSize:
    """Sizes of the dual encoder in a file, for images of (height, width); stride: None = patches do not overlap.

    Raises UserError when the file is of another architecture.
    """
    held = dual_encoder_tensors(weights)
    shapes = {name: shape_of(held, name, where) for name in SHAPES}
    vision_width, _, patch_size, _ = shapes["visual.conv1.weight"]
    vocabulary, text_width = shapes["token_embedding.weight"]
    return ClipSize(
        image_size=image_size,
        patch_size=patch_size,
        stride=stride or patch_size,
        vision_width=vision_width,
        vision_depth=depth_of(held, "visual.transformer.", where),
        vision_heads=max(1, vision_width // HEAD_WIDTH),
        text_width=text_width,
        text_depth=depth_of(held, "transformer.", where),
        text_heads=max(1, text_width // HEAD_WIDTH),
        text_length=shapes["positional_embedding"][0],
        vocabulary=vocabulary,
        embedding=shapes["text_projection"][1],
    )


def shape_of(held: Mapping[str, Tensor], name: str, where: str) -> tuple[int, ...]:
    """Raises UserError when a tensor is not there, or has another number of dimensions."""
    if name not in held:
        raise UserError(f"checkpoint {where} has no {name}{resnet(held)}; {WHAT_FITS}")
    if held[name].ndim != SHAPES[name]:
        raise UserError(f"checkpoint {where}: {name} has shape {list(held[name].shape)}; {WHAT_FITS}")
    return tuple(held[name].shape)


def resnet(held: Iterable[str]) -> str:
    """What to say of a CLIP whose images are encoded by a ResNet."""
    return ": its images are encoded by a ResNet" if any(name.startswith("visual.layer1.") for name in held) else ""


def depth_of(held: Iterable[str], tower: str, where: str) -> int:
    """How many blocks a tower has."""
    pattern = re.compile(re.escape(f"{tower}resblocks.") + r"(\d+)\.")
    numbers = {int(found[1]) for name in held if (found := pattern.match(name))}
    if not numbers:
        raise UserError(f"checkpoint {where} has no {tower}resblocks; {WHAT_FITS}")
    return len(numbers)


# ---- loading ---------------------------------------------------------------------------


def load_dual_encoder(
    model: DualEncoder, weights: Mapping[str, Tensor], where: str, old_grid: Grid | None = None
) -> LoadReport:
    """Start both towers from a file of CLIP, IRRA or RDE, whatever its dtype; positions are resized to the grid.

    old_grid: patches along height and width in the file; None = square in a file of CLIP, that of the model in others.
    Raises UserError when a tensor is missing, too many or of another shape: nothing is copied then.
    """
    held = dual_encoder_tensors(weights)
    if name := resnet(held):
        raise UserError(f"checkpoint {where} has no Vision Transformer{name}; {WHAT_FITS}")
    if any(name.startswith(OF_LIBRARY) for name in held):
        raise UserError(
            f"checkpoint {where} has towers that open_clip builds; name their folder, which says how"
            " (open_clip_config.json beside open_clip_model.safetensors)"
        )
    fitted, resized = fit_positions(held, model, POSITIONS, where, stated_grid(weights, old_grid))
    load_strictly(model, fitted, where)
    ignored = [name for name in weights if name not in fitted and name.removeprefix(BASE) not in fitted]
    return LoadReport(list(fitted), resized, [], dict.fromkeys(ignored, "not of the dual encoder"))


def load_model(model: nn.Module, weights: Mapping[str, Tensor], where: str, old_grid: Grid | None = None) -> LoadReport:
    """All tensors of a checkpoint of IRRA or RDE; old_grid: as `load_dual_encoder`.

    Raises UserError when it is not one of this model: nothing is copied then.
    """
    base = model.base_model
    assert isinstance(base, DualEncoder)
    if not is_whole_model(weights):
        raise UserError(
            f"checkpoint {where} is not one of IRRA or RDE: it has no {BASE} tensors; start from it instead"
        )
    fitted, resized = fit_positions(weights, base, BASE + POSITIONS, where, stated_grid(weights, old_grid))
    load_strictly(model, fitted, where)
    return LoadReport(list(fitted), resized, [], {})


def stated_grid(weights: Mapping[str, Tensor], old_grid: Grid | None) -> Grid | None:
    """The grid of a file, if it is known or square: CLIP's images are, those of persons are not."""
    if old_grid is not None or is_whole_model(weights) or not is_table(weights.get(POSITIONS)):
        return old_grid
    patches = len(weights[POSITIONS]) - 1
    side = round(max(0, patches) ** 0.5)
    return (side, side) if side * side == patches else None


def is_table(positions: Tensor | None) -> bool:
    return positions is not None and positions.ndim == 2


def fit_positions(
    weights: Mapping[str, Tensor], model: DualEncoder, name: str, where: str, old_grid: Grid | None
) -> tuple[dict[str, Tensor], list[str]]:
    """(the tensors, with positions for the grid of the model; the names of those that were resized).

    Raises UserError when positions are those of an unknown grid.
    """
    found, like, grid = weights.get(name), model.visual.positional_embedding, model.size.grid
    if found is None or not is_table(found):
        return dict(weights), []  # what is wrong is told with all else
    if old_grid is None and len(found) != len(like):
        raise UserError(
            f"checkpoint {where} has {len(found) - 1} patches, images of {model.size.image_size[0]} x"
            f" {model.size.image_size[1]} have {grid[0]} x {grid[1]}; set the image size and stride that it was trained"
            " with"
        )
    fitted = resize_positions(found, name, like, old_grid or grid, grid, where, mode="bilinear")
    return {**weights, name: fitted}, [] if fitted is found else [name]


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Raises UserError unless the tensors of file and model have the same names and shapes."""
    own = model.state_dict()
    wrong = [f"lacks {name}" for name in own if name not in weights]
    wrong += [f"holds {name}, which the model does not have" for name in weights if name not in own]
    wrong += [
        f"has {name} of shape {list(weights[name].shape)}, the model {list(value.shape)}"
        for name, value in own.items()
        if name in weights and weights[name].shape != value.shape
    ]
    if wrong:
        more = f" ({counted(len(wrong), 'tensor')} in all)" if len(wrong) > 1 else ""
        raise UserError(f"checkpoint {where} does not fit the configured model: it {wrong[0]}{more}; check its sizes")
    model.load_state_dict(dict(weights))
