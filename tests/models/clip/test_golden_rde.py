"""RDE against numbers computed by the published code; files as `tests/golden_numbers.py` says."""

from dataclasses import replace

import pytest
import torch
from golden_numbers import golden_folder
from recorded_clip import (
    RDE_FILES,
    assert_gradients,
    assert_near,
    batch_of,
    build_rde,
    gradients_of,
    read,
)

from models.clip.clip_model import side_by_side
from models.clip.losses import PAIR_LOSSES, PairLossSettings, Pairs, loss_of_pairs
from models.clip.parameter_groups import RdeOptimizer
from models.clip.rde import EMBEDDINGS
from models.clip.step import unit

pytestmark = [
    pytest.mark.skipif(not RDE_FILES, reason=f"GOLDEN_DIR {golden_folder()} has no numbers of RDE"),
    pytest.mark.parametrize("path", RDE_FILES or [None], ids=lambda p: p.stem if p else "absent"),
]
BY_LOSS = pytest.mark.parametrize("loss", list(PAIR_LOSSES))


def every_token(tokens: torch.Tensor) -> torch.Tensor:
    """Indices [B, L] of all tokens."""
    return torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)


@torch.no_grad()
def test_tokens_and_attention(path):
    golden = read(path)
    model, inputs, expected = build_rde(golden).base_model, golden["inputs"], golden["outputs"]
    image, text = model.encode_image(inputs["images"]), model.encode_text(inputs["caption_ids"])
    for found, name in ((image, "image"), (text, "text")):
        tokens = found.tokens()
        assert_near(tokens, expected[f"{name}_tokens"])
        assert_near(found.attention(every_token(tokens)), expected[f"{name}_attention"])


@torch.no_grad()
def test_embeddings(path):
    golden = read(path)
    model, inputs, expected = build_rde(golden).train(), golden["inputs"], golden["outputs"]
    image, text = model.image_features(inputs["images"]), model.text_features(inputs["caption_ids"])
    assert model.visul_emb_layer.count(expected["image_tokens"].shape[1] - 1) == golden["selected"]["image_k"]
    assert model.texual_emb_layer.count(expected["text_tokens"].shape[1] - 2) == golden["selected"]["text_k"]
    for name in EMBEDDINGS:
        assert_near(image[name], expected[f"image_{name}"])
        assert_near(text[name], expected[f"text_{name}"])
        cosines = (unit(image[name]) * unit(text[name])).sum(1)
        assert_near(cosines, golden["pair_similarity"][name])


@BY_LOSS
@torch.no_grad()
def test_losses(path, loss):
    golden = read(path)
    model, batch = build_rde(golden, loss), batch_of(golden)
    of_pairs, of_batch = model.pair_losses(batch), model.compute_losses(batch)
    for name in EMBEDDINGS:
        assert_near(of_pairs[name], golden["per_sample"][loss][name], rtol=1e-5)
        assert_near(of_batch[name], golden["losses"][loss][name], atol=0, rtol=1e-5)


def test_gradients(path):
    golden = read(path)
    model = build_rde(golden).train()
    total = sum(model.compute_losses(batch_of(golden)).values())
    total.backward()
    assert_near(total, golden["total"], atol=0, rtol=1e-5)
    found = gradients_of(model)
    assert_gradients(found, golden["gradients"])
    assert set(golden["no_gradient"]) == {name for name, _ in model.named_parameters()} - set(found)
    for name, value in model.named_buffers():
        assert torch.equal(value, golden["state_dict"][name])


def test_statistics_of_the_batch(path):
    golden = read(path)
    model, recorded = build_rde(golden, batch_norm="batch").train(), golden["batch_stats"]
    batch = replace(batch_of(golden), ids=recorded["caption_ids"])
    losses = model.compute_losses(batch)
    sum(losses.values()).backward()
    for name in EMBEDDINGS:
        assert_near(losses[name], recorded["losses"][name], atol=0, rtol=1e-5)
    assert_near(sum(losses.values()), recorded["total"], atol=0, rtol=1e-5)
    assert_gradients(gradients_of(model), recorded["gradients"], zero=("mlp.layers.0.bias",))
    buffers = dict(model.named_buffers())
    for name, value in recorded["buffers_after"].items():
        assert_near(buffers[name], value, atol=1e-6)
    with torch.no_grad():  # these normalise by the same batch again
        assert_near(model.image_features(batch.image)["tse"], recorded["outputs"]["image_tse"])
        assert_near(model.text_features(batch.ids)["tse"], recorded["outputs"]["text_tse"])


@BY_LOSS
def test_losses_of_given_similarities(path, loss):
    cases = read(path)["score_cases"]
    scores = cases["scores"].clone().requires_grad_()
    pairs = Pairs(cases["pids"][:, None] == cases["pids"], torch.arange(len(scores), device=scores.device))
    settings = PairLossSettings(cases["tau"], cases["margin"], cases["temperature"])
    values = loss_of_pairs(loss, scores, scores.T, pairs, settings)
    values.sum().backward()
    assert_near(values, cases["per_sample"][loss], atol=1e-5, rtol=1e-5)
    assert_gradients({loss: scores.grad}, {loss: cases["gradients"][loss]})


def test_rates_of_parameters(path):
    golden = read(path)
    learned = [name for name, value in build_rde(golden).named_parameters() if value.requires_grad]
    found = {name: list(RdeOptimizer().rates_of(name)) for name in learned}
    recorded = golden["optimizer_groups"]
    assert found == {name: pytest.approx(recorded[name]) for name in learned}
    never_used = ("visul_emb_layer.linear.", "visul_emb_layer.mlp.bns.1.", "texual_emb_layer.mlp.bns.1.")
    assert recorded.keys() - found.keys() == {name for name in recorded if name.startswith(never_used)}


@torch.no_grad()
def test_similarities_of_evaluation(path):
    golden = read(path)
    model, recorded = build_rde(golden).eval(), golden["evaluation"]
    text, image = model.text_embeddings(recorded["caption_ids"]), model.image_embeddings(recorded["images"])
    expected = recorded["similarity"]
    assert_near(text["bge"] @ image["bge"].T, expected["BGE"])
    assert_near(text["tse"] @ image["tse"].T, expected["TSE"])
    assert_near(side_by_side(text) @ side_by_side(image).T, expected["BGE+TSE"])
