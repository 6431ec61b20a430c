"""Towers that open_clip builds, as a CLIP system asks for them: SigLIP, EVA02-CLIP and others that are not OpenAI's.

Images are read by a transformer of timm or of open_clip, captions by that of open_clip. Which part of a batch stands
for the whole is the library's: CLS, a mean, attention pooling; the end of a caption or its last position.

Letters: B batch, N image tokens, T text tokens, L either, W width, E embedding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.functional import pad

from models.clip.encoder import Encoder
from models.clip.released import BASE, dual_encoder_tensors, load_strictly
from models.image_encoder import PixelStatistics
from models.load_report import LoadReport
from models.positions import Grid
from utils.errors import UserError

TEXT = "text."  # before the names of the text tower's tensors; older files have them without
OF_TEXT = ("text_projection", "positional_embedding", "token_embedding.", "transformer.", "ln_final.")
STILL = {"patch_dropout": 0.0, "timm_drop": 0.0, "timm_drop_path": None}  # nothing is left out by chance in training


@dataclass(frozen=True)
class LibrarySize:
    """What the towers are built by: `model_cfg` of open_clip, and (height, width) of images in pixels.

    statistics: of the pixels that it was trained on. pad: the token that captions are padded with.
    """

    model: Mapping[str, Any]
    image_size: tuple[int, int]
    statistics: PixelStatistics
    pad: int

    @property
    def embedding(self) -> int:
        return self.model["embed_dim"]

    @property
    def text_length(self) -> int:
        return text_length(self.model)

    @property
    def vocabulary(self) -> int:
        return vocabulary(self.model)

    def build(self, gradient_checkpointing: bool) -> "LibraryEncoder":
        """The towers, freshly initialised. Raises UserError when open_clip cannot build them."""
        return LibraryEncoder(self, gradient_checkpointing)


def text_length(model: Mapping[str, Any]) -> int:
    """Positions of the text tower; as open_clip takes it where it is not said."""
    return model["text_cfg"].get("context_length", 77)


def vocabulary(model: Mapping[str, Any]) -> int:
    """Tokens of the text tower, likewise."""
    return model["text_cfg"].get("vocab_size", 49408)


@dataclass(frozen=True)
class LibraryEncoding:
    """A batch that a tower has read. pooled [B, E]; states [B, L, W], which `project` takes to [B, L, E]."""

    pooled: Tensor
    states: Tensor
    project: Callable[[Tensor], Tensor]

    def feature(self) -> Tensor:
        """What the library embeds a row as: [B, E]."""
        return self.pooled

    def tokens(self) -> Tensor:
        """All tokens, each projected as that which stands for a row: [B, L, E]."""
        return self.project(self.states)

    def with_tokens(self) -> tuple[Tensor, Tensor]:
        return self.feature(), self.tokens()


class LibraryEncoder(Encoder):
    """Both towers, under open_clip's names. Captions are padded to the length that the model was trained with.

    trained_grid: patches along height and width of the images that the library builds it for.
    """

    shows_attention = False
    size: LibrarySize

    def __init__(self, size: LibrarySize, gradient_checkpointing: bool = False):
        super().__init__()
        self.size, self.statistics = size, size.statistics
        self.visual, self.text = build_towers(size.model)
        self.images = reader_of(self.visual)
        self.trained_grid, self.patch_size = self.images.grid, self.images.patch_size
        if min(size.image_size) < self.patch_size:
            raise UserError(f"`image_res`: {list(size.image_size)} is smaller than a patch of {self.patch_size} pixels")
        self.images.resize(size.image_size)
        self.grid = self.images.grid
        if gradient_checkpointing:
            for tower in (self.visual, self.text):
                tower.set_grad_checkpointing(True)

    def encode_image(self, image: Tensor) -> LibraryEncoding:
        """Images [B, 3, H, W], normalised -> tokens [B, N, E], with CLS or without."""
        return self.images.read(image)

    def encode_text(self, ids: Tensor) -> LibraryEncoding:
        """Token ids [B, T] -> tokens [B, T, E]. Padding up to the full length is read as in the model's training."""
        length = ids.shape[1]
        pooled, states = self.text(pad(ids, (0, self.size.text_length - length), value=self.size.pad))
        return LibraryEncoding(pooled, states[:, :length], self.project_text)

    def project_text(self, states: Tensor) -> Tensor:
        """[B, T, W] -> [B, T, E]."""
        return projected(states, self.text.text_projection)


