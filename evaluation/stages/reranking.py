"""Stage 2 of the search: captions and their candidates scored by the image-text matching head.

Letters: C captions, K candidates of a caption, P pairs of a caption and a candidate, B images scored together,
R captions that attend to them, S words of those, N image tokens, D width, T text tokens.

Pairs are sorted by image, once. Some images at a time are projected, and all captions that have one of them among
their candidates attend to it in one row of words without padding (`models/packing.py`). All that this needs to know of
captions stands in main memory: the device is given one group of images after the other and is asked nothing before
the last. Groups do not depend on the number of processes, nor do scores.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from dataset.batch import TextTokens
from dataset.evaluation_split import Captions, EvaluationSplit, blocks_of, load_blocks
from evaluation.stages.dealing import deal
from evaluation.stages.encoding import KeptTokens, Setting, encode_images, kept_dtype, progress
from models.fusion_packed import PackedFusion, prepare_fusion
from models.packing import Packing, starts_of
from models.pairing import Pairing
from models.person_search import PersonSearchModel
from utils.device import upload
from utils.processes.distributed import exchange, rank, sum_over_processes, world_size


@dataclass(frozen=True)
class Reranker:
    """What re-ranks: a model that scores pairs, the split as it reads it, and how many candidates of each caption.

    It may be the model that finds the candidates too, or another, which resizes images and reads captions in its way.
    """

    model: PersonSearchModel
    split: EvaluationSplit
    setting: Setting


@dataclass(frozen=True)
class AtOnce:
    """How many words and images are scored together, at most."""

    words: int
    images: int


# on a CPU few enough for its cache to hold their states, on a GPU enough to keep it busy
AT_ONCE = {"cpu": AtOnce(768, 1), "cuda": AtOnce(2**15, 16)}
USUAL_WIDTH = 768  # of states, that these are for; of narrower ones as many more are scored together
WORDS_PER_IMAGE = 80  # whose fusion takes as long as the projection of an image


def at_once(model: PersonSearchModel, device: torch.device) -> AtOnce:
    """How many words and images this model scores together on a device."""
    usual, times = AT_ONCE[device.type], max(1, USUAL_WIDTH // model.text_encoder.size.hidden_size)
    return AtOnce(usual.words * times, usual.images * times)


@dataclass(frozen=True)
class Group:
    """Images scored together.

    source: images encoded together that they are among. images [B]: their gallery indices. texts [B]: captions that
    attend to each. start: of their pairs among all sorted ones. work: its size, in words.
    """

    source: range
    images: list[int]
    texts: np.ndarray
    start: int
    work: int

    @property
    def span(self) -> range:
        """From its first image to its last."""
        return range(self.images[0], self.images[-1] + 1)

    @property
    def pairs(self) -> slice:
        """Its pairs among all sorted ones."""
        return slice(self.start, self.start + int(self.texts.sum()))


class SortedPairs:
    """The pairs of candidates [C, K], by image, and those of an image by the length of the caption.

    order [P]: index of each in the flattened candidates. captions, lengths [P]: index of its caption, and tokens.
    """

    def __init__(self, candidates: Tensor, lengths: np.ndarray):
        images = candidates.flatten().cpu().numpy()
        captions = np.arange(len(images)) // candidates.shape[1]
        # captions of equal length need no padding side by side, where attention needs any
        self.order = np.lexsort((lengths[captions], images))
        self.captions = captions[self.order]
        self.lengths = lengths[self.captions]
        self.images = images[self.order]

    def groups(self, blocks: Sequence[range], at_once: AtOnce) -> list[Group]:
        """The images that any caption attends to: those of each block, some at a time."""
        groups = []
        for block in blocks:
            start, end = np.searchsorted(self.images, (block.start, block.stop))
            images, starts, texts = np.unique(self.images[start:end], return_index=True, return_counts=True)
            if not len(images):
                continue
            words = np.add.reduceat(self.lengths[start:end], starts)
            for part in portions(words.tolist(), at_once.words, at_once.images):
                work = int(words[part].sum()) + WORDS_PER_IMAGE * len(words[part])
                groups.append(Group(block, images[part].tolist(), texts[part], int(start + starts[part.start]), work))
        return groups


def portions(sizes: Sequence[int], most: int, longest: int | None = None) -> Iterator[slice]:
    """Runs of sizes that are at most `most` together (a single one may be more), at most `longest` of them."""
    start = total = 0
    for end, size in enumerate(sizes):
        if end > start and (total + size > most or end - start == longest):
            yield slice(start, end)
            start, total = end, 0
        total += size
    if sizes:
        yield slice(start, len(sizes))


def score_candidates(
    model: PersonSearchModel, split: EvaluationSplit, setting: Setting, candidates: Tensor, kept: KeptTokens
) -> Tensor:
    """ITM scores [C, K] of candidates [C, K] on all processes; kept: image tokens, where stage 1 had this model too."""
    pairs = SortedPairs(candidates, lengths_of(split.captions))
    blocks = blocks_of(len(split.images), setting.batch_size)
    groups = take_share(pairs.groups(blocks, at_once(model, setting.device)), blocks, model, setting, kept)
    scores = torch.zeros(len(pairs.order), device=setting.device)
    with prepare_fusion(model.text_encoder, setting.precision) as fusion:
        texts = TextPrefixes(model, split.captions, setting, captions_of(groups, pairs))
        for group, tokens in with_tokens(model, split, setting, groups, kept):
            score_group(model, fusion, texts, pairs, group, tokens, scores)
    by_caption = torch.empty_like(scores)
    by_caption[torch.from_numpy(pairs.order).to(setting.device)] = scores
    return sum_over_processes(by_caption).view(candidates.shape)


def captions_of(groups: Sequence[Group], pairs: SortedPairs) -> np.ndarray:
    """The captions that attend to an image of these groups, ascending."""
    return np.unique(np.concatenate([pairs.captions[:0], *(pairs.captions[group.pairs] for group in groups)]))


def take_share(
    groups: list[Group], blocks: Sequence[range], model: PersonSearchModel, setting: Setting, kept: KeptTokens
) -> list[Group]:
    """The groups that this process scores: those of the blocks that it encoded, evened out over processes.

    Tokens of groups that change hands are sent, if all processes have kept theirs and have room for more; if not,
    none changes hands.
    """
    if world_size() == 1:
        return groups
    owner = {block: number % world_size() for number, block in enumerate(blocks)}
    owners = [owner[group.source] for group in groups]
    takers = deal([group.work for group in groups], owners, world_size())
    moves = [move for move in zip(groups, owners, takers, strict=True) if move[1] != move[2]]
    shape = 1 + model.grid[0] * model.grid[1], model.text_encoder.size.encoder_width
    spans, dtype = [group.span for group, _, taker in moves if taker == rank()], kept_dtype(setting)
    own = {group.source for group, one in zip(groups, owners, strict=True) if one == rank()}
    ready = own <= kept.blocks.keys() and sum(map(len, spans)) * math.prod(shape) * dtype.itemsize <= kept.room
    if sum_over_processes(torch.tensor(float(ready), device=setting.device)) < world_size():
        return [group for group, one in zip(groups, owners, strict=True) if one == rank()]
    arriving = {span: torch.empty(len(span), *shape, dtype=dtype, device=setting.device) for span in spans}
    sent = [(taker, kept.part(group.source, group.span)) for group, one, taker in moves if one == rank()]
    exchange(sent, [(one, arriving[group.span]) for group, one, taker in moves if taker == rank()])
    share = [
        group if one == taker else replace(group, source=group.span)
        for group, one, taker in zip(groups, owners, takers, strict=True)
        if taker == rank()
    ]
    kept.blocks = {source: tokens for source, tokens in (kept.blocks | arriving).items() if source in sources(share)}
    return share


def sources(groups: Sequence[Group]) -> list[range]:
    """What the images of groups are among, each once, in their order."""
    return list(dict.fromkeys(group.source for group in groups))


def with_tokens(
    model: PersonSearchModel, split: EvaluationSplit, setting: Setting, groups: Sequence[Group], kept: KeptTokens
) -> Iterator[tuple[Group, Tensor]]:
    """Groups and the tokens [B, N, D] of their images.

    Blocks are those of stage 1, whole, so that tokens are the same to the last bit whether they were
    kept or are encoded again.
    """
    missing = [source for source in sources(groups) if source not in kept.blocks]
    loaded = load_blocks(split, missing, setting.image_size, setting.device, setting.workers)
    for source, here in groupby(progress(groups, "re-ranking"), key=lambda group: group.source):
        tokens = kept.blocks.pop(source, None)
        if tokens is None:
            tokens, _ = encode_images(model, next(loaded), setting)
        assert tokens is not None, "of models that score pairs"
        for group in here:
            yield group, torch.stack([tokens[image - source.start] for image in group.images])


def score_group(
    model: PersonSearchModel,
    fusion: PackedFusion,
    texts: "TextPrefixes",
    pairs: SortedPairs,
    group: Group,
    tokens: Tensor,
    scores: Tensor,
) -> None:
    """Write the ITM scores of a group of images with tokens [B, N, D] to their places in scores [P]."""
    with texts.setting.precision():
        images, here = fusion.project_images(tokens), group.pairs
        lengths = pairs.lengths[here]
        for portion in portions(lengths.tolist(), at_once(model, tokens.device).words):
            captions = pairs.captions[here][portion]
            # more than one portion has a group of one image alone
            of_images = group.texts if len(captions) == len(lengths) else np.array([len(captions)])
            packing = Packing.from_lengths(lengths[portion], of_images, tokens.shape[1], tokens.device)
            states = fusion.fuse(texts.text_prefix(captions), packing, images)
            start = here.start + portion.start
            scores[start : start + len(captions)] = model.match_logits(states)[:, 1]


def match_one(model: PersonSearchModel, text: TextTokens, tokens: Tensor, setting: Setting) -> Tensor:
    """ITM scores [B] of one caption (ids and mask [1, T]) for images with these tokens [B, N, D]."""
    with setting.precision():
        memory = model.text_encoder.project_images(tokens)
        text_prefix = model.text_encoder.encode_prefix(text.ids, text.mask)
        together = (text_prefix.expand(len(tokens), -1, -1), text.mask.expand(len(tokens), -1))
        return model.match_scores(*together, memory, Pairing()).float()


def lengths_of(captions: Captions) -> np.ndarray:
    """Tokens of each caption [C]."""
    return np.array([len(ids) for ids in captions.ids], dtype=np.int64)


def bytes_per_word(model: PersonSearchModel, setting: Setting) -> int:
    """Bytes that one word of a kept text prefix takes."""
    return model.text_encoder.size.hidden_size * kept_dtype(setting).itemsize


def room_for_images(model: PersonSearchModel, captions: Captions, setting: Setting) -> int:
    """Bytes of the memory budget that remain for image tokens: text prefixes come first, as they save more time."""
    if not setting.candidates:
        return 0
    return max(0, setting.room() - int(lengths_of(captions).sum()) * bytes_per_word(model, setting))


class TextPrefixes:
    """The text prefixes that fusion starts from, packed without padding: kept for as many captions as fit into memory.

    needed: indices of the captions that are asked for, ascending; None = all. Blocks of captions are encoded whole, so
    that prefixes do not depend on it.
    """

    def __init__(
        self, model: PersonSearchModel, captions: Captions, setting: Setting, needed: np.ndarray | None = None
    ):
        self.model, self.captions, self.setting = model, captions, setting
        self.lengths = lengths_of(captions)
        needed = np.arange(len(captions)) if needed is None else needed
        ends = self.lengths[needed].cumsum()
        kept = needed[ends <= setting.room() // bytes_per_word(model, setting)]
        self.is_kept = np.isin(np.arange(len(captions)), kept)
        self.starts = starts_of(self.lengths * self.is_kept)  # of each caption's rows, and behind the last
        shape = int(self.starts[-1]), model.text_encoder.size.hidden_size
        self.states = torch.empty(shape, dtype=kept_dtype(setting), device=setting.device)
        blocks = [block for block in blocks_of(len(captions), setting.batch_size) if self.is_kept[block].any()]
        for block in progress(blocks, "reading"):
            rows = self.states[self.starts[block.start] : self.starts[block.stop]]
            rows.copy_(self.encode(block, self.is_kept[block]))

    def encode(self, captions: Sequence[int], wanted: np.ndarray | None = None) -> Tensor:
        """Prefixes [S, D] of the words of captions, or of those `wanted`, in the dtype of products that read them."""
        device, lengths = self.setting.device, self.lengths[np.asarray(captions)]
        words = np.arange(lengths.max()) < (lengths if wanted is None else lengths * wanted)[:, None]
        (rows,) = upload([np.flatnonzero(words)], device)
        text = self.captions.tokens(captions).to(device)
        with self.setting.precision():
            text_prefix = self.model.text_encoder.encode_prefix(text.ids, text.mask)
        return text_prefix.flatten(0, 1).index_select(0, rows).to(self.states.dtype)

    def text_prefix(self, captions: np.ndarray) -> Tensor:
        """Prefixes [S, D] of the words of captions [R] (their indices)."""
        if not self.is_kept[captions].all():
            return self.encode(captions.tolist())
        lengths = self.lengths[captions]
        offsets = self.starts[captions] - starts_of(lengths)[:-1]  # of each caption's rows, there and here
        (rows,) = upload([offsets.repeat(lengths) + np.arange(lengths.sum(), dtype=np.int32)], self.setting.device)
        return self.states.index_select(0, rows)
