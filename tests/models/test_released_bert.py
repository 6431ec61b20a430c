"""BERT weights of a folder start the text encoder."""

import pytest
import torch
from test_released import mars
from tiny_model import FUSION

from models.fusion_size import FusionSize
from models.released import (
    load_language_model,
)
from utils.errors import UserError


def save_bert(folder, **changed) -> torch.nn.Module:
    """A random BERT of the tiny sizes in `folder`."""
    transformers = pytest.importorskip("transformers")
    sizes = {name: getattr(FUSION, name) for name in FusionSize.model_fields}
    for ours in ("fusion_layer", "encoder_width", "full_ca"):
        sizes.pop(ours)
    bert = transformers.BertForMaskedLM(transformers.BertConfig(**{**sizes, **changed}))
    bert.save_pretrained(folder)
    return bert


def test_bert_weights_start_the_text_encoder_and_its_momentum_copy(tmp_path):
    bert, model = save_bert(tmp_path).state_dict(), mars()
    fresh = model.text_encoder.bert.encoder.layer[0].crossattention.self.query.weight.clone()
    assert load_language_model(model, str(tmp_path))
    for encoder in (model.text_encoder, model.text_encoder_m):
        state = encoder.state_dict()
        assert all(torch.equal(state[name], value) for name, value in bert.items() if name in state)
        assert torch.equal(encoder.bert.encoder.layer[0].crossattention.self.query.weight, fresh)


def test_a_folder_without_bert_weights_leaves_the_text_encoder_fresh(tmp_path, caplog):
    model = mars()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not load_language_model(model, str(tmp_path))
    assert "the text encoder starts fresh" in caplog.text
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bert_weights_of_other_sizes_are_refused(tmp_path):
    save_bert(tmp_path, type_vocab_size=3)
    with pytest.raises(UserError, match=r"has shape \[3, 24\], bert_config asks for \[2, 24\]"):
        load_language_model(mars(), str(tmp_path))


def test_bert_weights_of_fewer_layers_are_refused(tmp_path):
    save_bert(tmp_path, num_hidden_layers=3)
    with pytest.raises(UserError, match=r"has no bert\.encoder\.layer\.3\."):
        load_language_model(mars(), str(tmp_path))


def test_a_language_model_that_is_no_bert_is_refused(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "vocab_size": 40,
        "hidden_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 20,
    }
    transformers.RobertaForMaskedLM(transformers.RobertaConfig(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no bert"):
        load_language_model(mars(), str(tmp_path))
