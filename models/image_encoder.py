"""What an image encoder is to the rest of the model: pixels in, tokens out, CLS first.

`ImageEncoder` is the contract; `PatchEncoder` is what Vision Transformer and Vision Mamba share.

Letters: B batch, L patches, N image tokens (1 + L), K kept patches, D width, P patch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor, nn

from dataset.batch import PIXEL_MEAN, PIXEL_STD


@dataclass(frozen=True)
class VisionSize:
    """Sizes of an image encoder; `image_size` is (height, width) in pixels.

    heads: of attention, states: of a channel in a scan, where there is any. drop_path: how often the last layer's
    residual branch is left out in training; earlier ones less often.
    """

    image_size: tuple[int, int] = (384, 384)
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    drop_path: float = 0.0
    states: int = 16

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along height and width."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class PixelStatistics:
    """Mean and standard deviation of red, green and blue, of 0 to 1, in the images that an encoder was trained on."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def channels(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [3, 1, 1] of pixels from 0 to 255."""
        return channels(self, device)

    def normalise(self, image: Tensor) -> Tensor:
        """uint8 RGB [..., 3, H, W] -> float32 with zero mean and unit variance; float images are taken as that."""
        if image.dtype != torch.uint8:
            return image
        mean, std = self.channels(image.device)
        return (image.float() - mean) / std

    def restore(self, image: Tensor) -> Tensor:
        """A normalised image [..., 3, H, W] -> from 0 to 1."""
        mean, std = self.channels(image.device)
        return ((image * std + mean) / 255).clamp(0, 1)


@cache
def channels(statistics: PixelStatistics, device: torch.device) -> tuple[Tensor, Tensor]:
    """See `PixelStatistics.channels`; a copy to the device at every step would wait for it."""
    mean, std = (torch.tensor(part, device=device)[:, None, None] * 255 for part in (statistics.mean, statistics.std))
    return mean, std


CLIP_STATISTICS = PixelStatistics(PIXEL_MEAN, PIXEL_STD)


def in_front(patches: int) -> int:
    """Where CLS stands in most encoders, however many patches there are."""
    return 0


@dataclass(frozen=True)
class PositionLayout:
    """Rows of a table of positions [(1,) N, D]: one for each patch, and `others` that belong to tokens of another type.

    start: at which index the others begin among so many patches.
    """

    others: int = 1
    start: Callable[[int], int] = in_front


CLS_IN_FRONT = PositionLayout()


@dataclass(frozen=True)
class PatchSubset:
    """The patches an image keeps when part of it is removed.

    kept [B, K]: positions of the kept patches, in image order.
    removed [B, L]: True = removed.
    """

    kept: Tensor
    removed: Tensor

    @classmethod
    def from_noise(cls, noise: Tensor, mask_ratio: float) -> "PatchSubset":
        """Keep the int(L * (1 - mask_ratio)) patches of smallest noise [B, L] in each image.

        The order of the kept patches is that of the image: attention does not care, and an
        encoder that scans its tokens does.
        """
        count = int(noise.shape[1] * (1 - mask_ratio))
        kept = noise.argsort(dim=1)[:, :count].sort(dim=1).values
        removed = torch.ones_like(noise, dtype=torch.bool).scatter(1, kept, False)
        return cls(kept, removed)


def take_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [B, K] of every sample of `tokens` [B, L, D]: [B, K, D]."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def insert_rows(rows: Tensor, more: Tensor, index: int) -> Tensor:
    """rows [..., L, D] with `more` [..., M, D] at an index: [..., L + M, D]."""
    return torch.cat([rows[..., :index, :], more, rows[..., index:, :]], dim=-2)


def split_rows(rows: Tensor, index: int, count: int = 1) -> tuple[Tensor, Tensor]:
    """Inverse of `insert_rows`: (rows [..., L, D], the `count` rows at the index [..., M, D])."""
    if index == 0:
        return rows[..., count:, :], rows[..., :count, :]
    end = index + count
    return torch.cat([rows[..., :index, :], rows[..., end:, :]], dim=-2), rows[..., index:end, :]


