"""Grad-CAM of dual encoders and of masked words: by hand, and against finite differences of a plain twin."""

import copy

import pytest
import torch
from tiny_clip_files import SIZE, WIDTH, randomised
from torch import Tensor
from torch.nn.functional import linear, normalize, relu, softmax

from dataset.batch import TextTokens
from models.clip.irra import IRRA, IrraSettings
from models.clip.rde import RDE, RdeSettings
from models.clip.similarity_maps import gradient_map, spread, without
from models.word_maps import MarkedText, require_target
from utils.errors import UserError

MASK, START, END = 49405, 49406, 49407
ROWS = [[START, 320, 736, 4521, 537, 2000, END], [START, 1000, 2368, END]]
WORDS = [[0, 1, 2, 2, 3, 4, 0], [0, 1, 2, 0]]  # the second word of the first caption has two pieces
ATTRIBUTES = [[0, 0, 1, 1, 0, 2, 0], [0, 0, 1, 0]]
STEP = 1e-5


def padded(rows: list[list[int]]) -> Tensor:
    return torch.tensor([[*row, *[0] * (7 - len(row))] for row in rows])


def marked() -> MarkedText:
    ids = padded(ROWS)
    return MarkedText(TextTokens(ids, ids > 0), padded(ATTRIBUTES), padded(WORDS))


def images() -> Tensor:
    return torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(1))


def irra() -> IRRA:
    return randomised(IRRA(SIZE, IrraSettings(classes=5, cross_depth=2)))


def rde() -> RDE:
    return randomised(RDE(SIZE, RdeSettings(width=WIDTH)))


@pytest.fixture(params=[irra, rde])
def model(request):
    return request.param()


# ---- by hand ---------------------------------------------------------------------------


def test_words_are_taken_out_of_a_caption():
    ids = torch.tensor([[9, 5, 6, 7, 8, 0], [9, 4, 8, 0, 0, 0]])
    removed = torch.zeros_like(ids, dtype=torch.bool)
    removed[0, [1, 3]] = True
    found = without(TextTokens(ids, ids > 0), removed)
    assert found.ids.tolist() == [[9, 6, 8, 0, 0, 0], [9, 4, 8, 0, 0, 0]]
    assert found.mask.tolist() == [[True] * 3 + [False] * 3] * 2


def test_a_map_is_weight_times_gradient_where_positive_averaged_over_heads():
    # two heads, one token that attends to CLS and two patches
    weights = torch.tensor([[[[0.5, 0.3, 0.2]], [[0.1, 0.4, 0.5]]]], requires_grad=True)
    score = (weights * torch.tensor([[[[9.0, 2.0, -3.0]], [[9.0, -1.0, 4.0]]]])).sum()
    torch.testing.assert_close(gradient_map(score, weights), torch.tensor([[[0.3 * 2 / 2, 0.5 * 4 / 2]]]))


def test_the_map_of_a_group_is_that_of_each_of_its_tokens():
    maps = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    assert spread(maps, torch.tensor([[0, 2, 2, 1]])).tolist() == [[[0, 0], [3, 4], [3, 4], [1, 2]]]
    assert spread(maps[:, :0], torch.tensor([[0, 0]])).tolist() == [[[0, 0], [0, 0]]]


# ---- the plain twin --------------------------------------------------------------------


