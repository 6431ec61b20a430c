"""The plain step that training is timed against computes what the product computes, gradients included."""

import pytest
import torch

from benchmarks import train_step
from benchmarks.full_size import TINY, configuration, make_batch, make_draws, make_model
from benchmarks.published_step import PublishedStep


@pytest.mark.parametrize(
    "settings",
    [
        ["mlm_distill_axis=positions"],
        ["mlm_distill_axis=vocabulary"],
        ["bert_config.full_ca=false"],
    ],
)
def test_the_plain_step_has_the_losses_and_gradients_of_the_product(settings):
    config, found = configuration(True, *TINY, *settings), []
    for plain in (True, False):
        model = make_model(config).train()
        batch = make_batch(config, 6)
        draws = make_draws(model, batch)
        if plain:
            losses, queued = PublishedStep(model, batch, draws, 0.4).losses(), None  # writes the queues too
        else:
            losses, queued = model(batch, draws, 0.4)
        sum(losses.values()).backward()
        if queued is not None:
            model.enqueue(queued)
        found.append((losses, model))
    (expected, plain), (losses, product) = found
    assert set(losses) == set(expected) == set(config.weights)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=1e-6)
    for (name, one), other in zip(product.named_parameters(), plain.parameters(), strict=True):
        if one.requires_grad and other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    for (name, one), other in zip(product.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_the_benchmark_reports_ratios_memory_and_losses(monkeypatch, capsys):
    small = configuration(True, *TINY)
    monkeypatch.setattr(train_step, "configuration", lambda quick, *settings, dropout=False: small)
    monkeypatch.setattr(train_step, "peak_memory_of", lambda function, *given: (function(*given), 100.0))
    ratios = train_step.compare(4, quick=False, repeats=1)
    printed = capsys.readouterr().out
    assert set(ratios) == {"float32", "bfloat16"} and all(ratio > 0 for ratio in ratios.values())
    assert "greatest difference, float32" in printed and "100 MiB of 100 MiB plain: 100%" in printed
    assert train_step.count_flop(4, True) > 1e6


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_tensor_cores_alone_can_do_is_measured_on_a_gpu_alone(device):
    ways = train_step.ways_on(device, quick=False)
    assert ways[0] == train_step.PLAIN and (train_step.TENSOR_CORES in ways) == (device == "cuda")
    assert train_step.portions_of(512, False, "cuda") == [512]


@pytest.mark.parametrize(("size", "portions"), [(4, [4]), (5, [3, 2]), (8, [4, 4]), (9, [3, 3, 3]), (11, [4, 4, 3])])
def test_portions_are_the_whole_batch(size, portions, monkeypatch):
    """Where memory is short, the plain step has as many samples as the ways that it is compared with."""
    monkeypatch.setattr(train_step, "available_memory", lambda: 0.0)
    assert train_step.portions_of(size, False, "cpu") == portions and sum(portions) == size
    small, given = configuration(True, *TINY), []
    monkeypatch.setattr(train_step, "configuration", lambda quick, *settings, dropout=False: small)
    whole = train_step.PublishedStep
    monkeypatch.setattr(
        train_step, "PublishedStep", lambda model, batch, *more: given.append(batch.size) or whole(model, batch, *more)
    )
    train_step.measure(train_step.PLAIN, portions, False, False, 1, "cpu")
    assert given == 2 * portions  # of a step to warm up, and one against the clock
