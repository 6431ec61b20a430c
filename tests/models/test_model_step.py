"""A training step of the whole model, against one caption and one image at a time."""

from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from plain_step import ChosenNegatives, PlainStep
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
    weights,
)
from torch import Tensor

from dataset.batch import TextTokens
from models.losses import IGNORED
from models.objectives import LOSSES, Loss, only
from models.pairing import Pairing
from models.person_search import PersonSearchModel, negative_weights
from models.randomness import RandomDraws
from models.training_step import QueueEntry

STYLES = pytest.mark.parametrize("full_ca", [True, False], ids=["full", "partial"])


@dataclass(frozen=True)
class SpyingDraws(RandomDraws):
    """Our draws; keeps the weights that negatives are drawn by."""

    seen: tuple[list, list] = ((), ())

    def hard_negatives(self, image_weights: Tensor, text_weights: Tensor) -> tuple[Tensor, Tensor]:
        self.seen[0].append(image_weights)
        self.seen[1].append(text_weights)
        return super().hard_negatives(image_weights, text_weights)


def spying(draws: RandomDraws) -> SpyingDraws:
    return SpyingDraws(draws.noise, draws.special, draws.vocabulary_size, seen=([], []))


def parameters(model: PersonSearchModel) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("alpha", [0.0, 0.4])
@STYLES
def test_every_loss_is_that_of_single_pairs(full_ca, alpha):
    chances = {"mlm_probability": 0.4, "mrtd_mask_probability": 0.5, "mask_ratio": 0.5}
    model = lived_in(tiny_model(full_ca=full_ca, objective=chances))
    batch, draws = tiny_batch(IDENTITIES), tiny_draws(4)
    draws = ChosenNegatives(draws.noise, draws.special, draws.vocabulary_size)
    with torch.no_grad():
        plain = PlainStep(model, batch, draws, alpha)
        expected = {name: plain.loss(name) for name in LOSSES}
        found = step(model, batch, draws, alpha=alpha)
    assert set(found) == set(LOSSES)
    for name in LOSSES:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_attributes_that_the_caption_of_a_negative_image_names_too_are_left_out_when_asked():
    model = lived_in(tiny_model(only("attribute"), objective={"attribute_negatives": "unshared"}))
    batch, draws = tiny_batch(IDENTITIES), tiny_draws(4)
    words, attributes = batch.caption2.ids.clone(), torch.zeros_like(batch.attributes)
    attributes[:, 1:3], attributes[:, 3] = 1, 2
    words[:, 1:3], words[0, 1:3] = torch.tensor([7, 8]), torch.tensor([8, 7])  # the first is that of all captions
    words[:, 3] = torch.arange(10, 10 + batch.size)
    batch = replace(batch, caption2=replace(batch.caption2, ids=words), attributes=attributes, attribute_count=2)
    draws = ChosenNegatives(draws.noise, draws.special, draws.vocabulary_size)
    with torch.no_grad():
        expected = PlainStep(model, batch, draws, 0.0).attribute()
        found = step(model, batch, draws)["attribute"]
        model.objective = model.objective.model_copy(update={"attribute_negatives": "all"})
        published = step(model, batch, draws)["attribute"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert abs(found - published) > 1e-3


@pytest.mark.parametrize("keys", ["momentum", "online"])
@pytest.mark.parametrize("terms", [("i2t", "t2i"), ("i2i",), ("t2i",), ("t2t", "i2t", "i2i", "t2i")])
def test_the_contrastive_loss_has_the_configured_terms_and_keys(terms, keys):
    objective = {"contrastive_terms": list(terms), "contrastive_keys": keys}
    found, expected = [], []
    for numbers, plainly in ((found, False), (expected, True)):
        model, batch = lived_in(tiny_model(only("cl"), objective=objective)), tiny_batch(IDENTITIES)
        loss = PlainStep(model, batch, None, 0.4).cl() if plainly else step(model, batch)["cl"]
        loss.backward()
        weights = (model.vision_proj.weight, model.text_proj.weight, model.temp)
        numbers += [loss.detach(), *(torch.zeros_like(w) if w.grad is None else w.grad for w in weights)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("loss_weights", [only("cl"), only("cl", "prd", "mae")])
def test_online_keys_alone_never_ask_the_momentum_model(loss_weights, monkeypatch):
    model = lived_in(tiny_model(loss_weights, objective={"contrastive_keys": "online"}))
    monkeypatch.setattr(model, "encode_momentum", None)
    found = step(model, tiny_batch(IDENTITIES))
    assert {name for name, weight in loss_weights.items() if weight} == set(found)
    assert all(value.isfinite() for value in found.values())


# ---- losses by configuration -----------------------------------------------------------


@cache
def all_losses() -> dict[str, float]:
    model = lived_in(tiny_model())
    return {name: value.item() for name, value in step(model, tiny_batch(IDENTITIES)).items()}


@pytest.mark.parametrize("name", list(LOSSES))
def test_a_loss_alone_is_the_same_as_among_all(name):
    model = tiny_model(only(name))
    model.load_state_dict(lived_in(tiny_model()).state_dict(), strict=False)
    found = step(model.train(), tiny_batch(IDENTITIES))
    assert list(found) == [name]
    assert found[name].item() == pytest.approx(all_losses()[name], rel=1e-5)


@pytest.mark.parametrize(
    ("missing", "parts"),
    [
        ("prd", {"prd_head"}),
        ("mrtd", {"mrtd_head"}),
        ("mae", {"visual_decoder", "mask_token", "visual_decoder_pos_embed", "decoder_pred"}),
    ],
)
def test_the_parts_of_a_loss_of_weight_zero_are_not_built(missing, parts):
    def built(model: PersonSearchModel) -> set[str]:
        return {name.split(".")[0] for name in model.state_dict()}

    assert built(tiny_model()) - built(tiny_model(weights(**{missing: 0.0}))) == parts


@pytest.mark.parametrize("name", list(LOSSES))
def test_a_loss_of_weight_zero_is_absent(name):
    found = step(tiny_model(weights(**{name: 0.0})).train(), tiny_batch(IDENTITIES))
    assert set(found) == set(LOSSES) - {name}


@STYLES
def test_every_trainable_parameter_gets_a_gradient_when_all_losses_count(full_ca):
    model = lived_in(tiny_model(full_ca=full_ca, objective={"mlm_probability": 0.5}))
    sum(step(model, tiny_batch(IDENTITIES)).values()).backward()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, name
        else:
            assert parameter.grad.isfinite().all(), name
            # a bias of keys shifts all scores of a query alike: its gradient is zero
            assert name.endswith("key.bias") or parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("keys", ["momentum", "online"])
@pytest.mark.parametrize("terms", [["i2t"], ["t2i"], ["i2i"], ["t2t"], ["i2t", "i2i"], ["i2t", "t2i"], ["i2i", "t2t"]])
def test_it_is_known_whether_some_parameter_gets_no_gradient(terms, keys):
    model = tiny_model(objective={"contrastive_terms": terms, "contrastive_keys": keys})
    sum(step(model, tiny_batch(IDENTITIES)).values()).backward()
    without = [name for name, part in model.named_parameters() if part.requires_grad and part.grad is None]
    assert model.objective.teaches_all == (not without), without


def test_alpha_zero_ignores_the_opinion_of_the_momentum_model():
    losses = []
    for shift in (0.0, 1.0):
        model = lived_in(tiny_model(objective={"mlm_probability": 0.5}))
        with torch.no_grad():  # another momentum opinion on words
            model.text_encoder_m.cls.predictions.bias += shift * torch.arange(VOCABULARY)
        losses.append([step(model, tiny_batch(IDENTITIES), alpha=alpha)["mlm"].item() for alpha in (0.0, 0.4)])
    assert losses[0][0] == losses[1][0]
    assert losses[0][1] != losses[1][1]


@pytest.mark.parametrize("rows", [("positive",), ("positive", "negative_image"), ("negative_text",), ("masked",)])
def test_the_rows_that_a_loss_asks_for_are_fused_and_no_others(rows, monkeypatch):
    fused = []

    def spy(given):
        fused.extend(given.fused)
        return given.tokens.mean()

    monkeypatch.setitem(LOSSES, "spy", Loss(spy, rows, momentum="always", weight=1.0))
    step(lived_in(tiny_model(only("spy"))), tiny_batch(IDENTITIES))
    assert sorted(fused) == sorted(rows)


# ---- edges -----------------------------------------------------------------------------


def test_a_batch_of_one_identity_learns_from_positives_alone():
    model, batch = lived_in(tiny_model()), tiny_batch([4, 4, 4])
    found = step(model, batch)
    sum(found.values()).backward()
    assert all(value.isfinite() for value in found.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    plain = PlainStep(model, batch, ChosenNegatives(tiny_draws(3).noise, SPECIAL, VOCABULARY), 0.4)
    plain.pairs = lambda: [(row, row, 1) for row in range(3)]
    assert found["pitm"].item() == pytest.approx(plain.pitm().item(), rel=1e-5)
    assert found["attribute"].item() == pytest.approx(plain.attribute().item(), rel=1e-5)


def test_a_batch_of_a_single_sample_gives_finite_losses():
    found = step(lived_in(tiny_model()), tiny_batch([4]))
    assert set(found) == set(LOSSES)
    assert all(value.isfinite() for value in found.values())


def test_a_sample_without_a_negative_takes_part_with_its_positive_alone():
    # the first group of two holds one identity, the second two
    model = lived_in(tiny_model(only("pitm")))
    batch = tiny_batch([5, 5, 6, 7])
    draws = ChosenNegatives(tiny_draws(4).noise, SPECIAL, VOCABULARY, image=(0, 0, 3, 2), text=(0, 0, 3, 2))
    plain = PlainStep(model, batch, draws, 0.4)
    plain.pairs = lambda: [(r, r, 1) for r in range(4)] + [(2, 3, 0), (3, 2, 0), (3, 2, 0), (2, 3, 0)]
    found = step(model, batch, draws, negatives_within=2)
    assert found["pitm"].item() == pytest.approx(plain.pitm().item(), rel=1e-5)


def test_without_attributes_the_attribute_loss_is_zero_with_a_zero_gradient():
    model = lived_in(tiny_model(only("attribute")))
    loss = step(model, tiny_batch(IDENTITIES, with_attributes=False))["attribute"]
    loss.backward()
    assert loss.item() == 0
    assert all((p.grad == 0).all() for p in model.parameters() if p.grad is not None)


def test_without_soft_targets_masked_words_are_learned_without_the_momentum_model():
    model, batch = lived_in(tiny_model(only("mlm"), objective={"contrastive_keys": "online"})), tiny_batch(IDENTITIES)
    draws = tiny_draws(batch.size)
    expected = PlainStep(model, batch, draws, 0.0).mlm().item()
    with torch.no_grad():
        for momentum in model.momentum_pairs()[0]:
            momentum.fill_(torch.nan)
    assert step(model, batch, draws, alpha=0.0)["mlm"].item() == pytest.approx(expected, rel=1e-5)
    assert step(model, batch, draws, alpha=0.4)["mlm"].isnan()


def test_losses_without_a_masked_word_are_finite():
    model = lived_in(tiny_model(objective={"mlm_probability": 0.0, "mrtd_mask_probability": 0.0}))
    found = step(model, tiny_batch(IDENTITIES))
    sum(found.values()).backward()
    assert found["mlm"].item() == 0
    assert found["mrtd"].isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_word_labels_of_mrtd_by_hand():
    # [CLS] 5 6 7 [SEP] pad: 5 kept, 6 replaced, 7 drawn as padding, [SEP] drawn as [CLS]
    text = TextTokens(torch.tensor([[1, 5, 6, 7, 2, 0]]), torch.tensor([[True] * 5 + [False]]))
    words = tiny_model(only("mrtd")).label_replaced(text, torch.tensor([[9, 5, 8, 0, 1, 30]]))
    assert words.ids.tolist() == [[1, 5, 8, 0, 1, 0]]
    assert words.labels.tolist() == [[IGNORED, 0, 1, IGNORED, IGNORED, IGNORED]]


# ---- hard negatives --------------------------------------------------------------------


def drawn_weights(model: PersonSearchModel, identities: list[int], **options) -> tuple[Tensor, Tensor]:
    """(weights of images for each text, of texts for each image) of one step."""
    batch = tiny_batch(identities)
    draws = spying(tiny_draws(batch.size))
    step(model, batch, draws, **options)
    return draws.seen[0][0], draws.seen[1][0]


def test_negatives_are_of_another_identity_and_likelier_the_more_similar():
    model, batch = lived_in(tiny_model(only("pitm"))), tiny_batch([0, 1, 0, 2, 3])
    plain = PlainStep(model, batch, ChosenNegatives(tiny_draws(5).noise, SPECIAL, VOCABULARY), 0.4)
    with torch.no_grad():
        (image, text), (image_m, text_m) = plain.embeddings(""), plain.embeddings("_m")
    for found, similar in zip(drawn_weights(model, [0, 1, 0, 2, 3]), (text @ image_m.T, image @ text_m.T), strict=True):
        expected = (similar / model.temp.item()).exp() * (batch.identity[:, None] != batch.identity)
        torch.testing.assert_close(
            found / found.sum(1, keepdim=True), expected / expected.sum(1, keepdim=True), atol=1e-5, rtol=1e-3
        )


def test_negatives_stay_within_their_group():
    model = lived_in(tiny_model(only("pitm")))
    pairs = [
        [False, True, False, False],
        [True, False, False, False],
        [False, False, False, False],
        [False, False, False, False],
    ]
    for found in drawn_weights(model, [0, 1, 2, 2], negatives_within=2):
        assert (found > 0).tolist() == pairs


def test_a_sure_positive_leaves_weight_for_negatives_at_a_low_temperature():
    # beside exp(0), exp(-200) rounds to 0 in float32: one third and two thirds must remain
    logits = torch.tensor([[200.0, 0.0, torch.tensor(2.0).log()]])
    found = negative_weights(logits, torch.tensor([[False, True, True]]))
    assert found.tolist() == [[0, pytest.approx(1 / 3), pytest.approx(2 / 3)]]


def test_a_row_without_an_allowed_pair_has_no_weight():
    found = negative_weights(torch.zeros(2, 2), torch.tensor([[False, False], [True, False]]))
    assert found.tolist() == [[0, 0], [1, 0]]


# ---- state -----------------------------------------------------------------------------


def everything_of(model: PersonSearchModel) -> dict[str, object]:
    """All that a module holds, of every module in it: attributes, parameters, buffers and their gradients."""
    held: dict[str, object] = {}
    for name, module in model.named_modules():
        held |= {f"{name}.{key}": repr(value) for key, value in vars(module).items() if not key.startswith("_")}
        held |= {f"{name}.{key}": dict(vars(module)[key]).keys() for key in ("_modules", "_parameters", "_buffers")}
    return held | {name: value.clone() for name, value in model.state_dict().items()}


def test_forward_leaves_the_whole_module_untouched():
    model = lived_in(tiny_model())
    before = everything_of(model)
    sum(step(model, tiny_batch(IDENTITIES)).values()).backward()
    after = everything_of(model)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]) if isinstance(value, Tensor) else value == after[name], name


def test_what_an_abandoned_step_left_never_enters_the_queues():
    one, other = lived_in(tiny_model()), lived_in(tiny_model())
    step(one, tiny_batch(IDENTITIES), tiny_draws(4, epoch=7))  # abandoned
    for model in (one, other):
        model.advance([run_step(model, tiny_batch(IDENTITIES)).queued])
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_all_micro_batches_of_a_step_enter_the_queues():
    model = lived_in(tiny_model())
    model.advance([run_step(model, tiny_batch(IDENTITIES)).queued for _ in range(2)])
    assert model.queue_ptr.item() == (10 + 8) % 12


def test_the_momentum_model_follows_after_a_step():
    one, other = lived_in(tiny_model()), lived_in(tiny_model())
    one.advance([run_step(one, tiny_batch(IDENTITIES)).queued])
    other.follow(other.objective.momentum)
    assert all(torch.equal(value, parameters(other)[name]) for name, value in parameters(one).items())


def test_a_step_that_was_not_taken_moves_neither_queues_nor_momentum_model():
    model = lived_in(tiny_model())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    image, text, identity = run_step(model, tiny_batch(IDENTITIES)).queued
    model.advance([QueueEntry(image * torch.nan, text * torch.nan, identity)], torch.tensor(0.0))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("loss_weights", [weights(), weights(cl=0.0)])
def test_a_step_writes_its_momentum_embeddings_into_the_queues(loss_weights):
    model, batch = lived_in(tiny_model(loss_weights)), tiny_batch(IDENTITIES)
    plain = PlainStep(model, batch, ChosenNegatives(tiny_draws(4).noise, SPECIAL, VOCABULARY), 0.4)
    with torch.no_grad():
        image, text = plain.embeddings("_m")
    before = model.image_queue.clone()
    model.advance([run_step(model, batch).queued])
    slots = [10, 11, 0, 1]
    torch.testing.assert_close(model.image_queue[:, slots].T, image, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.text_queue[:, slots].T, text, atol=1e-5, rtol=1e-4)
    assert torch.equal(model.image_queue[:, 2:10], before[:, 2:10])
    assert model.idx_queue[0].tolist() == [0, 2, 1, 1, 8, -100, -100, -100, -100, -100, 0, 1]
    assert model.queue_ptr.item() == 2


def test_embeddings_have_unit_length():
    model, batch = tiny_model().eval(), tiny_batch(IDENTITIES)
    _, image = model.encode_image(batch.image1)
    text = model.encode_text(batch.caption2).embedding
    torch.testing.assert_close(torch.cat([image, text]).norm(dim=1), torch.ones(8))


@torch.no_grad()
def test_match_scores_are_the_match_logit_of_the_fused_cls():
    model, batch = tiny_model().eval(), tiny_batch(IDENTITIES)
    plain = PlainStep(model, batch, None, 0.4)
    (tokens, _), caption = model.encode_image(batch.image1), batch.caption2
    scores = model.match_scores(
        model.text_encoder.encode_prefix(caption.ids, caption.mask),
        batch.caption2.mask,
        model.text_encoder.project_images(tokens),
        Pairing(0, torch.tensor([3, 3, 0, 1])),
    )
    rows = [plain.fuse(plain.words(batch.caption2, text), image) for text, image in enumerate((3, 3, 0, 1))]
    torch.testing.assert_close(scores, torch.stack([model.itm_head(row[0])[1] for row in rows]), atol=1e-5, rtol=1e-4)
