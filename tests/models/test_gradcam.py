"""Grad-CAM of words: a layer made by hand, a plain twin, and what cannot be asked for."""

import math
from types import SimpleNamespace

import pytest
import torch
from test_fusion import PlainBert
from tiny_model import VISION, captions, tiny_model
from torch import Tensor

from dataset.batch import TextTokens
from models.fusion import ImageKeysValues
from models.fusion_size import FusionSize
from models.gradcam import require_maps, usual_layer, word_maps
from models.pairing import Pairing
from models.vision_mamba import VisionMamba
from models.vision_transformer import VisionTransformer
from models.word_maps import attribute_maps
from utils.errors import UserError

ENCODERS = pytest.mark.parametrize("encoder", [VisionTransformer, VisionMamba], ids=["vit", "vim"])
STYLES = pytest.mark.parametrize("full_ca", [True, False], ids=["full", "partial"])
LENGTHS = [7, 4, 5]
ATTRIBUTES = torch.tensor([[0, 1, 1, 0, 2, 0, 0], [0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]])


def images() -> Tensor:
    return torch.randn(3, 3, *VISION.image_size, generator=torch.Generator().manual_seed(1))


def model_of(**options):
    return tiny_model(**options).eval()


# ---- by hand ---------------------------------------------------------------------------


class HandMadeEncoder:
    """Cross-attention in layer 0 without norms; in layer 1, CLS becomes the sum of all words; 2 heads of width 1."""

    size = FusionSize(hidden_size=2, num_hidden_layers=2, num_attention_heads=2, fusion_layer=1, full_ca=True)

    def __init__(self, states: Tensor, keys: Tensor, values: Tensor):
        self.states, self.keys_values = states, ImageKeysValues({0: (keys, values)})
        crossattention = SimpleNamespace(
            self=SimpleNamespace(query=lambda states: states),
            split=lambda states: states.unflatten(-1, (2, -1)).transpose(1, 2),
            merge=lambda attended, residual: attended.transpose(1, 2).flatten(2) + residual,
        )
        layer = SimpleNamespace(crossattention=crossattention, feed_forward=lambda states: states)
        self.layers = [layer, None]

    def project_images(self, tokens: Tensor) -> ImageKeysValues:
        return self.keys_values

    def encode_prefix(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.states

    def run(self, states: Tensor, layers: range, context, attended: bool = False) -> Tensor:
        return states.sum(1, keepdim=True).expand_as(states) if 1 in layers else states


def hand_made_maps(target: str, layer: int = 0):
    """One caption [CLS] word word on one image of CLS and two patches."""
    # the word (1, 1) sees keys 0, 0, ln 2 with 1/4, 1/4, 1/2 in the first head, and 0, ln 3, 0 with 1/5, 3/5, 1/5 in
    # the second; CLS and the word (0, 0) see everything with 1/3
    states = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]])
    keys = torch.tensor([[[0.0, 0.0, math.log(2)], [0.0, math.log(3), 0.0]]])[..., None]
    values = torch.tensor([[[5.0, 3.0, -2.0], [1.0, 1.0, 4.0]]])[..., None]
    model = SimpleNamespace(
        text_encoder=HandMadeEncoder(states, keys, values),
        normalise=lambda images: images,
        visual_encoder=lambda images: images,
        # match logit: first feature + 10 * second
        match_logits=lambda states: states @ torch.tensor([[0.0, 1.0], [0.0, 10.0]]),
    )
    text = TextTokens(torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 3, dtype=torch.bool))
    return word_maps(model, torch.zeros(1, 3, 2), text, torch.tensor([[0, 1, 0]]), layer, target)


def test_a_map_is_attention_times_gradient_where_positive_averaged_over_heads():
    found = hand_made_maps("match")
    # d logit / d attention = value in the first head, 10 * value in the second; the first patch: (1/4 * 3, 3/5 * 10),
    # the second: (1/2 * -2 -> 0, 1/5 * 40); words and CLS that see all alike: (1/3 * 3, 1/3 * 10), (0, 1/3 * 40)
    alike = [(1 + 10 / 3) / 2, 40 / 3 / 2]
    torch.testing.assert_close(found.maps, torch.tensor([[alike, [(0.75 + 6) / 2, 8 / 2], alike]]))


