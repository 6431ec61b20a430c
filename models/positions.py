"""Positions of patches, resized to another grid.

Letters: N positions (those of patches and some others), D width.
"""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor
from torch.nn.functional import interpolate

from models.image_encoder import CLS_IN_FRONT, PositionLayout, insert_rows, split_rows
from utils.errors import UserError

Grid = tuple[int, int]  # patches along height and width


def resize_positions(
    old: Tensor,
    name: str,
    like: Tensor,
    old_grid: Grid | None,
    grid: Grid,
    where: str,
    layout: PositionLayout = CLS_IN_FRONT,
    mode: Literal["bicubic", "bilinear"] = "bicubic",
) -> Tensor:
    """Interpolate position embeddings [(1,) N, D] of patches to `grid`; those of other tokens stay.

    `old` itself when the grids are equal; as many patches in another grid are interpolated.
    Raises UserError when the number of positions is not that of a grid, or the width differs.
    """
    wrong = UserError(
        f"checkpoint {where}: {name} has shape {list(old.shape)}, which is not a grid of width {like.shape[-1]}"
    )
    if old.ndim < 2 or old.shape[-1] != like.shape[-1]:
        raise wrong
    rows = old.reshape(-1, old.shape[-1])
    count = len(rows) - layout.others
    old_grid = grid_of_positions(count, old_grid, grid)
    if old_grid == grid and old.shape == like.shape:
        return old
    if old_grid is None:
        raise wrong
    patches, others = split_rows(rows.float(), layout.start(count), layout.others)
    patches = interpolate(patches.T.reshape(1, -1, *old_grid), size=grid, mode=mode, align_corners=False)
    patches = patches.flatten(2)[0].T
    return insert_rows(patches, others, layout.start(len(patches))).reshape(like.shape)


def grid_of_positions(patches: int, stated: Grid | None, here: Grid) -> Grid | None:
    """The first with so many patches: the grid that the checkpoint states, a square, the grid of this model."""
    side = round(max(0, patches) ** 0.5)
    return next((grid for grid in (stated, (side, side), here) if grid and grid[0] * grid[1] == patches > 0), None)


def grid_of(saved: Mapping[str, Any]) -> Grid | None:
    """Patches along height and width of the model that a checkpoint's configuration describes."""
    sides, patch = saved.get("image_res"), saved.get("patch_size", 16)
    height, width = sides if isinstance(sides, list) and len(sides) == 2 else (sides, sides)
    if not (isinstance(height, int) and isinstance(width, int) and isinstance(patch, int) and patch > 0):
        return None
    return height // patch, width // patch
