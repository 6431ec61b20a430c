"""Attention of rows of many lengths that lie one after the other, without padding.

Letters: S rows of queries, M rows of keys, A heads, d width of a head, P segments.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from models.kernels.attention import attend

PADDED = 1.2  # times as many products as without padding are less work than many small ones


@dataclass(frozen=True)
class Segments:
    """Consecutive rows of queries, and the consecutive rows of keys that those of each segment attend to.

    query_starts, key_starts [P + 1] int32: the first row of each segment, and the end of the last, on the device of
    queries and keys. longest: no segment has more rows of queries, of keys. query_lengths, key_lengths [P]: numbers of
    rows, in main memory; needed where there is no kernel for segments (`kernel_for`).
    """

    query_starts: Tensor
    key_starts: Tensor
    longest: tuple[int, int]
    query_lengths: np.ndarray | None = None
    key_lengths: np.ndarray | None = None

    @classmethod
    def of_lengths(
        cls, query_lengths: np.ndarray, key_lengths: np.ndarray, query_starts: Tensor, key_starts: Tensor
    ) -> "Segments":
        """Segments whose lengths are known in main memory."""
        longest = int(query_lengths.max()), int(key_lengths.max())
        return cls(query_starts, key_starts, longest, query_lengths, key_lengths)

    @cached_property
    def runs(self) -> list["Run"]:
        """Segments side by side of about equal lengths, so many that padding them to equal ones costs little."""
        found, first = [], 0
        assert self.query_lengths is not None and self.key_lengths is not None, "lengths are not known here"
        ends = np.cumsum([self.query_lengths, self.key_lengths], axis=1)
        for last in range(1, len(self.query_lengths) + 1):
            if last == len(self.query_lengths) or not self.go_together(first, last + 1):
                lengths = self.query_lengths[first:last], self.key_lengths[first:last]
                queries, keys = (
                    slice(end - rows.sum(), end) for end, rows in zip(ends[:, last - 1], lengths, strict=True)
                )
                found.append(Run(queries, keys, *lengths, self.query_starts.device))
                first = last
        return found

    def go_together(self, first: int, last: int) -> bool:
        """Whether segments from `first` to before `last`, padded, have at most PADDED times their rows."""
        lengths = self.query_lengths, self.key_lengths
        parts = [part[first:last] for part in lengths if part is not None]
        rows, padded = (np.multiply(*parts)).sum(), len(parts[0]) * parts[0].max() * parts[1].max()
        return bool(padded <= PADDED * rows)


class Run:
    """Segments that are computed together: their rows of queries and keys, and how these are padded, if they are."""

    def __init__(
        self, queries: slice, keys: slice, query_lengths: np.ndarray, key_lengths: np.ndarray, device: torch.device
    ):
        self.queries, self.keys, self.count = queries, keys, len(query_lengths)
        self.of_queries, self.of_keys = (padding_of(lengths, device) for lengths in (query_lengths, key_lengths))
        # True = attend: [segments, 1, 1, keys]
        self.mask = None if self.of_keys is None else self.of_keys.mask[:, None, None]

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
        """As `attend_segments`, of this run's rows alone."""
        query = self.by_heads(query[self.queries], self.of_queries)
        keys, values = (self.by_heads(part[self.keys], self.of_keys) for part in (keys, values))
        attended = attend(query, keys, values, self.mask, dropout).transpose(1, 2).flatten(0, 1)
        return attended if self.of_queries is None else attended.index_select(0, self.of_queries.rows)

    def by_heads(self, rows: Tensor, padding: "Padding | None") -> Tensor:
        """Rows [R, A, d] as [segments, A, T, d]."""
        rows = rows if padding is None else rows.index_select(0, padding.indices)
        return rows.unflatten(0, (self.count, -1)).transpose(1, 2)


@dataclass(frozen=True)
class Padding:
    """Segments of other lengths as equally long ones [P, T].

    mask [P, T]: True = a row of the segment. indices [P * T]: that row, or the segment's last. rows: of P * T, which
    are none of padding.
    """

    mask: Tensor
    indices: Tensor
    rows: Tensor


def padding_of(lengths: np.ndarray, device: torch.device) -> Padding | None:
    """How segments of these lengths [P] are padded; None if they are equally long."""
    if (lengths == lengths[0]).all():
        return None
    position, starts = np.arange(lengths.max()), lengths.cumsum() - lengths
    mask = position < lengths[:, None]
    indices = starts[:, None] + np.minimum(position, lengths[:, None] - 1)
    parts = (mask, indices.flatten(), np.flatnonzero(mask))
    return Padding(*(torch.from_numpy(part).to(device) for part in parts))


def attend_segments(query: Tensor, keys: Tensor, values: Tensor, segments: Segments, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention within segments: query [S, A, d], keys and values [M, A, d] -> [S, A, d].

    On CUDA one kernel serves all segments, whatever their lengths. torch's own choice for such attention
    (`torch.nn.attention.varlen`) is not asked, as it may take cuDNN's, which plans anew for new lengths, and has no
    dropout. Where there is no such kernel, segments of about equal length go together. A segment may have keys and no
    queries: their gradient is 0.
    """
    kernel = kernel_for(query.device, query.dtype, query.shape[-1])
    if kernel is None:
        parts = [run.attend(query, keys, values, dropout) for run in segments.runs]
        return parts[0] if len(parts) == 1 else torch.cat(parts)
    given = segments.query_starts, segments.key_starts, *segments.longest, dropout
    if kernel == "flash":
        return torch.ops.aten._flash_attention_forward(query, keys, values, *given, False, False)[0]
    batch = (part[None] for part in (query, keys, values))
    return torch.ops.aten._efficient_attention_forward(*batch, None, *given, 0, torch.is_grad_enabled())[0][0]


def kernel_for(device: torch.device, dtype: torch.dtype, width: int) -> str | None:
    """What attends within segments, by heads of this width: "flash" (16 bit) or "efficient" (32 bit) attention of torch
    on CUDA, or None."""
    if device.type != "cuda" or width % 8:
        return None
    if dtype == torch.float32:
        return "efficient"
    flash = width <= 256 and torch.cuda.get_device_capability(device) >= (8, 0)
    return "flash" if flash and torch.backends.cuda.is_flash_attention_available() else None
