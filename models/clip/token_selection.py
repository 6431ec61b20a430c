"""RDE's token selection: an embedding of the patches and the words that CLIP attends to most (RDE section 3.1).

Letters: B batch, N image tokens, T text tokens, S selected tokens, E embedding of CLIP, F width of this embedding.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import batch_norm, relu

from models.kernels import Linear
from models.losses import FAR_BELOW
from utils.processes.distributed import gather_with_gradient, sum_over_processes, world_size

BatchNorm = Literal["frozen", "batch"]


class SelectionMlp(nn.Module):
    """E -> F/2, batch norm, ReLU, F/2 -> F. The second batch norm of the released files has never been used.

    statistics: "frozen" normalises by the running statistics in training too; "batch" by those of the batch.
    """

    def __init__(self, inputs: int, width: int, statistics: BatchNorm):
        super().__init__()
        self.statistics = statistics
        self.layers = nn.ModuleList([Linear(inputs, width // 2), Linear(width // 2, width)])
        self.bns = nn.ModuleList([nn.BatchNorm1d(width // 2), nn.BatchNorm1d(width)])
        self.train()

    def train(self, mode: bool = True) -> "SelectionMlp":
        super().train(mode)
        self.bns.train(mode and self.statistics == "batch")
        return self

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """[B, S, E] -> [B, S, F]; valid [B, S] True = a token that counts in the statistics of the batch."""
        return self.layers[1](relu(self.normalise(self.layers[0](tokens).float(), valid)))

    def normalise(self, hidden: Tensor, valid: Tensor) -> Tensor:
        """[B, S, F/2] by running statistics, or by those of valid tokens of all processes; other tokens are 0 then.

        A single token has no variance: the running statistics stand in.
        """
        norm = self.bns[0]
        assert isinstance(norm, nn.BatchNorm1d)
        if not norm.training:
            return norm(hidden.flatten(0, 1)).view_as(hidden)
        rows = hidden[valid]
        count = sum_over_processes(torch.tensor(float(len(rows)), device=rows.device))
        if count < 2:
            rows = batch_norm(rows, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        elif world_size() > 1:
            rows = normalise_together(rows, norm, count)
        else:
            rows = norm(rows)
        return torch.zeros_like(hidden).masked_scatter(valid[..., None], rows)


def normalise_together(rows: Tensor, norm: nn.BatchNorm1d, count: Tensor) -> Tensor:
    """What `norm` makes of the rows [R, F/2] of all processes together, `count` of them; for this process's rows."""
    mean = gather_with_gradient(rows.sum(0, keepdim=True)).sum(0) / count
    variance = gather_with_gradient((rows - mean).square().sum(0, keepdim=True)).sum(0) / count
    with torch.no_grad():
        for running, found in ((norm.running_mean, mean), (norm.running_var, variance * count / (count - 1))):
            assert running is not None and norm.momentum is not None
            running.lerp_(found, norm.momentum)
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked += 1
    return (rows - mean) * (variance + norm.eps).rsqrt() * norm.weight + norm.bias


class TokenSelection(nn.Module):
    """The embedding of selected tokens: the largest value of each channel. ratio: share of the tokens selected."""

    mlp: SelectionMlp

    def __init__(self, ratio: float):
        super().__init__()
        self.ratio = ratio

    def count(self, tokens: int) -> int:
        """How many of so many patches or words are selected."""
        return max(1, int(tokens * self.ratio))

    def embed(self, chosen: Tensor, valid: Tensor, beside: nn.Module) -> Tensor:
        """Selected tokens [B, S, E] through the MLP and the layer beside it: [B, F].

        valid [B, S]: True = take the token into account.
        """
        chosen = chosen.float()
        chosen = chosen / (vector_norm(chosen, dim=-1, keepdim=True) + 1e-8)
        states = (self.mlp(chosen, valid) + beside(chosen)).float()
        return states.masked_fill(~valid[..., None], FAR_BELOW).max(dim=1).values


class PatchSelection(TokenSelection):
    """Of an image: the patches that CLS attends to most. The layer `linear` is in released files, and unused."""

    def __init__(self, inputs: int, width: int, ratio: float, statistics: BatchNorm):
        super().__init__(ratio)
        self.linear = Linear(inputs, width)
        self.fc = Linear(inputs, width)
        self.mlp = SelectionMlp(inputs, width, statistics)

    def select(self, attention: Tensor) -> Tensor:
        """What CLS attends to [B, N] -> tokens by index [B, S]."""
        patches = attention[:, 1:]
        return 1 + patches.topk(self.count(patches.shape[1]), dim=1).indices

    def forward(self, chosen: Tensor) -> Tensor:
        """Selected tokens [B, S, E] -> [B, F]."""
        return self.embed(chosen, torch.ones_like(chosen[..., 0], dtype=torch.bool), self.fc)


class WordSelection(TokenSelection):
    """Of a caption: the words that EOT attends to most, and EOT itself where there is no word.

    text_length: of the table of positions, by which words are counted however short the captions of a batch are.
    """

    def __init__(self, inputs: int, width: int, ratio: float, statistics: BatchNorm, text_length: int):
        super().__init__(ratio)
        self.text_length = text_length
        self.linear = Linear(inputs, width)
        self.mlp = SelectionMlp(inputs, width, statistics)

    def select(self, attention: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """What EOT attends to [B, T], where EOT is [B] -> tokens by index [B, S], and which of them count [B, S]."""
        words = selectable(end, attention.shape[1])
        count = min(self.count(self.text_length - 2), attention.shape[1])
        index = attention.masked_fill(~words, -1).topk(count, dim=1).indices  # words first: attention is not negative
        return index, words.gather(1, index)

    def forward(self, chosen: Tensor, valid: Tensor) -> Tensor:
        """Selected tokens [B, S, E]; valid [B, S] True = counts -> [B, F]."""
        return self.embed(chosen, valid, self.linear)


def selectable(end: Tensor, length: int) -> Tensor:
    """Which tokens of captions that end at `end` [B] are words, or EOT where there are none: [B, length], True = is."""
    position, end = torch.arange(length, device=end.device), end[:, None]
    words = (position > 0) & (position < end)
    return words | ((end <= 1) & (position == end))  # no torch.where, which onnxruntime lacks of bool
