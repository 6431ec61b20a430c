"""SigLIP and EVA02-CLIP by the commands of users: evaluated, trained, resumed, exported, searched; refusals."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_data import data_settings
from in_process import Ending, call
from PIL import Image

open_clip = pytest.importorskip("open_clip")

from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_library_models import CONFIGS, SETTINGS, WEIGHTS, library_folder, siglip_config, theirs  # noqa: E402

import Retrieval  # noqa: E402
from configs.loading import resolve_config  # noqa: E402
from evaluation.__main__ import main as evaluation  # noqa: E402
from evaluation.trained import TrainedModel  # noqa: E402
from search.__main__ import main as search  # noqa: E402
from search.encoder import Encoder  # noqa: E402
from utils.errors import UserError  # noqa: E402

SENTENCE = "a woman in a red coat"
PEOPLE = ["image_res=[64,32]", "workers=0", "precision=fp32"]
SHORT = ["schedular.epochs=2", "batch_size_train=8", "schedular.warmup_epochs=0", "optimizer.lr=1e-3", "cross_depth=1"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("library")
    found = {name: library_folder(root / name, CONFIGS[name]()) for name in ("siglip", "eva02")}
    return {**found, "masked": library_folder(root / "masked", siglip_config(), mask=True)}


def run(system: str, source: Path | None, data: Path, output: Path, *settings: str, flags: tuple = ()) -> Ending:
    given = ["--config", f"configs/{system}_cuhk_pedes.yaml", "--output_dir", output, *flags]
    given += [] if source is None else ["--checkpoint", source]
    return call(Retrieval.main, *given, "--set", *PEOPLE, *data_settings(data), *settings)


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]


# ---- as they are -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["siglip", "eva02"])
@torch.inference_mode()
def test_a_folder_is_evaluated_without_training(benchmark, folders, tmp_path, name):
    """Every caption with every image by open_clip itself, at the size of its training."""
    ending = run("clip", folders[name], benchmark, tmp_path / "out", "image_res=32", flags=("--evaluate",))
    assert ending.code == 0, ending.errors
    model, preprocess, tokenizer = theirs(folders[name])
    entries = json.loads((benchmark / "processed_data/test.json").read_text())
    files = [Image.open(benchmark / "imgs" / entry["file_path"]).convert("RGB") for entry in entries]
    images = model.encode_image(torch.stack([preprocess(file) for file in files]), normalize=True)
    captions = [caption for entry in entries for caption in entry["captions"]]
    expected = (model.encode_text(tokenizer(captions), normalize=True) @ images.T).numpy()
    found = np.load(tmp_path / "out/rankings.npz")
    best = np.take_along_axis(expected, found["stage1_indices"], axis=1)
    np.testing.assert_allclose(found["stage1_scores"], best, atol=1e-4)
    assert expected.std() > 0.01
    assert (np.sort(expected, axis=1)[:, ::-1][:, : best.shape[1]] - best).max() < 1e-4
    assert json.loads((tmp_path / "out/metrics.json").read_text())["stage1"]["captions"] == len(captions)


def test_images_of_people_and_of_the_folder(benchmark, folders, tmp_path):
    """--config names 64 x 32; without it the folder's own size holds."""
    ending = run("clip", folders["siglip"], benchmark, tmp_path / "out", flags=("--evaluate",))
    assert ending.code == 0 and "1 of them resized" in ending.errors
    own = TrainedModel.open(folders["siglip"])
    assert own.config.image_size == (32, 32) and own.config.max_words == 16
    assert own.config.resampling == "bicubic" and own.model.statistics.mean == (0.5, 0.5, 0.5)


# ---- trained ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "name", "losses"),
    [
        ("clip", "siglip", {"itc"}),
        ("irra", "eva02", {"sdm", "mlm", "id"}),
        ("irra", "masked", {"sdm", "mlm", "id"}),
    ],
)
def test_a_run_learns_resumes_and_is_used_without_the_folder(benchmark, folders, tmp_path, system, name, losses):
    folder = shutil.copytree(folders[name], tmp_path / "source")
    ending = run(system, folder, benchmark, tmp_path / "whole", *SHORT)
    assert ending.code == 0, ending.errors
    log = log_of(tmp_path / "whole")
    assert log[0]["train"].keys() == losses | {"total"}
    assert all(np.isfinite(value) for entry in log for value in entry["train"].values())
    steps = log[-1]["steps"]
    assert run(system, folder, benchmark, tmp_path / "parts", *SHORT, f"max_steps={steps // 2 + 1}").code == 0
    shutil.rmtree(folder)  # what it said is in the checkpoint
    resumed = call(Retrieval.main, "--resume", "--output_dir", tmp_path / "parts", "--set", "max_steps=null")
    assert resumed.code == 0, resumed.errors
    whole, parts = (
        torch.load(tmp_path / part / "checkpoint_last.pth", weights_only=True)["model"] for part in ("whole", "parts")
    )
    assert whole.keys() == parts.keys() and all(torch.equal(value, parts[key]) for key, value in whole.items())
    best = tmp_path / "whole/checkpoint_best.pth"
    verified = call(Retrieval.main, "--verify", "--checkpoint", best)
    assert verified.code == 0, verified.errors
    alone = shutil.copy(best, tmp_path / "alone.pth")  # without config.yaml beside it
    for source in (best, alone):
        assert TrainedModel.open(source).model.grid == (8, 4)
    again = run(system, alone, benchmark, tmp_path / "again", flags=("--evaluate",))
    assert again.code == 0, again.errors
    assert (tmp_path / "again/metrics.json").read_text() == (tmp_path / "whole/metrics.json").read_text()


