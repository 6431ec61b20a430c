"""Evaluation: images encoded, and captions re-ranked, in the product's way and the published one."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.full_size import drawn_lengths
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.steps import count_syncs
from benchmarks.gpu.timing import time_once
from benchmarks.rerank import MAX_WORDS, PATCHES, WIDTH, build, plain_scores, random_captions
from dataset.evaluation_split import Captions
from evaluation.stages.encoding import Setting, encode_images, kept_dtype
from evaluation.stages.reranking import AtOnce, Group, SortedPairs, TextPrefixes, at_once, lengths_of, score_group
from models.fusion_packed import prepare_fusion
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
    images, queries, layers, patches = (4, 4, 2, 15) if bench.quick else (96, PER_IMAGE, 12, PATCHES)
    generator = torch.Generator().manual_seed(0)
    count = queries if same else 2 * queries
    captions = random_captions(count, generator, drawn_lengths)
    tokens = torch.randn(images, patches + 1, WIDTH, generator=generator)
    candidates = torch.rand(count, images, generator=generator).argsort(1)[:, : images * queries // count]
    with bench.device:
        model = build(layers)
    return Problem(model, captions, tokens.to(bench.device), candidates.to(bench.device))


@dataclass(frozen=True)
class RerankFigures:
    """Re-ranking, one group of images after the other, by the function of an evaluation.

    first_us, again_us: microseconds per pair of caption and image when its numbers of captions and words are met for
    the first time, as in an evaluation, and when they were met before. host_us: of the first time, until the device
    has been given all. groups: images scored together, how often. cuhk_s: seconds for the test split of
    CUHK-PEDES, 128 candidates of each of 6,156 captions among 3,074 images, computed from the first time, that of the
    captions' prefixes and that of encoding the gallery; None where the last was not measured. syncs: where the
    processor waits for the device; None where it is not known. difference: of scores
    from the published way in float32, the greatest; deviation: standard deviation of scores over images, beside it.
    """

    images: int
    groups: int
    pairs: int
    first_us: float
    host_us: float
    again_us: float
    prefix_us: float
    cuhk_s: float | None
    syncs: dict[str, int] | None
    difference: float
    deviation: float


@torch.inference_mode()
def measure_rerank(bench: Bench, precision: str, same: bool) -> RerankFigures:
    """Sorting the pairs is not in it."""
    problem, setting = make_problem(bench, same), setting_of(bench, precision)
    tokens, model = problem.tokens.to(kept_dtype(setting)), problem.model
    pairs = SortedPairs(problem.candidates, lengths_of(problem.captions))
    groups = pairs.groups([range(len(tokens))], at_once(model, bench.device))
    scores = torch.zeros(len(pairs.order), device=bench.device)
    made: list[TextPrefixes] = []
    with prepare_fusion(model.text_encoder, setting.precision) as fusion:
        read = partial(TextPrefixes, model, problem.captions, setting)
        read()
        prefixes = time_once(lambda: made.append(read()))

        def rank_all(groups: Sequence[Group] = groups) -> None:
            for group in groups:
                here = torch.stack([tokens[image] for image in group.images])
                score_group(model, fusion, made[0], pairs, group, here, scores)

        rank_all(pairs.groups([range(1)], AtOnce(100, 1)))  # to warm up, in other numbers
        first, again = time_once(rank_all), time_once(rank_all)
        syncs = count_syncs(rank_all) if bench.on_cuda else None
    count, expected = len(scores), published_scores(problem)
    by_caption = torch.empty_like(scores)
    by_caption[torch.from_numpy(pairs.order).to(bench.device)] = scores
    prefix_us, first_us = 1e3 * prefixes.ms / len(problem.captions), 1e3 * first.ms / count
    return RerankFigures(
        images=len(tokens),
        groups=len(groups),
        pairs=count,
        first_us=first_us,
        host_us=1e3 * first.host_ms / count,
        again_us=1e3 * again.ms / count,
        prefix_us=prefix_us,
        cuhk_s=cuhk_seconds(first_us, prefix_us, bench.gallery_rate.get(precision)),
        syncs=syncs,
        difference=(by_caption.view_as(problem.candidates)[:COMPARED] - expected).abs().max().item(),
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
