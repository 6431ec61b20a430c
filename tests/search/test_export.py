"""What is exported is the same model, with and without torch."""

import copy

import numpy as np
import pytest
import torch
from in_process import call, call_here, retrieve
from safetensors.torch import load_file, save_file

import Retrieval
from search.__main__ import main as command
from search.encoder import Encoder
from search.export import export, settings_of
from utils.checkpoints import named
from utils.errors import UserError

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SENTENCE = "a woman in a red coat"


def test_an_exported_folder_is_the_same_model(encoder, tmp_path):
    names = export(encoder, tmp_path / "model", {"stage1": {"r1": 12.5, "mAP": 7.25}}, with_onnx=True)
    assert names == [
        "README.md",
        "config.json",
        "image_encoder.onnx",
        "model.safetensors",
        "text_encoder.onnx",
        "tokenizer.json",
    ]
    again = Encoder.open(tmp_path / "model")
    assert again.fingerprint() == encoder.fingerprint()
    assert np.array_equal(again.encode_query(SENTENCE).embedding, encoder.encode_query(SENTENCE).embedding)
    assert "12.50" in (tmp_path / "model" / "README.md").read_text()
    with pytest.raises(UserError, match="is not empty"):
        export(encoder, tmp_path / "model", None, with_onnx=False)


@pytest.mark.parametrize("flags", [(), ("--bf16",)])
def test_one_file_is_the_model_with_its_settings_and_words(trained, encoder, tmp_path, flags):
    file = tmp_path / "new" / "small.safetensors"
    call_here(command, "export", file, "--checkpoint", trained, *flags)
    again = Encoder.open(file)
    assert again.config.max_words == encoder.config.max_words and again.config.train_file == []
    near = np.allclose(
        again.encode_query(SENTENCE).embedding, encoder.encode_query(SENTENCE).embedding, atol=0.02 if flags else 0
    )
    assert near and (again.fingerprint() == encoder.fingerprint()) == (not flags)
    assert all(value.dtype == torch.float32 for value in again.model.parameters())
    assert "exists; name a new file" in call(command, "export", file, "--checkpoint", trained).errors
    assert "a folder" in call(command, "export", tmp_path / "d.safetensors", "--checkpoint", trained, "--onnx").errors


def test_a_run_starts_from_a_file_of_the_repository_by_its_name(trained, benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(named, "STARTS", tmp_path / "starts")
    call_here(command, "export", tmp_path / "starts" / "small.safetensors", "--checkpoint", trained, "--bf16")
    assert Encoder.open("small").source["checkpoint"] == str(tmp_path / "starts" / "small.safetensors")
    for asked in (["checkpoint=small"], ["checkpoint=small", "vision_checkpoint=small"]):
        ending = retrieve(tmp_path / str(len(asked)), benchmark, settings=[*asked, "max_steps=1"])
        assert "small.safetensors: " in ending.errors + ending.output
    retrieve(tmp_path / "flag", benchmark, "--checkpoint", "small", settings=["max_steps=1"])
    retrieve(tmp_path / "evaluated", benchmark, "--evaluate", "--checkpoint", "small")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").write_bytes(b"a file of the user")
    with pytest.raises(UserError, match="checkpoint small cannot be read"):
        Encoder.open("small")


@pytest.mark.parametrize("about", ["[]", "{", "null", '{"max_words": "many"}', "9" * 5000])
def test_a_file_with_damaged_settings_is_refused_in_one_line(trained, tmp_path, about):
    call_here(command, "export", tmp_path / "a.safetensors", "--checkpoint", trained)
    save_file(
        load_file(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", {"config": about, "tokenizer": "nothing"}
    )
    with pytest.raises(UserError) as caught:
        Encoder.open(tmp_path / "b.safetensors")
    assert "\n" not in str(caught.value) and "b.safetensors" in str(caught.value)


def test_the_driver_evaluates_an_exported_folder_as_it_does_the_checkpoint(trained, encoder, benchmark, tmp_path):
    export(encoder, tmp_path / "model", None, with_onnx=False)
    config = trained.parent / "config.yaml"
    found = []
    for source in (trained, tmp_path / "model"):
        output = tmp_path / f"of-{source.stem}"
        given = ("--config", config, "--checkpoint", source, "--output_dir", output)
        call_here(Retrieval.main, "--evaluate", *given)
        found.append((output / "metrics.json").read_text())
    assert found[0] == found[1]


def test_a_vision_mamba_has_an_onnx_form(benchmark, tmp_path):
    """Whose scan is no loop there; what onnxruntime makes of it is compared with torch as it is written."""
    retrieve(tmp_path / "run", benchmark, settings=["image_encoder=vim", "vision_depth=3", "max_steps=1"])
    encoder = Encoder.open(tmp_path / "run" / "checkpoint_best.pth")
    assert "image_encoder.onnx" in export(encoder, tmp_path / "model", None, with_onnx=True)
    assert (tmp_path / "model" / "image_encoder.onnx").stat().st_size < 3_000_000


def test_what_only_training_needs_is_left_out(encoder, tmp_path):
    """Also the head of a loss that this module has never heard of."""
    export(encoder, tmp_path / "model", None, with_onnx=False)
    own, kept = encoder.model.state_dict(), load_file(tmp_path / "model" / "model.safetensors")
    assert {name.split(".")[0] for name in own.keys() - kept.keys()} == {
        *("visual_encoder_m", "vision_proj_m", "text_encoder_m", "text_proj_m"),
        *("image_queue", "text_queue", "idx_queue", "queue_ptr"),
        *("prd_head", "mrtd_head"),
    }
    assert all(torch.equal(value, own[name]) for name, value in kept.items())
    assert not encoder.model.is_exported("another_head.weight")


def test_an_exported_folder_takes_the_settings_of_a_checkpoint(encoder, tmp_path):
    export(encoder, tmp_path / "model", None, with_onnx=False)
    again = Encoder.open(tmp_path / "model", overrides=["max_words=7", "batch_size_test=3"])
    assert (again.config.max_words, again.setting.batch_size) == (7, 3)
    with pytest.raises(UserError, match=r"lacks \d+ tensors that search needs"):
        Encoder.open(tmp_path / "model", overrides=["vision_depth=2"])
    (tmp_path / "model" / "config.json").write_text("[]")
    with pytest.raises(UserError, match="does not say how it was trained"):
        Encoder.open(tmp_path / "model")


def test_a_folder_that_holds_no_whole_model_is_told(encoder, tmp_path):
    with pytest.raises(UserError, match=r"config.json"):
        Encoder.open(tmp_path)
    export(encoder, tmp_path / "model", None, with_onnx=False)
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="does not hold a whole exported model"):
        Encoder.open(tmp_path / "model")


def test_no_folder_of_the_training_is_exported(encoder, tmp_path):
    elsewhere = copy.copy(encoder)
    elsewhere.config = encoder.config.model_copy(update={"image_cache": tmp_path, "vision_checkpoint": str(tmp_path)})
    assert str(tmp_path) not in str(settings_of(elsewhere))
