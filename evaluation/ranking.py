"""The two stages of text-to-image search over a gallery.

Letters: C captions, G gallery images, K candidates of a caption, P right images of the caption
that has most, E embedding, T text tokens, D width. Rows are captions.

Stage 1 ranks the gallery by cosine similarity. Stage 2 goes image by image: an image is
encoded and projected once, and all captions that have it among their K candidates look at
it together. Both are split over processes by blocks that do not depend on their number,
and neither ever holds a captions x images matrix.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from dataset.batch import TextTokens
from dataset.gallery import Captions, EvaluationSplit, blocks_of, load_blocks
from evaluation.metrics import count_ahead, rerank_ranks, summarise
from models.fusion import Pairing
from models.person_search import PersonSearchModel
from utils.distributed import is_main, rank, sum_over_processes, world_size

SIMILARITIES_AT_ONCE = 2**24  # caption rows are taken few enough to keep a block of them below this
TOKENS_AT_ONCE = 4096         # text tokens that look at one image together


@dataclass(frozen=True)
class Setting:
    """How to evaluate: where, in which precision, in what portions."""

    device: torch.device
    precision: Callable[[], AbstractContextManager]
    image_size: tuple[int, int]
    batch_size: int
    candidates: int
    workers: int = 0


@dataclass(frozen=True)
class StageResult:
    """Best K of each caption: indices, scores [C, K], best first; ranks of right images [C, P]."""

    indices: Tensor
    scores: Tensor
    ranks: Tensor


def progress(items: Sequence, title: str) -> Iterator:
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
    images = embed_images(model, split, setting)
    captions = embed_captions(model, split.captions, setting)
    right = right_images(split).to(setting.device)
    keep = min(setting.candidates or 10, len(images))
    results = {"stage1": search(captions, images, right, keep)}
    if setting.candidates:
        results["reranked"] = rerank(model, split, setting, results["stage1"], right)
    return results


def summarise_stages(results: dict[str, StageResult], split: EvaluationSplit) -> dict[str, dict[str, float | int]]:
    """Metrics by stage, in per cent, with the counts of captions and images."""
    return {
        stage: {**summarise(result.ranks.cpu()), "images": len(split.images)} for stage, result in results.items()
    }


def right_images(split: EvaluationSplit) -> Tensor:
    """Gallery indices of each caption's identity [C, P], ascending, -1 = padding."""
    of: dict[int, list[int]] = {}
    for place, identity in enumerate(split.image_identity.tolist()):
        of.setdefault(identity, []).append(place)
    rows = [torch.tensor(of.get(identity, [])) for identity in range(len(split.identities))]
    table = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1).long()
    return table[split.caption_identity]


def assemble(parts: list[tuple[range, Tensor]], count: int, like: Tensor) -> Tensor:
    """Rows computed by all processes, each for its own blocks, as one tensor [count, ...] on all."""
    whole = like.new_zeros(count, *like.shape[1:])
    for block, rows in parts:
        whole[block.start : block.stop] = rows
    return sum_over_processes(whole)


def embed_images(model: PersonSearchModel, split: EvaluationSplit, setting: Setting) -> Tensor:
    """Embeddings of the gallery [G, E], float32."""
    own = own_blocks(blocks_of(len(split.images), setting.batch_size))
    loaded = load_blocks(split, own, setting.image_size, setting.device, setting.workers)
    parts = []
    for block, images in zip(progress(own, "gallery"), loaded, strict=True):
        with setting.precision():
            parts.append((block, model.encode_image(images)[1].float()))
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
    grows. Equal similarities keep gallery order.
    """
    rows = max(1, min(1024, SIMILARITIES_AT_ONCE // max(1, len(images))))
    parts: dict[str, list[tuple[range, Tensor]]] = {"indices": [], "scores": [], "ranks": []}
    for block in progress(own_blocks(blocks_of(len(captions), rows)), "stage 1"):
        here = slice(block.start, block.stop)
        similarity = captions[here] @ images.T
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
    tie crosses the border are sorted in full.
    """
    values, indices = scores.topk(keep, dim=1)
    indices = indices.sort(dim=1).values
    crossing = ((scores >= values[:, -1:]).sum(1) > keep).nonzero().squeeze(1)
    if len(crossing):
        indices[crossing] = scores[crossing].argsort(dim=1, descending=True, stable=True)[:, :keep]
    values = scores.gather(1, indices)
    order = values.argsort(dim=1, descending=True, stable=True)
    return values.gather(1, order), indices.gather(1, order)


