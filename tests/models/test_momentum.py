"""The momentum model and its queues."""

import pytest
import torch
from tiny_model import tiny_model
from torch.nn.functional import normalize

from models.momentum import EMPTY, FOLLOWED
from models.training_step import QueueEntry

QUEUE = 12  # slots of the tiny model


def state_of(model, suffix: str = "") -> dict[str, torch.Tensor]:
    """Copies of the followed parameters, by their online names."""
    return {
        f"{part}.{name}": value.detach().clone()
        for part in FOLLOWED
        for name, value in getattr(model, part + suffix).named_parameters()
    }


def disturb(model) -> None:
    """Move the online parameters away from the momentum ones."""
    with torch.no_grad():
        for part in FOLLOWED:
            for parameter in getattr(model, part).parameters():
                parameter.add_(torch.randn_like(parameter))


def embeddings(first: int, count: int) -> torch.Tensor:
    """[count, 8], all entries of a row the same: first, first + 1, ..."""
    return torch.arange(first, first + count).float()[:, None].expand(-1, 8)


def test_the_momentum_model_starts_equal_and_shares_nothing():
    model = tiny_model()
    online, momentum = state_of(model), state_of(model, "_m")
    assert all(torch.equal(online[name], momentum[name]) for name in online)
    disturb(model)
    after = state_of(model, "_m")
    assert all(torch.equal(after[name], momentum[name]) for name in momentum)


def test_follow_by_hand():
    # 0.75 * 8 + 0.25 * 4 = 7
    model = tiny_model()
    with torch.no_grad():
        model.vision_proj.weight.fill_(4.0)
        model.vision_proj_m.weight.fill_(8.0)
    model.follow(0.75)
    assert (model.vision_proj_m.weight == 7).all()
    assert (model.vision_proj.weight == 4).all()


def test_follow_moves_every_parameter_of_the_momentum_model():
    model = tiny_model()
    disturb(model)
    online, before = state_of(model), state_of(model, "_m")
    model.follow(0.995)
    after = state_of(model, "_m")
    for name, value in after.items():
        torch.testing.assert_close(value, 0.995 * before[name] + 0.005 * online[name], atol=1e-6, rtol=1e-5)
        assert not torch.equal(value, before[name]), name


@pytest.mark.parametrize(("momentum", "source"), [(1.0, "_m"), (0.0, "")])
def test_momentum_one_stands_still_and_zero_copies(momentum, source):
    model = tiny_model()
    disturb(model)
    expected = state_of(model, source)
    model.follow(momentum)
    for name, value in state_of(model, "_m").items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5)


def test_copy_to_momentum_makes_both_equal():
    model = tiny_model()
    disturb(model)
    model.copy_to_momentum()
    online, momentum = state_of(model), state_of(model, "_m")
    assert all(torch.equal(online[name], momentum[name]) for name in online)


def test_momentum_parameters_take_no_gradient_and_all_others_do():
    for name, parameter in tiny_model().named_parameters():
        assert parameter.requires_grad != name.split(".")[0].endswith("_m"), name


# ---- queues ----------------------------------------------------------------------------


def test_queues_start_empty_with_unit_embeddings():
    model = tiny_model()
    assert model.idx_queue.tolist() == [[EMPTY] * QUEUE]
    assert model.queue_ptr.tolist() == [0]
    for queue in (model.image_queue, model.text_queue):
        assert queue.shape == (8, QUEUE)
        torch.testing.assert_close(queue, normalize(queue, dim=0))


def test_enqueue_writes_at_the_pointer():
    model = tiny_model()
    untouched = model.image_queue[:, 3:].clone()
    model.enqueue(QueueEntry(embeddings(1, 3), embeddings(101, 3), torch.tensor([7, 8, 9])))
    assert model.image_queue[:, :3].T.equal(embeddings(1, 3))
    assert model.text_queue[:, :3].T.equal(embeddings(101, 3))
    assert model.idx_queue[0].tolist() == [7, 8, 9] + [EMPTY] * 9
    assert model.image_queue[:, 3:].equal(untouched)
    assert model.queue_ptr.tolist() == [3]


def test_enqueue_wraps_around():
    model = tiny_model()
    model.queue_ptr[:] = QUEUE - 1
    model.enqueue(QueueEntry(embeddings(1, 3), embeddings(101, 3), torch.tensor([7, 8, 9])))
    assert model.idx_queue[0].tolist() == [8, 9] + [EMPTY] * 9 + [7]
    assert model.image_queue[0, [11, 0, 1]].tolist() == [1, 2, 3]
    assert model.text_queue[0, [11, 0, 1]].tolist() == [101, 102, 103]
    assert model.queue_ptr.tolist() == [2]


def test_a_full_round_ends_where_it_began():
    model = tiny_model()
    for start in range(0, QUEUE, 4):
        model.enqueue(QueueEntry(embeddings(start, 4), embeddings(start, 4), torch.arange(start, start + 4)))
    assert model.idx_queue[0].tolist() == list(range(QUEUE))
    assert model.queue_ptr.tolist() == [0]


def test_what_is_enqueued_keeps_no_graph():
    model = tiny_model()
    model.enqueue(QueueEntry(embeddings(0, 2).clone().requires_grad_(), embeddings(0, 2), torch.tensor([0, 1])))
    assert not model.image_queue.requires_grad