def test_logits_are_those_of_the_states_that_were_watched():
    found = hand_made_maps("match")
    # seen by the word: 5/4 + 3/4 - 1 = 1 and 1/5 + 3/5 + 4/5 = 1.6; by the others 2 and 2; sum with the words' own
    assert found.score.item() == pytest.approx((1 + 2 + 2 + 1) + 10 * (1.6 + 2 + 2 + 1))
    assert found.attribute_score.tolist() == [pytest.approx([found.score.item()])]  # every word is that sum


def test_a_word_of_no_attribute_has_no_map_for_its_target():
    maps, match = hand_made_maps("attribute").maps, hand_made_maps("match").maps
    assert maps[0, [0, 2]].eq(0).all()
    torch.testing.assert_close(maps[0, 1], match[0, 1])  # the attribute's logit is that of the pair here


# ---- the plain twin --------------------------------------------------------------------


class WatchedBert(PlainBert):
    """The plain twin that keeps the cross-attention maps of one layer, one [T, N] for each head."""

    def __init__(self, network, layer: int):
        super().__init__(network)
        self.watched, self.maps = f"bert.encoder.layer.{layer}.crossattention", []

    def attention(self, name: str, states: Tensor, source: Tensor) -> Tensor:
        if name != self.watched:
            return super().attention(name, states, source)
        heads = self.size.num_attention_heads
        parts = [("query", states), ("key", source), ("value", source)]
        query, key, value = (self.dense(f"{name}.self.{part}", given).chunk(heads, 1) for part, given in parts)
        for head in range(heads):
            scores = query[head] @ key[head].T / math.sqrt(query[head].shape[1])
            self.maps.append(scores.softmax(1).detach().requires_grad_())
        seen = torch.cat([weights @ value[head] for head, weights in enumerate(self.maps)], 1)
        added = self.dense(f"{name}.output.dense", seen) + states
        return self.norm(f"{name}.output.LayerNorm", added)


def plain_maps(model, ids: Tensor, tokens: Tensor, attributes: Tensor, layer: int, target: str):
    """Maps [T, L] of a caption [T] on an image's tokens [N, W], its match logit, and those of its attributes."""
    twin = WatchedBert(model.text_encoder, layer)
    states = twin.with_image(ids, tokens)
    match = model.itm_head(states[0])[1]
    numbers = [n for n in attributes.unique().tolist() if n]
    of_attributes = {n: model.itm_head(states[attributes == n].mean(0))[1] for n in numbers}
    maps = torch.zeros(len(ids), len(tokens) - 1)
    for word, number in enumerate(attributes.tolist()):
        logit = match if target == "match" else of_attributes.get(number)
        if logit is None:
            continue
        gradients = torch.autograd.grad(logit, twin.maps, retain_graph=True)
        heads = [(seen * slope).clamp(min=0)[word, 1:] for seen, slope in zip(twin.maps, gradients, strict=True)]
        maps[word] = sum(heads) / len(heads)
    return maps.detach(), match.item(), [logit.item() for logit in of_attributes.values()]


