"""The two stages of text-to-image search over a gallery.

Letters: C captions, G gallery images, K candidates of a caption, P right images of the caption
that has most, R captions that attend to an image, S words of them, B images of a block, N image tokens,
E embedding, T text tokens, D width. Rows are captions.

Stage 1 ranks the gallery by cosine similarity. Stage 2 goes image by image: an image is
projected once, and all captions that have it among their K candidates attend to it together.
Both are split over processes by blocks that do not depend on their number, and neither ever
holds a captions x images matrix. Image tokens and prefixes of captions are kept as far as memory
is granted; what does not fit is computed again when it is needed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from dataset.batch import TextTokens
from dataset.evaluation_split import Captions, EvaluationSplit, blocks_of, load_blocks
from evaluation.metrics import count_ahead, rerank_ranks, summarise
from models.fusion import Packing, Pairing
from models.kernels import prepare_weights
from models.person_search import PersonSearchModel
from utils.precision import product_type
from utils.processes.distributed import is_main, rank, sum_over_processes, world_size

SIMILARITIES_AT_ONCE = 2**25  # caption rows are taken few enough to keep a block of them below this
# Words that attend to one image together: on a CPU few enough for its cache to hold their attention, on a GPU
# enough to keep it busy.
WORDS_AT_ONCE = {"cpu": 768, "cuda": 8192}

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """How to evaluate: where, in which precision, in what portions."""

    device: torch.device
    precision: Callable[[], AbstractContextManager]
    image_size: tuple[int, int]
    batch_size: int
    candidates: int
    workers: int = 0
    memory: int = 2**32  # bytes, for what re-ranking would else compute again


@dataclass(frozen=True)
class StageResult:
    """Best K of each caption: indices, scores [C, K], best first; ranks of right images [C, P]."""

    indices: Tensor
    scores: Tensor
    ranks: Tensor


def progress(items: Sequence[T], title: str) -> Iterable[T]:
    """A progress bar on the main process."""
    return tqdm(items, desc=title, disable=not is_main(), leave=False)


def own_blocks(blocks: Sequence[range]) -> list[range]:
    """The blocks that this process works on."""
    return list(blocks[rank() :: world_size()])


@torch.inference_mode()
def rank_split(model: PersonSearchModel, split: EvaluationSplit, setting: Setting) -> dict[str, StageResult]:
    """Rank the gallery for every caption: {"stage1": ..., "reranked": ...} on all processes.

    Without candidates (K = 0) there is only stage 1.
    """
    model.eval()
    tokens = KeptTokens(room_for_images(model, split.captions, setting))
    images = embed_images(model, split, setting, tokens)
    captions = embed_captions(model, split.captions, setting)
    right = right_images(split).to(setting.device)
    keep = min(setting.candidates or 10, len(images))
    results = {"stage1": search(captions, images, right, keep)}
    if setting.candidates:
        results["reranked"] = rerank(model, split, setting, results["stage1"], right, tokens)
    return results


def summarise_stages(results: dict[str, StageResult], split: EvaluationSplit) -> dict[str, dict[str, float | int]]:
    """Metrics by stage, in per cent, with the counts of captions and images."""
    return {stage: {**summarise(result.ranks.cpu()), "images": len(split.images)} for stage, result in results.items()}


def right_images(split: EvaluationSplit) -> Tensor:
    """Gallery indices of each caption's identity [C, P], ascending, -1 = padding."""
    of: dict[int, list[int]] = {}
    for index, identity in enumerate(split.image_identity.tolist()):
        of.setdefault(identity, []).append(index)
    rows = [torch.tensor(of.get(identity, [])) for identity in range(len(split.identities))]
    table = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1).long()
    return table[split.caption_identity]


def assemble(parts: list[tuple[range, Tensor]], count: int, like: Tensor) -> Tensor:
    """Rows computed by all processes, each for its own blocks, as one tensor [count, ...] on all."""
    whole = like.new_zeros(count, *like.shape[1:])
    for block, rows in parts:
        whole[block.start : block.stop] = rows
    return sum_over_processes(whole)


