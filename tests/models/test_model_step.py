"""A training step of the whole model, against one caption and one image at a time."""

from dataclasses import dataclass, fields, replace
from functools import cache

import pytest
import torch
from tiny_model import (
    SPECIAL,
    VISION,
    VOCABULARY,
    only,
    tiny_batch,
    tiny_draws,
    tiny_model,
    weights,
)
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from dataset.batch import TextTokens, TrainBatch
from models import person_search
from models.decoder import patchify
from models.draws import RandomDraws, StepNoise, pick
from models.fusion import Pairing
from models.losses import IGNORED, LOSS_NAMES
from models.person_search import PersonSearchModel, negative_weights
from models.vision import PatchSubset
from utils.optimization import clip_gradients, make_optimizer

IDENTITIES = [0, 1, 0, 2]
STYLES = pytest.mark.parametrize("full_ca", [True, False], ids=["full", "partial"])


@dataclass(frozen=True)
class ChosenNegatives(RandomDraws):
    """Our draws, but for stated negatives: an image for each text, a text for each image."""

    image: tuple[int, ...] = (1, 2, 3, 0)
    text: tuple[int, ...] = (3, 0, 1, 2)

    def hard_negatives(self, image_weights: Tensor, text_weights: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.image), torch.tensor(self.text)


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


def lived_in(model: PersonSearchModel) -> PersonSearchModel:
    """Momentum parameters apart from the online ones, and a queue that is partly filled."""
    torch.manual_seed(3)
    with torch.no_grad():
        for momentum in model.momentum_pairs()[0]:
            momentum += 0.1 * torch.randn_like(momentum)
    model.idx_queue[0, :5] = torch.tensor([0, 9, 1, 1, 8])
    model.queue_ptr[:] = 10  # a batch of four wraps around
    return model.train()


def step(model: PersonSearchModel, batch: TrainBatch, draws: RandomDraws | None = None, **options) -> dict[str, Tensor]:
    options = {"alpha": 0.4, "follow": False} | options
    return model(batch, draws or tiny_draws(batch.size), **options)


def parameters(model: PersonSearchModel) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


# ---- the plain twin of a step: pair by pair, without padding ---------------------------


