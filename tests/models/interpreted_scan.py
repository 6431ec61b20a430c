"""The Triton kernels of the scan without a GPU: prints, as JSON, how far they are from what they must compute.

Triton's interpreter must be chosen before Triton is imported, and runs step by step: a process of its own, and small
chunks. Every figure is the norm of a difference, relative to the norm of what is right.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

import json
from itertools import product

import torch
from plain_mamba import scan as plain_scan

from models.kernels import scan as module
from models.kernels import scan_loop, scan_triton

NAMES = ("u", "delta", "A", "B", "C", "D", "bias")
# batch, steps, channels, states: chunks of steps and groups of channels that are whole, that are not, and one of each
SIZES = {"whole": (1, 8, 2, 4), "ragged": (2, 5, 3, 3), "single": (1, 1, 1, 1)}
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ROWS = ("u", "delta", "B", "C")  # that a model has in its precision


def make_inputs(batch, steps, channels, states):
    """In float64, as every type of floats can hold them; decay from nearly none to nearly all."""
    generator = torch.Generator().manual_seed(steps)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(torch.bfloat16).double()

    rows, of_states = (batch, steps, channels), (batch, steps, states)
    decay = -(draw(channels, states).abs() * 3 + 0.01)
    return [draw(*rows), 3 * draw(*rows), decay, draw(*of_states), draw(*of_states), draw(channels), draw(channels)]


def as_a_model_has_them(values, dtype):
    """u with steps in one piece, B and C as parts of wider rows; weights in float32."""
    given = [part.to(dtype if name in ROWS else torch.float32) for name, part in zip(NAMES, values, strict=True)]
    given[0] = given[0].transpose(1, 2).contiguous().transpose(1, 2)
    states = given[2].shape[1]
    given[3], given[4] = torch.cat([given[3], given[4], given[4]], 2)[:, :, : 2 * states].split(states, 2)
    return [part.requires_grad_() for part in given]


def distance(found, expected):
    """Relative to the norm of what is expected, or to 1 where that is 0."""
    expected = expected.detach().double()
    return ((found.detach().double() - expected).norm() / (expected.norm() or 1)).item()


def results(scan, given, weight):
    """y, and the gradients of all inputs."""
    y = scan(*given)
    return [y, *torch.autograd.grad(y, given, weight.to(y.dtype))]


def differences(size, dtype, reverse):
    """Of y and every gradient, from the plain recurrence in float64 and from the loop in the same types."""
    exact = [part.requires_grad_() for part in make_inputs(*SIZES[size])]
    weight = torch.randn(exact[0].shape, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16).double()
    given = as_a_model_has_them([part.detach() for part in exact], TYPES[dtype])
    found = results(lambda *parts: module.selective_scan(*parts, reverse), given, weight)
    plain = results(lambda *parts: plain_scan(*parts, reverse), exact, weight)
    module.way_for = lambda u: scan_loop
    loop = results(lambda *parts: module.selective_scan(*parts, reverse), given, weight)
    module.way_for = lambda u: scan_triton
    types = all(one.dtype == part.dtype for one, part in zip(found, [given[0], *given], strict=True))
    return {
        "types": types,
        "plain": dict(zip(("y", *NAMES), map(distance, found, plain), strict=True)),
        "loop": dict(zip(("y", *NAMES), map(distance, found, loop), strict=True)),
    }


def slopes(reverse, epsilon=1e-2):
    """Of each input, the slope in a random direction: by the gradient, and by differences of results."""
    values = [part.float().requires_grad_() for part in make_inputs(1, 5, 2, 2)]
    generator, found = torch.Generator().manual_seed(1), {}
    weight = torch.randn(values[0].shape, generator=generator)
    gradients = torch.autograd.grad(module.selective_scan(*values, reverse), values, weight)
    with torch.no_grad():
        for index, (name, gradient) in enumerate(zip(NAMES, gradients, strict=True)):
            direction = torch.randn(gradient.shape, generator=generator)
            ends = []
            for sign in (1, -1):
                moved = [part + sign * epsilon * direction if n == index else part for n, part in enumerate(values)]
                ends.append((module.selective_scan(*moved, reverse).double() * weight).sum().item())
            found[name] = [(gradient * direction).sum().item(), (ends[0] - ends[1]) / (2 * epsilon)]
    return found


def extremes():
    """d of steps so short and so long that softplus is near 0 and near its input, from float64."""
    raw = torch.tensor([-90.0, -20, -12, -5, -1, 0, 1, 5, 12, 20, 90]).view(1, -1, 1)
    one, tiny, zero = torch.ones_like(raw), torch.full((1, 1), -1e4), torch.zeros(1)
    y = module.selective_scan(one, raw, tiny, one, one, zero, zero)  # d alone is left of a state, the past is not
    exact = plain_scan(*(part.double() for part in (one, raw, tiny, one, one, zero, zero)))
    return ((y - exact).abs() / exact).max().item()


def main():
    scan_triton.CHUNK, scan_triton.GROUP = 4, 2
    module.way_for = lambda u: scan_triton
    found = {
        f"{size} {dtype} {'reverse' if reverse else 'forward'}": differences(size, dtype, reverse)
        for size, dtype, reverse in product(SIZES, TYPES, (False, True))
        if dtype == "float32" or (size == "ragged" and reverse)
    }
    print(json.dumps({"differences": found, "slopes": slopes(reverse=True), "extremes": extremes()}))


if __name__ == "__main__":
    main()
