"""Vision Mamba written step by step as in the papers: the twin that `models/vision_mamba.py` is compared to.

Parameters come from a state_dict, by their published names.
"""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, silu, softplus


def scan(u, delta, A, B, C, D, bias, backwards=False) -> Tensor:
    """The recurrence, one step after the other: y [B, L, I]."""
    state, seen = u.new_zeros(u.shape[0], *A.shape), [None] * u.shape[1]
    for step in reversed(range(u.shape[1])) if backwards else range(u.shape[1]):
        d = softplus(delta[:, step] + bias)  # [B, I]
        decay = torch.exp(d[:, :, None] * A)  # [B, I, N]
        state = decay * state + d[:, :, None] * B[:, step, None, :] * u[:, step, :, None]
        seen[step] = (state * C[:, step, None, :]).sum(-1) + D * u[:, step]
    return torch.stack(seen, 1)


def read(x: Tensor, z: Tensor, of: dict[str, Tensor], mark: str, rank: int, states: int) -> Tensor:
    """One direction, always from first to last: S of the specification."""
    weight, bias = of[f"conv1d{mark}.weight"], of[f"conv1d{mark}.bias"]
    u = torch.stack(
        [
            bias + sum(weight[:, 0, -1 - back] * x[:, step - back] for back in range(weight.shape[-1]) if step >= back)
            for step in range(x.shape[1])
        ],
        1,
    )
    u = silu(u)
    r, B, C = (u @ of[f"x_proj{mark}.weight"].T).split([rank, states, states], -1)
    A = -of[f"A{mark}_log"].exp()
    y = scan(u, r @ of[f"dt_proj{mark}.weight"].T, A, B, C, of[f"D{mark}"], of[f"dt_proj{mark}.bias"])
    return y * silu(z)


def mix(tokens: Tensor, of: dict[str, Tensor], states: int) -> Tensor:
    x, z = (tokens @ of["in_proj.weight"].T).chunk(2, -1)
    rank = of["dt_proj.weight"].shape[1]
    forward = read(x, z, of, "", rank, states)
    backward = read(x.flip(1), z.flip(1), of, "_b", rank, states).flip(1)
    return (forward + backward) / 2 @ of["out_proj.weight"].T


def rms_norm(tokens: Tensor, weight: Tensor) -> Tensor:
    return tokens / (tokens.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def encode(of: dict[str, Tensor], image: Tensor, patch: int, states: int, kept: Tensor | None = None) -> Tensor:
    """Tokens [B, N, D], CLS still in the middle; kept [B, K]: the patches that are there, in image order."""
    grown = conv2d(image, of["patch_embed.proj.weight"], of["patch_embed.proj.bias"], stride=patch)
    patches, place = grown.flatten(2).transpose(1, 2), (grown.shape[2] * grown.shape[3]) // 2
    rows = of["pos_embed"][0]
    patches = patches + torch.cat([rows[:place], rows[place + 1 :]])
    if kept is not None:
        patches = torch.stack([sample[places] for sample, places in zip(patches, kept, strict=True)])
    middle = patches.shape[1] // 2
    cls = (of["cls_token"][0, 0] + rows[place]).expand(len(image), 1, -1)
    added, carried = torch.cat([patches[:, :middle], cls, patches[:, middle:]], 1), 0
    for number in range(sum(name.endswith("mixer.D") for name in of)):
        prefix = f"layers.{number}."
        carried = carried + added
        mixer = {name.removeprefix(f"{prefix}mixer."): value for name, value in of.items() if name.startswith(prefix)}
        added = mix(rms_norm(carried, of[f"{prefix}norm.weight"]), mixer, states)
    return rms_norm(carried + added, of["norm_f.weight"])
