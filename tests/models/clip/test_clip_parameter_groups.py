"""Learning rates by name and epoch."""

import pytest

from models.clip.parameter_groups import ParameterRates, epoch_factor


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("base_model.visual.proj", (1, 4)),
        ("base_model.visual.ln_pre.bias", (2, 0)),
        ("base_model.transformer.resblocks.0.attn.in_proj_bias", (2, 0)),
        ("cross_attn.in_proj_weight", (5, 4)),
        ("cross_modal_transformer.resblocks.0.ln_1.weight", (5, 4)),
        ("cross_attn.in_proj_bias", (2, 0)),
        ("ln_pre_t.weight", (1, 4)),
        ("ln_post.bias", (2, 0)),
        ("classifier.weight", (5, 4)),
        ("classifier.bias", (5, 0)),
        ("mlm_head.ln.bias", (5, 0)),
        ("visul_emb_layer.mlp.bns.0.weight", (7, 4)),
        ("texual_emb_layer.linear.bias", (7, 0)),
    ],
)
def test_rules_by_name(name, rates):
    assert ParameterRates(lr=1, weight_decay=4, selection=7).of(name) == rates


@pytest.mark.parametrize(("epoch", "factor"), [(1, 0.1), (2, 0.28), (5, 0.82), (6, 1.0), (60, 0.000815), (61, 0.0)])
def test_rise_and_fall(epoch, factor):
    assert epoch_factor(epoch) == pytest.approx(factor, abs=1e-6)
