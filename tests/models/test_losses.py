"""Each loss against loops over single numbers, and against values worked out by hand."""

import math

import pytest
import torch

from models import losses
from models.losses import IGNORED


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(7)


def log_probabilities(row: list[float]) -> list[float]:
    """Log-softmax of a list of numbers."""
    total = math.log(sum(math.exp(value) for value in row))
    return [value - total for value in row]


def probabilities(row: list[float]) -> list[float]:
    return [math.exp(value) for value in log_probabilities(row)]


def cross_entropy(row: list[float], label: int) -> float:
    return -log_probabilities(row)[label]


def mean(values: list[float]) -> float:
    """Mean, 0 of nothing."""
    return sum(values) / len(values) if values else 0.0


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def assert_zero_with_zero_gradient(loss: torch.Tensor, inputs: torch.Tensor) -> None:
    (gradient,) = torch.autograd.grad(loss, inputs)
    assert loss.item() == 0
    assert torch.equal(gradient, torch.zeros_like(inputs))  # neither NaN nor anything else


# ---- means over a varying number of things ---------------------------------------------


def test_mean_over_counts_only_what_is_chosen():
    # (1 + 4) / 2
    values, chosen = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([True, False, True])
    assert losses.mean_over(values, chosen).value.item() == 2.5


def test_a_mean_can_be_taken_over_another_number():
    # (1 + 4) / 4
    values, chosen = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([True, False, True])
    assert losses.mean_over(values, chosen).over(torch.tensor(4.0)).item() == 1.25


def test_mean_over_ignores_an_infinite_value_that_is_not_chosen():
    values = torch.tensor([1.0, torch.inf], requires_grad=True)
    loss = losses.mean_over(values, torch.tensor([True, False])).value
    (gradient,) = torch.autograd.grad(loss, values)
    assert loss.item() == 1
    assert gradient.tolist() == [1, 0]


def test_mean_over_nothing_is_zero():
    values = torch.ones(3, requires_grad=True)
    assert_zero_with_zero_gradient(losses.mean_over(values, torch.zeros(3, dtype=torch.bool)).value, values)


# ---- contrastive -----------------------------------------------------------------------


def test_identity_targets_share_a_row_equally_between_equal_identities():
    targets = losses.identity_targets(torch.tensor([5, 6]), torch.tensor([5, 6, 5, -100, 5]))
    third = pytest.approx(1 / 3)
    assert targets.tolist() == [[third, 0, third, 0, third], [0, 1, 0, 0, 0]]


def test_soft_cross_entropy_by_hand():
    # logits 0 and ln 3 are probabilities 1/4 and 3/4
    logits, targets = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[0.5, 0.5]])
    expected = -(0.5 * math.log(1 / 4) + 0.5 * math.log(3 / 4))
    assert losses.soft_cross_entropy(logits, targets).tolist() == [pytest.approx(expected)]


def plain_contrast(online, momentum, keys, same, temp, alpha) -> float:
    """A loop over queries and keys."""
    rows = []
    for query, old, equal in zip(online, momentum, same, strict=True):
        student = log_probabilities([dot(query, key) / temp for key in keys])
        teacher = probabilities([dot(old, key) / temp for key in keys])
        targets = [alpha * t + (1 - alpha) * e for t, e in zip(teacher, equal, strict=True)]
        rows.append(-dot(targets, student))
    return mean(rows)


def contrast_inputs():
    online, momentum, keys = torch.randn(3, 4), torch.randn(3, 4), torch.randn(5, 4)
    same = losses.identity_targets(torch.tensor([0, 1, 0]), torch.tensor([0, 1, 0, 2, -100]))
    return online, momentum, keys, same


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_contrastive_term_is_a_loop_over_queries_and_keys(alpha):
    inputs = contrast_inputs()
    expected = plain_contrast(*(part.tolist() for part in inputs), 0.3, alpha)
    online, momentum, keys, same = inputs
    found = losses.contrastive_term(online @ keys.T, momentum @ keys.T, same, torch.tensor(0.3), alpha)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_contrastive_targets_pass_no_gradient():
    online, momentum, keys, same = contrast_inputs()
    momentum.requires_grad_()
    temp = torch.tensor(0.3, requires_grad=True)
    losses.contrastive_term(online @ keys.T, momentum @ keys.T, same, temp, 0.4).backward()
    with torch.no_grad():
        soft = torch.softmax(momentum @ keys.T / 0.3, dim=1)
    fixed = torch.tensor(0.3, requires_grad=True)
    losses.soft_cross_entropy(online @ keys.T / fixed, 0.4 * soft + 0.6 * same).mean().backward()
    assert momentum.grad is None
    assert temp.grad.item() == pytest.approx(fixed.grad.item(), rel=1e-5)