class PlainStep:
    """The losses of a batch with chosen negatives, from one caption and one image at a time."""

    def __init__(self, model: PersonSearchModel, batch: TrainBatch, draws: ChosenNegatives, alpha: float):
        self.model, self.batch, self.draws, self.alpha = model, batch, draws, alpha
        self.rows = range(batch.size)

    def words(self, text: TextTokens, row: int) -> Tensor:
        """[1, length] ids of real words."""
        return text.ids[row][text.mask[row]][None]

    def fuse(self, ids: Tensor, image: int, momentum: bool = False) -> Tensor:
        """States [length, D] of ids [1, length] with image number `image`."""
        suffix, images = ("_m", self.batch.image2) if momentum else ("", self.batch.image1)
        encoder = getattr(self.model, f"text_encoder{suffix}")
        tokens = getattr(self.model, f"visual_encoder{suffix}")(images[image : image + 1])
        mask = torch.ones_like(ids, dtype=torch.bool)
        return encoder.fuse(encoder.begin(ids, mask), mask, encoder.remember(tokens), Pairing())[0]

    def embeddings(self, suffix: str) -> tuple[Tensor, Tensor]:
        """Image and text embeddings [B, E]."""
        images = self.batch.image2 if suffix else self.batch.image1
        vision, text = (getattr(self.model, f"{part}_encoder{suffix}") for part in ("visual", "text"))
        rows = []
        for row in self.rows:
            ids = self.words(self.batch.caption2, row)
            mask = torch.ones_like(ids, dtype=torch.bool)
            image = getattr(self.model, f"vision_proj{suffix}")(vision(images[row : row + 1])[0, 0])
            caption = getattr(self.model, f"text_proj{suffix}")(text.read(text.begin(ids, mask), mask)[0, 0])
            rows.append((image / image.norm(), caption / caption.norm()))
        return tuple(torch.stack(part) for part in zip(*rows, strict=True))

    def cl(self) -> Tensor:
        online, momentum = (dict(zip("it", self.embeddings(suffix), strict=True)) for suffix in ("", "_m"))
        known, alpha, answers = self.batch.identity.tolist(), 0.0, online
        if self.model.objective.contrastive_keys == "momentum":
            known, alpha = known + self.model.idx_queue[0].tolist(), self.alpha
            queues = {"i": self.model.image_queue.T, "t": self.model.text_queue.T}
            answers = {kind: torch.cat([momentum[kind], queues[kind]]) for kind in "it"}
        terms = []
        for query, _, key in self.model.objective.contrastive_terms:
            for row in self.rows:
                same = torch.tensor([float(other == int(self.batch.identity[row])) for other in known])
                soft = (momentum[query][row] @ answers[key].T / self.model.temp).softmax(0).detach()
                targets = alpha * soft + (1 - alpha) * same / same.sum()
                logits = online[query][row] @ answers[key].T / self.model.temp
                terms.append(-(logits.log_softmax(0) * targets).sum())
        return torch.stack(terms).mean()

    def pairs(self) -> list[tuple[int, int, int]]:
        """(text, image, match): positives, texts with a negative image, negative texts with an image."""
        positives = [(row, row, 1) for row in self.rows]
        with_image = [(row, self.draws.image[row], 0) for row in self.rows]
        return positives + with_image + [(self.draws.text[row], row, 0) for row in self.rows]

    def pitm(self) -> Tensor:
        values = []
        for text, image, match in self.pairs():
            states = self.fuse(self.words(self.batch.caption2, text), image)
            values.append(cross_entropy(self.model.itm_head(states[0]), torch.tensor(match)))
        return torch.stack(values).mean()

    def attribute(self) -> Tensor:
        per_caption = []
        for text, image, match in self.pairs():
            states = self.fuse(self.words(self.batch.caption2, text), image)
            numbers = self.batch.attributes[text]
            values = []
            for number in range(1, int(numbers.max()) + 1):
                places = (numbers == number).nonzero().flatten().tolist()
                vector = sum(states[place] for place in places) / len(places)
                values.append(cross_entropy(self.model.itm_head(vector), torch.tensor(match)))
            if values:
                per_caption.append(torch.stack(values).mean())
        return torch.stack(per_caption).mean()

    def prd(self) -> Tensor:
        values = []
        for row in self.rows:
            states = self.fuse(self.words(self.batch.caption2, row), row)
            values.append(cross_entropy(self.model.prd_head(states[0]), self.batch.replaced[row]))
        return torch.stack(values).mean()

    def mlm(self) -> Tensor:
        drawn = self.draws.masked_tokens(self.batch.caption, "mlm", self.model.objective.mlm_probability)
        ids, labels = drawn.ids, drawn.labels
        values = []
        for row in self.rows:
            given = self.words(TextTokens(ids, self.batch.caption.mask), row)
            student = self.model.text_encoder.vocabulary_logits(self.fuse(given, row)).log_softmax(-1)
            teacher = self.model.text_encoder_m.vocabulary_logits(self.fuse(given, row, momentum=True)).softmax(-1)
            for place in range(given.shape[1]):
                label = int(labels[row, place])
                if label != IGNORED:
                    distilled = -(teacher[place] * student[place]).sum()
                    values.append((1 - self.alpha) * -student[place, label] + self.alpha * distilled)
        return torch.stack(values).mean()

    def mrtd(self) -> Tensor:
        caption, noise = self.batch.caption, self.draws.noise.sampled
        ids = self.draws.masked_tokens(caption, "mrtd", self.model.objective.mrtd_mask_probability).ids
        values = []
        for row in self.rows:
            original, given = (self.words(TextTokens(part, caption.mask), row) for part in (caption.ids, ids))
            states = self.fuse(given, row, momentum=True)
            chances = self.model.text_encoder_m.vocabulary_logits(states).softmax(-1)
            new = pick(chances, noise[row, : len(chances)])
            new[0] = SPECIAL.cls
            logits = self.model.mrtd_head(self.fuse(new[None], row))
            for place, (word, old) in enumerate(zip(new.tolist(), original[0].tolist(), strict=True)):
                if word not in (SPECIAL.cls, SPECIAL.pad):
                    values.append(cross_entropy(logits[place], torch.tensor(int(word != old))))
        return torch.stack(values).mean()

    def mae(self) -> Tensor:
        values = []
        for row in self.rows:
            image, text = self.batch.image1[row : row + 1], self.batch.caption2
            ids = self.words(text, row)
            reading = self.model.encode_text(TextTokens(ids, torch.ones_like(ids, dtype=torch.bool)))
            noise = self.draws.noise.patches[row : row + 1]
            keep = PatchSubset.from_noise(noise, self.model.objective.mask_ratio)
            pixels, wanted = self.model.predict_patches(image, keep, reading), patchify(image, VISION.patch_size)
            for place in keep.removed[0].nonzero().flatten().tolist():
                values.append((pixels[0, place] - wanted[0, place]).square().mean())
        return torch.stack(values).mean()


