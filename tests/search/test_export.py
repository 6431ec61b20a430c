"""What is exported is the same model, with and without torch."""

import sys

import numpy as np
import pytest
from benchmark_data import TINY, data_settings, run

from search.encoder import Encoder
from search.export import export
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
    assert again.identity() == encoder.identity()
    assert np.array_equal(again.query(SENTENCE).embedding, encoder.query(SENTENCE).embedding)
    assert "12.50" in (tmp_path / "model" / "README.md").read_text()
    with pytest.raises(UserError, match="is not empty"):
        export(encoder, tmp_path / "model", None, with_onnx=False)


def test_a_vision_mamba_has_an_onnx_form(benchmark, tmp_path):
    """Whose scan is no loop there; what onnxruntime makes of it is compared with torch as it is written."""
    settings = [*TINY, *data_settings(benchmark), "image_encoder=vim", "vision_depth=3", "max_steps=1"]
    run(
        sys.executable,
        "Retrieval.py",
        "--config",
        "configs/demo.yaml",
        "--output_dir",
        tmp_path / "run",
        "--set",
        *settings,
    )
    encoder = Encoder.open(tmp_path / "run" / "checkpoint_best.pth")
    assert "image_encoder.onnx" in export(encoder, tmp_path / "model", None, with_onnx=True)
    assert (tmp_path / "model" / "image_encoder.onnx").stat().st_size < 3_000_000


def test_a_folder_that_holds_no_whole_model_is_told(encoder, tmp_path):
    with pytest.raises(UserError, match=r"config.json"):
        Encoder.open(tmp_path)
    export(encoder, tmp_path / "model", None, with_onnx=False)
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="no whole exported model"):
        Encoder.open(tmp_path / "model")