# ---- matching, replaced pairs ----------------------------------------------------------


def test_matching_is_a_loop_over_valid_rows():
    logits, matches = torch.randn(6, 2), torch.tensor([1, 1, 0, 0, 0, 0])
    valid = torch.tensor([True, True, True, False, True, False])
    rows = zip(logits.tolist(), matches.tolist(), valid.tolist(), strict=True)
    expected = mean([cross_entropy(row, label) for row, label, counts in rows if counts])
    assert losses.matching(logits, matches, valid).value.item() == pytest.approx(expected, rel=1e-5)


def test_matching_by_hand():
    # match logit ahead by ln 4: probability 4/5; the second row has no valid negative
    logits = torch.tensor([[0.0, math.log(4)], [50.0, -50.0]])
    found = losses.matching(logits, torch.tensor([1, 1]), torch.tensor([True, False])).value
    assert found.item() == pytest.approx(-math.log(4 / 5))


def test_a_row_without_a_valid_negative_gets_no_gradient():
    logits = torch.randn(4, 2, requires_grad=True)
    valid = torch.tensor([True, True, True, False])
    losses.matching(logits, torch.tensor([1, 1, 0, 0]), valid).value.backward()
    assert logits.grad[3].tolist() == [0, 0]
    assert (logits.grad[:3] != 0).all()


def test_matching_without_any_valid_row_is_zero():
    logits = torch.randn(2, 2, requires_grad=True)
    loss = losses.matching(logits, torch.tensor([0, 0]), torch.zeros(2, dtype=torch.bool)).value
    assert_zero_with_zero_gradient(loss, logits)


def test_replaced_pairs_is_a_loop_over_captions():
    logits, replaced = torch.randn(5, 2), torch.tensor([0, 1, 0, 0, 1])
    expected = mean([cross_entropy(*pair) for pair in zip(logits.tolist(), replaced.tolist(), strict=True)])
    assert losses.replaced_pairs(logits, replaced).item() == pytest.approx(expected, rel=1e-5)


# ---- masked and replaced words ---------------------------------------------------------


def plain_masked_language(logits, labels, teacher, alpha, axis) -> float:
    """A loop over captions, tokens and words."""
    values = []
    for caption, wanted, opinions in zip(logits, labels, teacher, strict=True):
        by_word = [log_probabilities([token[word] for token in caption]) for word in range(len(caption[0]))]
        for place, (token, label, opinion) in enumerate(zip(caption, wanted, opinions, strict=True)):
            if label == IGNORED:
                continue
            student = log_probabilities(token)
            if axis == "positions":
                student = [word[place] for word in by_word]
            values.append((1 - alpha) * cross_entropy(token, label) - alpha * dot(student, probabilities(opinion)))
    return mean(values)


LABELS = torch.tensor([[IGNORED, 2, IGNORED, 0], [IGNORED, IGNORED, 4, IGNORED]])


@pytest.mark.parametrize("axis", ["vocabulary", "positions"])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_masked_language_is_a_loop_over_masked_tokens(axis, alpha):
    logits, teacher = torch.randn(2, 4, 5), torch.randn(2, 4, 5)
    expected = plain_masked_language(logits.tolist(), LABELS.tolist(), teacher.tolist(), alpha, axis)
    found = losses.masked_language(logits, LABELS, teacher, alpha, axis).value
    assert found.item() == pytest.approx(expected, rel=1e-5)
    chosen = torch.tensor([1, 6, 3, 0])  # the masked words, and another
    of_chosen = losses.masked_language(
        logits, LABELS, teacher.flatten(0, 1).index_select(0, chosen), alpha, axis, chosen=chosen
    )
    assert of_chosen.value.item() == pytest.approx(expected, rel=1e-5)
    assert of_chosen.number == 3


def test_masked_language_by_hand():
    # one masked token, vocabulary of two: student 1/4 and 3/4, teacher 1/2 and 1/2, label 1
    logits = torch.tensor([[[0.0, math.log(3)]]])
    expected = 0.6 * -math.log(3 / 4) + 0.4 * -(0.5 * math.log(1 / 4) + 0.5 * math.log(3 / 4))
    found = losses.masked_language(logits, torch.tensor([[1]]), torch.zeros(1, 1, 2), 0.4, "vocabulary").value
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_masked_language_passes_gradient_from_masked_tokens_only_over_the_vocabulary():
    logits = torch.randn(2, 4, 5, requires_grad=True)
    losses.masked_language(logits, LABELS, torch.randn(2, 4, 5), 0.4, "vocabulary").value.backward()
    assert torch.equal(logits.grad.abs().sum(-1) > 0, LABELS != IGNORED)


