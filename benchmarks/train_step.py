"""A training step against the published way to compute it (`benchmarks.published_step`).

    python -m benchmarks.train_step [--quick] [--device cuda] [--batch 8 24]

Full size: ViT-B/16 at 384 x 384, BERT-base with full cross-attention, captions of 18 to 48 tokens, batches of 4
and 8 unless others are named; forward, backward, AdamW. Every measurement is made in a process of its own, after
steps to warm up. Where the plain step does not fit into main memory, it takes portions of 4 or fewer, one after the
other, and so needs less than it would.

Time is taken without dropout, so that losses can be compared; the published step has it and takes longer. Memory
is taken with it, as in training, and at full size alone: the peak of a process over two steps (on a GPU, that of its
tensors). The product's step in bfloat16 is also measured with `gradient_checkpointing`, which trades time for memory.
"""

import argparse
from dataclasses import dataclass

import torch

from benchmarks.full_size import configuration, flop_of, make_batch, make_draws, make_model
from benchmarks.measure import (
    GIGA,
    add_device,
    at_least,
    available_memory,
    describe_machine,
    matmul_peak,
    parse_arguments,
    peak_memory_of,
    ratio_of,
    seconds_of,
    show,
)
from benchmarks.published_step import PublishedStep
from utils.errors import run_command_line
from utils.memory import keep_freed_memory
from utils.precision import set_precision
from utils.training.optimization import clip_gradients, make_optimizer

ALPHA = 0.4
PORTION = 4  # samples that the plain step takes at once where memory is short, at most
PLAIN_MIB = 5700, 2100  # what the plain step needs at full size: at all, and for each sample
WARM_UP = 2  # steps until memory is found
TIMED = {"cpu": 1, "cuda": 10}  # steps against the clock


@dataclass(frozen=True)
class Way:
    """How a step is computed."""

    precision: str
    plain: bool = False
    settings: tuple[str, ...] = ()


PLAIN = "plain float32"
WAYS = {
    PLAIN: Way("fp32", plain=True),
    "float32": Way("fp32"),
    "tf32": Way("tf32"),
    "bfloat16": Way("bf16"),
    "bfloat16, checkpointed": Way("bf16", settings=("gradient_checkpointing=true",)),
}
TENSOR_CORES = "tf32"  # of a GPU alone
COMPARED = ("float32", TENSOR_CORES, "bfloat16")  # in the end


@dataclass(frozen=True)
class Measured:
    """Seconds of a step, and the losses of the first one by name."""

    seconds: float
    losses: dict[str, float]


def ways_on(device: str, quick: bool) -> list[str]:
    """The ways that are measured there."""
    ways = [way for way in WAYS if device == "cuda" or way != TENSOR_CORES]
    return [way for way in ways if not WAYS[way].settings] if quick else ways


