"""What a larger image costs an image encoder: time and memory of ViT and Vision Mamba, forward and in training.

Both encoders at base size, one image at a time, from 224x224 to 768x768 pixels, each in fresh processes. Attention
compares every patch with every other, a scan reads them one after the other. `--plot` draws the curves.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.measure import at_least, describe_machine, make_parser, peak_memory_of, seconds_of
from configs.loading import load_config
from configs.schema import MarsConfig
from evaluation.drawing.figures import COLORS, new_figure, save_figure, tidy
from models.build import build_image_encoder
from utils.errors import UserError, run_command_line
from utils.files import require_writable_file, write_json
from utils.memory import keep_freed_memory
from utils.precision import set_precision

ENCODERS = {"vit": "ViT", "vim": "Vision Mamba"}
SIDES, QUICK_SIDES = (224, 288, 384, 512, 640, 768), (224, 384)
PANELS = {
    "forward": ("forward", "seconds"),
    "training": ("forward and backward", "seconds"),
    "memory": ("peak memory, forward and backward", "MiB"),
}


@dataclass(frozen=True)
class Cost:
    """Seconds and peak memory (MiB, libraries included) of one image of `side` x `side` pixels."""

    encoder: str
    side: int
    forward: float
    training: float
    forward_memory: float
    memory: float


def run(encoder: str, size: str, side: int, precision: str, trains: bool, repeats: int) -> float:
    """The least of several times in seconds; the first call, which gets memory from the system, does not count."""
    keep_freed_memory()
    settings = [f"image_encoder={encoder}", f"vision_size={size}", f"image_res={side}", "gradient_checkpointing=false"]
    config = load_config(None, settings)
    assert isinstance(config, MarsConfig)
    model = build_image_encoder(config).train(trains)
    in_precision, image = set_precision(precision, torch.device("cpu")), torch.randn(1, 3, side, side)

    def once() -> None:
        with torch.set_grad_enabled(trains), in_precision():
            tokens = model(image)
        if trains:
            tokens.float().square().mean().backward()
            model.zero_grad(set_to_none=True)

    return min([seconds_of(once) for _ in range(repeats + 1)][1:])


def measure(encoder: str, size: str, side: int, precision: str, repeats: int) -> Cost:
    """Each of forward and training in a process of its own."""
    found = [peak_memory_of(run, encoder, size, side, precision, trains, repeats) for trains in (False, True)]
    (forward, forward_memory), (training, memory) = found
    return Cost(encoder, side, forward, training, forward_memory, memory)


def draw(costs: Iterable[Cost], path: Path, title: str) -> None:
    """A panel for each kind of cost, a line for each encoder."""
    costs = list(costs)
    figure = new_figure(13, 4.2, title)
    for number, (key, (name, unit)) in enumerate(PANELS.items(), 1):
        axes = figure.add_subplot(1, len(PANELS), number)
        for color, (encoder, label) in zip(COLORS, ENCODERS.items(), strict=False):
            points = [(cost.side, getattr(cost, key)) for cost in costs if cost.encoder == encoder]
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, color=color, label=label)
        tidy(axes, name, "side of the image in pixels", unit)
        axes.set_xticks(sorted({cost.side for cost in costs}))
        axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    save_figure(figure, path)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--repeats", type=at_least(1), help="measurements of each; the least counts (3; quick: 1)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--size", choices=("tiny", "small", "base"), default=None, help="default: base; quick: small")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the curves; FILE.json has the figures")
    options = parser.parse_args(arguments)
    if options.plot:
        if options.plot.suffix.lower() != ".png":
            raise UserError(f"--plot {options.plot} is not a .png file; name one that ends in .png")
        for file in (options.plot, options.plot.with_suffix(".json")):
            require_writable_file(file, "--plot")
    size = options.size or ("small" if options.quick else "base")
    repeats = options.repeats or (1 if options.quick else 3)
    print(describe_machine())
    cases = [(encoder, side) for side in (QUICK_SIDES if options.quick else SIDES) for encoder in ENCODERS]
    take = partial(measure, size=size, precision=options.precision, repeats=repeats)
    costs = [take(encoder, side=side) for encoder, side in tqdm(cases, leave=False)]
    print(f"{'encoder':14} {'side':>5} {'forward s':>10} {'training s':>11} {'forward MiB':>12} {'training MiB':>13}")
    for cost in costs:
        print(
            f"{ENCODERS[cost.encoder]:14} {cost.side:5} {cost.forward:10.3f} {cost.training:11.3f}"
            f" {cost.forward_memory:12.0f} {cost.memory:13.0f}"
        )
    if options.plot:
        draw(costs, options.plot, f"One image, encoders of size {size}, {options.precision}; {describe_machine()}")
        figures = {"machine": describe_machine(), "size": size, "precision": options.precision}
        write_json(options.plot.with_suffix(".json"), {**figures, "costs": [asdict(cost) for cost in costs]})


if __name__ == "__main__":
    run_command_line(main)
