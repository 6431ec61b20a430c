"""Dropout on a CPU against torch's: the mask, the layer, and a training step of a small model that has it.

    python -m benchmarks.dropout [--quick]

The step is forward, backward and AdamW of a model of width 192: a ViT of 6 layers on images of 160x160, 6 layers of
text and fusion (cross-attention from the fourth on), captions of 18 to 48 tokens, dropout of 0.1. The two ways to drop,
and no dropout at all (what a step takes apart from it), are swapped within one process; the least of times taken in
turn counts. What one way drops another does not, so results cannot be compared: the share of elements kept is told.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.full_size import configuration, make_batch, make_draws, make_model
from benchmarks.measure import describe_machine, in_turn, parse_arguments
from configs.schema import MarsConfig
from models.kernels.dropout import LEVELS, draw_mask, dropout
from utils.errors import run_command_line
from utils.memory import keep_freed_memory
from utils.precision import set_precision
from utils.training.optimization import clip_gradients, make_optimizer

P = 0.1
STATES, QUICK_STATES = (32, 48, 192), (8, 48, 192)  # texts, tokens, width
SMALL = (
    "vision_width=192",
    "vision_heads=3",
    "bert_config.encoder_width=192",
    "vision_depth=6",
    "image_res=160",
    "decoder_depth=2",
    "decoder_heads=3",
    "queue_size=8192",
    "bert_config.hidden_size=192",
    "bert_config.intermediate_size=768",
    "bert_config.num_attention_heads=3",
    "bert_config.num_hidden_layers=6",
    "bert_config.fusion_layer=3",
    "bert_config.full_ca=false",
)
SMALLER = ("vision_depth=2", "bert_config.num_hidden_layers=2", "bert_config.fusion_layer=1")
Drop = Callable[[Tensor, float, bool], Tensor]


def keep_all(states: Tensor, p: float, training: bool = True) -> Tensor:
    """No dropout."""
    return states


WAYS: dict[str, Drop] = {"torch": functional.dropout, "product": dropout, "none": keep_all}


@contextmanager
def dropping(way: str) -> Iterator[None]:
    """Within, models drop this way."""
    with patch("models.kernels.dropout.dropout", WAYS[way]), patch("models.kernels.attention.drop", WAYS[way]):
        yield


def least(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The least seconds of each function, taken in turn after one call that does not count."""
    return {name: min(times[1:]) for name, times in in_turn(functions, repeats + 1).items()}


def masks(shape: tuple[int, ...], repeats: int) -> dict[str, float]:
    """Seconds of a mask."""
    count = torch.Size(shape).numel()
    return least(
        {
            "torch": lambda: torch.empty(count, dtype=torch.bool).bernoulli_(1 - P),
            "product": partial(draw_mask, count, round((1 - P) * LEVELS)),
        },
        repeats,
    )


def layers(shape: tuple[int, ...], dtype: torch.dtype, repeats: int) -> dict[str, float]:
    """Seconds of dropout, forward and backward."""
    states, gradient = torch.randn(shape).to(dtype).requires_grad_(), torch.randn(shape).to(dtype)

    def run(drop: Drop) -> None:
        torch.autograd.grad(drop(states, P, True), states, gradient)

    return least({name: partial(run, drop) for name, drop in WAYS.items() if drop is not keep_all}, repeats)


def steps(config: MarsConfig, precision: str, size: int, repeats: int) -> dict[str, float]:
    """Seconds of a training step, each way."""
    in_precision = set_precision(precision, torch.device("cpu"))
    model = make_model(config).train()
    optimizer = make_optimizer(model.named_parameters(), config.optimizer, model.fast(), model.undecayed())
    batch = make_batch(config, size)
    draws = make_draws(model, batch)

    def step(way: str) -> None:
        with dropping(way):
            with in_precision():
                found, queued = model(batch, draws, 0.4)
            torch.stack([config.weights[name] * value for name, value in found.items()]).sum().backward()
        clip_gradients(model, None)
        optimizer.step()
        model.advance([queued])
        optimizer.zero_grad(set_to_none=True)

    return least({way: partial(step, way) for way in WAYS}, repeats)


def show_least(what: str, seconds: Mapping[str, float], unit: str, per: float) -> None:
    """A line of times and the ratio of torch's to the product's."""
    times = ", ".join(f"{name} {value / per:.3f}" for name, value in seconds.items())
    ratio = seconds["torch"] / seconds["product"]
    print(f"{what:26} {unit}: {times}; ratio {ratio:.2f}, time saved {1 - 1 / ratio:.0%}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options = parse_arguments(__doc__, arguments)
    keep_freed_memory()
    shape, size, smaller = (QUICK_STATES, 8, SMALLER) if options.quick else (STATES, 32, ())
    config = configuration(False, *SMALL, *smaller, dropout=True)
    print(describe_machine())
    torch.manual_seed(0)
    kept = (dropout(torch.ones(2**22), P) != 0).double().mean()
    print(f"kept with dropout of {P}: {kept:.4%}")
    nanosecond = 1e-9 * torch.Size(shape).numel()
    show_least("mask", masks(shape, 10 * options.repeats), "ns per element", nanosecond)
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        found = layers(shape, dtype, 10 * options.repeats)
        show_least(f"forward, backward {name}", found, "ns per element", nanosecond)
    for precision in ("fp32", "bf16"):
        found = steps(config, precision, size, options.repeats)
        show_least(f"training step {precision}", found, "seconds", 1.0)


if __name__ == "__main__":
    run_command_line(main)
