"""The one attention product of all encoders.

Letters: B batch, A heads, T query tokens, N key tokens, R query rows, d width of a head.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, softmax

from models.kernels.dropout import dropout as drop
from models.kernels.recompute import bytes_of, checkpointed
from utils.precision import full_precision


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    causal: bool = False,
) -> Tensor:
    """Scaled dot-product attention: query [B, A, T, d], keys and values [B, A, N, d] -> [B, A, T, d].

    mask broadcasts to [B, A, T, N], True = attend. causal: no token attends to a later one (T = N, no mask).
    Fused, but on a CPU with bfloat16, where torch's fused kernel takes twice as long as plain products forward
    and up to ten times backward, or with dropout, for which it has no fused kernel.
    """
    if query.device.type != "cpu" or (query.dtype != torch.bfloat16 and dropout == 0):
        return scaled_dot_product_attention(query, keys, values, attn_mask=mask, dropout_p=dropout, is_causal=causal)
    if causal:
        mask = in_the_past(keys.shape[2], keys.device)
    product = partial(attend_plainly, mask=mask, dropout=dropout)
    kept = bytes_of(*query.shape[:3], keys.shape[2], like=query)
    return checkpointed(product, query, keys, values, kept=kept, random=dropout > 0)


def in_the_past(length: int, device: torch.device) -> Tensor:
    """Which tokens each token of a causal row attends to: itself and the earlier ones [T, T], True = attend."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def in_order(heads: Tensor) -> Tensor:
    """Keys or values [B, A, N, d] for many products: on a CPU each would copy them into this order first."""
    return heads.contiguous() if heads.device.type == "cpu" else heads


def attend_plainly(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """`attend` by plain products."""
    with full_precision(query):  # autocast would copy the scores to float32 and back; softmax sums in float32 anyway
        scores = (query * query.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
        if mask is not None:
            scores += torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, -torch.inf)
        return drop(softmax(scores, dim=-1), dropout) @ values


def attend_indexed(query: Tensor, keys: Tensor, values: Tensor, index: Tensor, dropout: float = 0.0) -> Tensor:
    """`attend` of row i of query [R, A, T, d] to row index[i] of keys and values [B, A, N, d] -> [R, A, T, d].

    The rows of keys and values are copied for it, and the copies not kept for the backward pass if they are big.
    """

    def gather(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return attend(query, keys.index_select(0, index), values.index_select(0, index), dropout=dropout)

    kept = 2 * bytes_of(len(index), *keys.shape[1:], like=keys)
    return checkpointed(gather, query, keys, values, kept=kept, random=dropout > 0)
