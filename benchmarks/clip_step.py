"""A training step of IRRA and RDE, and encoding a gallery, against how the released code computes them.

    python -m benchmarks.clip_step [--quick] [--device cuda] [--batch 16] [--systems irra rde]

Full size: ViT-B/16 at 384 x 128, captions of 18 to 48 tokens in rows of 77 ids (RDE's loader cuts them to the longest
of a batch), 11,003 identities; IRRA with sdm, mlm and id, RDE with TAL where half of the pairs are clean. A step is
forward, backward and Adam with the published learning rates; a gallery is images to embeddings, without gradients. The
plain way is `benchmarks.plain_clip`, in float32; on a GPU also with the float16 weights of the released code. All ways
start from the same parameters, and the losses and embeddings that they begin with are compared: in float32 they must
agree. Every measurement is made in a process of its own, whose peak memory is told.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.optim import Optimizer

from benchmarks.full_size import even_lengths
from benchmarks.measure import (
    add_device,
    at_least,
    describe_machine,
    parse_arguments,
    peak_memory_of,
    ratio_of,
    seconds_of,
    show,
)
from benchmarks.plain_clip import PlainIRRA, PlainRDE, halve_weights, plain_optimizer, plain_twin
from benchmarks.train_step import print_losses, print_memory
from dataset.batch import PairBatch
from dataset.clip_tokens import ClipSpecialTokens
from dataset.word_noise import WordIds, WordNoise, mask_words
from models.clip.irra import IRRA, IrraSettings
from models.clip.parameter_groups import ClipOptimizer, RdeOptimizer, make_clip_optimizer
from models.clip.rde import RDE, RdeSettings
from models.clip.towers import ClipSize
from utils.errors import run_command_line
from utils.memory import keep_freed_memory
from utils.precision import set_precision

Model = IRRA | RDE | PlainIRRA | PlainRDE
SYSTEMS = ("irra", "rde")
FULL = ClipSize()
QUICK = replace(FULL, vision_depth=2, text_depth=2, vocabulary=5000)
CLASSES = 11003  # identities of CUHK-PEDES' training data
BATCH, QUICK_BATCH = 16, 4
WARM_UP = {"cpu": 1, "cuda": 5}  # calls before those against the clock
TIMED = {"cpu": 1, "cuda": 20}
CLOSE = 1e-3  # losses of about 1 to 10, and cosines, agree by as much in float32


@dataclass(frozen=True)
class Way:
    """How a step is computed. half: with float16 weights. devices: where it is measured."""

    precision: str
    plain: bool = False
    half: bool = False
    devices: tuple[str, ...] = ("cpu", "cuda")


PLAIN = "plain float32"
WAYS = {
    PLAIN: Way("fp32", plain=True),
    "plain float16": Way("fp32", plain=True, half=True, devices=("cuda",)),
    "float32": Way("fp32"),
    "tf32": Way("tf32", devices=("cuda",)),
    "bfloat16": Way("bf16"),
}


@dataclass(frozen=True)
class Measured:
    """Seconds of a step, and of a gallery as large as its batch; losses of the first step; embeddings [B, F] before."""

    step: float
    gallery: float
    losses: dict[str, float]
    embeddings: Tensor


# ---- what is computed ------------------------------------------------------------------


def make_model(system: str, size: ClipSize) -> IRRA | RDE:
    """Random parameters, the same for the same size."""
    torch.manual_seed(0)
    return IRRA(size, IrraSettings(classes=CLASSES)) if system == "irra" else RDE(size, RdeSettings())


def make_pairs(size: ClipSize, count: int) -> PairBatch:
    """Random images and captions of `count` pairs, the last of the same identity as the first; half of them clean."""
    generator = torch.Generator().manual_seed(1)
    special = ClipSpecialTokens.of(size.vocabulary)
    last = even_lengths(count, generator)[:, None].clamp(max=size.text_length) - 1
    position = torch.arange(size.text_length)
    words = torch.randint(1, special.mask, (count, size.text_length), generator=generator)
    ids = words.where(position < last, special.pad).masked_fill(position == last, special.end)
    ids[:, 0] = special.start
    known = WordIds.of(size.vocabulary, (special.pad, special.mask, special.start, special.end), special.mask)
    noise = WordNoise.draw("mlm", 0, 0, range(count), size.text_length, known)
    return PairBatch(
        image=torch.randint(0, 256, (count, 3, *size.image_size), dtype=torch.uint8, generator=generator),
        ids=ids,
        identity=torch.arange(count) % max(1, count - 1),
        index=torch.arange(count),
        masked=mask_words(ids, noise, known),
        clean=torch.arange(count) % 2,
    )


def cut(batch: PairBatch) -> PairBatch:
    """Rows as long as the longest caption, as they are loaded where no word is masked."""
    return replace(batch, ids=batch.ids[:, : int(batch.ids.argmax(1).max()) + 1], masked=None)


def build(system: str, size: ClipSize, batch: PairBatch, way: Way) -> tuple[Model, Optimizer, PairBatch]:
    """Model and optimizer of one way, and the batch as it is given to it, on the device of the batch."""
    product, settings = make_model(system, size), ClipOptimizer() if system == "irra" else RdeOptimizer()
    model: Model = plain_twin(product) if way.plain else product
    if way.half:
        halve_weights(model)
    model = model.to(batch.image.device).train()
    if way.plain:
        batch = replace(batch, image=product.statistics.normalise(batch.image))  # as its loader does
    elif system == "rde":
        batch = cut(batch)
    return model, (plain_optimizer if way.plain else make_clip_optimizer)(model.named_parameters(), settings), batch


def take_step(model: Model, optimizer: Optimizer, batch: PairBatch, precision: Callable) -> dict[str, Tensor]:
    """Forward, backward, optimizer; returns the losses."""
    with precision():
        losses, _ = model(batch)
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return losses


@torch.inference_mode()
def encode(model: Model, image: Tensor, precision: Callable) -> Tensor:
    """Embeddings [B, F]."""
    with precision():
        _, embeddings = model.encode_image(image)
    return embeddings


# ---- the figures -----------------------------------------------------------------------


def measure(name: str, system: str, size: ClipSize, count: int, device: str) -> Measured:
    """Build model and optimizer, encode and take steps, each some times to warm up and some against the clock."""
    way, place = WAYS[name], torch.device(device)
    precision = set_precision(way.precision, place)
    if not way.plain:
        keep_freed_memory()
    model, optimizer, batch = build(system, size, make_pairs(size, count).to(place), way)
    warm_up, timed = range(WARM_UP[device]), range(TIMED[device])

    encoded = partial(encode, model.eval(), batch.image, precision)
    first, *_ = [encoded() for _ in warm_up]
    gallery = seconds_of(lambda: [encoded() for _ in timed]) / len(timed)
    step = partial(take_step, model.train(), optimizer, batch, precision)
    losses, *_ = [step() for _ in warm_up]
    seconds = seconds_of(lambda: [step() for _ in timed]) / len(timed)
    return Measured(seconds, gallery, {key: value.item() for key, value in losses.items()}, first.cpu())


def compare(system: str, size: ClipSize, count: int, repeats: int, device: str = "cpu") -> dict[str, dict[str, float]]:
    """Measure all ways in turn and print what was seen; returns their ratios to the plain one, of step and gallery.

    Raises RuntimeError when float32 differs from the plain way.
    """
    ways = [way for way in WAYS if device in WAYS[way].devices]
    found: dict[str, list[Measured]] = {way: [] for way in ways}
    memory = dict.fromkeys(ways, 0.0)
    for _ in range(repeats):
        for way in ways:
            measured, peak = peak_memory_of(measure, way, system, size, count, device)
            found[way].append(measured)
            memory[way] = max(memory[way], peak)
    print(f"\n{system}, batch {count}")
    last = {way: measured[-1] for way, measured in found.items()}
    print_losses({way: measured.losses for way, measured in last.items()})
    distances = {way: (one.embeddings - last[PLAIN].embeddings).norm(dim=1).max().item() for way, one in last.items()}
    print("embeddings of length 1 are off by " + ", ".join(f"{distances[way]:.1e} ({way})" for way in ways[1:]))
    require_agreement(last[PLAIN], last["float32"])
    print_memory(memory)
    ratios = {}
    for part, per in (("step", 1), ("gallery", count)):
        seconds = {way: [getattr(one, part) for one in measured] for way, measured in found.items()}
        show(seconds, "step" if part == "step" else "image", per)
        ratios[part] = {way: ratio_of(seconds[PLAIN], seconds[way]) for way in ways[1:]}
    return ratios


def require_agreement(plain: Measured, product: Measured) -> None:
    """Raises RuntimeError unless both computed the same, up to rounding in float32."""
    for name, value in plain.losses.items():
        if abs(product.losses[name] - value) > CLOSE * max(1.0, abs(value)):
            raise RuntimeError(f"the loss {name} is {product.losses[name]} in float32 and {value} in the plain way")
    if (product.embeddings - plain.embeddings).norm(dim=1).max() > CLOSE:
        raise RuntimeError("embeddings of images in float32 are not those of the plain way")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of what, where, and how large."""
    add_device(parser)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS, help="which (default: both)")
    parser.add_argument("--batch", type=at_least(2), help=f"pairs of a step ({BATCH}; quick: {QUICK_BATCH})")


def main() -> None:
    options = parse_arguments(__doc__, add=add_arguments)
    print(describe_machine(options.device))
    size, count = (QUICK, QUICK_BATCH) if options.quick else (FULL, BATCH)
    found = {
        system: compare(system, size, options.batch or count, options.repeats, options.device)
        for system in options.systems
    }
    for system, parts in found.items():
        for part, ratios in parts.items():
            for way, ratio in ratios.items():
                print(f"ratio {system} {part} {way}: {ratio:.2f}")


if __name__ == "__main__":
    run_command_line(main)