def test_a_step_moves_weights_towards_the_captions(benchmark, folders, tmp_path):
    ending = run("clip", folders["siglip"], benchmark, tmp_path / "run", *SHORT, "schedular.epochs=6")
    assert ending.code == 0, ending.errors
    log = log_of(tmp_path / "run")
    assert log[-1]["train"]["itc"] < log[0]["train"]["itc"]
    looked = run("clip", folders["siglip"], benchmark, tmp_path / "look", *SHORT, flags=("--dry_run",))
    assert looked.code == 0 and "GiB" in looked.output and not (tmp_path / "look").exists()


# ---- exported, searched ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["siglip", "eva02"])
def test_an_export_embeds_as_the_folder_does(benchmark, folders, tmp_path, name):
    source = ("--checkpoint", folders[name], "--set", *PEOPLE)
    for target, flags in ((tmp_path / "folder", ("--onnx",)), (tmp_path / "one.safetensors", ())):
        ending = call(search, "export", target, *source, *flags)
        assert ending.code == 0, ending.errors
    assert {"image_encoder.onnx", "text_encoder.onnx"} < {file.name for file in (tmp_path / "folder").iterdir()}
    first = Encoder.open(folders[name], None, "cpu", PEOPLE)
    files = sorted((benchmark / "imgs").rglob("*.jpg"))[:3]
    for target in (tmp_path / "folder", tmp_path / "one.safetensors"):
        again = Encoder.open(target)
        assert again.fingerprint() == first.fingerprint()
        np.testing.assert_array_equal(again.encode_query(SENTENCE).embedding, first.encode_query(SENTENCE).embedding)
        read = [[one.decode_image(file.read_bytes()) for file in files] for one in (again, first)]
        np.testing.assert_array_equal(again.encode_images(read[0])[1], first.encode_images(read[1])[1])


def test_a_gallery_is_searched(benchmark, folders, tmp_path):
    gallery = ("--gallery", tmp_path / "gallery")
    indexed = call(search, "index", benchmark / "imgs", "--checkpoint", folders["siglip"], *gallery)
    assert indexed.code == 0, indexed.errors
    assert call(search, "query", SENTENCE, *gallery).code == 0


# ---- refused ---------------------------------------------------------------------------


def last_line(ending: Ending) -> str:
    assert ending.code == 2 and "Traceback" not in ending.errors, ending.errors
    return ending.errors.splitlines()[-1]


@pytest.mark.parametrize(
    ("system", "settings", "told"),
    [
        ("rde", (), "`open_clip`: RDE selects tokens by the attention of the last block"),
        ("irra", (), "`weights.mlm` 1 hides words, and the tokenizer of this model has no mask token"),
        ("clip", ("augment_words=0.2",), "`augment_words` 0.2 hides words"),
        ("clip", ("max_words=17",), "`max_words`: is beyond the 16 positions of the text tower"),
        ("clip", ("stride_size=4",), "`stride_size`: open_clip lays patches side by side"),
        ("clip", ("compile=layers",), "`compile`: towers that open_clip builds are not compiled"),
        ("irra", ("cross_heads=3", "weights.mlm=0"), "`cross_heads` 3 does not divide the embedding of 16 numbers"),
    ],
)
def test_what_such_a_model_has_not_is_said(benchmark, folders, tmp_path, system, settings, told):
    ending = run(system, folders["siglip"], benchmark, tmp_path / "run", *settings)
    assert told in last_line(ending) and not (tmp_path / "run").exists()


def test_weights_alone_are_not_enough(benchmark, folders, tmp_path):
    file = shutil.copy(folders["eva02"] / WEIGHTS, tmp_path / "alone.safetensors")
    ending = run("clip", file, benchmark, tmp_path / "out", flags=("--evaluate",))
    assert "has towers that open_clip builds; name their folder" in last_line(ending)