class PlainImage:
    """What the last block and the embeddings make of one image, in float64, from the weights of its attention."""

    def __init__(self, model: IRRA | RDE, image: Tensor):
        self.model = model = copy.deepcopy(model).double()
        self.tower = model.base_model.visual
        *before, self.last = self.tower.transformer.resblocks
        patches = self.tower.conv1(image.double()[None]).flatten(2).transpose(1, 2)
        rows = torch.cat([self.tower.class_embedding.expand(1, 1, -1), patches], 1) + self.tower.positional_embedding
        tokens = self.tower.ln_pre(rows)
        for block in before:
            tokens = block(tokens)
        self.tokens = tokens[0]  # [N, W]
        attention = self.last.attn
        parts = linear(self.last.ln_1(self.tokens), attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
        query, keys, self.values = (part.unflatten(-1, (attention.heads, -1)).transpose(0, 1) for part in parts)
        self.weights = softmax(query @ keys.transpose(1, 2) / query.shape[-1] ** 0.5, -1)  # [A, N, N]

    def embedding(self, weights: Tensor) -> Tensor:
        """By which it is ranked [F]."""
        attended = (weights @ self.values).transpose(0, 1).flatten(1)
        tokens = self.tokens + linear(attended, self.last.attn.out_proj.weight, self.last.attn.out_proj.bias)
        tokens = self.tower.ln_post(tokens + self.last.mlp(self.last.ln_2(tokens))) @ self.tower.proj
        if isinstance(self.model, IRRA):
            return normalize(tokens[0], dim=0)
        parts = normalize(tokens[0], dim=0), normalize(self.selected(tokens), dim=0)
        return torch.cat(parts) / 2**0.5

    def selected(self, tokens: Tensor) -> Tensor:
        layer = self.model.visul_emb_layer
        patches = self.weights[:, 0, 1:].mean(0)
        chosen = tokens[1 + patches.topk(int(len(patches) * 0.3)).indices]
        chosen = chosen / (chosen.norm(dim=1, keepdim=True) + 1e-8)
        return (layer.mlp.layers[1](relu(layer.mlp.bns[0](layer.mlp.layers[0](chosen)))) + layer.fc(chosen)).amax(0)

    def map(self, text: Tensor) -> Tensor:
        """Of the product with [F], by finite differences: [L]."""
        found = torch.zeros_like(self.weights)
        for index in torch.cartesian_prod(*map(torch.arange, self.weights.shape)).tolist():
            step = torch.zeros_like(self.weights)
            step[tuple(index)] = STEP
            difference = self.embedding(self.weights + step) - self.embedding(self.weights - step)
            found[tuple(index)] = (difference @ text.double()) / (2 * STEP)
        return (found * self.weights).clamp(min=0).mean(0).sum(0)[1:].float()


def embed(model: IRRA | RDE, ids: list[int]) -> Tensor:
    return model.embed_text(TextTokens(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool)))[0]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-6)


@torch.no_grad()
def test_maps_are_finite_differences_of_what_words_add_to_the_cosine(model):
    found = model.word_maps(images(), marked(), SIZE.vision_depth - 1, "similarity", with_words=True)
    assert found.caption.shape == (2, 8) and found.attributes.shape == (2, 2, 8) and found.maps.shape == (2, 7, 8)
    for row, (ids, words, attributes) in enumerate(zip(ROWS, WORDS, ATTRIBUTES, strict=True)):
        image, whole = PlainImage(model, images()[row]), embed(model, ids)
        with torch.inference_mode():
            cosine = float(whole @ model.encode_image(images()[row][None])[1][0])
        assert found.score[row].item() == pytest.approx(cosine, abs=1e-5)
        close(found.caption[row], image.map(whole))
        for groups, number in ((attributes, 1), (words, 2)):
            less = embed(model, [one for one, group in zip(ids, groups, strict=True) if group != number])
            expected = image.map(whole - less)
            assert expected.max() > 1e-4
            if groups is attributes:
                close(found.attributes[row, 0], expected)
                added = float((whole - less).double() @ image.embedding(image.weights))
                assert found.attribute_score[row, 0].item() == pytest.approx(added, abs=1e-5)
            else:
                close(found.maps[row, words.index(2)], expected)
    close(found.maps[0, 2], found.maps[0, 3])  # pieces of a word
    assert not found.maps[:, 0].any() and not found.maps[1, 4:].any()
    assert not found.attributes[1, 1].any() and found.attribute_score[1, 1] == 0


def test_nothing_is_left_behind_and_single_words_cost_nothing_unless_wanted(model):
    found = model.word_maps(images(), marked(), SIZE.vision_depth - 1, "similarity")
    assert found.maps is None and not found.caption.requires_grad and not found.attributes.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_captions_without_attributes_have_maps_too(model):
    none = MarkedText(marked().text, torch.zeros_like(marked().attributes), marked().words)
    found = model.word_maps(images(), none, SIZE.vision_depth - 1, "similarity")
    assert found.caption.any() and found.attributes.shape == (2, 0, 8) and found.attribute_score.shape == (2, 0)


# ---- masked words ----------------------------------------------------------------------


