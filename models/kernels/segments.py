"""Attention of rows of many lengths that lie one after the other, without padding.

Letters: S rows of queries, M rows of keys, A heads, d width of a head, P segments.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from models.kernels.attention import attend


@dataclass(frozen=True)
class Segments:
    """Consecutive rows of queries, and the consecutive rows of keys that those of each segment attend to.

    query_lengths, key_lengths [P]: numbers of rows, in main memory. query_starts, key_starts [P + 1] int32: the first
    row of each segment, and the end of the last, on the device of queries and keys.
    """

    query_lengths: np.ndarray
    key_lengths: np.ndarray
    query_starts: Tensor
    key_starts: Tensor

    @cached_property
    def runs(self) -> list[tuple[int, int, int]]:
        """Segments side by side with equal lengths: how many, and their lengths."""
        lengths = np.stack([self.query_lengths, self.key_lengths], axis=1)
        starts = np.flatnonzero(np.concatenate([[True], (lengths[1:] != lengths[:-1]).any(1)]))
        counts = np.diff(starts, append=len(lengths))
        return [(count, *pair) for count, pair in zip(counts.tolist(), lengths[starts].tolist(), strict=True)]


def attend_segments(query: Tensor, keys: Tensor, values: Tensor, segments: Segments) -> Tensor:
    """Scaled dot-product attention within segments: query [S, A, d], keys and values [M, A, d] -> [S, A, d].

    On CUDA one kernel serves all segments, whatever their lengths. torch's own choice for such attention
    (`torch.nn.attention.varlen`) is not asked, as it may take cuDNN's, which plans anew for new lengths. Where there is
    no such kernel, segments of equal length go together.
    """
    kernel = kernel_for(query)
    if kernel == "runs":
        return attend_by_runs(query, keys, values, segments)
    starts, longest = (segments.query_starts, segments.key_starts), longest_of(segments)
    if kernel == "flash":
        return torch.ops.aten._flash_attention_forward(query, keys, values, *starts, *longest, 0.0, False, False)[0]
    batch = (part[None] for part in (query, keys, values))
    return torch.ops.aten._efficient_attention_forward(*batch, None, *starts, *longest, 0.0, 0)[0][0]


def longest_of(segments: Segments) -> tuple[int, int]:
    """The most rows of queries and of keys that a segment has."""
    return int(segments.query_lengths.max()), int(segments.key_lengths.max())


def kernel_for(query: Tensor) -> str:
    """What attends: "flash" (16 bit) or "efficient" (32 bit) attention of torch on CUDA, or "runs"."""
    if not query.is_cuda or query.shape[-1] % 8:
        return "runs"
    if query.dtype == torch.float32:
        return "efficient"
    flash = query.shape[-1] <= 256 and torch.cuda.get_device_capability(query.device) >= (8, 0)
    return "flash" if flash and torch.backends.cuda.is_flash_attention_available() else "runs"


def attend_by_runs(query: Tensor, keys: Tensor, values: Tensor, segments: Segments) -> Tensor:
    """`attend_segments` by `attend`, for all segments of a run together."""
    attended, query_end, key_end = [], 0, 0
    for count, queries, rows in segments.runs:
        query_start, query_end = query_end, query_end + count * queries
        key_start, key_end = key_end, key_end + count * rows
        here = attend(
            by_heads(query[query_start:query_end], count),
            by_heads(keys[key_start:key_end], count),
            by_heads(values[key_start:key_end], count),
        )
        attended.append(here.transpose(1, 2).flatten(0, 1))
    return attended[0] if len(attended) == 1 else torch.cat(attended)


def by_heads(rows: Tensor, segments: int) -> Tensor:
    """Rows [segments * T, A, d] as [segments, A, T, d]."""
    return rows.unflatten(0, (segments, -1)).transpose(1, 2)