def rerank(
    model: PersonSearchModel, split: EvaluationSplit, setting: Setting, stage1: StageResult, right: Tensor
) -> StageResult:
    """Stage 2: re-order each caption's candidates by ITM score; the rest stays behind them."""
    candidates = stage1.indices
    itm = score_candidates(model, split, setting, candidates)
    order = itm.argsort(dim=1, descending=True, stable=True)
    ranks = rerank_ranks(candidates, itm, right, stage1.ranks)
    return StageResult(candidates.gather(1, order), itm.gather(1, order), ranks)


def score_candidates(
    model: PersonSearchModel, split: EvaluationSplit, setting: Setting, candidates: Tensor
) -> Tensor:
    """ITM scores [C, K] of candidates [C, K], image by image."""
    texts = BegunTexts(model, split.captions, setting)
    askers = captions_by_image(candidates, len(split.images))
    asked = [place for place, who in enumerate(askers) if len(who)]
    own = [[asked[i] for i in block] for block in own_blocks(blocks_of(len(asked), setting.batch_size))]
    loaded = load_blocks(split, own, setting.image_size, setting.device, setting.workers)
    scores = torch.zeros(candidates.shape, device=setting.device).flatten()
    for block, images in zip(progress(own, "re-ranking"), loaded, strict=True):
        with setting.precision():
            tokens, _ = model.encode_image(images)
            for place, image_tokens in zip(block, tokens, strict=True):
                slots = askers[place].to(setting.device)
                scores[slots] = ask_image(model, texts, image_tokens, askers[place] // candidates.shape[1])
    return sum_over_processes(scores).view(candidates.shape)


def captions_by_image(candidates: Tensor, images: int) -> tuple[Tensor, ...]:
    """For every image, the flat positions in candidates [C, K] that name it, on the CPU."""
    flat = candidates.flatten().cpu()
    order = flat.argsort(stable=True)
    return order.split(torch.bincount(flat, minlength=images).tolist())


def ask_image(model: PersonSearchModel, texts: "BegunTexts", tokens: Tensor, captions: Tensor) -> Tensor:
    """ITM scores [R] of one image's tokens [N, D] for the captions [R] with these numbers.

    Captions of similar length look at the image together, so that little is padded.
    """
    memory = model.text_encoder.remember(tokens[None])
    order = texts.lengths[captions].argsort(stable=True)
    scores = torch.empty(len(captions), device=tokens.device)
    for portion in portions(texts.lengths[captions[order]].tolist()):
        who = order[portion]
        begun, mask = texts.gather(captions[who])
        pairing = Pairing(aligned=len(who))
        scores[who.to(tokens.device)] = model.match_scores(begun, mask, memory, pairing)
    return scores


def portions(lengths: list[int]) -> Iterator[slice]:
    """Runs of ascending lengths whose padded size stays within TOKENS_AT_ONCE."""
    start = 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or lengths[end] * (end + 1 - start) > TOKENS_AT_ONCE:
            yield slice(start, end)
            start = end


class BegunTexts:
    """What fusion starts from, for all captions, packed without padding."""

    def __init__(self, model: PersonSearchModel, captions: Captions, setting: Setting):
        self.lengths = torch.tensor([len(ids) for ids in captions.ids])
        self.ends = self.lengths.cumsum(0)
        packed = []
        for block in progress(blocks_of(len(captions), setting.batch_size), "reading"):
            text: TextTokens = captions.tokens(block).to(setting.device)
            with setting.precision():
                packed.append(model.text_encoder.begin(text.ids, text.mask)[text.mask])
        self.states = torch.cat(packed)

    def gather(self, captions: Tensor) -> tuple[Tensor, Tensor]:
        """States [R, T, D] and mask [R, T] (True = word) of the captions [R] with these numbers."""
        lengths = self.lengths[captions]
        position = torch.arange(int(lengths.max()))
        mask = position < lengths[:, None]
        place = (self.ends[captions] - lengths)[:, None] + position.minimum(lengths[:, None] - 1)
        return self.states[place.to(self.states.device)], mask.to(self.states.device)
