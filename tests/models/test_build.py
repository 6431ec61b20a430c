"""From a configuration to a model."""

import pytest
from tiny_model import SPECIAL

from configs.loading import resolve_config
from dataset.batch import SpecialTokens
from models.build import build_model

TINY = {
    "image_res": [32, 16],
    "patch_size": 8,
    "vision_width": 16,
    "vision_depth": 3,
    "vision_heads": 2,
    "decoder_depth": 1,
    "decoder_heads": 4,
    "embed_dim": 10,
    "max_words": 20,
    "queue_size": 24,
    "bert_config": {
        "vocab_size": 40,
        "hidden_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "intermediate_size": 48,
        "max_position_embeddings": 20,
        "fusion_layer": 1,
        "encoder_width": 16,
    },
}


def model_of(**changed):
    return build_model(resolve_config({**TINY, **changed}, "test"), SPECIAL)


def test_sizes_come_from_the_configuration():
    model = model_of()
    assert model.grid == (4, 2)
    assert (len(model.visual_encoder.blocks), model.visual_encoder.blocks[0].attn.heads) == (3, 2)
    assert (len(model.visual_decoder.blocks), model.visual_decoder.blocks[0].attn1.heads) == (1, 4)
    assert (len(model.text_encoder.bert.encoder.layer), model.text_encoder.size.fusion_layer) == (4, 1)
    assert model.text_encoder.bert.encoder.layer[0].attention.heads == 3
    assert model.decoder_pred.out_features == 3 * 8 * 8
    assert model.image_queue.shape == (10, 24)


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("temp", 0.05, "temp"),
        ("momentum", 0.9, "momentum"),
        ("mask_ratio", 0.5, "mask_ratio"),
        ("mlm_probability", 0.25, "mlm_probability"),
        ("mrtd_mask_probability", 0.45, "mrtd_mask_probability"),
        ("mlm_distill_axis", "positions", "mlm_distill_axis"),
        ("contrastive_keys", "online", "contrastive_keys"),
        ("attribute_negatives", "unshared", "attribute_negatives"),
    ],
)
def test_the_objective_comes_from_the_configuration(key, value, field):
    assert getattr(model_of(**{key: value}).objective, field) == value


def test_contrastive_terms_come_from_the_configuration():
    assert model_of().objective.contrastive_terms == ["i2t", "t2i", "i2i", "t2t"]
    assert model_of(contrastive_terms=["t2i"]).objective.contrastive_terms == ["t2i"]


def test_temp_starts_at_the_configured_value_and_is_learned():
    model = model_of(temp=0.05)
    assert model.temp.item() == pytest.approx(0.05)
    assert model.temp.requires_grad


def test_weights_reach_the_model_by_name():
    model = model_of(weights=[0.5, 1, 1, 0, 0.25])
    assert model.objective.weights == {"cl": 0.5, "pitm": 1, "mlm": 1, "prd": 0, "mrtd": 0.25, "mae": 0, "attribute": 0}
    assert not hasattr(model, "prd_head")
    assert hasattr(model, "mrtd_head")


@pytest.mark.parametrize(("full_ca", "first"), [(True, 0), (False, 1)])
def test_cross_attention_starts_where_bert_config_says(full_ca, first):
    layers = model_of(bert_config={**TINY["bert_config"], "full_ca": full_ca}).text_encoder.bert.encoder.layer
    assert [hasattr(layer, "crossattention") for layer in layers] == [n >= first for n in range(4)]


def test_the_tokenizer_decides_on_padding():
    special = SpecialTokens(pad=5, cls=1, sep=2, mask=3)
    model = build_model(resolve_config(TINY, "test", ["bert_config.vocab_size=33"]), special)
    words = model.text_encoder.bert.embeddings.word_embeddings
    assert (words.num_embeddings, words.padding_idx) == (33, 5)
    assert model.special == special


def test_gradient_checkpointing_reaches_every_encoder():
    for flag in (False, True):
        model = model_of(gradient_checkpointing=flag)
        parts = (model.visual_encoder, model.text_encoder, model.visual_decoder)
        assert [part.gradient_checkpointing for part in parts] == [flag] * 3