def portions_of(size: int, quick: bool, device: str) -> list[int]:
    """Samples of each portion in which the plain step takes a batch, as equal as can be."""
    at_all, each = PLAIN_MIB
    whole = quick or device == "cuda" or size <= PORTION or available_memory() > (at_all + each * size)
    return [size] if whole else [len(part) for part in torch.arange(size).tensor_split(-(-size // PORTION))]


def measure(name: str, portions: list[int], quick: bool, dropout: bool, warm_up: int, device: str) -> Measured:
    """Build model and optimizer, take steps to warm up and some against the clock.

    portions: samples of which gradients are taken at once; a step is all of them.
    """
    way, place = WAYS[name], torch.device(device)
    in_precision = set_precision(way.precision, place)
    if not way.plain:
        keep_freed_memory()
    config = configuration(quick, *way.settings, dropout=dropout)
    with place:
        model = make_model(config).train()
    optimizer = make_optimizer(model.named_parameters(), config.optimizer, model.fast(), model.undecayed())
    if way.plain:
        optimizer = torch.optim.AdamW(optimizer.param_groups, foreach=False)
    weights, made = config.weights, {size: make_batch(config, size) for size in set(portions)}
    inputs = {size: (batch.to(place), make_draws(model, batch).to(place)) for size, batch in made.items()}

    def step() -> dict[str, torch.Tensor]:
        for size in portions:
            batch, draws = inputs[size]
            if way.plain:
                found, queued = PublishedStep(model, batch, draws, ALPHA).losses(), None
            else:
                with in_precision():
                    found, queued = model(batch, draws, ALPHA)
            torch.stack([weights[name] * value for name, value in found.items()]).sum().backward()
        clip_gradients(model, None)
        optimizer.step()
        if queued is not None:
            model.advance([queued])
        optimizer.zero_grad(set_to_none=True)
        return found

    first, *_ = [step() for _ in range(warm_up)]
    seconds = seconds_of(lambda: [step() for _ in range(TIMED[device])]) / TIMED[device]
    return Measured(seconds, {name: value.item() for name, value in first.items()})


def count_flop(size: int, quick: bool) -> float:
    """Floating-point operations of the matrix products of the product's step, forward and backward."""
    config = configuration(quick)
    with torch.device("meta"):
        model = make_model(config).train()
    batch = make_batch(config, size)
    return flop_of(model, batch, make_draws(model, batch), ALPHA)


def compare(size: int, quick: bool, repeats: int, device: str = "cpu") -> dict[str, float]:
    """Measure all ways in turn at a batch of `size` and print what was seen; returns their ratios to the plain one."""
    ways = ways_on(device, quick)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    losses: dict[str, dict[str, float]] = {}
    portions = {way: portions_of(size, quick, device) if WAYS[way].plain else [size] for way in ways}
    for _ in range(repeats):
        for way in ways:
            measured, _ = peak_memory_of(measure, way, portions[way], quick, False, WARM_UP, device)
            seconds[way].append(measured.seconds)
            losses[way] = measured.losses
    divided = len(portions[PLAIN]) > 1
    of_so_many = " and ".join(map(str, portions[PLAIN]))
    print(f"\nbatch {size}" + (f" (plain: portions of {of_so_many}, for want of memory)" if divided else ""))
    show(seconds, "step")
    if not divided:
        print_losses(losses)
    if not quick:  # few layers say nothing of it
        given = {way: (way, portions[way], quick, True, 1, device) for way in ways}
        print_memory({way: peak_memory_of(measure, *arguments)[1] for way, arguments in given.items()})
    flop = count_flop(size, quick)
    for way, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        achieved, peak = flop / min(seconds[way]) / GIGA, matmul_peak(dtype, device)
        print(f"matrix products {way}: {achieved:.0f} of {peak:.0f} GFLOP/s: {100 * achieved / peak:.0f}% of the peak")
    return {way: ratio_of(seconds[PLAIN], seconds[way]) for way in COMPARED if way in ways}


def print_memory(memory: dict[str, float]) -> None:
    """The peak of each way in MiB, and its share of the plain one."""
    plain, *others = memory
    for way in others:
        share = memory[way] / memory[plain]
        print(f"peak memory {way}: {memory[way]:.0f} MiB of {memory[plain]:.0f} MiB plain: {100 * share:.0f}%")


def print_losses(losses: dict[str, dict[str, float]]) -> None:
    """Each loss, and the greatest difference from the plain step."""
    plain, *others = losses
    print("losses, plain: " + ", ".join(f"{name} {value:.5f}" for name, value in losses[plain].items()))
    for way in others:
        furthest = max(losses[plain], key=lambda name: abs(losses[way][name] - losses[plain][name]))
        distance = abs(losses[way][furthest] - losses[plain][furthest])
        print(f"greatest difference, {way}: {distance:.1e} ({furthest})")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where, and how large."""
    add_device(parser)
    parser.add_argument(
        "--batch", type=at_least(2), nargs="+", metavar="N", help="samples of a step (4 and 8; quick: 4)"
    )


def main() -> None:
    arguments = parse_arguments(__doc__, add=add_arguments)
    print(describe_machine(arguments.device))
    ratios = {}
    for size in arguments.batch or ((4,) if arguments.quick else (4, 8)):
        ratios[size] = compare(size, arguments.quick, arguments.repeats, arguments.device)
    for size, found in ratios.items():
        print(f"\nbatch {size}")
        for way, ratio in found.items():
            print(f"ratio {way}: {ratio:.2f}")


if __name__ == "__main__":
    run_command_line(main)
