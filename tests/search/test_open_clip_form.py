"""CLIP in the form of open_clip: what is written there is loaded by open_clip, and what it writes is read here."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmark_data import data_settings
from in_process import call, call_here
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_clip_files import CLIP_SETTINGS, WIDTH, clip_files

import Retrieval
from configs.loading import resolve_config
from evaluation.trained import TrainedModel
from models.clip.open_clip import settings_from_open_clip
from search.__main__ import main as command
from search.encoder import Encoder
from utils.config import save_yaml
from utils.errors import UserError

open_clip = pytest.importorskip("open_clip")

SENTENCES = ["a woman in a red coat & blue jeans", "A man", "  an   old man's umbrella, 2 bags! "]
SETTINGS, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
GELU = ("--set", "clip.quick_gelu=false")  # as of most models that are not OpenAI's
FILES = {"clip": "ViT-B-16.pt", "irra": "IRRA.pth", "rde": "RDE.pth"}


@pytest.fixture(scope="module")
def checkpoints(benchmark, tmp_path_factory) -> dict[str, Path]:
    """A checkpoint of each system, with its settings beside it."""
    root, weights = tmp_path_factory.mktemp("of-clip"), clip_files()
    for system, name in FILES.items():
        settings = [*CLIP_SETTINGS, *([f"selection_width={WIDTH}"] if system == "rde" else [])]
        settings += ["precision=fp32", *data_settings(benchmark)]
        save_yaml(root / system / "config.yaml", resolve_config({"system": system}, "here", settings))
        torch.save(weights[name], root / system / name)
    return {system: root / system / name for system, name in FILES.items()}


@pytest.fixture(scope="module")
def folder(checkpoints, tmp_path_factory) -> Path:
    """IRRA as open_clip has it."""
    path = tmp_path_factory.mktemp("form") / "model"
    call_here(command, "export", path, "--checkpoint", checkpoints["irra"], "--open_clip")
    return path


# ---- written ---------------------------------------------------------------------------


@pytest.mark.parametrize(("system", "settings"), [("clip", ()), ("irra", ()), ("irra", GELU)])
@torch.inference_mode()
def test_open_clip_gives_the_same_embeddings(checkpoints, benchmark, tmp_path, system, settings):
    """From its own reading of the same images and sentences."""
    source = "--checkpoint", checkpoints[system], *settings
    written = call_here(command, "export", tmp_path / "model", *source, "--open_clip")
    assert f"README.md, {SETTINGS}, {WEIGHTS}" in written.output
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'model'}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'model'}")
    encoder = Encoder.open(checkpoints[system], None, "cpu", settings[1:])
    files = sorted((benchmark / "imgs").rglob("*.jpg"))[:5]
    images = torch.stack([preprocess(Image.open(file)) for file in files])
    ours = torch.from_numpy(encoder.encode_images([encoder.decode_image(file.read_bytes()) for file in files])[1])
    torch.testing.assert_close(model.eval().encode_image(images, normalize=True), ours, atol=1e-5, rtol=0)
    sentences = torch.stack([torch.from_numpy(encoder.encode_query(text).embedding) for text in SENTENCES])
    found = model.encode_text(tokenizer(SENTENCES), normalize=True)
    torch.testing.assert_close(found, sentences, atol=1e-5, rtol=0)
    assert model.logit_scale.exp().item() == pytest.approx(1 / encoder.config.temperature)


@torch.inference_mode()
def test_what_is_cut_is_cut_there_too(checkpoints, tmp_path):
    settings = "--set", "max_words=6"
    call_here(command, "export", tmp_path / "model", "--checkpoint", checkpoints["irra"], "--open_clip", *settings)
    model = open_clip.create_model(f"local-dir:{tmp_path / 'model'}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'model'}")(SENTENCES)
    encoder = Encoder.open(tmp_path / "model")
    assert tokens.shape[1] == encoder.config.max_words == 6
    ours = torch.stack([torch.from_numpy(encoder.encode_query(text).embedding) for text in SENTENCES])
    torch.testing.assert_close(model.encode_text(tokens, normalize=True), ours, atol=1e-5, rtol=0)


def test_what_open_clip_has_not_is_refused(checkpoints, trained, tmp_path):
    def export(*flags: str | Path, to: str = "model") -> str:
        ending = call(command, "export", tmp_path / to, "--open_clip", *flags)
        assert ending.code == 2 and not (tmp_path / to).exists()
        return ending.errors.splitlines()[-1]

    assert "the system rde ranks by more than them" in export("--checkpoint", checkpoints["rde"])
    assert "the system mars ranks by more than them" in export("--checkpoint", trained)
    of_clip = "--checkpoint", checkpoints["clip"]
    assert "16 pixels wide and 8 apart" in export(*of_clip, "--set", "stride_size=8")
    assert "name a folder" in export(*of_clip, to="one.safetensors")
    assert "give one of them" in export(*of_clip, "--onnx")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    ending = call(command, "export", tmp_path / "full", "--open_clip", *of_clip)
    assert ending.code == 2 and "is not empty" in ending.errors and len(list((tmp_path / "full").iterdir())) == 1


# ---- read ------------------------------------------------------------------------------


def test_a_folder_of_open_clip_is_a_checkpoint(checkpoints, folder, benchmark, tmp_path):
    encoder, again = Encoder.open(checkpoints["irra"]), Encoder.open(folder)
    assert again.fingerprint() == encoder.fingerprint() | {"precision": again.fingerprint()["precision"]}
    indexed = call(command, "index", benchmark / "imgs", "--checkpoint", folder, "--gallery", tmp_path / "gallery")
    assert indexed.code == 0, indexed.errors
    assert call(command, "query", SENTENCES[0], "--gallery", tmp_path / "gallery").code == 0
    found = []
    for source in (checkpoints["irra"], folder, folder / WEIGHTS):
        output, config = tmp_path / f"of-{source.name}", checkpoints["irra"].parent / "config.yaml"
        call_here(Retrieval.main, "--evaluate", "--checkpoint", source, "--config", config, "--output_dir", output)
        found.append((output / "metrics.json").read_text())
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "elsewhere.pt", "alone.safetensors"])
def test_files_as_open_clip_writes_them(folder, checkpoints, tmp_path, name):
    """Its Hub files and the checkpoints of its training, with the causal mask that older ones hold."""
    model = open_clip.create_model(f"local-dir:{folder}", output_dict=True)
    weights = {**model.state_dict(), "attn_mask": model.attn_mask}
    if name.endswith(".safetensors"):
        save_file(weights, tmp_path / name)
    elif name.endswith(".bin"):
        torch.save(weights, tmp_path / name)
        shutil.copy(folder / SETTINGS, tmp_path)
    else:
        torch.save(
            {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in weights.items()}}, tmp_path / name
        )
    own = None if name.endswith(".bin") else checkpoints["irra"].parent / "config.yaml"
    source = tmp_path if name.endswith(".bin") else tmp_path / name
    found, expected = TrainedModel.open(source, own).model, TrainedModel.open(checkpoints["irra"]).model
    for part, value in expected.base_model.state_dict().items():
        assert torch.equal(found.base_model.state_dict()[part], value)


def test_a_square_model_is_resized_to_people(checkpoints, tmp_path):
    """Its own settings are those of squares; a configuration of people asks for another grid."""
    square = "--set", "image_res=48"
    call_here(command, "export", tmp_path / "model", "--checkpoint", checkpoints["clip"], "--open_clip", *square)
    assert Encoder.open(tmp_path / "model").config.image_size == (48, 48)
    again, direct = (
        TrainedModel.open(source, checkpoints["clip"].parent / "config.yaml").model.state_dict()
        for source in (tmp_path / "model", checkpoints["clip"])
    )
    assert all(torch.equal(value, direct[name]) for name, value in again.items())


def test_half_of_the_numbers_load_there_too(checkpoints, tmp_path):
    call_here(command, "export", tmp_path / "model", "--checkpoint", checkpoints["clip"], "--open_clip", "--bf16")
    assert load_file(tmp_path / "model" / WEIGHTS)["visual.proj"].dtype == torch.bfloat16
    open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'model'}")


def config_of(folder: Path, **changes) -> dict:
    """The settings of open_clip with others in place: `vision_cfg__width=8`."""
    content = json.loads((folder / SETTINGS).read_text())
    for key, value in changes.items():
        *parts, name = key.split("__")
        part = content["model_cfg"]
        for step in parts:
            part = content[step] if step == "preprocess_cfg" else part[step]
        part[name] = value
    return content


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"quick_gelu": "no"}, "quick_gelu is 'no', not true or false"),
        ({"vision_cfg__layers": [3, 4, 6, 3]}, r"vision_cfg.layers is \[3, 4, 6, 3\]"),
        ({"vision_cfg__head_width": 0}, "vision_cfg.head_width is 0"),
        ({"text_cfg__context_length": "77"}, "text_cfg.context_length is '77'"),
        ({"embed_dim": None}, "embed_dim is None"),
        ({"vision_cfg__image_size": [64, -1]}, "vision_cfg.image_size is -1"),
        ({"vision_cfg": 3}, "has no vision_cfg"),
        ({"preprocess_cfg__mean": [0.5, 0.5]}, r"images have mean \[0.5, 0.5\], which are not three numbers"),
        ({"vision_cfg__pool_type": "avg", "preprocess_cfg__interpolation": "nearest"}, "interpolation 'nearest'"),
        ({"vision_cfg__pool_type": "avg", "preprocess_cfg__interpolation": []}, r"interpolation \[\]"),
        ({"preprocess_cfg__std": "odd"}, "images have std 'odd'"),
    ],
)
def test_what_describes_no_model_is_told(folder, changes, told):
    with pytest.raises(UserError, match=f"^here.*{told}"):
        settings_from_open_clip(config_of(folder, **changes), "here")


@pytest.mark.parametrize(
    "changes",
    [
        {"custom_text": True},
        {"vision_cfg__timm_model_name": "vit_base_patch16_224"},
        {"vision_cfg__pool_type": "avg"},
        {"text_cfg__hf_tokenizer_name": "a/b"},
        {"preprocess_cfg__mean": [0.5, 0.5, 0.5]},
    ],
)
def test_another_architecture_is_left_to_open_clip(folder, changes):
    content = config_of(folder, **changes)
    found = settings_from_open_clip(content, "here")
    assert "clip" not in found and found["open_clip"]["model"] == content["model_cfg"]
    assert found["open_clip"]["mean"] == content["preprocess_cfg"]["mean"]
    assert "open_clip" not in settings_from_open_clip(config_of(folder), "here")


def test_what_open_clip_leaves_out_is_as_it_takes_it():
    """ViT-B-16 of OpenAI, whose description names little."""
    found = settings_from_open_clip(open_clip_of("ViT-B-16-quickgelu"), "here")
    config = resolve_config(found, "here")
    assert config.size == resolve_config({"system": "clip", "image_res": 224}, "here").size
    others = resolve_config(settings_from_open_clip(open_clip_of("ViT-B-16"), "here"), "here")
    assert others.size == replace(config.size, quick_gelu=False)
    large = resolve_config(settings_from_open_clip(open_clip_of("ViT-L-14-336-quickgelu"), "here"), "here").size
    assert (large.vision_width, large.vision_heads, large.text_heads, large.image_size) == (1024, 16, 12, (336, 336))


def open_clip_of(name: str) -> dict:
    return {"model_cfg": open_clip.get_model_config(name)}


def test_damaged_folders_are_told_in_one_line(folder, tmp_path):
    (tmp_path / "a").mkdir()
    shutil.copy(folder / SETTINGS, tmp_path / "a")
    with pytest.raises(UserError, match=rf"but no {WEIGHTS}"):
        Encoder.open(tmp_path / "a")
    shutil.copytree(folder, tmp_path / "b")
    for content, told in (("{", "is not valid JSON"), ("[]", "does not describe a model of open_clip")):
        (tmp_path / "b" / SETTINGS).write_text(content)
        with pytest.raises(UserError, match=told):
            Encoder.open(tmp_path / "b")