@pytest.mark.parametrize("axis", ["vocabulary", "positions"])
def test_masked_language_without_a_masked_token_is_zero(axis):
    logits = torch.randn(2, 3, 5, requires_grad=True)
    loss = losses.masked_language(logits, torch.full((2, 3), IGNORED), torch.randn(2, 3, 5), 0.4, axis).value
    assert_zero_with_zero_gradient(loss, logits)


def test_token_replaced_is_a_loop_over_tokens_that_take_part():
    logits, labels = torch.randn(2, 3, 2), torch.tensor([[IGNORED, 1, 0], [IGNORED, 0, IGNORED]])
    tokens = zip(logits.flatten(0, 1).tolist(), labels.flatten().tolist(), strict=True)
    expected = mean([cross_entropy(token, label) for token, label in tokens if label != IGNORED])
    assert losses.token_replaced(logits, labels).value.item() == pytest.approx(expected, rel=1e-5)


def test_token_replaced_without_a_token_that_takes_part_is_zero():
    logits = torch.randn(1, 3, 2, requires_grad=True)
    assert_zero_with_zero_gradient(losses.token_replaced(logits, torch.full((1, 3), IGNORED)).value, logits)


# ---- pixels ----------------------------------------------------------------------------


def test_reconstruction_is_a_loop_over_removed_patches():
    predicted, target = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    removed = torch.tensor([[True, False, True], [False, False, True]])
    errors = []
    for image in range(2):
        for patch in range(3):
            if removed[image, patch]:
                pairs = zip(predicted[image, patch].tolist(), target[image, patch].tolist(), strict=True)
                errors.append(mean([(a - b) ** 2 for a, b in pairs]))
    assert losses.reconstruction(predicted, target, removed).value.item() == pytest.approx(mean(errors), rel=1e-5)


def test_reconstruction_by_hand():
    # the first patch is off by 1 and 3: (1 + 9) / 2; the second was kept
    predicted = torch.tensor([[[1.0, 3.0], [100.0, 100.0]]])
    assert losses.reconstruction(predicted, torch.zeros(1, 2, 2), torch.tensor([[True, False]])).value.item() == 5


def test_reconstruction_with_no_patch_removed_is_zero():
    predicted = torch.randn(1, 2, 3, requires_grad=True)
    removed = torch.zeros(1, 2, dtype=torch.bool)
    assert_zero_with_zero_gradient(losses.reconstruction(predicted, torch.randn(1, 2, 3), removed).value, predicted)


# ---- attributes ------------------------------------------------------------------------


def test_attribute_weights_average_the_tokens_of_each_attribute():
    # tokens 1 and 2 are attribute 1, token 4 is attribute 2; the second caption has attribute 2 alone
    found = losses.attribute_weights(torch.tensor([[0, 1, 1, 0, 2], [2, 0, 0, 0, 0]]), 2)
    assert found.tolist() == [
        [[0, 0.5, 0.5, 0, 0], [0, 0, 0, 0, 1]],
        [[0, 0, 0, 0, 0], [1, 0, 0, 0, 0]],
    ]


def test_attribute_matching_is_a_loop_over_captions_and_attributes():
    logits, matches = torch.randn(4, 3, 2), torch.tensor([1, 1, 0, 0])
    present = torch.tensor([[True, False, True], [False, False, False], [True, True, True], [False, True, False]])
    valid = torch.tensor([True, True, True, False])
    captions = []
    for row in range(4):
        numbers = [c for c in range(3) if present[row, c]]
        if numbers and valid[row]:
            captions.append(mean([cross_entropy(logits[row, c].tolist(), int(matches[row])) for c in numbers]))
    found = losses.attribute_matching(logits, present, matches, valid).value
    assert found.item() == pytest.approx(mean(captions), rel=1e-5)


