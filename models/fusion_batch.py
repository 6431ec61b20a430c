"""Stacks the multi-modal passes of a training step into one.

Letters: B batch, R rows, T text tokens, S slots of packed texts, D width.

Positives, negative texts, masked words and replaced words attend to the same B images; only
the texts with a negative image attend to another. Stacked as rows, they share one
projection of the images and one run through the layers.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from dataset.batch import TextTokens
from models.fusion import ImageKeysValues, TextEncoder
from models.packed_text import PackedText, Spans, lay_out, stack
from models.pairing import Pairing


@dataclass(frozen=True)
class TextPrefix:
    """B texts from where fusion starts (`TextEncoder.encode_prefix`).

    states [B, T, D] with mask [B, T] True = word; packed states [S, D] with the spans of these texts among them.
    """

    states: Tensor
    layout: Tensor | Spans

    @property
    def longest(self) -> int:
        """T."""
        return self.layout.longest if isinstance(self.layout, Spans) else self.layout.shape[1]

    @property
    def mask(self) -> Tensor:
        """Of padded texts."""
        assert isinstance(self.layout, Tensor)
        return self.layout

    @property
    def spans(self) -> Spans:
        """Of packed texts."""
        assert isinstance(self.layout, Spans)
        return self.layout


# a prefix, and the numbers of the texts of it that are meant; None = all
Block = tuple[TextPrefix, Tensor | None]


@dataclass
class FusionRows:
    """Blocks of B texts by name; `crossed_images` belongs to the block named `crossed`."""

    blocks: dict[str, Block] = field(default_factory=dict)
    crossed: str | None = None
    crossed_images: Tensor | None = None

    def add(self, name: str, prefix: TextPrefix, texts: Tensor | None = None) -> None:
        """Texts, text i with image i; `texts`: of these numbers."""
        self.blocks[name] = prefix, texts

    def add_crossed(self, name: str, prefix: TextPrefix, images: Tensor) -> None:
        """Texts that attend to other images: text i to image `images[i]`."""
        self.add(name, prefix)
        self.crossed, self.crossed_images = name, images

    def fuse(self, encoder: TextEncoder, images: ImageKeysValues) -> dict[str, Tensor]:
        """Multi-modal states by name, each [B, T of that block, D]."""
        order = sorted(self.blocks, key=lambda name: name == self.crossed)
        pairing = Pairing(len(order) - (self.crossed is not None), self.crossed_images)
        blocks = [self.blocks[name] for name in order]
        packed = all(isinstance(prefix.layout, Spans) for prefix, _ in blocks)
        states = (fuse_packed if packed else fuse_padded)(blocks, encoder, images, pairing).chunk(len(order))
        return {n: part[:, : self.blocks[n][0].longest] for n, part in zip(order, states, strict=True)}


def fuse_padded(blocks: Sequence[Block], encoder: TextEncoder, images: ImageKeysValues, pairing: Pairing) -> Tensor:
    """Multi-modal states [R, T, D] of blocks of padded texts, one below the other."""
    longest, states, masks = max(prefix.longest for prefix, _ in blocks), [], []
    for prefix, texts in blocks:
        more, given = longest - prefix.longest, (prefix.states, prefix.mask)
        some, mask = given if texts is None else (part.index_select(0, texts) for part in given)
        states.append(pad(some, (0, 0, 0, more)))
        masks.append(pad(mask, (0, more)))
    return encoder.fuse(torch.cat(states), torch.cat(masks), images, pairing)


def fuse_packed(blocks: Sequence[Block], encoder: TextEncoder, images: ImageKeysValues, pairing: Pairing) -> Tensor:
    """`fuse_padded` of packed texts; none is padded until all layers are done."""
    row, given = gather_sources(blocks)
    # how many words the chosen texts have is not known here: as many slots as padded ones are kept for them
    wanted = [spans.whole() if texts is not None else spans for spans, (_, texts) in zip(given, blocks, strict=True)]
    source, spans = stack(given), stack(wanted)
    packed = lay_out(spans, encoder.size.head_width, pairing, images.shape)
    starts, last = torch.stack([source.starts, source.kept - 1]).index_select(1, packed.text)
    states = row.index_select(0, starts + torch.minimum(packed.position, last))
    return packed.spans.unpack(encoder.fuse(states, packed.packing, images))


def gather_sources(blocks: Sequence[Block]) -> tuple[Tensor, list[Spans]]:
    """The packed states of all blocks in one row, each prefix once, and where in it the texts of each block lie."""
    sources: list[tuple[Tensor, int]] = []
    given, size = [], 0
    for prefix, texts in blocks:
        # by identity, and not by id(), which compilation refuses before torch 2.12
        first = next((start for states, start in sources if states is prefix.states), None)
        if first is None:
            first = size
            sources.append((prefix.states, first))
            size += len(prefix.states)
        spans = replace(prefix.spans, starts=prefix.spans.starts + first) if first else prefix.spans
        given.append(spans if texts is None else spans.select(texts))
    rows = [states for states, _ in sources]
    return rows[0] if len(rows) == 1 else torch.cat(rows), given


def encode_captions(
    encoder: TextEncoder, text: TextTokens, packed: PackedText | None = None
) -> tuple[TextPrefix, Tensor]:
    """Captions without images: where their fusion starts, and text-only states [B, T, D]; packed: how, if they are."""
    if packed is None:
        states = encoder.encode_prefix(text.ids, text.mask)
        return TextPrefix(states, text.mask), encoder.encode_text(states, text.mask)
    states = encoder.encode_prefix(packed.pack(text.ids), packed.packing)
    return TextPrefix(states, packed.spans), packed.spans.unpack(encoder.encode_text(states, packed.packing))


def encode_prefixes(
    encoder: TextEncoder,
    ids: Mapping[str, Tensor],
    text: TextTokens,
    packed: PackedText | None = None,
    whole: Collection[str] = (),
) -> dict[str, TextPrefix]:
    """Start the fusion of captions with other words, ids [B, T] by name, in one pass.

    packed: how captions lie, if they are. whole: names of those of which a loss reads the padding too.
    """
    together, count = torch.cat(list(ids.values())), len(text.ids)
    if packed is None:
        states = encoder.encode_prefix(together, text.mask.repeat(len(ids), 1))
        return {name: TextPrefix(part, text.mask) for name, part in zip(ids, states.chunk(len(ids)), strict=True)}
    parts = [packed.spans.whole() if name in whole else packed.spans for name in ids]
    row = lay_out(stack(parts), encoder.size.head_width)
    states = encoder.encode_prefix(row.pack(together), row.packing)
    return {
        name: TextPrefix(states, row.spans.part(slice(number * count, (number + 1) * count), part.size))
        for number, (name, part) in enumerate(zip(ids, parts, strict=True))
    }


def fuse_words(
    encoder: TextEncoder,
    ids: Mapping[str, Tensor],
    text: TextTokens,
    images: ImageKeysValues,
    packed: PackedText | None = None,
) -> dict[str, Tensor]:
    """Multi-modal states [B, T, D] of captions with other words, ids [B, T] by name, and their images, in one pass."""
    if packed is None:
        rows = FusionRows({name: (prefix, None) for name, prefix in encode_prefixes(encoder, ids, text).items()})
        return rows.fuse(encoder, images)
    row = lay_out(stack([packed.spans] * len(ids)), encoder.size.head_width, Pairing(len(ids)), images.shape)
    prefix = encoder.encode_prefix(row.pack(torch.cat(list(ids.values()))), row.packing)
    states = row.spans.unpack(encoder.fuse(prefix, row.packing, images))
    return dict(zip(ids, states.chunk(len(ids)), strict=True))