@ENCODERS
@STYLES
@pytest.mark.parametrize("target", ["match", "attribute"])
def test_maps_are_those_of_each_pair_alone(encoder, full_ca, target):
    model, text = model_of(encoder=encoder, full_ca=full_ca), captions(LENGTHS)
    size = model.text_encoder.size
    with torch.no_grad():
        tokens = model.visual_encoder(images())
    for layer in range(size.first_cross_layer, size.num_hidden_layers - (target == "match")):
        found = word_maps(model, images(), text, ATTRIBUTES, layer, target)
        assert found.maps.shape == (3, max(LENGTHS), VISION.patches)
        for row, length in enumerate(LENGTHS):
            expected, match, of_attributes = plain_maps(
                model, text.ids[row, :length], tokens[row], ATTRIBUTES[row, :length], layer, target
            )
            torch.testing.assert_close(found.maps[row, :length], expected, rtol=1e-3, atol=1e-7)
            assert found.score[row].item() == pytest.approx(match, abs=1e-5)
            torch.testing.assert_close(found.caption[row], expected[1:-1].mean(0), rtol=1e-3, atol=1e-7)
            wanted = of_attributes + [0.0] * (2 - len(of_attributes))
            assert found.attribute_score[row].tolist() == pytest.approx(wanted, abs=1e-5)
        assert found.maps[0].any()
        assert not found.maps[1, LENGTHS[1] :].any()  # padding looks nowhere


@STYLES
def test_logits_are_those_of_ranking(full_ca):
    model, text = model_of(full_ca=full_ca), captions(LENGTHS)
    with torch.no_grad():
        memory = model.text_encoder.project_images(model.visual_encoder(images()))
        expected = model.match_scores(
            model.text_encoder.encode_prefix(text.ids, text.mask), text.mask, memory, Pairing()
        )
    found = word_maps(model, images(), text, ATTRIBUTES)
    torch.testing.assert_close(found.score, expected, atol=1e-5, rtol=1e-5)


def test_nothing_is_left_behind():
    model = model_of()
    found = word_maps(model, images(), captions(LENGTHS), ATTRIBUTES)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(part.requires_grad for part in vars(found).values())


def test_captions_without_attributes_have_maps_too():
    none = torch.zeros_like(ATTRIBUTES)
    found = word_maps(model_of(), images(), captions(LENGTHS), none)
    assert found.maps.any()
    assert found.attribute_score.shape == (3, 0)
    assert found.attributes.shape == (3, 0, VISION.patches)
    assert not word_maps(model_of(), images(), captions(LENGTHS), none, target="attribute").maps.any()


def test_the_map_of_an_attribute_is_the_mean_of_its_words():
    maps = torch.tensor([[[1.0, 0.0], [3.0, 4.0], [5.0, 6.0], [9.0, 9.0]]])
    assert attribute_maps(maps, torch.tensor([[0, 1, 1, 3]])).tolist() == [[[4.0, 5.0], [0.0, 0.0], [9.0, 9.0]]]


# ---- which layers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "fusion_layer", "full_ca", "expected"),
    [(12, 6, False, 8), (12, 6, True, 8), (4, 2, True, 0), (4, 2, False, 2), (3, 2, True, 0), (2, 1, False, 1)],
)
def test_the_usual_layer_has_maps_of_words(layers, fusion_layer, full_ca, expected):
    network = tiny_model(num_hidden_layers=layers, fusion_layer=fusion_layer, full_ca=full_ca).text_encoder
    assert usual_layer(network) == expected


@pytest.mark.parametrize(
    ("full_ca", "layer", "target", "message"),
    [
        (False, 1, "match", "layer 1 has no cross-attention; choose one from 2 to 3"),
        (True, -1, "match", "layer -1 has no cross-attention; choose one from 0 to 3"),
        (True, 4, "attribute", "layer 4 has no cross-attention; choose one from 0 to 3"),
        (True, 3, "match", "CLS alone: its words have no maps; choose an earlier layer"),
    ],
)
def test_layers_without_maps_are_refused(full_ca, layer, target, message):
    model = model_of(full_ca=full_ca)
    with pytest.raises(UserError, match=message):
        word_maps(model, images(), captions(LENGTHS), ATTRIBUTES, layer, target)


def test_where_only_the_last_layer_has_cross_attentions_the_other_target_is_named():
    network = tiny_model(num_hidden_layers=3, fusion_layer=2, full_ca=False).text_encoder
    with pytest.raises(UserError, match="choose target attribute"):
        require_maps(network, usual_layer(network), "match")
    require_maps(network, usual_layer(network), "attribute")