def test_attributes_of_the_same_words_have_the_same_key():
    # [CLS] red coat [SEP] coat red cap; then coat red alone; then red red, and coat coat
    ids = torch.tensor([[2, 7, 9, 3, 9, 7, 8], [2, 9, 7, 3, 0, 0, 0], [2, 7, 7, 3, 9, 9, 0]])
    attributes = torch.tensor([[0, 1, 1, 0, 2, 2, 2], [0, 1, 1, 0, 0, 0, 0], [0, 1, 1, 0, 2, 2, 0]])
    keys = losses.attribute_keys(ids, attributes, 3)
    assert keys[0, 0] == keys[1, 0]
    assert len({*keys[0, :2].tolist(), *keys[2, :2].tolist()}) == 4
    assert keys[0, 2] == keys[1, 1] == keys[1, 2] == 0


def test_keys_of_different_attributes_differ():
    pairs = torch.combinations(torch.arange(300), 2)  # as many as 44,850, of sums that are often equal
    keys = losses.attribute_keys(pairs, torch.ones_like(pairs), 1)
    assert len(keys.unique()) == len(pairs)


def test_an_attribute_is_named_there_when_the_other_caption_has_it():
    keys = torch.tensor([[5, 6, 0], [6, 8, 9], [0, 0, 0]])
    found = losses.named_there(keys, torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 0, 0]))
    assert found.tolist() == [
        [True, True, False],
        [False, True, False],
        [True, False, False],
        [False, False, False],
    ]


def test_attribute_matching_weighs_captions_and_not_attributes_equally():
    # losses ln 2 each for three attributes of one caption, ln 4 for the only one of the other
    logits = torch.zeros(2, 3, 2)
    logits[1, 0] = torch.tensor([math.log(3), 0.0])
    present = torch.tensor([[True, True, True], [True, False, False]])
    found = losses.attribute_matching(logits, present, torch.tensor([1, 1]), torch.tensor([True, True])).value
    assert found.item() == pytest.approx((math.log(2) + math.log(4)) / 2)


@pytest.mark.parametrize("count", [0, 2])
def test_attribute_loss_without_any_attribute_is_zero(count):
    states = torch.randn(3, 4, 6, requires_grad=True)
    averaging = losses.attribute_weights(torch.zeros(3, 4, dtype=torch.long), count)
    logits = (averaging @ states) @ torch.randn(6, 2)
    assert logits.shape == (3, count, 2)
    matches, valid = torch.tensor([1, 0, 0]), torch.ones(3, dtype=torch.bool)
    assert_zero_with_zero_gradient(losses.attribute_matching(logits, averaging.any(-1), matches, valid).value, states)


# ---- means over processes --------------------------------------------------------------


def halves(function, chosen: torch.Tensor) -> tuple[float, float]:
    """The mean that `function(rows)` gives on the whole, and the mean over uneven halves with the shared number."""
    whole = slice(0, len(chosen))
    parts = [slice(0, len(chosen) // 2), slice(len(chosen) // 2, len(chosen))]
    shared = torch.stack([chosen[part].sum().float() for part in parts]).mean()
    return function(whole).value.item(), mean([function(part).over(shared).item() for part in parts])


def test_matching_in_two_processes_averages_to_the_whole():
    logits, matches = torch.randn(8, 2), torch.randint(2, (8,))
    valid = torch.tensor([True, True, True, True, False, True, False, False])
    whole, averaged = halves(lambda s: losses.matching(logits[s], matches[s], valid[s]), valid)
    assert averaged == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("axis", ["vocabulary", "positions"])
def test_masked_language_in_two_processes_averages_to_the_whole(axis):
    logits, teacher, labels = torch.randn(4, 3, 5), torch.randn(4, 3, 5), torch.full((4, 3), IGNORED)
    labels[0], labels[3, 1] = torch.tensor([1, 2, 3]), 4
    whole, averaged = halves(
        lambda s: losses.masked_language(logits[s], labels[s], teacher[s], 0.4, axis),
        labels != IGNORED,
    )
    assert averaged == pytest.approx(whole, rel=1e-5)


def test_token_replaced_in_two_processes_averages_to_the_whole():
    logits, labels = torch.randn(4, 3, 2), torch.randint(2, (4, 3))
    labels[1:] = IGNORED
    labels[3, 2] = 1
    whole, averaged = halves(lambda s: losses.token_replaced(logits[s], labels[s]), labels != IGNORED)
    assert averaged == pytest.approx(whole, rel=1e-5)


def test_attribute_matching_in_two_processes_averages_to_the_whole():
    logits, matches = torch.randn(4, 2, 2), torch.randint(2, (4,))
    present = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    valid = torch.tensor([True, True, True, True])
    whole, averaged = halves(
        lambda s: losses.attribute_matching(logits[s], present[s], matches[s], valid[s]),
        valid & present.any(1),
    )
    assert averaged == pytest.approx(whole, rel=1e-5)
