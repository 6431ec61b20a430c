"""torch.compile, as an option, changes no loss and no gradient."""

import shutil
from dataclasses import replace

import pytest
import torch
from tiny_model import IDENTITIES, SPECIAL, lived_in, step, tiny_batch, tiny_draws, tiny_model
from torch import Tensor

from dataset.batch import TrainBatch
from models.build import compile_layers, compile_step
from models.objectives import only
from models.person_search import PersonSearchModel
from models.randomness import RandomDraws

pytestmark = pytest.mark.usefixtures("always_packed")
needs_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")
MOST = 20  # tokens that the tiny text encoder has positions for


def small_model(axis: str = "positions") -> PersonSearchModel:
    """All losses, in a model whose graph is quickly traced."""
    return lived_in(tiny_model(num_hidden_layers=2, fusion_layer=1, objective={"mlm_distill_axis": axis}))


def padded(seed: int) -> tuple[TrainBatch, RandomDraws]:
    """A batch of few shapes and its draws; that of seed 1 has one word less than that of 0."""
    batch = tiny_batch(IDENTITIES, seed=seed)
    if seed:
        mask = batch.caption2.mask.clone()
        mask[3, 4] = False
        batch = replace(batch, caption2=replace(batch.caption2, mask=mask, words=batch.caption2.words - 1))
    return batch.with_few_shapes(SPECIAL.pad, MOST), tiny_draws(len(IDENTITIES), epoch=seed)


def losses_and_gradients(model: PersonSearchModel, batch: TrainBatch, draws: RandomDraws) -> dict[str, Tensor]:
    found = model(batch, draws, torch.tensor(0.4, dtype=torch.float64)).losses
    sum(found.values()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {name: value.detach() for name, value in found.items()} | gradients


@pytest.mark.parametrize(("axis", "backend"), [("vocabulary", "eager"), ("positions", "aot_eager")])
def test_a_step_is_one_graph_with_the_same_bits_and_serves_other_batches_of_its_shape(axis, backend, monkeypatch):
    torch._dynamo.reset()
    model, compiled = small_model(axis), small_model(axis)

    def trace(module: torch.nn.Module, **options) -> None:
        """`Module.compile` with torch's own kernels in place of written ones, which have other roundings."""
        module._compiled_call_impl = torch.compile(module._call_impl, backend=backend, **options)

    monkeypatch.setattr(torch.nn.Module, "compile", trace)
    compile_step(compiled)
    for seed in (0, 1):
        expected = losses_and_gradients(model, *padded(seed))
        with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
            found = losses_and_gradients(compiled, *padded(seed))
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value), (seed, name)


@pytest.mark.parametrize("axis", ["vocabulary", "positions"])
def test_padding_to_few_shapes_changes_no_loss_and_no_gradient(axis):
    model, batch, draws = small_model(axis), tiny_batch(IDENTITIES), tiny_draws(len(IDENTITIES))
    expected = losses_and_gradients(model, batch, draws)
    found = losses_and_gradients(model, batch.with_few_shapes(SPECIAL.pad, MOST), draws)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


def test_batches_of_like_captions_have_one_shape():
    def shapes(batch: TrainBatch) -> tuple:
        texts = batch.caption, batch.caption2
        return *(text.ids.shape for text in texts), *(text.mask.shape for text in texts), batch.attribute_count

    batch = tiny_batch(IDENTITIES)
    longer = replace(batch, caption2=batch.caption2.padded_to(8, SPECIAL.pad), attribute_count=7)
    assert shapes(batch) != shapes(longer)
    assert shapes(batch.with_few_shapes(SPECIAL.pad, MOST)) == shapes(longer.with_few_shapes(SPECIAL.pad, MOST))
    assert batch.with_few_shapes(SPECIAL.pad, MOST).caption2.ids.shape[1] == 8
    nine = replace(batch, caption2=batch.caption2.padded_to(9, SPECIAL.pad))
    assert [nine.with_few_shapes(SPECIAL.pad, most).caption.ids.shape[1] for most in (10, 20)] == [10, 16]


def test_batches_of_about_as_many_words_count_as_many():
    batch = tiny_batch(IDENTITIES)
    assert (batch.caption.words, batch.caption2.words) == (23, 24)
    for words, counted in (((23, 24), 32), ((17, 24), 32), ((24, 17), 32), ((16, 12), 16), ((12, 17), 32)):
        texts = (replace(text, words=w) for text, w in zip((batch.caption, batch.caption2), words, strict=True))
        few = replace(batch, **dict(zip(("caption", "caption2"), texts, strict=True))).with_few_shapes(SPECIAL.pad, 20)
        assert (few.caption.words, few.caption2.words) == (counted, counted)  # of 4 captions of 8 tokens
    uncounted = replace(batch, caption2=replace(batch.caption2, words=None)).with_few_shapes(SPECIAL.pad, 20)
    assert uncounted.caption.words is None and uncounted.caption2.words is None


@needs_compiler
def test_compiled_layers_give_the_same_losses_and_gradients_for_captions_of_any_length():
    torch._dynamo.reset()
    found = []
    for compiled in (False, True):
        model = lived_in(tiny_model(only("cl", "pitm", "mae"), num_hidden_layers=3))
        names = list(model.state_dict())
        if compiled:
            compile_layers(model)
        losses = [step(model, tiny_batch(identities, seed=len(identities))) for identities in (IDENTITIES, [0, 1, 2])]
        sum(value for part in losses for value in part.values()).backward()
        found.append(
            [
                *(value for part in losses for value in part.values()),
                *(p.grad for p in model.parameters() if p.grad is not None),
            ]
        )
        assert list(model.state_dict()) == names
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert len(found[0]) == len(found[1])
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain, atol=2e-5, rtol=1e-4)
