"""Vision Mamba image encoder (Vim: Zhu et al., 2024), as MAMBA-TBPS uses it: bidirectional, CLS in the middle.

Letters: B batch, N image tokens (1 + patches), D width, I inner width (2 D), S states of a channel, R rank of delta.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, silu
from torch.utils.checkpoint import checkpoint

from models.image_encoder import PatchEncoder, VisionSize, drop_rates
from models.kernels import DropPath, Linear, bytes_of, cast_once, elementwise
from models.kernels.scan import selective_scan
from utils.precision import full_precision

DELTA_RANGE = (1e-3, 1e-1)  # of softplus(bias) at the start
DELTA_MIN = 1e-4
STD_WITHIN_TWO = 0.8796256610342398  # of a standard normal distribution without what lies beyond 2


class DeltaProjection(Linear):
    """R -> I; its bias is added in float32, by the scan."""

    adds_bias = False

    @torch.no_grad()
    def initialise(self) -> None:
        """d = softplus(bias) is log-uniform in DELTA_RANGE where the input says nothing (Mamba, section 3.6)."""
        nn.init.uniform_(self.weight, -(self.in_features**-0.5), self.in_features**-0.5)
        low, high = (math.log(end) for end in DELTA_RANGE)
        delta = torch.exp(torch.rand(self.out_features) * (high - low) + low).clamp(min=DELTA_MIN)
        self.bias.copy_(delta + torch.log(-torch.expm1(-delta)))  # inverse of softplus


class Mixer(nn.Module):
    """A Mamba block that reads its tokens in both directions (Vim section 3.2).

    The two directions have parameters of their own, under the published names: those of the backward one end in `_b`.
    """

    def __init__(self, width: int, states: int = 16, convolution: int = 4, expand: int = 2):
        super().__init__()
        inner, self.rank, self.states = expand * width, math.ceil(width / 16), states
        self.in_proj = Linear(width, 2 * inner, bias=False)
        for suffix in ("", "_b"):
            setattr(self, f"conv1d{suffix}", nn.Conv1d(inner, inner, convolution, groups=inner))
            setattr(self, f"x_proj{suffix}", Linear(inner, self.rank + 2 * states, bias=False))
            setattr(self, f"dt_proj{suffix}", DeltaProjection(self.rank, inner))
            decay_rates = torch.arange(1, states + 1, dtype=torch.float32).log().repeat(inner, 1)
            setattr(self, f"A{suffix}_log", nn.Parameter(decay_rates))
            setattr(self, f"D{suffix}", nn.Parameter(torch.ones(inner)))
            getattr(self, f"dt_proj{suffix}").initialise()
        self.out_proj = Linear(inner, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        x, z = self.in_proj(tokens).chunk(2, dim=-1)  # [B, N, I] each
        scanned = self.scan(x, "") + self.scan(x, "_b")  # both directions share gate and output projection
        return self.out_proj(elementwise(gated, scanned, z, inner=2 * bytes_of(*scanned.shape, like=scanned)))

    def scan(self, x: Tensor, suffix: str) -> Tensor:
        """x [B, N, I] from the first token to the last, or with suffix `_b` from the last to the first: [B, N, I]."""
        backwards = suffix == "_b"
        convolution, projection, delta_projection, A_log, D = (
            getattr(self, name)
            for name in (f"conv1d{suffix}", f"x_proj{suffix}", f"dt_proj{suffix}", f"A{suffix}_log", f"D{suffix}")
        )
        u = silu(convolve(x, convolution.weight, convolution.bias, backwards))
        low_rank, B, C = projection(u).split([self.rank, self.states, self.states], dim=-1)
        delta, bias = delta_projection(low_rank), delta_projection.bias
        return selective_scan(u, delta, -torch.exp(A_log), B, C, D, delta_bias=bias, reverse=backwards)


def gated(scanned: Tensor, z: Tensor) -> Tensor:
    """The mean of two directions, whose sum `scanned` [B, N, I] is, times SiLU of the gate z [B, N, I]."""
    return scanned * silu(z) / 2


def convolve(x: Tensor, weight: Tensor, bias: Tensor, backwards: bool) -> Tensor:
    """Each channel of x [B, N, I] with its own weight [I, 1, W]; no token reads what the scan has yet to reach.

    As a convolution of images of height 1 whose channels come last, which is how tokens lie in memory.
    """
    tokens, width = x.shape[1], weight.shape[-1]
    if backwards:
        weight = weight.flip(-1)
    # on a CPU its gradient takes ten times as long in bfloat16
    dtype = weight.dtype if x.device.type == "cpu" else x.dtype
    image = x.to(dtype).transpose(1, 2).unsqueeze(2)  # [B, I, 1, N]
    with full_precision(x):
        wide = conv2d(image, weight.unsqueeze(2).to(dtype), bias.to(dtype), padding=(0, width - 1), groups=len(weight))
    causal = wide[..., -tokens:] if backwards else wide[..., :tokens]  # of [B, I, 1, N + W - 1]
    return causal.squeeze(2).transpose(1, 2).to(x.dtype)


class Layer(nn.Module):
    """Norm and mixer. The sum of all layers before is carried beside what the last one adds, in float32."""

    def __init__(self, width: int, states: int, drop_path: float):
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.mixer = Mixer(width, states)
        self.drop = DropPath(drop_path)

    def forward(self, added: Tensor, carried: Tensor | None) -> tuple[Tensor, Tensor]:
        """added, carried [B, N, D] -> the same after this layer; carried None = the first layer."""
        carried = carry(self.drop, added, carried)
        return self.mixer(cast_once(self.norm(carried))), carried


def carry(drop: DropPath, added: Tensor, carried: Tensor | None) -> Tensor:
    """The sum that enters a norm, at least in float32."""
    wide = torch.promote_types(added.dtype, torch.float32)
    return added.to(wide) if carried is None else carried + drop(added).to(wide)


class VisionMamba(PatchEncoder):
    """Layers that scan patches and CLS, row by row, in both directions; a final norm."""

    decay_free = ("cls_token", "pos_embed", "A_log", "A_b_log")

    def __init__(self, size: VisionSize, gradient_checkpointing: bool = False):
        super().__init__(size, gradient_checkpointing)
        rates = [0.0, *drop_rates(size.drop_path, size.depth)]  # the last of which comes before the final norm
        self.layers = nn.ModuleList(Layer(size.width, size.states, rate) for rate in rates[: size.depth])
        self.norm_f = nn.RMSNorm(size.width, eps=1e-5)
        self.drop = DropPath(size.drop_path)
        self.initialise()

    def initialise(self) -> None:
        """What a run without a checkpoint starts from (Vim's and Mamba's)."""
        weight = self.patch_embed.proj.weight
        std = weight[0].numel() ** -0.5 / STD_WITHIN_TWO  # LeCun's variance, 1 / inputs
        nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
        nn.init.zeros_(cast(Tensor, self.patch_embed.proj.bias))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for layer in cast("list[Layer]", self.layers):
            nn.init.kaiming_uniform_(layer.mixer.out_proj.weight, a=math.sqrt(5))
            with torch.no_grad():
                layer.mixer.out_proj.weight /= math.sqrt(len(self.layers))

    @staticmethod
    def cls_index(patches: int) -> int:
        return patches // 2

    def compiled_parts(self) -> list[nn.Module]:
        return list(self.layers)

    def encode(self, tokens: Tensor) -> Tensor:
        added, carried = tokens, None
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                added, carried = checkpoint(layer, added, carried, use_reentrant=False)
            else:
                added, carried = layer(added, carried)
        return self.norm_f(carry(self.drop, added, carried))
