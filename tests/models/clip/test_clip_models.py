"""IRRA and RDE as models: their parts, unusual batches, captions without words."""

from dataclasses import replace

import pytest
import torch
from tiny_clip import SIZE, batch, captions, finite_gradients

from dataset.batch import MaskedCaptions
from models.clip.irra import IRRA, IrraSettings, loss_names
from models.clip.losses import PAIR_LOSSES, PairLossSettings
from models.clip.rde import RDE, RdeSettings
from models.clip.token_selection import selectable
from utils.errors import UserError
from utils.precision import autocast

NORMS = pytest.mark.parametrize("statistics", ["frozen", "batch"])


def irra(*losses: str, **settings) -> IRRA:
    torch.manual_seed(0)
    return IRRA(SIZE, IrraSettings(losses or ("sdm", "mlm", "id"), classes=3, cross_heads=2, cross_depth=1, **settings))


def rde(loss: str = "TAL", statistics: str = "frozen", **settings) -> RDE:
    torch.manual_seed(0)
    return RDE(SIZE, RdeSettings(loss, width=8, batch_norm=statistics, **settings))


# ---- IRRA ------------------------------------------------------------------------------


def test_parts_are_built_for_the_losses_that_need_them():
    parts = {name.partition(".")[0] for name in irra("sdm").state_dict()}
    assert parts == {"base_model"}
    assert "classifier.weight" in irra("id").state_dict() and "mlm_head.fc.bias" in irra("mlm").state_dict()


def test_published_names_of_losses():
    assert loss_names("sdm+mlm+id") == ("sdm", "mlm", "id")


def test_an_unknown_loss_is_refused():
    with pytest.raises(UserError, match=r"unknown loss 'smd' of IRRA \(did you mean 'sdm'\?\)"):
        irra("smd")


def test_a_classifier_needs_identities():
    with pytest.raises(UserError, match="loss id"):
        IRRA(SIZE, IrraSettings(("id",), classes=0))


def test_masked_words_need_masked_captions():
    with pytest.raises(UserError, match="needs captions with masked words"):
        irra("mlm")(batch(masked=False))


@pytest.mark.parametrize("identities", [(0, 0, 0), (1,)])
def test_irra_learns_from_one_identity(identities):
    model = irra("sdm", "mlm", "id", "itc", "cmpm").train()
    finite_gradients(model, sum(model.compute_losses(batch(identities)).values()))


def test_nothing_masked_is_no_loss():
    model, given = irra().train(), batch()
    masked = MaskedCaptions(given.ids, torch.zeros_like(given.ids))
    found = model.compute_losses(replace(given, masked=masked))
    assert found["mlm"] == 0
    finite_gradients(model, sum(found.values()))


def test_words_that_are_not_masked_need_no_logits():
    found = []
    for most in (None, 7):
        model, given = irra("mlm").train(), batch()
        model(replace(given, masked=replace(given.masked, most=most)).to(torch.device("cpu")))[0]["mlm"].backward()
        found.append({name: value.grad for name, value in model.named_parameters()})
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_captions_are_read_once_where_they_are_masked_in_place():
    model, given = irra(masked_captions=True), batch()
    calls = []
    model.base_model.transformer.register_forward_hook(lambda *_: calls.append(1))
    model.compute_losses(given)
    assert len(calls) == 1
    model.settings = replace(model.settings, masked_captions=False)
    model.compute_losses(given)
    assert len(calls) == 3


@pytest.mark.parametrize("build", [lambda: irra("sdm", "mlm", "id", "itc", "cmpm"), lambda: rde(statistics="batch")])
def test_a_step_in_bfloat16_is_near(build):
    found = {}
    for precision in ("fp32", "bf16"):
        model = build().train()
        with autocast(precision, "cpu"):
            found[precision] = model.compute_losses(batch())
        finite_gradients(model, sum(found[precision].values()))
    for name, value in found["fp32"].items():
        assert found["bf16"][name].dtype == torch.float32
        torch.testing.assert_close(found["bf16"][name], value, rtol=0.05, atol=0.05)


# ---- RDE -------------------------------------------------------------------------------


def test_an_unknown_loss_of_rde_is_refused():
    with pytest.raises(UserError, match="unknown loss 'TLA' of RDE"):
        rde("TLA")


@pytest.mark.parametrize("loss", list(PAIR_LOSSES))
@NORMS
@pytest.mark.parametrize("identities", [(0, 1, 1, 2), (0, 0, 0), (1,)])
def test_rde_learns_from_any_batch(loss, statistics, identities):
    model = rde(loss, statistics, pairs=PairLossSettings(tau=1e-3)).train()
    finite_gradients(model, sum(model.compute_losses(batch(identities)).values()))


@pytest.mark.parametrize("loss", list(PAIR_LOSSES))
def test_noisy_pairs_alone_teach_nothing(loss):
    model, given = rde(loss).train(), batch()
    total = sum(model.compute_losses(replace(given, clean=torch.zeros(4))).values())
    finite_gradients(model, total)
    assert total == 0 and not model.base_model.visual.proj.grad.any()


def test_what_can_be_selected():
    # two words; no word, so EOT; nothing but EOT
    found = selectable(torch.tensor([3, 1, 0]), 5).int().tolist()
    assert found == [[0, 1, 1, 0, 0], [0, 1, 0, 0, 0], [1, 0, 0, 0, 0]]


@NORMS
def test_a_caption_without_words_has_an_embedding_and_leaves_others_alone(statistics):
    model = rde(statistics=statistics).eval()
    together, alone = model.text_embeddings(captions(0, 3, 5))["tse"], model.text_embeddings(captions(1, 3, 5))["tse"]
    assert together.isfinite().all()
    torch.testing.assert_close(together[1:], alone[1:])
    finite_gradients(model, sum(model.compute_losses(replace(batch(), ids=captions(0, 3, 0, 5))).values()))


def test_one_caption_without_words_in_statistics_of_the_batch():
    model = rde(statistics="batch").train()
    features = model.text_features(captions(0))["tse"]
    finite_gradients(model, features.sum())


def test_padding_takes_no_part_in_statistics_of_the_batch():
    found = []
    for length in (10, 7):
        model = rde(statistics="batch", select_ratio=0.7).train()
        model.text_features(captions(1, 5)[:, :length])
        found.append(model.texual_emb_layer.mlp.bns[0].running_mean)
    torch.testing.assert_close(*found)


def test_short_captions_have_the_embeddings_of_padded_ones():
    model, ids = rde(select_ratio=0.9).eval(), captions(1, 3, 5)
    padded, short = model.text_embeddings(ids), model.text_embeddings(ids[:, :7])
    for name, value in padded.items():
        torch.testing.assert_close(short[name], value)
        torch.testing.assert_close(value.norm(dim=1), torch.ones(3))


def test_frozen_statistics_stay_whatever_the_mode():
    for model in (rde(), rde().train()):
        before = model.visul_emb_layer.mlp.bns[0].running_mean.clone()
        model.compute_losses(batch())
        assert torch.equal(model.visul_emb_layer.mlp.bns[0].running_mean, before)