@pytest.mark.parametrize("alpha", [0.0, 0.4])
@STYLES
def test_every_loss_is_that_of_single_pairs(full_ca, alpha):
    chances = {"mlm_probability": 0.4, "mrtd_mask_probability": 0.5, "mask_ratio": 0.5}
    model = lived_in(tiny_model(full_ca=full_ca, objective=chances))
    batch, draws = tiny_batch(IDENTITIES), tiny_draws(4)
    draws = ChosenNegatives(draws.noise, draws.special, draws.vocabulary_size)
    with torch.no_grad():
        plain = PlainStep(model, batch, draws, alpha)
        expected = {name: getattr(plain, name)() for name in LOSS_NAMES}
        found = step(model, batch, draws, alpha=alpha)
    assert set(found) == set(LOSS_NAMES)
    for name in LOSS_NAMES:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("keys", ["momentum", "online"])
@pytest.mark.parametrize("terms", [("i2t", "t2i"), ("i2i",), ("t2i",), ("t2t", "i2t", "i2i", "t2i")])
def test_the_contrastive_loss_has_the_configured_terms_and_keys(terms, keys):
    objective = {"contrastive_terms": terms, "contrastive_keys": keys}
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


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_a_loss_alone_is_the_same_as_among_all(name):
    model = tiny_model(only(name))
    model.load_state_dict(lived_in(tiny_model()).state_dict(), strict=False)
    found = step(model.train(), tiny_batch(IDENTITIES))
    assert list(found) == [name]
    assert found[name].item() == pytest.approx(all_losses()[name], rel=1e-5)


@pytest.mark.parametrize(
    ("missing", "parts"),
    [("prd", {"prd_head"}), ("mrtd", {"mrtd_head"}),
     ("mae", {"visual_decoder", "mask_token", "visual_decoder_pos_embed", "decoder_pred"})],
)
def test_the_parts_of_a_loss_of_weight_zero_are_not_built(missing, parts):
    def built(model: PersonSearchModel) -> set[str]:
        return {name.split(".")[0] for name in model.state_dict()}

    assert built(tiny_model()) - built(tiny_model(weights(**{missing: 0.0}))) == parts


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_a_loss_of_weight_zero_is_absent(name):
    found = step(tiny_model(weights(**{name: 0.0})).train(), tiny_batch(IDENTITIES))
    assert set(found) == set(LOSS_NAMES) - {name}


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


def test_alpha_zero_ignores_the_opinion_of_the_momentum_model():
    losses = []
    for shift in (0.0, 1.0):
        model = lived_in(tiny_model(objective={"mlm_probability": 0.5}))
        with torch.no_grad():  # another momentum opinion on words
            model.text_encoder_m.cls.predictions.bias += shift * torch.arange(VOCABULARY)
        losses.append([step(model, tiny_batch(IDENTITIES), alpha=alpha)["mlm"].item() for alpha in (0.0, 0.4)])
    assert losses[0][0] == losses[1][0]
    assert losses[0][1] != losses[1][1]


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
    assert set(found) == set(LOSS_NAMES)
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
    pairs = [[False, True, False, False], [True, False, False, False],
             [False, False, False, False], [False, False, False, False]]
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


def test_without_follow_the_momentum_model_stays():
    model = lived_in(tiny_model())
    before = parameters(model)
    step(model, tiny_batch(IDENTITIES), follow=False)
    assert all(torch.equal(value, before[name]) for name, value in parameters(model).items())


def test_with_follow_the_momentum_model_moves_before_it_is_used():
    one, other = lived_in(tiny_model()), lived_in(tiny_model())
    found = step(one, tiny_batch(IDENTITIES), follow=True)
    other.follow(other.objective.momentum)
    expected = step(other, tiny_batch(IDENTITIES), follow=False)
    assert found["cl"].item() != pytest.approx(all_losses()["cl"], rel=1e-6)
    assert {n: v.item() for n, v in found.items()} == {n: v.item() for n, v in expected.items()}
    assert all(torch.equal(value, parameters(other)[name]) for name, value in parameters(one).items())


