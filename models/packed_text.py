"""Captions of a training step in one row without padding, laid out on their device without a look at it.

Letters: R texts, T tokens of the longest, S slots of the row, B images, N image tokens, A heads, d width of a head.

How many words a batch has is known in main memory (`TextTokens.words`); which text is whose hard negative, and so how
long its row is, the device alone knows. So the number of slots is fixed beforehand, and the device computes what lies
in them. Where there are more slots than words, some padding has one: what is computed for it is what it would be among
padded texts, and no word attends to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from dataset.batch import TextTokens
from models.kernels import Segments, attend, kernel_for
from models.packing import Attends, Packing, SegmentAttends
from models.pairing import Pairing, attend_to_images
from utils.precision import product_type

TEXT_BY_IMAGE = Pairing()
WORTH_PACKING = 0.75  # words among padded tokens at which packing begins to pay on a CPU


@dataclass(frozen=True)
class Spans:
    """Where the tokens of R texts [R, T] lie in a row.

    lengths, kept, starts [R]: how many are words; how many have a slot, words and then some padding; which slot is the
    first. size: slots of these texts together. longest: T. exact: words alone have a slot.
    """

    lengths: Tensor
    kept: Tensor
    starts: Tensor
    size: int
    longest: int
    exact: bool

    @property
    def mask(self) -> Tensor:
        """[R, T] True = word."""
        return torch.arange(self.longest, device=self.lengths.device) < self.lengths[:, None]

    def slots(self) -> Tensor:
        """The slot of each token [R, T]; of padding without one, the last slot of its text."""
        position = torch.arange(self.longest, device=self.kept.device)
        return self.starts[:, None] + torch.minimum(position, self.kept[:, None] - 1)

    def unpack(self, row: Tensor) -> Tensor:
        """What lies in the slots of a row [S, ...] by text: [R, T, ...]."""
        return row.index_select(0, self.slots().flatten()).unflatten(0, (-1, self.longest))

    def select(self, texts: Tensor) -> "Spans":
        """Those of some of the texts, by their numbers; size: as many slots as they have at most."""
        lengths, kept, starts = torch.stack([self.lengths, self.kept, self.starts]).index_select(1, texts)
        return Spans(lengths, kept, starts, len(texts) * self.longest, self.longest, self.exact)

    def whole(self) -> "Spans":
        """The same texts with a slot for each token of theirs, padding too."""
        kept = torch.full_like(self.kept, self.longest)
        return replace(self, kept=kept, size=len(kept) * self.longest, exact=False)

    def part(self, texts: slice, size: int) -> "Spans":
        """Those of texts side by side, with so many slots."""
        return Spans(self.lengths[texts], self.kept[texts], self.starts[texts], size, self.longest, self.exact)


def stack(parts: Sequence[Spans]) -> Spans:
    """The texts of all, one below the other, as if as long as the longest."""
    lengths, kept, starts = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("lengths", "kept", "starts")
    )
    size, longest = sum(part.size for part in parts), max(part.longest for part in parts)
    return Spans(lengths, kept, starts, size, longest, all(part.exact for part in parts))


@dataclass(frozen=True)
class PackedText:
    """R texts in a row of S slots, text after text.

    text, position [S]: whose token a slot holds, and which. packing: how they attend.
    """

    spans: Spans
    text: Tensor
    position: Tensor
    packing: Packing

    @property
    def token(self) -> Tensor:
        """The token in each slot [S], counted through all of [R, T]."""
        return self.text * self.spans.longest + self.position

    def pack(self, tokens: Tensor) -> Tensor:
        """What belongs to tokens [R, T, ...] by slot: [S, ...]."""
        return tokens.flatten(0, 1).index_select(0, self.token)


@dataclass(frozen=True)
class PaddedAttends:
    """Packed texts are padded for attention alone, where there is no kernel for segments: see `Attends`.

    slots, token: of `Spans` and `PackedText`; mask [R, T] True = word.
    """

    slots: Tensor
    token: Tensor
    mask: Tensor
    pairing: Pairing

    def to_text(self, query: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
        query, keys, values = (self.by_text(part) for part in (query, keys, values))
        return self.by_slot(attend(query, keys, values, self.mask[:, None, None], dropout))

    def to_images(self, query: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
        return self.by_slot(attend_to_images(self.by_text(query), keys, values, self.pairing, dropout))

    def by_text(self, row: Tensor) -> Tensor:
        """[S, A, d] -> [R, A, T, d]."""
        return row.index_select(0, self.slots.flatten()).unflatten(0, self.slots.shape).transpose(1, 2)

    def by_slot(self, heads: Tensor) -> Tensor:
        """[R, A, T, d] -> [S, A, d]."""
        return heads.transpose(1, 2).flatten(0, 1).index_select(0, self.token)


def can_pack(texts: Sequence[TextTokens], width: int) -> bool:
    """Whether the captions of a step are packed, whose words must be counted: on a GPU where a kernel attends by heads
    of this width; on a CPU, which pads them for attention, where much of them is padding."""
    counted = [text.words for text in texts if text.words is not None]
    if len(counted) < len(texts):
        return False
    device = texts[0].ids.device
    if device.type in ("cpu", "meta"):
        return sum(counted) <= WORTH_PACKING * sum(text.ids.numel() for text in texts)
    return by_kernel(device, width)


def by_kernel(device: torch.device, width: int) -> bool:
    """Whether one kernel attends within segments, in the precision that holds here."""
    return kernel_for(device, product_type(device), width) is not None


def spans_of(text: TextTokens) -> Spans:
    """Slots for the words of captions, one after the other; what `text.words` counts beyond them is for padding."""
    assert text.words is not None, "words are counted where captions are packed"
    lengths, longest = text.mask.sum(1), text.mask.shape[1]
    if text.longest is None:
        return Spans(lengths, lengths, lengths.cumsum(0) - lengths, text.words, longest, exact=True)
    room = longest - lengths
    spare = text.words - lengths.sum() - (room.cumsum(0) - room)  # what the texts before have left of it
    kept = lengths + torch.minimum(spare.clamp(min=0), room)
    return Spans(lengths, kept, kept.cumsum(0) - kept, text.words, longest, exact=False)


def pack_captions(texts: Sequence[TextTokens], width: int) -> list[PackedText | None]:
    """The captions of a step, each text in a row of its own, for heads of this width; None = they are not packed."""
    packed = can_pack(texts, width)
    return [lay_out(spans_of(text), width) if packed else None for text in texts]


def lay_out(
    spans: Spans, width: int, pairing: Pairing = TEXT_BY_IMAGE, images: tuple[int, int] | None = None
) -> PackedText:
    """Texts of these lengths in a row of their own; where they lie in another, `spans.starts`, does not count.

    width: of heads. pairing: which images the texts attend to; images: how many there are, with how many tokens each.
    Where a kernel attends, the texts of an image lie side by side.
    """
    device, kernel = spans.kept.device, by_kernel(spans.kept.device, width)
    order = by_image = None
    lengths, kept = spans.lengths, spans.kept
    if kernel and images is not None:
        image, order = pairing.images(images[0], device).sort(stable=True)
        lengths, kept = lengths.index_select(0, order), kept.index_select(0, order)
    ends = kept.cumsum(0)
    starts, slot = ends - kept, torch.arange(spans.size, device=device)
    text = torch.searchsorted(ends, slot, right=True)
    position = slot - starts.index_select(0, text)
    spans = replace(spans, starts=starts)
    if order is not None and images is not None:
        text = order.index_select(0, text)
        spans = replace(spans, starts=torch.empty_like(starts).scatter(0, order, starts))
        by_image = image_segments(starts, image, pairing.most(images[0]), images, spans)
    if kernel:
        attends: Attends = SegmentAttends(text_segments(starts, lengths, kept, spans), by_image)
    else:
        attends = PaddedAttends(spans.slots(), text * spans.longest + position, spans.mask, pairing)
    return PackedText(spans, text, position, Packing(spans.starts, attends, positions=position))


def text_segments(starts: Tensor, lengths: Tensor, kept: Tensor, spans: Spans) -> Segments:
    """All tokens of a text attend to its words: then comes a segment of what is kept of its padding, which no query
    attends to."""
    longest = min(spans.longest, spans.size)
    if spans.exact:
        borders = pad(starts, (0, 1), value=spans.size).int()
        return Segments(borders, borders, (longest, longest))
    # [2, R, 2]: of queries and keys, where both segments of each text begin
    both = starts[:, None] + torch.stack([torch.zeros_like(starts), kept, torch.zeros_like(starts), lengths], dim=1)
    queries, keys = pad(both.view(-1, 2, 2).transpose(0, 1).flatten(1), (0, 1), value=spans.size).int()
    return Segments(queries, keys, (longest, longest))


def image_segments(starts: Tensor, image: Tensor, most: int, images: tuple[int, int], spans: Spans) -> Segments:
    """All tokens of the texts of an image, `most` at most, attend to it. starts, image [R]: first slot of each text,
    image number, ascending."""
    count, tokens = images
    numbers = torch.arange(count + 1, device=starts.device)
    first = torch.searchsorted(image, numbers)  # text of each image
    query_starts = pad(starts, (0, 1), value=spans.size).index_select(0, first)
    longest = min(most * spans.longest, spans.size)
    return Segments(query_starts.int(), (numbers * tokens).int(), (longest, tokens))