class KeptTokens:
    """Image tokens [B, N, D] of the blocks that this process encoded, as many as fit into `room` bytes."""

    def __init__(self, room: int):
        self.room = room
        self.blocks: dict[range, Tensor] = {}

    def offer(self, block: range, tokens: Tensor) -> None:
        """Keep a block when there is room for it."""
        if tokens.nbytes <= self.room:
            self.blocks[block] = tokens
            self.room -= tokens.nbytes


def encode_images(model: PersonSearchModel, images: Tensor, setting: Setting) -> tuple[Tensor, Tensor]:
    """Tokens [B, N, D], in the dtype of the products that read them, and embeddings [B, E], float32."""
    with setting.precision():
        tokens, embeddings = model.encode_image(images)
    return tokens.to(kept_dtype(setting)), embeddings.float()


def embed_images(model: PersonSearchModel, split: EvaluationSplit, setting: Setting, kept: KeptTokens) -> Tensor:
    """Embeddings of the gallery [G, E], float32; image tokens are offered to `kept`."""
    own = own_blocks(blocks_of(len(split.images), setting.batch_size))
    loaded = load_blocks(split, own, setting.image_size, setting.device, setting.workers)
    parts = []
    for block, images in zip(progress(own, "gallery"), loaded, strict=True):
        tokens, embeddings = encode_images(model, images, setting)
        kept.offer(block, tokens)
        parts.append((block, embeddings))
    return assemble(parts, len(split.images), torch.empty(0, model.vision_proj.out_features, device=setting.device))


def embed_captions(model: PersonSearchModel, captions: Captions, setting: Setting) -> Tensor:
    """Embeddings of all captions [C, E], float32."""
    parts = []
    own = own_blocks(blocks_of(len(captions), setting.batch_size))
    for block in progress(own, "captions"):
        with setting.precision():
            reading = model.encode_text(captions.tokens(block).to(setting.device))
        parts.append((block, reading.embedding.float()))
    return assemble(parts, len(captions), torch.empty(0, model.text_proj.out_features, device=setting.device))


