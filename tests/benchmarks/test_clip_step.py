"""The plain IRRA and RDE that training is timed against compute what the product computes, gradients included."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from benchmarks import clip_step
from benchmarks.clip_step import SYSTEMS, WAYS, Measured, build, encode, make_pairs, take_step
from models.clip.towers import ClipSize

TINY = ClipSize(
    image_size=(48, 32),
    patch_size=8,
    stride=8,
    vision_width=128,
    vision_depth=2,
    vision_heads=2,
    text_width=64,
    text_depth=2,
    text_heads=2,
    text_length=30,
    vocabulary=200,
    embedding=64,
)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_plain_model_has_the_losses_gradients_and_embeddings_of_the_product(system):
    pairs, found = make_pairs(TINY, 6), []
    for way in ("plain float32", "float32"):
        model, _, batch = build(system, TINY, pairs, WAYS[way])
        embeddings = encode(model.eval(), batch.image, nullcontext)
        losses, _ = model.train()(batch)
        sum(losses.values()).backward()
        found.append((losses, embeddings, dict(model.named_parameters())))
    (expected, of_plain, plain), (losses, of_product, product) = found
    assert set(losses) == set(expected) and len(losses) == (3 if system == "irra" else 2)
    torch.testing.assert_close(of_product, of_plain, rtol=0, atol=1e-6)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=1e-5)
    assert set(product) == set(plain)
    for name, parameter in product.items():
        if plain[name].grad is None:
            assert parameter.grad is None, name
        else:
            apart = (parameter.grad - plain[name].grad).norm()  # single elements differ by the order of sums
            assert apart <= 1e-3 * plain[name].grad.norm() + 1e-5, name


@pytest.mark.parametrize("system", SYSTEMS)
def test_both_optimizers_take_the_same_step(system):
    pairs, found = make_pairs(TINY, 4), []
    for way in ("plain float32", "float32"):
        model, optimizer, batch = build(system, TINY, pairs, WAYS[way])
        for _ in range(2):
            take_step(model, optimizer, batch, nullcontext)
        found.append(dict(model.named_parameters()))
    plain, product = found
    for name, parameter in plain.items():
        torch.testing.assert_close(product[name], parameter, rtol=0, atol=1e-5)


@pytest.mark.parametrize("system", SYSTEMS)
def test_float16_weights_are_those_of_products_alone(system):
    pairs = make_pairs(TINY, 4)
    model, optimizer, batch = build(system, TINY, pairs, replace(WAYS["plain float32"], half=True))
    halves = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.float16}
    norms = {name for name, _ in model.named_parameters() if ".ln_" in name or ".bns." in name or "embedding" in name}
    assert {"base_model.text_projection", "base_model.visual.conv1.weight"} <= halves and not halves & norms
    assert "base_model.transformer.resblocks.0.attn.in_proj_bias" in halves
    exact, other, same = build(system, TINY, pairs, WAYS["plain float32"])
    expected = take_step(exact, other, same, nullcontext)
    for name, value in take_step(model, optimizer, batch, nullcontext).items():
        torch.testing.assert_close(value, expected[name], rtol=0.05, atol=0.05)


def test_pairs_have_captions_of_realistic_length_and_masked_words():
    pairs = make_pairs(clip_step.FULL, 16)
    lengths = (pairs.ids != 0).sum(1)
    assert (lengths.min(), lengths.max()) == (18, 48) and pairs.ids.shape == (16, 77)
    assert torch.equal(pairs.ids.argmax(1) + 1, lengths)
    assert clip_step.cut(pairs).ids.shape == (16, 48)
    masked = (pairs.masked.labels != 0).sum()
    assert 0.05 < masked / lengths.sum() < 0.3


def test_the_command_reports_losses_memory_and_ratios(monkeypatch, capsys):
    monkeypatch.setattr(clip_step, "QUICK", TINY)
    monkeypatch.setattr(clip_step, "peak_memory_of", lambda function, *given: (function(*given), 100.0))
    monkeypatch.setattr("sys.argv", ["clip_step", "--quick", "--repeats", "1"])
    clip_step.main()
    printed = capsys.readouterr().out
    for system in SYSTEMS:
        for part in ("step", "gallery"):
            assert f"ratio {system} {part} float32" in printed and f"ratio {system} {part} bfloat16" in printed
    assert "greatest difference, float32" in printed and "100 MiB of 100 MiB plain: 100%" in printed
    assert "tf32" not in printed and "float16" not in printed.replace("bfloat16", "")


def test_a_way_that_computes_something_else_is_refused():
    plain = Measured(1.0, 1.0, {"sdm": 4.0}, torch.eye(2))
    clip_step.require_agreement(plain, replace(plain, losses={"sdm": 4.001}))
    with pytest.raises(RuntimeError, match=r"the loss sdm is 4[.]1 in float32"):
        clip_step.require_agreement(plain, replace(plain, losses={"sdm": 4.1}))
    with pytest.raises(RuntimeError, match="embeddings of images"):
        clip_step.require_agreement(plain, replace(plain, embeddings=1.1 * torch.eye(2)))
