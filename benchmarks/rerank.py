"""Re-ranking: the product's way against one caption at a time, padded, as the published code goes.

    python -m benchmarks.rerank [--quick] [--device cuda]

Both get the same image tokens (encoding images is in neither time) and the same token ids (embedding
words is in both). The plain way, in float32: the candidates of a caption are a batch, the caption,
padded to `max_words`, is repeated for each of them, keys and values of the image are projected for
every pair, and all layers run on all tokens. It is timed on a few captions, because its time does not
depend on the caption; the product's way is timed on all pairs. Attention is written out, as the
published code has it; what torch's fused attention would make of the plain way is shown too.

Parameters are random, and larger than those a training starts from, so that scores differ as they do
after it.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from benchmarks.full_size import LONGEST, SHORTEST, SPECIAL, Lengths, even_lengths
from benchmarks.measure import add_device, describe_machine, make_parser, ratio_of, seconds_of, show
from benchmarks.published_step import dense
from dataset.evaluation_split import Captions, EvaluationSplit, blocks_of
from evaluation.stages.encoding import KeptTokens, Setting, kept_dtype
from evaluation.stages.reranking import score_candidates
from models.decoder import DecoderSize
from models.fusion import Attention, Layer, PostNorm, TextEncoder
from models.fusion_size import FusionSize
from models.image_encoder import VisionSize
from models.objectives import Objective, only
from models.person_search import PersonSearchModel
from models.vision_transformer import VisionTransformer
from utils.errors import run_command_line
from utils.precision import autocast

MAX_WORDS = 75
PATCHES, WIDTH = 24 * 24, 768
PLAIN, PLAIN_FUSED = "plain", "plain, fused attention"
TURNS = {"cpu": 2, "cuda": 4}  # portions of captions and images, timed in turn
PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}


# ---- the plain way ---------------------------------------------------------------------


@torch.inference_mode()
def plain_scores(
    model: PersonSearchModel, ids: Sequence[int], tokens: Tensor, max_words: int, fused: bool = False
) -> Tensor:
    """ITM scores [K] of one caption for the images with tokens [K, N, D]."""
    encoder, attend = model.text_encoder, scaled_dot_product_attention if fused else written_out
    padded = torch.full((1, max_words), model.special.pad)
    padded[0, : len(ids)] = torch.tensor(ids)
    mask = (torch.arange(max_words) < len(ids))[None, None, None]  # [1, 1, 1, T] True = word
    padded, mask = padded.to(tokens.device), mask.to(tokens.device)
    states, below = encoder.bert.embeddings(padded), encoder.size.first_cross_layer
    layers = cast("list[Layer]", list(encoder.bert.encoder.layer))
    for layer in layers[:below]:
        states = plain_feed_forward(layer, plain_attention(layer.attention, states, states, attend, mask))
    states = states.repeat(len(tokens), 1, 1)  # [K, T, D]
    for layer in layers[below:]:
        states = plain_attention(layer.attention, states, states, attend, mask)
        states = plain_attention(layer.crossattention, states, tokens, attend)
        states = plain_feed_forward(layer, states)
    return dense(model.itm_head, states[:, 0])[:, 1]


def plain_attention(
    attention: Attention, states: Tensor, source: Tensor, attend: Callable, mask: Tensor | None = None
) -> Tensor:
    """States [K, T, D] that look at a source [K, N, D]."""
    given = ((attention.self.query, states), (attention.self.key, source), (attention.self.value, source))
    query, keys, values = (
        dense(projection, part).unflatten(-1, (attention.heads, -1)).transpose(1, 2) for projection, part in given
    )
    seen = attend(query, keys, values, mask)
    return plain_end(attention.output, seen.transpose(1, 2).flatten(2), states)


def written_out(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention [K, A, T, d] by products and a softmax; mask True = attend."""
    scores = query @ keys.transpose(-1, -2) / query.shape[-1] ** 0.5
    if mask is not None:
        scores = scores + torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ values


def plain_feed_forward(layer: Layer, states: Tensor) -> Tensor:
    return plain_end(layer.output, gelu(dense(layer.intermediate.dense, states)), states)


def plain_end(end: PostNorm, inner: Tensor, states: Tensor) -> Tensor:
    return end.LayerNorm(dense(end.dense, inner) + states)


# ---- what is measured ------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """All pairs of images and captions; `plain` captions are re-ranked the plain way too."""

    images: int
    captions: int
    plain: int
    layers: int


FULL, QUICK = Size(images=64, captions=64, plain=4, layers=12), Size(images=16, captions=64, plain=4, layers=4)
ON_GPU = Size(images=64, captions=256, plain=8, layers=12)  # as many captions as ask for an image in an evaluation