def drop_rates(last: float, depth: int) -> list[float]:
    """How often the branch of each of `depth` layers is left out: from never to `last`, evenly."""
    return [last * number / max(1, depth - 1) for number in range(depth)]


class ImageEncoder(Protocol):
    """What the model asks of an image encoder, which is an `nn.Module`; nothing else is asked of it.

    width: D. grid: patches along height and width; patch_size: P, their side in pixels. statistics: how pixels are
    normalised for it. positions: its parameters that hold a row for each patch, by name; they are resized to the grid
    when it starts from a file of another one.
    """

    @property
    def width(self) -> int: ...

    @property
    def grid(self) -> tuple[int, int]: ...

    @property
    def patch_size(self) -> int: ...

    @property
    def statistics(self) -> PixelStatistics: ...

    @property
    def positions(self) -> Mapping[str, PositionLayout]: ...

    def train(self, mode: bool = True) -> nn.Module: ...

    def zero_grad(self, set_to_none: bool = True) -> None: ...

    def undecayed(self) -> set[str]:
        """Names of parameters that weight decay leaves alone, beyond those of one dimension and biases."""
        ...

    def compiled_parts(self) -> list[nn.Module]:
        """The modules that torch.compile writes kernels for."""
        ...

    def __call__(self, image: Tensor, keep: PatchSubset | None = None) -> Tensor:
        """Encode images [B, 3, H, W] (normalised) as tokens [B, 1 + L, D], CLS first.

        With `keep`, removed patches are never encoded: [B, 1 + K, D].
        """
        ...


class PatchEmbed(nn.Module):
    """Pixels of each patch to a token, by a convolution under ViT's name for it."""

    def __init__(self, patch_size: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, L, D], the top row of patches first."""
        return self.proj(image).flatten(2).transpose(1, 2)


class PatchEncoder(nn.Module, ABC):
    """Patches and a CLS token with positions, which Vision Transformer and Vision Mamba begin with.

    decay_free: names of parameters, or of their last part, that weight decay leaves alone.
    """

    decay_free: tuple[str, ...] = ()
    statistics = CLIP_STATISTICS  # of the images that ALBEF's encoders were trained on

    def __init__(self, size: VisionSize, gradient_checkpointing: bool = False):
        super().__init__()
        self.size, self.gradient_checkpointing = size, gradient_checkpointing
        self.width, self.grid, self.patch_size = size.width, size.grid, size.patch_size
        self.patch_embed = PatchEmbed(size.patch_size, size.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, size.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + size.patches, size.width))

    @staticmethod
    @abstractmethod
    def cls_index(patches: int) -> int:
        """Where CLS stands in a row with so many patches, and its position among as many."""

    @abstractmethod
    def encode(self, tokens: Tensor) -> Tensor:
        """Tokens with positions [B, N, D], CLS at its index -> [B, N, D]."""

    @property
    def positions(self) -> Mapping[str, PositionLayout]:
        return {"pos_embed": PositionLayout(start=self.cls_index)}

    def undecayed(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.rpartition(".")[2] in self.decay_free}

    def forward(self, image: Tensor, keep: PatchSubset | None = None) -> Tensor:
        """Encode images as `ImageEncoder` says."""
        tokens = self.encode(self.embed_patches(image, keep))
        index = self.cls_index(tokens.shape[1] - 1)
        if index == 0:
            return tokens
        patches, cls = split_rows(tokens, index)
        return torch.cat([cls, patches], dim=1)

    def embed_patches(self, image: Tensor, keep: PatchSubset | None = None) -> Tensor:
        """Patches and CLS with their positions, CLS at its index: what `encode` takes."""
        positions, of_cls = split_rows(self.pos_embed, self.cls_index(self.size.patches))
        tokens = self.patch_embed(image) + positions
        if keep is not None:
            tokens = take_tokens(tokens, keep.kept)
        cls = (self.cls_token + of_cls).expand(tokens.shape[0], -1, -1)
        return insert_rows(tokens, cls, self.cls_index(tokens.shape[1]))
