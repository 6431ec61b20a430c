"""The fusion encoder prepared for many packed texts, as re-ranking has them.

Letters: S words of all texts together, R texts, B images, N image tokens, W their width, D width, A heads.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor
from torch.nn.functional import linear

from models.fusion import ImageKeysValues, TextEncoder
from models.kernels import prepare_weights
from models.packing import Packing
from utils.precision import product_type


class PackedFusion:
    """Fuses packed texts with images, many times without gradients and changes of parameters.

    wide: keys and values of all layers are one product. That keeps a GPU busier; the caches of a CPU do not hold it.
    dtype: of products.
    """

    def __init__(self, encoder: TextEncoder, dtype: torch.dtype, wide: bool):
        self.encoder, self.dtype, size = encoder, dtype, encoder.size
        self.numbers = range(size.first_cross_layer, size.num_hidden_layers)
        self.wide: tuple[Tensor, Tensor] | None = None
        if wide:
            parts = [encoder.layers[number].crossattention.self for number in self.numbers]
            layers = [layer for part in parts for layer in (part.key, part.value)]
            weight, bias = [layer.weight for layer in layers], [layer.bias for layer in layers]
            self.wide = joined(weight, dtype), joined(bias, dtype)

    def project_images(self, tokens: Tensor) -> ImageKeysValues:
        """Image tokens [B, N, W] as the keys and values of every layer."""
        if self.wide is None:
            return self.encoder.project_images(tokens)
        together = linear(tokens.to(self.dtype), *self.wide)  # [B, N, layers * 2 * D]
        heads = together.unflatten(-1, (len(self.numbers), 2, self.encoder.size.num_attention_heads, -1))
        parts = heads.permute(2, 3, 0, 4, 1, 5)  # [layers, 2, B, A, N, D / A]
        return ImageKeysValues({number: (part[0], part[1]) for number, part in zip(self.numbers, parts, strict=True)})

    def fuse(self, text_prefix: Tensor, packing: Packing, images: ImageKeysValues) -> Tensor:
        """Multi-modal CLS states [R, D] of texts, packed as text_prefix [S, D], and their images."""
        return self.encoder.fuse(text_prefix, packing, images, cls_only=True)


def joined(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Parameters of several layers as those of one."""
    return torch.cat([part.detach() for part in parts]).to(dtype)


@contextmanager
def prepare_fusion(encoder: TextEncoder, precision: Callable[[], AbstractContextManager]) -> Iterator[PackedFusion]:
    """Within, the layers of `encoder` hold their weights as products in `precision` need them."""
    with prepare_weights(encoder.bert, precision):
        device = encoder.cls.predictions.bias.device
        with precision():
            yield PackedFusion(encoder, product_type(device), wide=device.type == "cuda")