def build(layers: int) -> PersonSearchModel:
    """BERT-base with full cross-attention, for the tokens of ViT-B/16 at 384 x 384."""
    torch.manual_seed(0)
    fusion = FusionSize(num_hidden_layers=layers, fusion_layer=layers // 2, initializer_range=0.05, full_ca=True)
    objective = Objective(weights=only("pitm"), queue_size=1)
    model = PersonSearchModel(
        VisionTransformer(VisionSize(depth=1)), TextEncoder(fusion), DecoderSize(), objective, SPECIAL
    ).eval()
    nn.init.normal_(model.itm_head.weight, std=0.2)
    return model


def random_captions(count: int, generator: torch.Generator, lengths_of: Lengths = even_lengths) -> Captions:
    """Token ids of captions, whose lengths are spread evenly unless others are asked for."""
    lengths = lengths_of(count, generator)
    words = [torch.randint(1000, 30000, (length - 2,), generator=generator).tolist() for length in lengths.tolist()]
    return Captions([[SPECIAL.cls, *part, SPECIAL.sep] for part in words], SPECIAL.pad)


def asked_plainly(size: Size) -> Tensor:
    """The captions that are re-ranked the plain way."""
    return torch.arange(size.plain) * (size.captions // size.plain)


def pretend_split(images: int, captions: Captions) -> EvaluationSplit:
    """A gallery whose files are never read, because all its image tokens are kept."""
    nobody, names = torch.zeros(images, dtype=torch.long), [str(index) for index in range(images)]
    texts = ["" for _ in captions.ids]
    return EvaluationSplit(names, Path(), nobody, texts, torch.zeros(len(texts), dtype=torch.long), [0], captions)


@torch.inference_mode()
def product_scores(model: PersonSearchModel, captions: Captions, tokens: Tensor, precision: str) -> Tensor:
    """ITM scores [C, G] of all pairs by the function that re-ranks in an evaluation; tokens [G, N, D]."""
    device = tokens.device
    setting = Setting(device, partial(autocast, precision, device.type), (384, 384), 16, len(tokens))
    kept = KeptTokens(setting.room())
    for block in blocks_of(len(tokens), setting.batch_size):
        kept.offer(block, tokens[block.start : block.stop].to(kept_dtype(setting)))
    candidates = torch.arange(len(tokens)).expand(len(captions), -1)
    return score_candidates(model, pretend_split(len(tokens), captions), setting, candidates, kept)


# ---- the figures -----------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """By way: seconds per pair of every turn, and scores [C, G], of the plain ways for some captions."""

    seconds: dict[str, list[float]]
    scores: dict[str, Tensor]


def measure(size: Size, turns: int, device: str = "cpu") -> Measured:
    """All ways in turn: the plain ones on a share of their captions with all images, the product's on
    all captions with a share of the images."""
    generator = torch.Generator().manual_seed(0)
    model, captions = build(size.layers).to(device), random_captions(size.captions, generator)
    tokens = torch.randn(size.images, PATCHES + 1, WIDTH, generator=generator).to(device)
    seconds, scores = defaultdict(list), defaultdict(list)
    for images, asked in zip(tokens.chunk(turns), asked_plainly(size).chunk(turns), strict=True):
        some = [captions.ids[index] for index in asked.tolist()]
        ways = {
            PLAIN: partial(stack_scores, model, some, tokens, fused=False),
            PLAIN_FUSED: partial(stack_scores, model, some, tokens, fused=True),
            **{
                name: partial(product_scores, model, captions, images, precision)
                for name, precision in PRECISIONS.items()
            },
        }
        for name, way in ways.items():
            found: list[Tensor] = []
            took = seconds_of(partial(keep_result, way, found))
            seconds[name].append(took / found[0].numel())
            scores[name].append(found[0].cpu())
    whole = {name: torch.cat(parts, dim=int(name in PRECISIONS)) for name, parts in scores.items()}
    return Measured(dict(seconds), whole)


def keep_result(function: Callable[[], Tensor], kept: list[Tensor]) -> None:
    """Call a function for its result."""
    kept.append(function())


def stack_scores(model: PersonSearchModel, captions: Sequence[Sequence[int]], tokens: Tensor, fused: bool) -> Tensor:
    """Plain scores [C, G]."""
    return torch.stack([plain_scores(model, ids, tokens, MAX_WORDS, fused) for ids in captions])


def rank_correlation(scores: Tensor, others: Tensor) -> float:
    """Spearman's coefficient of each row's order, the mean over rows. Both [C, G]."""
    ranks = (part.argsort(dim=1).argsort(dim=1).double() for part in (scores, others))
    one, other = (part - part.mean(1, keepdim=True) for part in ranks)
    return ((one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1))).mean().item()


def report(measured: Measured, size: Size) -> None:
    """Print times, agreement and ratios."""
    show(measured.seconds, "pair")
    plain = measured.scores[PLAIN]
    print(f"scores of {size.plain} captions: standard deviation over images {plain.std(1).mean():.3f}")
    for name in (PLAIN_FUSED, *PRECISIONS):
        scores = measured.scores[name]
        scores = scores[asked_plainly(size)] if name in PRECISIONS else scores
        same = torch.equal(scores.argsort(dim=1), plain.argsort(dim=1))
        print(
            f"{name}: differs by at most {(scores - plain).abs().max():.1e}, "
            f"order {'identical' if same else 'differs'}, rank correlation {rank_correlation(scores, plain):.5f}"
        )
    for name in PRECISIONS:
        fused = ratio_of(measured.seconds[PLAIN_FUSED], measured.seconds[name])
        print(f"against fused attention, {name}: {fused:.1f}")
    for name in PRECISIONS:
        print(f"ratio {name}: {ratio_of(measured.seconds[PLAIN], measured.seconds[name]):.1f}")


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    add_device(parser)
    options = parser.parse_args(arguments)
    size = QUICK if options.quick else FULL if options.device == "cpu" else ON_GPU
    print(describe_machine(options.device))
    print(
        f"{size.images} images x {size.captions} captions of {SHORTEST} to {LONGEST} tokens, "
        f"{size.layers} layers; plainly {size.plain} captions, padded to {MAX_WORDS}"
    )
    report(measure(size, TURNS[options.device], options.device), size)


if __name__ == "__main__":
    run_command_line(main)
