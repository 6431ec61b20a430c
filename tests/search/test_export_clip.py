"""What is exported of CLIP, IRRA and RDE is the same model, in torch and in ONNX."""

import json
from pathlib import Path
from shutil import copy

import numpy as np
import pytest
import torch
from benchmark_data import data_settings
from in_process import call, call_here
from safetensors.torch import load_file
from tiny_clip_files import CLIP_SETTINGS, WIDTH, clip_files

import Retrieval
from configs.loading import resolve_config
from dataset.images import load_image
from evaluation.__main__ import main as studies
from evaluation.trained import TrainedModel
from search.__main__ import main as command
from search.encoder import Encoder
from utils.checkpoints.files import read_checkpoint
from utils.config import save_yaml

FILES = {"clip": "ViT-B-16.pt", "irra": "IRRA.pth", "rde": "RDE.pth"}
OWN = {"clip": [], "irra": ["identities=5"], "rde": [f"selection_width={WIDTH}"]}
SENTENCE = "a woman in a red coat"


@pytest.fixture(scope="module")
def checkpoints(benchmark, tmp_path_factory) -> dict[str, Path]:
    """A checkpoint of each system, with its settings beside it."""
    root, weights = tmp_path_factory.mktemp("of-clip"), clip_files()
    for system, name in FILES.items():
        settings = [*CLIP_SETTINGS, *OWN[system], "precision=fp32", *data_settings(benchmark)]
        save_yaml(root / system / "config.yaml", resolve_config({"system": system}, "here", settings))
        torch.save(weights[name], root / system / name)
    return {system: root / system / name for system, name in FILES.items()}


@pytest.mark.parametrize("system", FILES)
def test_what_is_exported_is_the_same_model(checkpoints, tmp_path, system):
    encoder = Encoder.open(checkpoints[system])
    for output in (tmp_path / "model", tmp_path / "model.safetensors"):
        call_here(command, "export", output, "--checkpoint", checkpoints[system])
        again = Encoder.open(output)
        assert again.fingerprint() == encoder.fingerprint() and again.config.system == system
        assert np.array_equal(again.encode_query(SENTENCE).embedding, encoder.encode_query(SENTENCE).embedding)
        assert call(command, "export", output, "--checkpoint", checkpoints[system]).code == 2  # nothing is overwritten
    assert system in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize("system", FILES)
def test_the_driver_and_studies_take_what_is_exported(checkpoints, benchmark, tmp_path, system):
    call_here(command, "export", tmp_path / "small.safetensors", "--checkpoint", checkpoints[system])
    found = []
    for source in (checkpoints[system], tmp_path / "small.safetensors"):
        output = tmp_path / source.stem
        given = "--config", checkpoints[system].parent / "config.yaml", "--output_dir", output
        call_here(Retrieval.main, "--evaluate", "--checkpoint", source, *given)
        found.append((output / "metrics.json").read_text())
    assert found[0] == found[1] and json.loads(found[0])["stage1"]["captions"] > 0
    given = *given[:2], "--checkpoint", tmp_path / "small.safetensors", "--output_dir", tmp_path / "studies"
    call_here(lambda: studies(["density", *map(str, given)]))


def test_what_irra_needs_for_its_training_alone_is_left_out(checkpoints, tmp_path):
    call_here(command, "export", tmp_path / "model", "--checkpoint", checkpoints["irra"])
    own, kept = read_checkpoint(checkpoints["irra"])["model"], load_file(tmp_path / "model" / "model.safetensors")
    assert own.keys() - kept.keys() == {"classifier.weight", "classifier.bias"} and kept.keys() < own.keys()
    assert any(name.startswith("mlm_head.") for name in kept)
    assert "identities" not in json.loads((tmp_path / "model" / "config.json").read_text())
    again = TrainedModel.open(tmp_path / "model").model.state_dict()
    assert again.keys() == kept.keys() and all(torch.equal(value, again[name]) for name, value in kept.items())