def search(captions: Tensor, images: Tensor, right: Tensor, keep: int) -> StageResult:
    """Stage 1: captions [C, E] against images [G, E]; right [C, P] from `right_images`.

    Each block of captions is compared with the whole gallery; blocks shrink as the gallery
    grows. Equal similarities keep gallery order. All blocks use one buffer: to get and clear new
    memory for each takes half as long as the product itself.
    """
    rows = max(1, min(1024, SIMILARITIES_AT_ONCE // max(1, len(images))))
    buffer = captions.new_empty(min(rows, len(captions)), len(images))
    parts: dict[str, list[tuple[range, Tensor]]] = {"indices": [], "scores": [], "ranks": []}
    for block in progress(own_blocks(blocks_of(len(captions), rows)), "stage 1"):
        here = slice(block.start, block.stop)
        similarity = torch.mm(captions[here], images.T, out=buffer[: len(block)])
        scores, indices = best(similarity, keep)
        right_scores = similarity.gather(1, right[here].clamp(min=0))
        ranks = count_ahead(similarity, 0, right_scores, right[here]) + 1
        for name, part in (("indices", indices), ("scores", scores), ("ranks", ranks.where(right[here] >= 0, 0))):
            parts[name].append((block, part))
    whole = {
        "indices": captions.new_empty(0, keep, dtype=torch.long),
        "scores": captions.new_empty(0, keep),
        "ranks": captions.new_empty(0, right.shape[1], dtype=torch.long),
    }
    return StageResult(**{name: assemble(parts[name], len(captions), like) for name, like in whole.items()})


def best(scores: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The `keep` best of each row, scores and indices [C, keep], ties in order of index.

    `topk` breaks ties as it likes: within the chosen the order is restored, and rows where a
    tie crosses the border (the best one left out equals the worst one kept) are sorted in full.
    """
    values, indices = scores.topk(min(keep + 1, scores.shape[1]), dim=1)
    crossing = (values[:, keep - 1 : keep] == values[:, keep:]).any(1).nonzero().squeeze(1)
    indices = indices[:, :keep].sort(dim=1).values
    if len(crossing):
        indices[crossing] = scores[crossing].argsort(dim=1, descending=True, stable=True)[:, :keep]
    values = scores.gather(1, indices)
    order = values.argsort(dim=1, descending=True, stable=True)
    return values.gather(1, order), indices.gather(1, order)


def rerank(
    model: PersonSearchModel,
    split: EvaluationSplit,
    setting: Setting,
    stage1: StageResult,
    right: Tensor,
    tokens: KeptTokens,
) -> StageResult:
    """Stage 2: re-order each caption's candidates by ITM score; the rest stays behind them."""
    candidates = stage1.indices
    itm = score_candidates(model, split, setting, candidates, tokens)
    order = itm.argsort(dim=1, descending=True, stable=True)
    ranks = rerank_ranks(candidates, itm, right, stage1.ranks)
    return StageResult(candidates.gather(1, order), itm.gather(1, order), ranks)


def score_candidates(
    model: PersonSearchModel, split: EvaluationSplit, setting: Setting, candidates: Tensor, tokens: KeptTokens
) -> Tensor:
    """ITM scores [C, K] of candidates [C, K], image by image; tokens are those of stage 1."""
    pairs = pairs_by_image(candidates, len(split.images))
    scores = torch.zeros(candidates.shape, device=setting.device).flatten()
    with prepare_weights(model.text_encoder.bert, setting.precision):
        texts = TextPrefixes(model, split.captions, setting)
        for index, image_tokens in candidate_images(model, split, setting, pairs, tokens):
            captions = pairs[index] // candidates.shape[1]
            scores[pairs[index].to(setting.device)] = score_image(model, texts, image_tokens, captions)
    return sum_over_processes(scores).view(candidates.shape)


def candidate_images(
    model: PersonSearchModel, split: EvaluationSplit, setting: Setting, pairs: Sequence[Tensor], tokens: KeptTokens
) -> Iterator[tuple[int, Tensor]]:
    """This process's share of the images that are a candidate of any caption: gallery index and tokens [N, D].

    Blocks are those of stage 1, whole, so that tokens are the same to the last bit whether they were
    kept or are encoded again.
    """
    blocks = own_blocks(blocks_of(len(split.images), setting.batch_size))
    blocks = [block for block in blocks if any(len(pairs[index]) for index in block)]
    missing = [block for block in blocks if block not in tokens.blocks]
    loaded = load_blocks(split, missing, setting.image_size, setting.device, setting.workers)
    for block in progress(blocks, "re-ranking"):
        kept = tokens.blocks.pop(block, None)
        here = encode_images(model, next(loaded), setting)[0] if kept is None else kept
        yield from ((index, one) for index, one in zip(block, here, strict=True) if len(pairs[index]))


def pairs_by_image(candidates: Tensor, images: int) -> tuple[Tensor, ...]:
    """For every image of the gallery, the flat positions in candidates [C, K] that name it, on the CPU."""
    flat = candidates.flatten().cpu()
    order = flat.argsort(stable=True)
    return order.split(torch.bincount(flat, minlength=images).tolist())


def score_image(model: PersonSearchModel, texts: "TextPrefixes", tokens: Tensor, captions: Tensor) -> Tensor:
    """ITM scores [R] of one image's tokens [N, D] for captions [R] (their indices).

    Captions of similar length attend to the image together, so that self-attention pads little.
    """
    order = texts.lengths[captions].argsort(stable=True)
    scores = torch.empty(len(captions), device=tokens.device)
    with texts.setting.precision():
        memory = model.text_encoder.project_images(tokens[None])
        for portion in portions(texts.lengths[captions[order]].tolist(), WORDS_AT_ONCE[tokens.device.type]):
            rows = order[portion]
            packing = Packing.from_lengths(texts.lengths[captions[rows]]).to(tokens.device)
            states = model.text_encoder.fuse_packed(texts.text_prefix(captions[rows]), packing, memory)
            scores[rows.to(tokens.device)] = model.match_logits(states)[:, 1]
    return scores


def match_one(model: PersonSearchModel, text: TextTokens, tokens: Tensor, setting: Setting) -> Tensor:
    """ITM scores [B] of one caption (ids and mask [1, T]) for images with these tokens [B, N, D]."""
    with setting.precision():
        memory = model.text_encoder.project_images(tokens)
        text_prefix = model.text_encoder.encode_prefix(text.ids, text.mask)
        together = (text_prefix.expand(len(tokens), -1, -1), text.mask.expand(len(tokens), -1))
        return model.match_scores(*together, memory, Pairing()).float()


def portions(lengths: list[int], most: int) -> Iterator[slice]:
    """Runs of lengths that are at most `most` together (a single one may be more)."""
    start = words = 0
    for end, length in enumerate(lengths):
        if end > start and words + length > most:
            yield slice(start, end)
            start, words = end, 0
        words += length
    if lengths:
        yield slice(start, len(lengths))


def kept_dtype(setting: Setting) -> torch.dtype:
    """Dtype of tokens and prefixes that are kept: products turn their operands into it anyway."""
    with setting.precision():
        return product_type(setting.device)


def bytes_per_word(model: PersonSearchModel, setting: Setting) -> int:
    """Bytes that one word of a kept text prefix takes."""
    return model.text_encoder.size.hidden_size * kept_dtype(setting).itemsize


def room_for_images(model: PersonSearchModel, captions: Captions, setting: Setting) -> int:
    """Bytes of the memory budget that remain for image tokens: text prefixes come first, as they save more time."""
    if not setting.candidates:
        return 0
    return max(0, setting.memory - sum(map(len, captions.ids)) * bytes_per_word(model, setting))


class TextPrefixes:
    """The text prefixes that fusion starts from, packed without padding: kept for as many captions as fit into memory.

    lengths [C]: tokens of each caption, on the CPU.
    """

    def __init__(self, model: PersonSearchModel, captions: Captions, setting: Setting):
        self.model, self.captions, self.setting = model, captions, setting
        self.lengths = torch.tensor([len(ids) for ids in captions.ids])
        ends = self.lengths.cumsum(0)
        self.bounds = [0, *ends.tolist()]  # of each caption's rows, and behind the last
        self.kept = int((ends <= setting.memory // bytes_per_word(model, setting)).sum())
        shape = int(self.lengths[: self.kept].sum()), model.text_encoder.size.hidden_size
        self.states = torch.empty(shape, dtype=kept_dtype(setting), device=setting.device)
        for block in progress(blocks_of(self.kept, setting.batch_size), "reading"):
            self.states[self.rows(block)] = self.encode(block)

    def encode(self, captions: Sequence[int]) -> Tensor:
        """Prefixes [S, D] of the words of captions, in the dtype of the products that read them."""
        text = self.captions.tokens(captions).to(self.setting.device)
        with self.setting.precision():
            text_prefix = self.model.text_encoder.encode_prefix(text.ids, text.mask)
            return text_prefix[text.mask].to(self.states.dtype)

    def rows(self, captions: Sequence[int]) -> Tensor:
        """Rows of `states` [S] that hold the words of captions."""
        ranges = [torch.arange(self.bounds[caption], self.bounds[caption + 1]) for caption in captions]
        return torch.cat(ranges).to(self.setting.device)

    def text_prefix(self, captions: Tensor) -> Tensor:
        """Prefixes [S, D] of the words of captions [R] (their indices)."""
        if (captions >= self.kept).any():
            return self.encode(captions.tolist())
        return self.states.index_select(0, self.rows(captions.tolist()))