def projected(states: Tensor, projection: nn.Module | Tensor | None) -> Tensor:
    """[..., W] -> [..., E] by what open_clip holds as projection: a layer, a matrix [W, E], or none."""
    if projection is None:
        return states
    return projection(states) if isinstance(projection, nn.Module) else states @ projection


# ---- image towers ----------------------------------------------------------------------


class ImageReader(Protocol):
    """What is asked of an image tower, of either type.

    positions: the name of its table in the encoder; others: rows of it that are not of patches.
    """

    positions: str

    @property
    def grid(self) -> Grid: ...

    @property
    def patch_size(self) -> int: ...

    @property
    def others(self) -> int: ...

    def resize(self, image_size: tuple[int, int]) -> None: ...

    def read(self, image: Tensor) -> LibraryEncoding: ...


class TimmReader:
    """A Vision Transformer of timm, within open_clip's adapter."""

    positions = "visual.trunk.pos_embed"

    def __init__(self, visual: Any):
        self.visual, self.trunk = visual, visual.trunk

    @property
    def grid(self) -> Grid:
        height, width = self.trunk.patch_embed.grid_size
        return height, width

    @property
    def patch_size(self) -> int:
        return int(max(self.trunk.patch_embed.patch_size))

    @property
    def others(self) -> int:
        return 0 if self.trunk.no_embed_class else self.trunk.num_prefix_tokens

    def resize(self, image_size: tuple[int, int]) -> None:
        """Positions, and rotary ones where there are any, for images of another size."""
        self.visual.set_input_size(image_size)

    def read(self, image: Tensor) -> LibraryEncoding:
        """Images [B, 3, H, W] -> tokens [B, N, E]: CLS and registers, if there are any, then patches."""
        states = self.trunk.forward_features(image)
        return LibraryEncoding(self.visual.head(self.trunk.forward_head(states)), states, self.project)

    def project(self, states: Tensor) -> Tensor:
        """What follows pooling, of each token: [B, N, W] -> [B, N, E]."""
        return self.visual.head(self.trunk.head(self.trunk.fc_norm(states)))


class OwnReader:
    """The Vision Transformer of open_clip itself; its tokens are those of patches alone."""

    positions = "visual.positional_embedding"
    others = 1

    def __init__(self, visual: Any):
        self.visual = visual
        visual.output_tokens = True

    @property
    def grid(self) -> Grid:
        height, width = self.visual.grid_size
        return height, width

    @property
    def patch_size(self) -> int:
        return int(max(self.visual.patch_size))

    def resize(self, image_size: tuple[int, int]) -> None:
        grid = image_size[0] // self.patch_size, image_size[1] // self.patch_size
        table = self.visual.positional_embedding
        fitted = resized(table.detach(), self.grid, grid, self.others)
        self.visual.positional_embedding = nn.Parameter(fitted, requires_grad=table.requires_grad)
        self.visual.image_size, self.visual.grid_size = image_size, grid

    def read(self, image: Tensor) -> LibraryEncoding:
        """Images [B, 3, H, W] -> tokens [B, N, E] of patches."""
        pooled, states = self.visual(image)
        return LibraryEncoding(pooled, states, self.project)

    def project(self, states: Tensor) -> Tensor:
        """[B, N, W] -> [B, N, E]."""
        return projected(states, self.visual.proj)


