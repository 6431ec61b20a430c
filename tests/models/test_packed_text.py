"""Captions of a training step without padding: the losses and gradients are those of padded ones."""

from dataclasses import replace

import pytest
import torch
from tiny_model import IDENTITIES, SPECIAL, captions, lived_in, step, tiny_batch, tiny_draws, tiny_model
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from dataset.batch import TextTokens, TrainBatch
from models import fusion, packed_text, packing
from models.fusion_batch import FusionRows, encode_captions, encode_prefixes
from models.kernels import Segments
from models.person_search import PersonSearchModel

pytestmark = pytest.mark.usefixtures("always_packed")

STYLES = pytest.mark.parametrize("full_ca", [True, False], ids=["full", "partial"])


def found_by(model: PersonSearchModel, batch: TrainBatch) -> dict[str, Tensor]:
    """Losses, and the gradient of each parameter."""
    losses = step(model, batch, tiny_draws(batch.size))
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: value.detach() for name, value in losses.items()} | gradients


def sizes_of_linear_inputs(model: PersonSearchModel, batch: TrainBatch) -> list[int]:
    """Rows that the first half of each feed-forward network of the text encoder is given, in order."""
    rows: list[int] = []
    for layer in model.text_encoder.layers:
        layer.intermediate.dense.register_forward_pre_hook(lambda _, given: rows.append(given[0].numel() // 24))
    step(model, batch)
    return rows


def counted(text: TextTokens, more: int | None) -> TextTokens:
    """Captions with so many words counted beyond those that there are, up to all tokens; None = none are counted."""
    words = None if more is None else min(text.words + more, text.ids.numel())
    return text.padded_to(text.ids.shape[1], SPECIAL.pad, words) if more else replace(text, words=words)


def with_words(batch: TrainBatch, more: int | None) -> TrainBatch:
    """`counted` of both captions."""
    return replace(batch, caption=counted(batch.caption, more), caption2=counted(batch.caption2, more))


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


@STYLES
@pytest.mark.parametrize("axis", ["vocabulary", "positions"])
@pytest.mark.parametrize("more", [0, 5, 1000])
def test_packed_captions_have_the_losses_and_gradients_of_padded_ones(full_ca, axis, more):
    def model() -> PersonSearchModel:
        return lived_in(tiny_model(full_ca=full_ca, objective={"mlm_distill_axis": axis}))

    batch = tiny_batch(IDENTITIES)
    assert_close(found_by(model(), with_words(batch, more)), found_by(model(), with_words(batch, None)))


def attend_plainly(query: Tensor, keys: Tensor, values: Tensor, segments: Segments, dropout: float) -> Tensor:
    """`attend_segments`, segment by segment; the starts are checked."""
    parts = []
    for starts, rows, longest in zip(
        (segments.query_starts, segments.key_starts), (query, keys), segments.longest, strict=True
    ):
        assert starts.dtype == torch.int32
        lengths = starts.diff().tolist()
        assert min(lengths) >= 0 and max(lengths) <= longest <= len(rows)
        assert (starts[0], sum(lengths)) == (0, len(rows)), "a row that is in no segment is not written"
        parts.append(lengths)
    rows = zip(query.split(parts[0]), keys.split(parts[1]), values.split(parts[1]), strict=True)
    found = [scaled_dot_product_attention(*(one.transpose(0, 1) for one in three)) for three in rows if len(three[0])]
    return torch.cat([one.transpose(0, 1) for one in found])


@pytest.mark.parametrize("axis", ["vocabulary", "positions"])
@pytest.mark.parametrize("more", [0, 5])
def test_segments_for_a_kernel_give_the_losses_and_gradients_of_padded_captions(axis, more, monkeypatch):
    """What a GPU is given, computed segment by segment."""

    def model() -> PersonSearchModel:
        return lived_in(tiny_model(objective={"mlm_distill_axis": axis}))

    batch = tiny_batch(IDENTITIES)
    expected = found_by(model(), with_words(batch, None))
    monkeypatch.setattr(packed_text, "kernel_for", lambda *given: "flash")
    monkeypatch.setattr(packing, "attend_segments", attend_plainly)
    assert_close(found_by(model(), with_words(batch, more)), expected)


@STYLES
def test_joined_products_give_the_same_losses_and_gradients(full_ca, monkeypatch):
    """As on a GPU: keys and values of all layers, and query, key and value of each, by one product."""
    expected = found_by(lived_in(tiny_model(full_ca=full_ca)), tiny_batch(IDENTITIES))
    asked = []
    monkeypatch.setattr(fusion, "joins_products", lambda states: asked.append(states) or True)
    assert_close(found_by(lived_in(tiny_model(full_ca=full_ca)), tiny_batch(IDENTITIES)), expected)
    assert asked


@STYLES
def test_packed_rows_are_those_of_padded_texts_in_float64(full_ca):
    """Texts by their numbers, with other images, with padding that is read, and of two lengths: states, gradients."""
    network = tiny_model(full_ca=full_ca).text_encoder.double()
    text, other = captions([7, 4, 5, 7], seed=1), captions([3, 9, 3, 6], seed=2)
    images = torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for words in (None, 0, 2):
        some, more = (counted(one, words) for one in (text, other))
        prefix, states = encode_captions(network, some, packed_text.pack_captions([some], 12)[0])
        ids = {"masked": more.ids, "replaced": more.ids.flip(0).where(more.mask, SPECIAL.pad)}
        rows = FusionRows()
        rows.add("negative_text", prefix, texts=torch.tensor([1, 1, 0, 3]))
        rows.add_crossed("negative_image", prefix, torch.tensor([3, 0, 0, 1]))
        prefixes = encode_prefixes(network, ids, more, packed_text.pack_captions([more], 12)[0], whole=["masked"])
        for name, one in prefixes.items():
            rows.add(name, one)
        fused = rows.fuse(network, network.project_images(images))
        masks = {"negative_text": text.mask[[1, 1, 0, 3]], "negative_image": text.mask, "replaced": other.mask}
        read = [states[text.mask], fused["masked"], *(fused[name][mask] for name, mask in masks.items())]
        parameters = [p for name, p in network.named_parameters() if not name.startswith("cls")]
        loss = sum(part.square().mean() for part in read)
        found.append([*read, *torch.autograd.grad(loss, parameters)])
    for packed in found[1:]:
        for one, expected in zip(packed, found[0], strict=True):
            torch.testing.assert_close(one, expected, rtol=1e-9, atol=1e-10)


def test_packed_captions_leave_padding_out():
    batch = tiny_batch(IDENTITIES)
    words, words2, tokens = batch.caption.words, batch.caption2.words, batch.caption2.ids.numel()
    alone = sizes_of_linear_inputs(tiny_model(), batch)[:2]
    assert alone == [words2, words2]
    # positives, texts with another image, other texts (of which nobody knows which), masked and replaced words
    assert sizes_of_linear_inputs(tiny_model(), batch)[2:] == [2 * words2 + tokens + 2 * words] * 4
    assert sizes_of_linear_inputs(tiny_model(), with_words(batch, None))[2:] == [5 * tokens] * 4


def test_a_processor_packs_where_much_is_padding_both_captions_or_none(monkeypatch):
    monkeypatch.setattr(packed_text, "WORTH_PACKING", 0.75)
    few, many = (TextTokens(torch.ones(2, 8).long(), torch.ones(2, 8).bool(), words=words) for words in (4, 14))
    packed = {
        (one, other): [part is not None for part in packed_text.pack_captions(texts, 8)]
        for one, other, texts in (
            ("few", "few", (few, few)),
            ("few", "many", (few, many)),
            ("many", "many", (many, many)),
        )
    }
    assert packed == {("few", "few"): [True] * 2, ("few", "many"): [True] * 2, ("many", "many"): [False] * 2}
    assert packed_text.pack_captions((few, replace(few, words=None)), 8) == [None, None]