def test_sizes_of_another_architecture_are_left_out_or_refused(benchmark, folders, tmp_path):
    """Left out of a configuration that does not know the checkpoint, refused beside what they contradict."""
    ending = run("clip", folders["siglip"], benchmark, tmp_path / "out", "clip.patch_size=8", flags=("--evaluate",))
    assert ending.code == 0 and "`clip` is left out" in ending.errors
    recorded = TrainedModel.open(folders["siglip"]).config.model_dump()
    with pytest.raises(UserError, match="`clip`: has sizes of OpenAI's architecture"):
        resolve_config({**recorded, "clip": {"patch_size": 8}}, "here")
    assert resolve_config(recorded, "here").open_clip is not None


def test_maps_and_the_form_of_open_clip_are_refused(benchmark, folders, tmp_path):
    given = ("--checkpoint", folders["eva02"], "--set", *PEOPLE, *data_settings(benchmark))
    assert "no maps of words" in last_line(
        call(lambda: evaluation([*map(str, ("gradcam", "--output", tmp_path / "maps", *given))]))
    )
    exported = call(search, "export", tmp_path / "out", "--checkpoint", folders["eva02"], "--open_clip")
    assert (
        "--open_clip writes towers of OpenAI's architecture" in last_line(exported) and not (tmp_path / "out").exists()
    )


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("vision_cfg.timm_model_name", "hf-hub:timm/vit_tiny", "which is no model of this timm"),
        ("vision_cfg.timm_model_name", "vit_of_nobody", "which is no model of this timm"),
        ("vision_cfg.timm_model_name", ["a"], "which is no model of this timm"),
        ("vision_cfg", {"timm_model_name": "test_resnet"}, "the image tower is a ResNet; only Vision Transformers"),
        ("vision_cfg.timm_pool", "odd", "open_clip cannot build this model"),
        ("vision_cfg.odd", 1, "open_clip cannot build this model"),
        ("vision_cfg.pool_type", "none", "vision_cfg.pool_type is 'none'"),
        ("text_cfg.layers", 10**9, "text_cfg.layers is 1000000000"),
        ("text_cfg.layers", "2", "text_cfg.layers is '2'"),
        ("text_cfg.width", 32, "does not fit the configured model"),
        ("text_cfg.heads", 3, "open_clip cannot build this model"),
        ("text_cfg.heads", {"of": [1] * 999}, "text_cfg.heads is"),
        ("text_cfg.hf_model_name", "roberta-base", "text_cfg.hf_model_name is 'roberta-base'"),
        ("text_cfg.tokenizer_kwargs", {"clean": "odd"}, "text_cfg.tokenizer_kwargs.clean is 'odd'"),
        ("text_cfg.tokenizer_mode", "clips", "text_cfg.tokenizer_mode is 'clips'"),
        ("text_cfg.vocab_size", 9, "too few"),
        ("text_cfg", None, "has no text_cfg"),
        ("multimodal_cfg", {"layers": 1}, "multimodal_cfg is"),
        ("embed_dim", None, "embed_dim is None"),
    ],
)
def test_a_description_that_cannot_be_had_names_its_key(folders, tmp_path, path, value, told):
    folder = shutil.copytree(folders["siglip"], tmp_path / "model")
    content = json.loads((folder / SETTINGS).read_text())
    *parts, name = path.split(".")
    part = content["model_cfg"]
    for step in parts:
        part = part[step]
    part[name] = value
    (folder / SETTINGS).write_text(json.dumps(content))
    assert told in last_line(call(search, "export", tmp_path / "out", "--checkpoint", folder))


def test_damaged_folders_are_told_in_one_line(folders, tmp_path):
    def told(damage) -> str:
        folder = shutil.copytree(folders["siglip"], tmp_path / str(len(list(tmp_path.iterdir()))))
        damage(folder)
        return last_line(call(search, "export", tmp_path / "out", "--checkpoint", folder))

    def without(name: str):
        def damage(folder: Path) -> None:
            weights = load_file(folder / WEIGHTS)
            del weights[name]
            save_file(weights, folder / WEIGHTS)

        return damage

    def remote_code(folder: Path) -> None:
        content = json.loads((folder / "tokenizer_config.json").read_text())
        content |= {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"}
        (folder / "tokenizer_config.json").write_text(json.dumps(content))
        (folder / "tokenizer.json").unlink()
        (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")

    def no_tokenizer(folder: Path) -> None:
        for file in folder.glob("tokenizer*"):
            file.unlink()

    assert "it lacks text.ln_final.bias" in told(without("text.ln_final.bias"))
    assert "cannot be read" in told(lambda folder: (folder / "tokenizer.json").write_text("{"))
    assert "has no tokenizer.json" in told(no_tokenizer)
    assert "cannot be read" in told(remote_code) and not (tmp_path / "ran").exists()
    assert told(lambda folder: (folder / WEIGHTS).write_bytes(b"odd"))
    assert not (tmp_path / "out").exists()