def reader_of(visual: nn.Module) -> ImageReader:
    """Raises UserError for a tower that has no row of tokens with positions."""
    from open_clip.transformer import VisionTransformer as OwnTransformer
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer as TimmTransformer

    if isinstance(visual, OwnTransformer):
        return OwnReader(visual)
    trunk = getattr(visual, "trunk", None)
    if isinstance(trunk, TimmTransformer | Eva):
        return TimmReader(visual)
    name = type(visual if trunk is None else trunk).__name__
    raise UserError(
        f"`open_clip.model`: the image tower is a {name}; only Vision Transformers, of open_clip or timm, have the"
        " tokens that are asked for"
    )


def resized(table: Tensor, old: Grid, new: Grid, others: int) -> Tensor:
    """Positions [(1,) others + patches, W] of a grid, for another one, as timm and open_clip interpolate them."""
    from timm.layers.pos_embed import resample_abs_pos_embed

    rows = table.reshape(1, -1, table.shape[-1])
    found = resample_abs_pos_embed(rows, new_size=list(new), old_size=list(old), num_prefix_tokens=others)
    return found.reshape(*table.shape[:-2], *found.shape[1:])


# ---- building, loading -----------------------------------------------------------------


def build_towers(model: Mapping[str, Any]) -> tuple[Any, Any]:
    """Image tower and text tower, freshly initialised. Raises UserError when open_clip cannot build them."""
    try:
        import open_clip
    except ImportError:
        raise UserError(
            "`open_clip`: the package open_clip_torch, which builds this model, is not installed: install"
            " requirements/clip.txt"
        ) from None
    require_timm_model(model)
    vision = {**model["vision_cfg"], **STILL, "timm_model_pretrained": False}
    whole = {**model, "vision_cfg": vision, "text_cfg": {**model["text_cfg"], "output_tokens": True}}
    whole.pop("custom_text", None)
    try:
        towers = open_clip.CustomTextCLIP(**whole)
    except Exception as error:  # whatever the constructors of two libraries raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"`open_clip.model`: open_clip cannot build this model: {reason}") from None
    return towers.visual, towers.text


def require_timm_model(model: Mapping[str, Any]) -> None:
    """Raises UserError when timm has no model of the name; a name on the Hub would be downloaded."""
    import timm

    name = model["vision_cfg"].get("timm_model_name")
    if name is not None and not (isinstance(name, str) and "/" not in name and ":" not in name and timm.is_model(name)):
        raise UserError(f"`open_clip.model`: vision_cfg.timm_model_name is {name!r}, which is no model of this timm")


def load_library_encoder(
    model: LibraryEncoder, weights: Mapping[str, Tensor], where: str, old_grid: Grid | None = None
) -> LoadReport:
    """Start both towers from a file of open_clip, or of a run of ours; positions are resized to the grid.

    old_grid: patches along height and width of the images that the file was trained on, if known. Raises UserError when
    a tensor is missing, too many or of another shape: nothing is copied then.
    """
    held = library_tensors(weights)
    name, images = model.images.positions, model.images
    table, changed = held.get(name), False
    if table is not None and table.ndim >= 2:
        rows = table.shape[-2] - images.others
        grids = (old_grid, model.trained_grid, model.grid)
        old = next((grid for grid in grids if grid is not None and grid[0] * grid[1] == rows), None)
        changed = old not in (None, model.grid)
        held[name] = resized(table, old, model.grid, images.others) if old is not None and changed else table
    load_strictly(model, held, where)
    taken = {*held, *(BASE + name for name in held), *(name.removeprefix(TEXT) for name in held)}
    unused = [name for name in weights if name not in taken]
    return LoadReport(list(held), [name] if changed else [], [], dict.fromkeys(unused, "not of the dual encoder"))


def library_tensors(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of both towers under the names of `LibraryEncoder`, of a file of open_clip or of a run of ours."""
    held = dual_encoder_tensors(weights)
    held = {(TEXT if name.startswith(OF_TEXT) else "") + name: value for name, value in held.items()}
    held.pop(f"{TEXT}attn_mask", None)  # in some older files
    return held
