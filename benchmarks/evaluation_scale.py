"""Stage 1 and its metrics at the size of large galleries: time, its growth, and peak memory.

Random embeddings of people: 3 images per person, 2 captions per image, as many captions as
images, so that half of the people are only in the gallery. What is timed is what an evaluation
runs once it has encoded and knows the `right_images`: `search` with the published 128
candidates, `summarise`.
No captions x images matrix is ever whole; its size is printed beside the peak, which holds
Python, torch and the embeddings too and is measured in a fresh process.
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.measure import MIB, describe_machine, in_turn, matmul_peak, parse_arguments, peak_memory_of, show
from dataset.evaluation_split import Captions, EvaluationSplit
from evaluation.metrics import summarise
from evaluation.stages.ranking import StageResult, right_images, search
from utils.errors import run_command_line

EMBEDDING = 256
CANDIDATES = 128
IMAGES_PER_PERSON = 3
CAPTIONS_PER_IMAGE = 2
NOISE = 2.0  # of a view of a person, in units of what tells people apart: R@1 far from 0 and from 100


@dataclass(frozen=True)
class Problem:
    """Embeddings of captions [C, E] and images [G, E], and the right images [C, P] of each caption."""

    captions: Tensor
    images: Tensor
    right: Tensor


def make_problem(size: int) -> Problem:
    """`size` captions and `size` images."""
    image_person = torch.arange(size) // IMAGES_PER_PERSON
    caption_person = image_person[torch.arange(size) // CAPTIONS_PER_IMAGE]
    generator = torch.Generator().manual_seed(size)
    people = torch.randn(int(image_person[-1]) + 1, EMBEDDING, generator=generator)

    def views(person: Tensor) -> Tensor:
        noise = torch.randn(len(person), EMBEDDING, generator=generator)
        return normalize(noise.mul_(NOISE).add_(people[person]), dim=1)

    split = EvaluationSplit(
        images=[""] * size,
        image_root=Path(),
        image_identity=image_person,
        texts=[""] * size,
        caption_identity=caption_person,
        identities=list(range(len(people))),
        captions=Captions([[]] * size, 0),
    )
    return Problem(views(caption_person), views(image_person), right_images(split))


@torch.inference_mode()
def rank(problem: Problem, candidates: int = CANDIDATES) -> StageResult:
    """The product's stage 1."""
    return search(problem.captions, problem.images, problem.right, min(candidates, len(problem.images)))


def plain_rank(problem: Problem, candidates: int = CANDIDATES) -> StageResult:
    """The twin of `rank`: the whole matrix, every row sorted in full."""
    similarity = problem.captions @ problem.images.T
    order = similarity.argsort(dim=1, descending=True, stable=True)
    places = order.argsort(dim=1) + 1
    ranks = places.gather(1, problem.right.clamp(min=0)).masked_fill(problem.right < 0, 0)
    best = order[:, :candidates]
    return StageResult(best, similarity.gather(1, best), ranks)


def rank_and_count(problem: Problem) -> dict[str, float | int]:
    """Metrics of a problem."""
    return summarise(rank(problem).ranks)


def measure(size: int) -> tuple[dict[str, float | int], float]:
    """Metrics, and the seconds that ranking and counting took."""
    problem = make_problem(size)
    began = time.perf_counter()
    metrics = rank_and_count(problem)
    return metrics, time.perf_counter() - began


def show_growth(sizes: tuple[int, ...], repeats: int) -> None:
    """Times of several sizes, and how much longer the largest takes than the smallest."""
    problems = {size: make_problem(size) for size in sizes}
    times = in_turn({f"{n:,} x {n:,}": partial(rank_and_count, problems[n]) for n in sizes}, repeats)
    show(times, "evaluation")
    first, *_, last = (min(seconds) for seconds in times.values())
    least, most = min(sizes), max(sizes)
    print(f"growth of time from {least:,} to {most:,}: {last / first:.1f}x (quadratic: {(most / least) ** 2:.1f}x)")


def show_large(size: int) -> float:
    """Metrics, time and peak memory of one large problem, in a process of its own; returns the peak in MiB."""
    (metrics, seconds), peak = peak_memory_of(measure, size)
    matrix = 4 * size * size / MIB
    shown = ", ".join(f"{name} {metrics[name]:.2f}" for name in ("r1", "r5", "r10", "mAP", "mINP"))
    rate = 2 * size * size * EMBEDDING / seconds / 1e9
    print(
        f"{size:,} captions x {size:,} images: {seconds:.1f} s ({rate:.0f} GFLOP/s), "
        f"peak memory {peak:,.0f} MiB (the matrix alone would be {matrix:,.0f} MiB)"
    )
    print(f"    {shown}")
    return peak


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options = parse_arguments(__doc__, arguments)
    growth, large = (
        ((2_500, 5_000, 10_000), (10_000, 40_000)) if options.quick else ((5_000, 10_000, 20_000), (20_000, 100_000))
    )
    print(describe_machine())
    print(f"matrix products: {matmul_peak(torch.float32):.0f} GFLOP/s in float32")
    show_growth(growth, options.repeats)
    peaks = [show_large(size) for size in large]
    product = (large[1] / large[0]) ** 2
    print(f"peak memory grows {peaks[1] / peaks[0]:.2f}x where captions x images grow {product:.0f}x")


if __name__ == "__main__":
    run_command_line(main)
