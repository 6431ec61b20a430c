"""Evaluation: images encoded, and captions re-ranked, in the product's way and the published one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.full_size import drawn_lengths
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.timing import time_once
from benchmarks.rerank import MAX_WORDS, PATCHES, WIDTH, build, plain_scores, random_captions
from dataset.evaluation_split import Captions
from evaluation.ranking import Setting, TextPrefixes, encode_images, kept_dtype, pairs_by_image, score_image
from models.kernels import prepare_weights
from models.person_search import PersonSearchModel
from utils.precision import set_precision

# the test split of CUHK-PEDES, and its candidates of a caption
CUHK_CAPTIONS, CUHK_IMAGES, CUHK_CANDIDATES = 6156, 3074, 128
PER_IMAGE = 256  # captions that have an image among their candidates there, in the mean
COMPARED = 2  # captions whose scores the published way computes too


@dataclass(frozen=True)
class GalleryFigures:
    """Images encoded per second, in batches as an evaluation has them; loading them is not in it."""

    batch: int
    images_per_second: float


def measure_gallery(bench: Bench, precision: str) -> GalleryFigures:
    """By the function that an evaluation calls; the rate is kept in `bench.gallery_rate`."""
    size = bench.batch_size(bench.config.batch_size_test)
    model, setting = bench.model.eval(), setting_of(bench, precision)
    images = torch.randint(256, (size, 3, *bench.config.image_size), dtype=torch.uint8, device=bench.device)
    with torch.inference_mode():
        times = bench.time_calls(lambda: encode_images(model, images, setting))
    bench.gallery_rate[precision] = 1e3 * size / times.ms
    return GalleryFigures(size, bench.gallery_rate[precision])


def setting_of(bench: Bench, precision: str) -> Setting:
    """Of an evaluation with the published number of candidates."""
    autocast, config = set_precision(precision, bench.device), bench.config
    return Setting(bench.device, autocast, config.image_size, config.batch_size_test, CUHK_CANDIDATES)


@dataclass(frozen=True)
class Problem:
    """Captions [C] that have each `candidates` [C, K] among images with tokens [G, N, D], float32."""

    model: PersonSearchModel
    captions: Captions
    tokens: Tensor
    candidates: Tensor


def make_problem(bench: Bench, same: bool) -> Problem:
    """same: all images are candidates of all captions; else each is one of other captions, about as many."""
    images, asking, layers, patches = (4, 4, 2, 15) if bench.quick else (24, PER_IMAGE, 12, PATCHES)
    generator = torch.Generator().manual_seed(0)
    count = asking if same else 2 * asking
    captions = random_captions(count, generator, drawn_lengths)
    tokens = torch.randn(images, patches + 1, WIDTH, generator=generator)
    candidates = torch.rand(count, images, generator=generator).argsort(1)[:, : images * asking // count]
    with bench.device:
        model = build(layers)
    return Problem(model, captions, tokens.to(bench.device), candidates.to(bench.device))


@dataclass(frozen=True)
class RerankFigures:
    """Re-ranking, image by image as an evaluation does it.

    first_us, again_us: microseconds per pair of caption and image when its numbers of captions and words are met for
    the first time, as in an evaluation, and when they were met before. cuhk_s: seconds for the test split of
    CUHK-PEDES, 128 candidates of each of 6,156 captions among 3,074 images, computed from the first time, that of the
    captions' prefixes and that of encoding the gallery; None where the last was not measured. difference: of scores
    from the published way in float32, the greatest; deviation: standard deviation of scores over images, beside it.
    """

    images: int
    pairs: int
    first_us: float
    again_us: float
    prefix_us: float
    cuhk_s: float | None
    difference: float
    deviation: float


@torch.inference_mode()
def measure_rerank(bench: Bench, precision: str, same: bool, cudnn: bool = True) -> RerankFigures:
    """cudnn: whether attention may use cuDNN's kernels."""
    problem, setting = make_problem(bench, same), setting_of(bench, precision)
    tokens, model = problem.tokens.to(kept_dtype(setting)), problem.model
    scores = torch.zeros(problem.candidates.shape, device=bench.device).flatten()
    pairs = pairs_by_image(problem.candidates, len(tokens))
    made: list[TextPrefixes] = []
    with cudnn_attention(cudnn), prepare_weights(model.text_encoder.bert, setting.precision):
        read = partial(TextPrefixes, model, problem.captions, setting)
        read()
        prefixes = time_once(lambda: made.append(read()))

        def rank_all() -> None:
            for image, here in zip(tokens, pairs, strict=True):
                captions = here // problem.candidates.shape[1]
                scores[here.to(bench.device)] = score_image(model, made[0], image, captions)

        score_image(model, made[0], tokens[0], torch.arange(len(problem.captions)))  # to warm up, in other numbers
        first, again = time_once(rank_all), time_once(rank_all)
    prefix_us, first_us = 1e3 * prefixes.ms / len(problem.captions), 1e3 * first.ms / scores.numel()
    expected = published_scores(problem)
    return RerankFigures(
        images=len(tokens),
        pairs=scores.numel(),
        first_us=first_us,
        again_us=1e3 * again.ms / scores.numel(),
        prefix_us=prefix_us,
        cuhk_s=cuhk_seconds(first_us, prefix_us, bench.gallery_rate.get(precision)),
        difference=(scores.view_as(problem.candidates)[:COMPARED] - expected).abs().max().item(),
        deviation=expected.std(1).mean().item(),
    )


def cuhk_seconds(pair_us: float, prefix_us: float, gallery_rate: float | None) -> float | None:
    """Seconds of an evaluation's second stage on CUHK-PEDES, gallery encoding included."""
    if gallery_rate is None:
        return None
    pairs = CUHK_CAPTIONS * CUHK_CANDIDATES
    return (pairs * pair_us + CUHK_CAPTIONS * prefix_us) / 1e6 + CUHK_IMAGES / gallery_rate


def published_scores(problem: Problem, fused: bool = False) -> Tensor:
    """Scores [COMPARED, K] of the first captions, one at a time with all its candidates, padded, in float32."""
    set_precision("fp32", problem.tokens.device)
    rows = zip(problem.captions.ids[:COMPARED], problem.candidates, strict=False)
    return torch.stack([plain_scores(problem.model, ids, problem.tokens[row], MAX_WORDS, fused) for ids, row in rows])


@contextmanager
def cudnn_attention(allowed: bool) -> Iterator[None]:
    """Within, attention may use cuDNN's kernels, or not."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(allowed)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@dataclass(frozen=True)
class PublishedRerankFigures:
    """Microseconds per pair of the published way in float32, attention written out or by torch's kernels (fused)."""

    pairs: int
    written_out_us: float
    fused_us: float


@torch.inference_mode()
def measure_published_rerank(bench: Bench) -> PublishedRerankFigures:
    """Its time does not depend on captions, so that few of them do."""
    problem = make_problem(bench, same=True)
    pairs = COMPARED * problem.candidates.shape[1]
    ways = [bench.time_calls(partial(published_scores, problem, fused), 3, 1) for fused in (False, True)]
    written_out, fused = (1e3 * times.ms / pairs for times in ways)
    return PublishedRerankFigures(pairs, written_out, fused)
