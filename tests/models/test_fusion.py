"""The text and fusion encoder against one caption and one image at a time, written out plainly."""

import math

import numpy as np
import pytest
import torch
from tiny_model import FUSION, SPECIAL, captions, tiny_model
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear

from dataset.batch import TextTokens
from models.fusion import TextEncoder
from models.fusion_batch import FusionRows, TextPrefix
from models.fusion_packed import PackedFusion
from models.fusion_size import FusionSize
from models.kernels import attend
from models.packing import Packing
from models.pairing import Pairing

IMAGES, TOKENS, WIDTH = 3, 5, FUSION.encoder_width
LENGTHS = [7, 4, 5]
STYLES = pytest.mark.parametrize("full_ca", [True, False], ids=["full", "partial"])


def encoder(full_ca: bool, **changed) -> TextEncoder:
    return tiny_model(full_ca=full_ca, **changed).text_encoder.eval()


def image_tokens(seed: int = 5) -> Tensor:
    return torch.randn(IMAGES, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))


# ---- the plain twin: no batch, no padding, no mask -------------------------------------


class PlainBert:
    """BERT with cross-attention from named parameters, for one caption [T] and one image [N, W]."""

    def __init__(self, network: TextEncoder):
        self.parameters, self.size = network.state_dict(), network.size

    def dense(self, name: str, states: Tensor) -> Tensor:
        return linear(states, self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"])

    def norm(self, name: str, states: Tensor) -> Tensor:
        weight, bias = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
        return layer_norm(states, weight.shape, weight, bias, self.size.layer_norm_eps)

    def attention(self, name: str, states: Tensor, source: Tensor) -> Tensor:
        query, key, value = (
            self.dense(f"{name}.self.{part}", given)
            for part, given in (("query", states), ("key", source), ("value", source))
        )
        width, seen = self.size.hidden_size // self.size.num_attention_heads, []
        for start in range(0, self.size.hidden_size, width):
            head = slice(start, start + width)
            scores = query[:, head] @ key[:, head].T / math.sqrt(width)
            seen.append(scores.softmax(dim=1) @ value[:, head])
        added = self.dense(f"{name}.output.dense", torch.cat(seen, dim=1)) + states
        return self.norm(f"{name}.output.LayerNorm", added)

    def embed(self, ids: Tensor) -> Tensor:
        word, position, kind = (
            self.parameters[f"bert.embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
        )
        return self.norm("bert.embeddings.LayerNorm", word[ids] + position[: len(ids)] + kind[0])

    def layer(self, number: int, states: Tensor, image: Tensor | None) -> Tensor:
        name = f"bert.encoder.layer.{number}"
        states = self.attention(f"{name}.attention", states, states)
        if image is not None and (self.size.full_ca or number >= self.size.fusion_layer):
            states = self.attention(f"{name}.crossattention", states, image)
        inner = gelu(self.dense(f"{name}.intermediate.dense", states))
        return self.norm(f"{name}.output.LayerNorm", self.dense(f"{name}.output.dense", inner) + states)

    def text_only(self, ids: Tensor) -> Tensor:
        states = self.embed(ids)
        for number in range(self.size.fusion_layer):
            states = self.layer(number, states, None)
        return states

    def with_image(self, ids: Tensor, image: Tensor) -> Tensor:
        states = self.embed(ids)
        for number in range(self.size.num_hidden_layers):
            states = self.layer(number, states, image)
        return states

    def vocabulary_logits(self, states: Tensor) -> Tensor:
        states = self.norm(
            "cls.predictions.transform.LayerNorm", gelu(self.dense("cls.predictions.transform.dense", states))
        )
        words = self.parameters["bert.embeddings.word_embeddings.weight"]
        return states @ words.T + self.parameters["cls.predictions.bias"]


def assert_rows_are(found: Tensor, text: TextTokens, expected: list[Tensor]) -> None:
    """found [R, T, D] agrees with one [length, D] per row on real tokens."""
    assert len(found) == len(expected)
    for row, mask, wanted in zip(found, text.mask, expected, strict=True):
        torch.testing.assert_close(row[mask], wanted, atol=2e-5, rtol=1e-4)


def repeat(text: TextTokens, times: int) -> TextTokens:
    return TextTokens(text.ids.repeat(times, 1), text.mask.repeat(times, 1))


def words_of(text: TextTokens, row: int) -> Tensor:
    return text.ids[row][text.mask[row]]


# ---- states ----------------------------------------------------------------------------


@STYLES
@torch.no_grad()
def test_text_only_states_are_those_of_each_caption_alone(full_ca):
    network, text = encoder(full_ca), captions(LENGTHS)
    plain = PlainBert(network)
    states = network.encode_text(network.encode_prefix(text.ids, text.mask), text.mask)
    assert_rows_are(states, text, [plain.text_only(words_of(text, row)) for row in range(3)])


@STYLES
@pytest.mark.parametrize(("stacks", "crossed"), [(1, None), (2, None), (1, [2, 0, 1]), (2, [1, 1, 0, 2]), (0, [2, 2])])
@torch.no_grad()
def test_fused_rows_are_each_caption_with_its_image_alone(full_ca, stacks, crossed):
    network, images = encoder(full_ca), image_tokens()
    partners = [*range(IMAGES)] * stacks + (crossed or [])
    text = captions([3 + (4 * row) % 7 for row in range(len(partners))], seed=1)
    pairing = Pairing(stacks, None if crossed is None else torch.tensor(crossed))
    states = network.fuse(
        network.encode_prefix(text.ids, text.mask), text.mask, network.project_images(images), pairing
    )
    plain = PlainBert(network)
    expected = [plain.with_image(words_of(text, row), images[image]) for row, image in enumerate(partners)]
    assert_rows_are(states, text, expected)


@STYLES
@torch.no_grad()
def test_vocabulary_logits_are_those_of_each_caption_alone(full_ca):
    network, text, images = encoder(full_ca), captions(LENGTHS), image_tokens()
    torch.nn.init.normal_(network.cls.predictions.bias)
    states = network.fuse(
        network.encode_prefix(text.ids, text.mask), text.mask, network.project_images(images), Pairing()
    )
    plain = PlainBert(network)
    expected = [plain.vocabulary_logits(plain.with_image(words_of(text, row), images[row])) for row in range(IMAGES)]
    assert_rows_are(network.vocabulary_logits(states), text, expected)


@STYLES
@torch.no_grad()
def test_cls_only_is_the_first_state_of_the_full_pass(full_ca):
    network, text = encoder(full_ca), captions(LENGTHS)
    text_prefix, memory = network.encode_prefix(text.ids, text.mask), network.project_images(image_tokens())
    full = network.fuse(text_prefix, text.mask, memory, Pairing())
    first = network.fuse(text_prefix, text.mask, memory, Pairing(), cls_only=True)
    assert first.shape == (IMAGES, 1, FUSION.hidden_size)
    torch.testing.assert_close(first, full[:, :1], atol=1e-5, rtol=1e-5)


@STYLES
@torch.no_grad()
def test_what_stands_in_the_padding_does_not_matter(full_ca):
    network, text = encoder(full_ca), captions(LENGTHS)
    memory = network.project_images(image_tokens())
    other = TextTokens(text.ids.masked_fill(~text.mask, 9), text.mask)
    found = [
        network.fuse(network.encode_prefix(given.ids, given.mask), given.mask, memory, Pairing())[text.mask]
        for given in (text, other)
    ]
    torch.testing.assert_close(*found, atol=1e-6, rtol=0)


@torch.no_grad()
def test_partial_fusion_goes_on_from_the_text_only_states():
    network, text = encoder(full_ca=False), captions(LENGTHS)
    text_prefix = network.encode_prefix(text.ids, text.mask)
    assert torch.equal(network.encode_text(text_prefix, text.mask), text_prefix)


@torch.no_grad()
def test_full_fusion_begins_with_the_self_attention_of_the_first_layer():
    network, text = encoder(full_ca=True), captions(LENGTHS)
    plain, embedded = PlainBert(network), network.bert.embeddings(text.ids)
    expected = [
        plain.attention("bert.encoder.layer.0.attention", states[mask], states[mask])
        for states, mask in zip(embedded, text.mask, strict=True)
    ]
    assert_rows_are(network.encode_prefix(text.ids, text.mask), text, expected)


@STYLES
@pytest.mark.parametrize("wide", [True, False], ids=["wide", "narrow"])
@pytest.mark.parametrize("texts", [[3], [1, 2], [2, 1]])
@pytest.mark.parametrize("lengths", [LENGTHS, [4, 4, 4], [6, 6, 2]])
@torch.no_grad()
def test_packed_texts_are_each_text_with_its_image_alone(full_ca, texts, lengths, wide):
    network, text, images = encoder(full_ca), captions(lengths), image_tokens()[: len(texts)]
    text_prefix, plain = network.encode_prefix(text.ids, text.mask)[text.mask], PlainBert(network)
    packing = Packing.from_lengths(np.array(lengths), np.array(texts), TOKENS, torch.device("cpu"))
    fusion = PackedFusion(network, torch.float32, wide)
    states = fusion.fuse(text_prefix, packing, fusion.project_images(images))
    partners = [image for image, count in zip(images, texts, strict=True) for _ in range(count)]
    expected = [plain.with_image(words_of(text, row), image)[0] for row, image in enumerate(partners)]
    torch.testing.assert_close(states, torch.stack(expected), atol=1e-5, rtol=1e-5)


@STYLES
@torch.no_grad()
def test_one_product_for_all_layers_projects_images_as_each_layer_does(full_ca):
    network, images = encoder(full_ca), image_tokens()
    expected = network.project_images(images).layers
    found = PackedFusion(network, torch.float32, wide=True).project_images(images).layers
    assert found.keys() == expected.keys()
    for number, pair in expected.items():
        for one, other in zip(found[number], pair, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_cross_attention_exists_where_the_configuration_says():
    full, partial = (encoder(full_ca).bert.encoder.layer for full_ca in (True, False))
    assert [hasattr(layer, "crossattention") for layer in full] == [True, True, True, True]
    assert [hasattr(layer, "crossattention") for layer in partial] == [False, False, True, True]


@pytest.mark.parametrize("lengths", [LENGTHS, [6, 6, 6]])
@torch.no_grad()
def test_states_and_logits_are_those_of_the_transformers_package(lengths):
    transformers = pytest.importorskip("transformers")
    network, text = encoder(full_ca=True), captions(lengths)
    torch.nn.init.normal_(network.cls.predictions.bias)
    sizes = {name: getattr(FUSION, name) for name in FusionSize.model_fields}
    for ours in ("fusion_layer", "encoder_width", "full_ca"):
        sizes.pop(ours)
    sizes["num_hidden_layers"] = FUSION.fusion_layer
    theirs = transformers.BertForMaskedLM(transformers.BertConfig(**sizes)).eval()
    state = network.state_dict()
    own = theirs.state_dict()
    theirs.load_state_dict({name: state[name] for name in own}, strict=True)
    expected = theirs(text.ids, text.mask.long(), output_hidden_states=True)
    states = network.encode_text(network.encode_prefix(text.ids, text.mask), text.mask)
    torch.testing.assert_close(states[text.mask], expected.hidden_states[-1][text.mask], atol=1e-5, rtol=1e-5)
    logits = network.vocabulary_logits(states)
    torch.testing.assert_close(logits[text.mask], expected.logits[text.mask], atol=2e-5, rtol=1e-5)


# ---- parameters ------------------------------------------------------------------------


def test_decoder_and_word_embeddings_are_one_parameter_and_both_biases_another():
    network = encoder(full_ca=True)
    head, names = network.cls.predictions, [name for name, _ in network.named_parameters()]
    assert head.decoder.weight is network.bert.embeddings.word_embeddings.weight
    assert head.bias is head.decoder.bias
    assert "cls.predictions.decoder.weight" not in names
    assert ("cls.predictions.bias" in names) != ("cls.predictions.decoder.bias" in names)
    assert {"cls.predictions.bias", "cls.predictions.decoder.bias", "cls.predictions.decoder.weight"} <= set(
        network.state_dict()
    )


def test_the_tie_survives_a_copy_of_the_model():
    network = tiny_model().text_encoder_m
    assert network.cls.predictions.decoder.weight is network.bert.embeddings.word_embeddings.weight
    assert network.cls.predictions.bias is network.cls.predictions.decoder.bias


def test_look_ups_give_the_padding_row_no_gradient():
    network, text = encoder(full_ca=True), captions(LENGTHS)
    assert (text.ids == SPECIAL.pad).any()
    network.encode_prefix(text.ids, text.mask).square().sum().backward()
    gradient = network.bert.embeddings.word_embeddings.weight.grad
    assert gradient[SPECIAL.pad].tolist() == [0] * FUSION.hidden_size
    assert gradient[text.ids[text.mask]].abs().sum() > 0


def test_the_padding_row_starts_at_zero():
    assert encoder(full_ca=True).bert.embeddings.word_embeddings.weight[SPECIAL.pad].abs().sum() == 0


# ---- gradients -------------------------------------------------------------------------


def gradients(network: TextEncoder, images: Tensor, outputs: Tensor) -> dict[str, Tensor]:
    """Gradients of a weighted sum of outputs, by parameter name, and of the image tokens."""
    weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(2))
    named = {**dict(network.named_parameters()), "images": images}
    found = torch.autograd.grad((outputs * weights).sum(), list(named.values()), allow_unused=True)
    return {name: part for name, part in zip(named, found, strict=True) if part is not None}


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, wanted in expected.items():
        torch.testing.assert_close(found[name], wanted, atol=2e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@STYLES
def test_one_projection_of_the_images_gives_the_gradients_of_separate_passes(full_ca):
    network, images = encoder(full_ca), image_tokens().requires_grad_()
    text, crossed = repeat(captions(LENGTHS), 3), torch.tensor([1, 2, 0])
    text_prefix = network.encode_prefix(text.ids, text.mask)
    together = network.fuse(text_prefix, text.mask, network.project_images(images), Pairing(2, crossed))
    shared = gradients(network, images, together)
    passes = [
        network.fuse(
            network.encode_prefix(text.ids[:3], text.mask[:3]), text.mask[:3], network.project_images(given), Pairing()
        )
        for given in (images, images, images[crossed])
    ]
    assert_same_gradients(shared, gradients(network, images, torch.cat(passes)))


@STYLES
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_gives_the_same_gradients(full_ca, dropout):
    found = []
    for checkpointing in (False, True):
        network = tiny_model(
            full_ca=full_ca,
            gradient_checkpointing=checkpointing,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        ).text_encoder.train()
        images, text = image_tokens().requires_grad_(), captions(LENGTHS)
        torch.manual_seed(4)
        text_prefix = network.encode_prefix(text.ids, text.mask)
        states = network.fuse(text_prefix, text.mask, network.project_images(images), Pairing(), cls_only=True)
        found.append(
            gradients(network, images, torch.cat([states, network.encode_text(text_prefix, text.mask)], dim=1))
        )
    assert_same_gradients(*found)


@pytest.mark.parametrize("where", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_dropout_acts_in_training_only(where):
    network, text = encoder(True, **{where: 0.5}), captions(LENGTHS)
    memory = network.project_images(image_tokens())

    def run() -> tuple[Tensor, Tensor]:
        text_prefix = network.bert.embeddings(text.ids)
        return network.encode_text(text_prefix, text.mask), network.fuse(text_prefix, text.mask, memory, Pairing())

    for one, other in zip(run(), run(), strict=True):
        assert torch.equal(one, other)
    network.train()
    network.bert.embeddings.eval()
    for one, other in zip(run(), run(), strict=True):
        assert not torch.allclose(one, other)


# ---- the attention product, and rows by name -------------------------------------------


@pytest.mark.parametrize("masked", [True, False])
def test_plain_bfloat16_attention_is_close_to_the_fused_kernel_in_float32(masked):
    torch.manual_seed(0)
    query, keys, values = torch.randn(2, 2, 4, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)
    mask = (torch.arange(6) < torch.tensor([[6], [3]]))[:, None, None] if masked else None
    expected = attend(query, keys, values, mask)
    found = attend(*(part.bfloat16() for part in (query, keys, values)), mask)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.03, rtol=0.03)


def test_plain_bfloat16_attention_drops_weights_at_random():
    torch.manual_seed(0)
    ones = torch.ones(1, 1, 1, 4, dtype=torch.bfloat16)
    keys, values = torch.zeros(1, 1, 4000, 4, dtype=torch.bfloat16), ones.expand(1, 1, 4000, 4)
    found = attend(ones, keys, values, dropout=0.5)
    # half of 4000 equal weights survive, twice as heavy
    assert found.float().mean().item() == pytest.approx(1, abs=0.1)
    assert not torch.equal(found, attend(ones, keys, values, dropout=0.5))


@STYLES
@torch.no_grad()
def test_rows_fused_by_name_are_the_passes_alone(full_ca):
    network, images = encoder(full_ca), image_tokens()
    memory, crossed = network.project_images(images), torch.tensor([1, 1, 0])
    texts = {"long": captions([9, 4, 6]), "other": captions(LENGTHS, seed=3), "short": captions([3, 4, 3], seed=4)}
    text_prefix = {name: network.encode_prefix(text.ids, text.mask) for name, text in texts.items()}
    rows, prefix = FusionRows(), {name: TextPrefix(text_prefix[name], text.mask) for name, text in texts.items()}
    rows.add("short", prefix["short"])
    rows.add_crossed("other", prefix["other"], crossed)
    rows.add("long", prefix["long"])
    found = rows.fuse(network, memory)
    assert set(found) == set(texts)
    for name, text in texts.items():
        pairing = Pairing(0, crossed) if name == "other" else Pairing()
        expected = network.fuse(text_prefix[name], text.mask, memory, pairing)
        assert found[name].shape == expected.shape
        torch.testing.assert_close(found[name][text.mask], expected[text.mask], atol=1e-5, rtol=1e-5)