@pytest.mark.parametrize("loss_weights", [weights(), weights(cl=0.0)])
def test_a_step_writes_its_momentum_embeddings_into_the_queues(loss_weights):
    model, batch = lived_in(tiny_model(loss_weights)), tiny_batch(IDENTITIES)
    plain = PlainStep(model, batch, ChosenNegatives(tiny_draws(4).noise, SPECIAL, VOCABULARY), 0.4)
    with torch.no_grad():
        image, text = plain.embeddings("_m")
    before = model.image_queue.clone()
    step(model, batch)
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
    reading, (tokens, _) = model.encode_text(batch.caption2), model.encode_image(batch.image1)
    scores = model.match_scores(
        reading.begun, batch.caption2.mask, model.text_encoder.remember(tokens), Pairing(0, torch.tensor([3, 3, 0, 1]))
    )
    rows = [plain.fuse(plain.words(batch.caption2, text), image) for text, image in enumerate((3, 3, 0, 1))]
    torch.testing.assert_close(scores, torch.stack([model.itm_head(row[0])[1] for row in rows]), atol=1e-5, rtol=1e-4)


def test_the_two_logits_of_matching_stay_opposite_in_training():
    model = tiny_model()
    optimizer = make_optimizer(model.named_parameters(), 1e-2, 1e-2, (), 0.1, (0.9, 0.999), 1e-8)
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
def test_a_step_asks_the_device_nothing(axis):
    model = lived_in(tiny_model(objective={"mlm_distill_axis": axis}))
    batch, draws = tiny_batch(IDENTITIES), tiny_draws(len(IDENTITIES))
    pixels = [(50 * image).clamp(0, 255).byte() for image in (batch.image1, batch.image2)]
    batch = replace(batch, image1=pixels[0], image2=pixels[1])
    device = torch.device("cpu")
    batch.to(device)  # what is copied once and then kept
    with NoQuestions():
        found = model(batch.to(device), draws.to(device), 0.4, follow=True)
        sum(found.values()).backward()
        clip_gradients(model, 1.0)
    assert all(value.isfinite() for value in found.values())


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
    model = lived_in(tiny_model())
    with torch.autocast("cpu", torch.bfloat16):
        found = step(model, tiny_batch(IDENTITIES))
        total = sum(found.values())
    total.backward()
    for name, value in found.items():
        assert value.dtype == torch.float32, name
        assert value.item() == pytest.approx(all_losses()[name], rel=0.05, abs=0.02), name
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
    return value[rows]


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

    def gather_rows(self, rows: Tensor) -> Tensor:
        return torch.cat(self.both(rows.detach()))

    def mean_over_processes(self, value: Tensor) -> Tensor:
        return torch.stack(self.both(value)).mean()


def test_two_processes_average_to_one_with_the_whole_batch(monkeypatch):
    objective = {"mlm_probability": 0.4}
    batch, draws = tiny_batch([0, 1, 1, 2, 3, 3, 3, 3]), tiny_draws(8, epoch=8)

    def run(rows: slice) -> tuple[PersonSearchModel, dict[str, Tensor]]:
        model = lived_in(tiny_model(objective=objective))
        part = RandomDraws(half(draws.noise, rows), SPECIAL, VOCABULARY)
        found = step(model, half(batch, rows), part, negatives_within=4)
        sum(found.values()).backward()
        return model, found

    whole, expected = run(slice(0, 8))
    exchange, processes = Exchange(), []
    monkeypatch.setattr(person_search, "gather_rows", exchange.gather_rows)
    monkeypatch.setattr(person_search, "mean_over_processes", exchange.mean_over_processes)
    monkeypatch.setattr("models.momentum.gather_rows", exchange.gather_rows)
    for answering in (False, True):
        for process in (0, 1):
            exchange.begin(process, answering)
            processes.append(run(slice(4 * process, 4 * process + 4)))
    (one, first), (two, second) = processes[2:]
    # what is counted differs between the processes, so that a mean of means would be wrong
    counts = [[int(value) for value in exchange.sent[process] if value.ndim == 0] for process in (0, 1)]
    assert all(left != right for left, right in zip(*counts, strict=True)), counts
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