def test_half_as_many_bytes_are_nearly_the_same_model(checkpoints, tmp_path):
    call_here(command, "export", tmp_path / "small.safetensors", "--checkpoint", checkpoints["rde"], "--bf16")
    again, encoder = Encoder.open(tmp_path / "small.safetensors"), Encoder.open(checkpoints["rde"])
    assert again.encode_query(SENTENCE).embedding @ encoder.encode_query(SENTENCE).embedding > 0.99
    assert again.fingerprint() != encoder.fingerprint()


# ---- ONNX ------------------------------------------------------------------------------


@pytest.mark.parametrize("system", FILES)
def test_both_encoders_have_an_onnx_form(checkpoints, benchmark, tmp_path, system):
    """Whose embeddings of images and sentences are those of search, and of length 1."""
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnxruntime")
    call_here(command, "export", tmp_path / "model", "--checkpoint", checkpoints[system], "--onnx")
    encoder = Encoder.open(checkpoints[system])
    images = [
        load_image(path, (64, 32), resampling="bilinear") for path in sorted((benchmark / "imgs").rglob("*.jpg"))[:5]
    ]
    tokenizer = encoder.trained.tokenizer
    texts = [SENTENCE, "a man", "a man in a grey shirt and blue jeans with a bag"]
    ids = np.zeros((len(texts), 77), np.int64)
    for row, text in zip(ids, texts, strict=True):
        encoded = tokenizer.encode(tokenizer.clean(text), 77).ids
        row[: len(encoded)] = encoded

    def run(name: str, **given: np.ndarray) -> np.ndarray:
        session = onnx.InferenceSession(tmp_path / "model" / name, providers=["CPUExecutionProvider"])
        return session.run(None, given)[0]

    found = run("image_encoder.onnx", images=torch.stack(images).float().numpy())
    np.testing.assert_allclose(found, encoder.encode_images(images)[1], atol=1e-5)
    of_texts = run("text_encoder.onnx", ids=ids)
    expected = np.stack([encoder.encode_query(text).embedding for text in texts])
    np.testing.assert_allclose(of_texts, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    vocabulary = 4 * encoder.config.clip.vocabulary * encoder.config.clip.text_width
    assert (tmp_path / "model" / "image_encoder.onnx").stat().st_size < vocabulary  # one tower alone


def test_a_cross_modal_encoder_that_no_file_held_is_not_exported(checkpoints, tmp_path):
    """Else what was drawn at random would count as trained when it is read again."""
    content, own = read_checkpoint(checkpoints["irra"]), tmp_path / "IRRA.pth"
    content["model"] = {name: value for name, value in content["model"].items() if name.startswith("base_model.")}
    torch.save({"model": content["model"]}, own)
    copy(checkpoints["irra"].parent / "config.yaml", tmp_path)
    call_here(command, "export", tmp_path / "model", "--checkpoint", own)
    kept = load_file(tmp_path / "model" / "model.safetensors")
    assert all(name.startswith("base_model.") for name in kept)
    for source in (own, tmp_path / "model"):
        assert TrainedModel.open(source).explainer.map_targets == ("similarity",)


@pytest.mark.parametrize("system", FILES)
def test_a_calibration_of_similarities_is_found_again_in_every_export(checkpoints, tmp_path, system):
    for name in (FILES[system], "config.yaml"):
        copy(checkpoints[system].parent / name, tmp_path)
    checkpoint = tmp_path / FILES[system]
    studies(["calibrate", "--checkpoint", str(checkpoint)])
    known = TrainedModel.open(checkpoint).calibration
    assert known is not None and list(known.stages) == ["stage1"]
    exports = {"model.safetensors": [], "model": []} | ({} if system == "rde" else {"open": ["--open_clip"]})
    for output, flags in exports.items():
        call_here(command, "export", tmp_path / output, "--checkpoint", checkpoint, *flags)
        assert Encoder.open(tmp_path / output).trained.calibration == known.model_copy(update={"model": None})
