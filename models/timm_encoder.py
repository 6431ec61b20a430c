"""Any Vision Transformer of timm with patch tokens as image encoder (`image_encoder: timm:NAME`).

Letters: B batch, L patches, K kept patches, N tokens, P tokens before the patches (CLS, registers), D width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import timm
import torch
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import VisionTransformer as TimmTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.image_encoder import PatchSubset, PixelStatistics, PositionLayout, VisionSize, take_tokens
from utils.errors import UserError, did_you_mean

TRUNK = "trunk."  # what the names of timm's own parameters begin with here


@dataclass(frozen=True)
class TimmSizes:
    """What the name of a model decides."""

    width: int
    depth: int
    patch_size: int
    has_cls: bool


@cache
def sizes_of(name: str) -> TimmSizes:
    """The sizes of a model of timm, read from one without content. Raises UserError when it cannot be used."""
    with torch.device("meta"):
        trunk = create_trunk(name)
    patch, other = trunk.patch_embed.patch_size
    if patch != other:
        raise UserError(f"`image_encoder`: {name!r} of timm has patches of {patch}x{other} pixels; they must be square")
    return TimmSizes(trunk.embed_dim, len(trunk.blocks), patch, trunk.cls_token is not None)


def create_trunk(name: str, **options: Any) -> TimmTransformer:
    """A model of timm without weights and classifier. Raises UserError when there is none that can be used."""
    if not timm.is_model(name):
        raise UserError(f"`image_encoder`: timm has no model {name!r}{did_you_mean(name, usable_names())}")
    try:
        model = timm.create_model(name, pretrained=False, num_classes=0, **options)
    except Exception as error:  # whatever the constructor of one of a thousand models raises
        reason = " ".join(str(error).split())
        raise UserError(f"`image_encoder`: timm cannot build {name!r}: {reason}") from None
    if not isinstance(model, TimmTransformer) or not isinstance(model.patch_embed, PatchEmbed):
        raise UserError(
            f"`image_encoder`: {name!r} of timm is not a plain Vision Transformer, of which patches can be left out;"
            " choose one such as timm:vit_base_patch16_224 or timm:vit_base_patch16_siglip_224"
        )
    return model


def usable_names() -> list[str]:
    """The names of timm's Vision Transformers, for messages."""
    return timm.list_models(module="vision_transformer") + timm.list_models(module="deit")


class TimmEncoder(nn.Module):
    """A Vision Transformer of timm, its classifier left out: an `ImageEncoder`.

    Registers and distillation tokens are encoded and not handed on. Where there is no CLS token, the pooled image
    takes its place. Patches that timm norms after pooling alone are normed likewise.
    """

    def __init__(self, name: str, size: VisionSize, gradient_checkpointing: bool = False):
        """size: of its image and its stochastic depth; all else follows from the name."""
        super().__init__()
        sizes, self.gradient_checkpointing = sizes_of(name), gradient_checkpointing
        pooling = {"global_pool": "token"} if sizes.has_cls else {}
        self.trunk = create_trunk(name, img_size=size.image_size, drop_path_rate=size.drop_path, **pooling)
        self.width, self.patch_size, self.has_cls = sizes.width, sizes.patch_size, sizes.has_cls
        rows, columns = self.trunk.patch_embed.grid_size
        self.grid: tuple[int, int] = (rows, columns)
        described: Mapping[str, Any] = vars(self.trunk)["pretrained_cfg"]
        self.statistics = PixelStatistics(tuple(described["mean"]), tuple(described["std"]))

    @property
    def positions(self) -> Mapping[str, PositionLayout]:
        others = 0 if self.trunk.no_embed_class else self.trunk.num_prefix_tokens
        return {} if self.trunk.pos_embed is None else {f"{TRUNK}pos_embed": PositionLayout(others)}

    def undecayed(self) -> set[str]:
        names = self.trunk.no_weight_decay()
        return {f"{TRUNK}{name}" for name, _ in self.trunk.named_parameters() if name in names}

    def compiled_parts(self) -> list[nn.Module]:
        return list(self.trunk.blocks)

    def forward(self, image: Tensor, keep: PatchSubset | None = None) -> Tensor:
        """Encode images as `ImageEncoder` says."""
        tokens = self.trunk.norm(self.encode(self.trunk.norm_pre(self.embed_patches(image, keep))))
        pooled = tokens[:, 0] if self.has_cls else self.trunk.forward_head(tokens, pre_logits=True)
        patches = self.trunk.fc_norm(tokens[:, self.trunk.num_prefix_tokens :])
        return torch.cat([pooled[:, None], patches], dim=1)

    def embed_patches(self, image: Tensor, keep: PatchSubset | None = None) -> Tensor:
        """Tokens with positions [B, P + L, D], with `keep` of the kept patches alone: [B, P + K, D]."""
        tokens = self.trunk._pos_embed(self.trunk.patch_embed(image))
        if keep is None:
            return tokens
        prefix = self.trunk.num_prefix_tokens
        return torch.cat([tokens[:, :prefix], take_tokens(tokens[:, prefix:], keep.kept)], dim=1)

    def encode(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D], before the final norm."""
        for block in self.trunk.blocks:
            if self.gradient_checkpointing and self.training:
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return tokens
