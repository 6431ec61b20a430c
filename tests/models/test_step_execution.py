"""How a step is computed: precision, device, memory, processes. Its values are those of test_model_step.py."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace

import pytest
import torch
import torch.distributed as dist
from pretended_gpu import Launches, backward_of, on_gpu, pretended_gpu, without_content
from tiny_model import (
    IDENTITIES,
    SPECIAL,
    VOCABULARY,
    lived_in,
    run_step,
    step,
    tiny_batch,
    tiny_draws,
    tiny_model,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dataset.batch import TextTokens, TrainBatch
from models import loss_means, person_search
from models.kernels import attention
from models.person_search import PersonSearchModel
from models.randomness import RandomDraws, StepNoise
from models.vision_mamba import VisionMamba
from models.vision_transformer import VisionTransformer
from utils.errors import UserError
from utils.precision import autocast
from utils.processes import distributed
from utils.training.epoch_log import EpochLog, Step
from utils.training.learning_rate import CosineRate, Schedule
from utils.training.optimization import Optimizer, make_optimizer
from utils.training.stepper import LateFlag, Stepper, StepRules, agree


def test_the_two_logits_of_matching_stay_opposite_in_training():
    model = tiny_model()
    optimizer = make_optimizer(model.named_parameters(), Optimizer(lr=1e-2, weight_decay=0.1))
    for _ in range(3):
        sum(step(model, tiny_batch(IDENTITIES)).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    weight, bias = model.itm_head.weight, model.itm_head.bias
    torch.testing.assert_close(weight[0], -weight[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(bias[0], -bias[1], atol=1e-5, rtol=1e-4)
    assert weight.abs().max() > 0.01


def test_match_logits_are_not_rounded_to_bfloat16():
    model, states = tiny_model(), torch.randn(64, 24)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.match_logits(states.bfloat16())
    exact = states.bfloat16().double() @ model.itm_head.weight.double().T + model.itm_head.bias.double()
    assert logits.dtype == torch.float32
    assert torch.allclose(logits.double(), exact, atol=1e-6)


class NoQuestions(TorchDispatchMode):
    """Raises at what makes a device wait: values and shapes that the processor asks it for."""

    # lift_fresh: a tensor made of numbers in main memory, which must be copied
    ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero", "lift_fresh")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        indices = args[1] if name.startswith("index") and len(args) > 1 and isinstance(args[1], list | tuple) else ()
        chosen = [part for part in indices if isinstance(part, Tensor) and part.dtype == torch.bool]
        assert name not in self.ASKING and not chosen, f"{name} waits for the device"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("axis", ["vocabulary", "positions"])
def test_a_step_asks_the_device_nothing_but_what_became_of_the_one_before(axis, monkeypatch):
    model = lived_in(tiny_model(objective={"mlm_distill_axis": axis}))
    batch, draws = tiny_batch(IDENTITIES), tiny_draws(len(IDENTITIES))
    pixels = [(50 * image).clamp(0, 255).byte() for image in (batch.image1, batch.image2)]
    batch = replace(batch, image1=pixels[0], image2=pixels[1])
    stepper, log = stepper_for(model), EpochLog()
    device = torch.device("cpu")
    model.normalise(batch.image1)  # copies the statistics of pixels once, and keeps them
    answers = []
    monkeypatch.setattr(LateFlag, "read", lambda flag: answers.append(flag) or True)
    with NoQuestions():
        for number in range(3):
            inputs = [(batch.to(device), draws.to(device), torch.full((), 0.4, dtype=torch.float64))]
            queued, taken = stepper.take_step(inputs, Step(0, number, 3, number), batch.size, str, log)
            model.advance(queued, taken)
    assert len(answers) == 2
    assert all(value.isfinite() for value in stepper.under_way.values.values())


def stepper_for(model: PersonSearchModel) -> Stepper:
    optimizer = make_optimizer(model.named_parameters(), Optimizer())
    rules = StepRules(model.objective.weights, nullcontext, 1.0, seed=0)
    return Stepper(model, optimizer, CosineRate(optimizer, Schedule()), rules)


def test_a_step_waits_for_other_processes_four_times(monkeypatch):
    """Beside gradients: embeddings and identities, what losses are means over, whether all is finite, what is asked."""
    exchanges = []

    def all_gather(parts: list[Tensor], rows: Tensor) -> None:
        exchanges.append(("gather", rows.dtype))
        for part in parts:
            part.copy_(rows)

    def all_reduce(value: Tensor, operation=dist.ReduceOp.SUM, group=None) -> None:
        exchanges.append((str(operation), value.dtype))
        value *= 2 if operation == dist.ReduceOp.SUM else 1

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "processors", lambda: None)
    monkeypatch.setattr(dist, "all_gather", all_gather)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    model, batch = lived_in(tiny_model()), tiny_batch(IDENTITIES)
    stepper, log = stepper_for(model), EpochLog()
    queued, taken = stepper.take_step([(batch, tiny_draws(4), 0.4)], Step(0, 0, 9, 0), 4, str, log)
    model.advance(queued, taken)
    assert agree(0, True) == (0, True)
    assert exchanges == [
        ("gather", torch.uint8),
        (str(dist.ReduceOp.SUM), torch.float32),
        (str(dist.ReduceOp.MIN), torch.float32),
        (str(dist.ReduceOp.MAX), torch.float64),
    ]
    assert model.idx_queue[0, [10, 11, 0, 1, 2, 3, 4, 5]].tolist() == [*IDENTITIES, *IDENTITIES]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_weights_converted_together_give_the_bits_of_autocast(checkpointing, monkeypatch):
    found = []
    for converts in (True, False):
        model = lived_in(tiny_model(gradient_checkpointing=checkpointing))
        if not converts:
            monkeypatch.setattr(person_search, "convert_weights", lambda layers: nullcontext())
        with torch.autocast("cpu", torch.bfloat16):
            losses = step(model, tiny_batch(IDENTITIES))
        sum(losses.values()).backward()
        assert all(layer.converted is None for layer in model.linear_layers)
        found.append(losses | {name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():  # gradients of words and of the vocabulary, one parameter, add up in any order
        torch.testing.assert_close(value, found[1][name], rtol=0, atol=1e-7 if "word_embeddings" in name else 0)


def one_kernel(query: Tensor, keys: Tensor, values: Tensor, **options) -> Tensor:
    """In place of attention, for which a GPU has one kernel and what pretends to be one several operations."""
    return query * 1


@contextmanager
def losses_on_a_gpu(model: PersonSearchModel, precision: str) -> Iterator[tuple[dict[str, Tensor], Launches]]:
    """The losses of a step on a pretended GPU, on which the block is too, and what was launched for them."""
    given = tiny_batch(IDENTITIES), tiny_draws(len(IDENTITIES))
    with pretended_gpu():
        there, given = on_gpu(model), [without_content(part) for part in given]
        with autocast(precision, "cuda"), Launches() as launches:
            losses = there(*given, 0.4).losses
        yield losses, launches


@pytest.mark.parametrize(("precision", "most", "kernel"), [("fp32", 988, "_efficient"), ("bf16", 1114, "_flash")])
def test_a_gpu_is_given_few_kernels_and_asked_nothing(precision, most, kernel, monkeypatch):
    """Forward; in bfloat16 they were 1,080 when each weight was converted by itself."""
    monkeypatch.setattr(attention, "scaled_dot_product_attention", one_kernel)
    # of 8 layers, so that what each asks for counts, and not what is asked for once
    model = lived_in(tiny_model(hidden_size=32, num_hidden_layers=8, fusion_layer=4))
    with losses_on_a_gpu(model, precision) as (losses, launches):
        backward = backward_of(losses.values())
    # keys and values of all layers are one product, and query, key and value of each layer: alone, they were 135
    assert 50 < backward["Addmm"] <= 98, backward
    assert not launches.waits
    assert len(launches.names) <= most, len(launches.names)
    assert launches.counts["addmm"] + launches.counts["mm"] > 100
    # self-attention of both models below fusion_layer, and both attentions of all fused layers but one, which is shared
    assert launches.counts[f"{kernel}_attention_forward"] == 2 * (4 + 2 * 8)


WITHOUT_THE_SAME_BITS = re.compile(  # of torch.use_deterministic_algorithms: what raises on CUDA, in either pass
    r"(?i)(adaptive_?)?(avg|max)_?pool[23]d|fractional|max_?unpool|upsample|reflection_?pad|nll_?loss_?2d|ctc_?loss"
    r"|embedding_?bag|^put_?$|histc|bincount|median|kth_?value|grid_?sampler|scatter_?reduce|cudnn_attention"
)


def not_deterministic(names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if WITHOUT_THE_SAME_BITS.search(name)})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("encoder", [VisionTransformer, VisionMamba])
def test_a_step_on_a_gpu_can_be_computed_with_the_same_bits_every_time(precision, encoder, monkeypatch):
    """By operations that have a deterministic kernel; those of attention do if torch is not to warn alone."""
    monkeypatch.setattr(attention, "scaled_dot_product_attention", one_kernel)
    model = lived_in(tiny_model(hidden_size=32, encoder=encoder, objective={"mlm_distill_axis": "positions"}))
    with losses_on_a_gpu(model, precision) as (losses, launches):
        backward = backward_of(losses.values())
        enlarged = torch.nn.functional.interpolate(losses["cl"][None, None, None, None], size=(4, 4), mode="bicubic")
        assert not_deterministic(backward_of([enlarged])) == ["UpsampleBicubic2D"]
    kernel = "Flash" if precision == "bf16" else "Efficient"
    assert backward[f"{kernel}Attention"] == 10 and backward["IndexSelect"] and backward["Embedding"]
    assert not_deterministic(backward) == not_deterministic(launches.names) == []


def test_an_operation_without_a_deterministic_kernel_is_named(monkeypatch):
    stepper = stepper_for(lived_in(tiny_model()))

    def fail(*given):
        raise RuntimeError("kthvalue CUDA does not have a deterministic implementation, but you set ...")

    monkeypatch.setattr(stepper.model, "forward", fail)
    with pytest.raises(UserError, match=r"^config: `deterministic`: kthvalue has no deterministic kernel; set it to"):
        stepper.compute_gradients([(tiny_batch(IDENTITIES), tiny_draws(4), 0.4)], Step(0, 0, 9, 0))


def test_gradient_checkpointing_gives_the_same_losses_and_gradients():
    found = []
    for checkpointing in (False, True):
        model = lived_in(tiny_model(gradient_checkpointing=checkpointing))
        losses = step(model, tiny_batch(IDENTITIES))
        sum(losses.values()).backward()
        found.append([*losses.values(), *(p.grad for p in model.parameters() if p.requires_grad)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_bfloat16_losses_are_close_to_those_of_float32():
    expected = step(lived_in(tiny_model()), tiny_batch(IDENTITIES))
    model = lived_in(tiny_model())
    with torch.autocast("cpu", torch.bfloat16):
        found = step(model, tiny_batch(IDENTITIES))
        total = sum(found.values())
    total.backward()
    for name, value in found.items():
        assert value.dtype == torch.float32, name
        assert value.item() == pytest.approx(expected[name].item(), rel=0.05, abs=0.02), name
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# ---- several processes -----------------------------------------------------------------


def half(value, rows: slice):
    """Rows of a batch, or of its noise."""
    if isinstance(value, TrainBatch):
        parts = {f.name: getattr(value, f.name) for f in fields(value) if f.name != "attribute_count"}
        return replace(value, **{name: half(part, rows) for name, part in parts.items()})
    if isinstance(value, TextTokens):
        return TextTokens(value.ids[rows], value.mask[rows])
    if isinstance(value, StepNoise):
        return StepNoise(*(getattr(value, f.name)[rows] for f in fields(value)))
    return None if value is None else value[rows]


class Exchange:
    """Plays two processes one after the other: a first round records what each would send, and a second
    one answers with all of it."""

    def __init__(self):
        self.sent: dict[int, list[Tensor]] = {0: [], 1: []}
        self.process, self.answering, self.calls = 0, False, 0

    def begin(self, process: int, answering: bool) -> None:
        self.process, self.answering, self.calls = process, answering, 0

    def both(self, value: Tensor) -> list[Tensor]:
        self.calls += 1
        if not self.answering:
            self.sent[self.process].append(value.detach().clone())
            return [value, value]
        assert torch.equal(self.sent[self.process][self.calls - 1], value)
        return [self.sent[process][self.calls - 1] for process in (0, 1)]

    def gather_together(self, *rows: Tensor) -> list[Tensor]:
        return [torch.cat(self.both(part.detach())) for part in rows]

    def mean_over_processes(self, value: Tensor) -> Tensor:
        return torch.stack(self.both(value)).mean(0)


def test_two_processes_average_to_one_with_the_whole_batch(monkeypatch):
    objective = {"mlm_probability": 0.4}
    batch, draws = tiny_batch([0, 1, 1, 2, 3, 3, 3, 3]), tiny_draws(8, epoch=8)

    def run(rows: slice) -> tuple[PersonSearchModel, dict[str, Tensor]]:
        model = lived_in(tiny_model(objective=objective))
        part = RandomDraws(half(draws.noise, rows), SPECIAL, VOCABULARY)
        found, queued = run_step(model, half(batch, rows), part, negatives_within=4)
        sum(found.values()).backward()
        model.advance([queued])
        return model, found

    whole, expected = run(slice(0, 8))
    exchange, processes = Exchange(), []
    monkeypatch.setattr(person_search, "gather_together", exchange.gather_together)
    monkeypatch.setattr(loss_means, "mean_over_processes", exchange.mean_over_processes)
    for answering in (False, True):
        for process in (0, 1):
            exchange.begin(process, answering)
            processes.append(run(slice(4 * process, 4 * process + 4)))
    (one, first), (two, second) = processes[2:]
    # what is counted differs between the processes, so that a mean of means would be wrong
    counts = [exchange.sent[process][-1].tolist() for process in (0, 1)]
    assert len(counts[0]) == 4 and all(left != right for left, right in zip(*counts, strict=True)), counts
    for name, value in expected.items():
        torch.testing.assert_close((first[name] + second[name]) / 2, value, atol=1e-5, rtol=1e-4)
    gradients = zip(whole.named_parameters(), one.parameters(), two.parameters(), strict=True)
    for (name, parameter), left, right in gradients:
        if parameter.requires_grad:
            average = (left.grad + right.grad) / 2
            torch.testing.assert_close(average, parameter.grad, atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    for buffer in ("image_queue", "text_queue", "idx_queue", "queue_ptr"):
        for model in (one, two):
            torch.testing.assert_close(getattr(model, buffer), getattr(whole, buffer), atol=1e-6, rtol=0)