def plain_masked_map(model: IRRA, image: Tensor, ids: list[int], hidden: list[int]) -> tuple[Tensor, float]:
    """The map of hidden tokens, by finite differences in float64, and how likely they are told right."""
    model, row = copy.deepcopy(model).double(), torch.tensor([[*ids, *[0] * (77 - len(ids))]])
    masked = row.clone()
    masked[0, hidden] = MASK
    text, tokens = (
        model.base_model.encode_text(masked).tokens(),
        model.base_model.encode_image(image.double()[None]).tokens(),
    )
    attention = model.cross_attn
    states = [model.ln_pre_t(text)[0], *2 * [model.ln_pre_i(tokens)[0]]]
    parts = zip(states, attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True)
    query, keys, values = (linear(*part).unflatten(-1, (attention.heads, -1)).transpose(0, 1) for part in parts)
    weights = softmax(query @ keys.transpose(1, 2) / query.shape[-1] ** 0.5, -1)  # [A, T, N]

    def logits(weights: Tensor) -> Tensor:
        states = linear(
            (weights @ values).transpose(0, 1).flatten(1), attention.out_proj.weight, attention.out_proj.bias
        )
        states = states[None]
        for block in model.cross_modal_transformer.resblocks:
            states = block(states)
        return model.mlm_head(model.ln_post(states)[0, hidden])

    true, found = row[0, hidden][:, None], torch.zeros(len(weights), len(hidden), weights.shape[2], dtype=torch.float64)
    for head, piece, token in torch.cartesian_prod(*map(torch.arange, found.shape)).tolist():
        step = torch.zeros_like(weights)
        step[head, hidden[piece], token] = STEP
        difference = logits(weights + step) - logits(weights - step)
        found[head, piece, token] = difference.gather(1, true).sum() / (2 * STEP)
    maps = (found * weights[:, hidden]).clamp(min=0).mean((0, 1))[1:]
    return maps.float(), float(logits(weights).softmax(-1).gather(1, true).mean())


@torch.no_grad()
def test_maps_of_masked_words_are_finite_differences_of_their_logits():
    model = irra()
    found = model.word_maps(images(), marked(), 0, "word")
    one, first = plain_masked_map(model, images()[0], ROWS[0], [2, 3])
    two, second = plain_masked_map(model, images()[0], ROWS[0], [5])
    other, _ = plain_masked_map(model, images()[1], ROWS[1], [2])
    for piece, expected in ((2, one), (3, one), (5, two)):
        close(found.maps[0, piece], expected)
    close(found.attributes[0], torch.stack([one, two]))
    close(found.attributes[1, 0], other)
    assert found.attribute_score[0].tolist() == pytest.approx([first, second], rel=1e-3)
    close(found.caption[1], found.maps[1, 1:3].mean(0))
    cosine = model.word_maps(images(), marked(), SIZE.vision_depth - 1, "similarity").score
    torch.testing.assert_close(found.score, cosine)
    assert one.max() > 1e-4 and not found.maps[:, 0].any()


def test_many_words_are_read_in_portions(monkeypatch):
    model = irra()
    whole = model.word_maps(images(), marked(), 0, "word")
    monkeypatch.setattr("models.clip.masked_word_maps.AT_ONCE", 2)
    portions = model.word_maps(images(), marked(), 0, "word")
    torch.testing.assert_close(whole.maps, portions.maps)
    torch.testing.assert_close(whole.attribute_score, portions.attribute_score)


# ---- what there is ---------------------------------------------------------------------


def test_only_an_irra_that_has_learned_words_has_maps_of_them():
    assert tuple(irra().map_targets) == ("similarity", "word")
    for model in (rde(), IRRA(SIZE, IrraSettings(("itc",)))):
        assert tuple(model.map_targets) == ("similarity",)
        with pytest.raises(UserError, match="maps of word are of an IRRA with its cross-modal encoder; this model has"):
            require_target(model, "word")


def test_dual_encoders_have_maps_of_their_last_block_alone():
    model = irra()
    model.require_map_layer(SIZE.vision_depth - 1, "similarity")
    model.require_map_layer(0, "word")
    with pytest.raises(UserError, match="layer 0 has no maps of similarity; choose 1"):
        model.require_map_layer(0, "similarity")
