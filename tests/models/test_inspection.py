"""What a model is said to cost, against what it does cost."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from tiny_model import FUSION, VISION, tiny_batch, tiny_draws, tiny_model
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.inspection import Memory, count_parameters, estimate_memory
from models.objectives import only

TOKENS = 8  # of the longest caption of tiny_batch


def measured_activations(model) -> int:
    """Bytes that autograd keeps during a real forward pass, parameters apart."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    batch = tiny_batch([0, 1, 2, 3, 4, 5])
    assert batch.caption2.ids.shape[1] == TOKENS
    full = replace(batch.caption2, ids=batch.caption2.ids.clamp(min=5), mask=torch.ones_like(batch.caption2.mask))
    full = replace(full, words=full.ids.numel())  # all captions as long as the longest, as is estimated
    batch = replace(batch, caption=full, caption2=full)
    # the kernel of this processor fills heads as narrow as these up, which no estimate counts
    with sdpa_kernel(SDPBackend.MATH), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        sum(model(batch, tiny_draws(6), 0.4).losses.values())
    return sum(t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in parameters)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("loss_weights", [None, only("cl", "pitm"), only("mae")], ids=["all", "matching", "mae"])
def test_estimated_activations_are_close_to_measured_ones(checkpointing, loss_weights):
    model = tiny_model(loss_weights, gradient_checkpointing=checkpointing, full_ca=True).train()
    measured = measured_activations(model)
    estimate = estimate_memory(deepcopy(model), 6, TOKENS, VISION.image_size, bf16=False)
    assert estimate.activations == pytest.approx(measured, rel=0.05)


def test_gradient_checkpointing_is_estimated_to_save_memory():
    plain, checkpointed = (
        estimate_memory(tiny_model(gradient_checkpointing=flag), 6, TOKENS, VISION.image_size, False)
        for flag in (False, True)
    )
    assert checkpointed.activations < plain.activations / 3
    assert checkpointed.parameters == plain.parameters


def test_activations_grow_with_the_batch_and_halve_in_bfloat16():
    small, large, half = (
        estimate_memory(tiny_model(), batch, TOKENS, VISION.image_size, bf16).activations
        for batch, bf16 in ((4, False), (8, False), (8, True))
    )
    assert large == pytest.approx(2 * small, rel=0.1)
    assert half == large // 2


def test_bytes_of_parameters_gradients_and_optimizer_states():
    model = tiny_model()
    state = {tensor.data_ptr(): tensor for tensor in model.state_dict().values()}  # tied ones once
    fixed = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    trained = 4 * sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    memory = estimate_memory(model, 2, TOKENS, VISION.image_size, False)
    assert (memory.parameters, memory.gradients, memory.optimizer) == (fixed, trained, 2 * trained)
    assert memory.total == fixed + 3 * trained + memory.activations


def test_memory_reads_in_gibibytes():
    memory = Memory(2**30, 2**29, 2**30, 3 * 2**29)
    assert str(memory) == "4.00 GiB (parameters 1.00, gradients 0.50, optimizer 1.00, activations 1.50)"


def test_parameters_are_counted_by_part():
    model = tiny_model()
    counts = count_parameters(model)
    assert counts["itm_head"] == counts["prd_head"] == 2 * FUSION.hidden_size + 2
    assert counts["temp"] == 1
    assert sum(counts.values()) == sum(parameter.numel() for parameter in model.parameters())
    copied = ("visual_encoder", "vision_proj", "text_encoder", "text_proj")
    assert counts["momentum copies"] == sum(counts[part] for part in copied)
