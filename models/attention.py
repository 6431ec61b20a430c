"""The one attention product of all encoders.

Letters: B batch, A heads, T asking tokens, N answering tokens, d width of a head.
"""

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.functional import scaled_dot_product_attention, softmax


def attend(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Scaled dot-product attention: query [B, A, T, d], keys and values [B, A, N, d] -> [B, A, T, d].

    mask broadcasts to [B, A, T, N], True = attend. Fused where it is the fastest way: torch's
    fused kernel for bfloat16 on a CPU takes several times as long backward as plain products.
    """
    plain = query.device.type == "cpu" and query.dtype == torch.bfloat16 and torch.is_grad_enabled()
    if not plain:
        return scaled_dot_product_attention(query, keys, values, attn_mask=mask, dropout_p=dropout)
    scores = (query * query.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = softmax(scores.float(), dim=-1).to(values.dtype)
    return drop(weights, dropout) @ values
