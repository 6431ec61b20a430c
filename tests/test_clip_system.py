"""Models of CLIP's family by the commands of users: evaluated, searched with, studied; what cannot be done is said."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_data import data_settings
from in_process import Ending, call
from published_options import irra, rde
from tiny_clip_files import CLIP_SETTINGS, SIZE, WIDTH, clip_files

import Retrieval
from configs.loading import load_config
from dataset.clip_tokens import ClipTokenizer
from dataset.images import load_image
from evaluation.__main__ import main as evaluation
from models.clip.irra import IRRA, IrraSettings
from models.clip.rde import RDE, RdeSettings
from search.__main__ import main as search
from search.encoder import Encoder
from search.explain import explain
from search.gallery.gallery import open_gallery
from search.gallery.indexing import index
from search.searcher import Searcher
from utils.config import save_yaml


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Checkpoints by system."""
    folder, found = tmp_path_factory.mktemp("clip"), {}
    for name, weights in clip_files().items():
        torch.save(weights, folder / name)
        found[{"ViT-B-16.pt": "clip", "IRRA.pth": "irra", "RDE.pth": "rde"}[name]] = folder / name
    return found


def settings_of(system: str, data: Path) -> list[str]:
    """Settings of a small model on the tiny benchmark."""
    return [*CLIP_SETTINGS, *([f"selection_width={WIDTH}"] if system == "rde" else []), *data_settings(data)]


def evaluate(system: str, file: Path, data: Path, folder: Path, *more: str) -> Ending:
    config = ["--config", f"configs/{system}_cuhk_pedes.yaml", "--output_dir", folder]
    return call(Retrieval.main, *config, "--checkpoint", file, "--evaluate", "--set", *settings_of(system, data), *more)


def cosines(model: IRRA | RDE, data: Path) -> dict[str, np.ndarray]:
    """Every test caption with every test image, one by one in rows of 77 tokens, by embedding, and their mean."""
    entries = json.loads((data / "processed_data/test.json").read_text())
    read = ClipTokenizer.from_package()
    with torch.inference_mode():
        read_image = partial(load_image, size=(64, 32), resampling="bilinear")
        images = [model.statistics.normalise(read_image(data / "imgs" / entry["file_path"])) for entry in entries]
        of_images = [model.image_embeddings(image[None]) for image in images]
        captions = [caption for entry in entries for caption in entry["captions"]]
        of_texts = [model.text_embeddings(read.rows([read.clean(caption)], 77)) for caption in captions]
    found = {
        name: np.array([[float(t[name] @ i[name].T) for i in of_images] for t in of_texts]) for name in of_texts[0]
    }
    return {**found, "stage1": np.mean(list(found.values()), axis=0)}


@pytest.mark.parametrize(("system", "file"), [("clip", "irra"), ("rde", "rde")])
def test_a_checkpoint_ranks_the_gallery_by_the_mean_of_its_cosines(benchmark, files, tmp_path, system, file):
    ending = evaluate(system, files[file], benchmark, tmp_path / "out", "precision=fp32")
    assert ending.code == 0, ending.errors
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    stages = {"clip": ["stage1"], "rde": ["bge", "tse", "stage1"]}[system]
    assert [name for name in metrics if name != "ceiling"] == stages
    model = {"clip": IRRA(SIZE, IrraSettings(("itc",))), "rde": RDE(SIZE, RdeSettings(width=WIDTH))}[system].eval()
    model.load_state_dict(torch.load(files[file], weights_only=True)["model"], strict=system == "rde")
    expected, found = cosines(model, benchmark), np.load(tmp_path / "out/rankings.npz")
    for stage in stages:
        best = np.take_along_axis(expected[stage], found[f"{stage}_indices"], axis=1)
        np.testing.assert_allclose(found[f"{stage}_scores"], best, atol=1e-4)
        assert expected[stage].std() > 0.01
        ranked = np.sort(expected[stage], axis=1)[:, ::-1]
        assert (ranked[:, : best.shape[1]] - best).max() < 1e-4  # none better was left out


def test_clip_as_it_is_needs_no_training(benchmark, files, tmp_path):
    ending = evaluate("clip", files["clip"], benchmark, tmp_path / "out")
    assert ending.code == 0, ending.errors
    assert "1 of them resized" in ending.errors  # 3 x 3 patches of a square image, here 4 x 2
    assert json.loads((tmp_path / "out/metrics.json").read_text())["stage1"]["captions"] > 0


@pytest.mark.parametrize(("system", "options"), [("irra", irra()), ("rde", rde())])
def test_a_published_checkpoint_is_read_by_the_options_beside_it(benchmark, files, tmp_path, system, options):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/configs.yaml").write_text(json.dumps(options))  # which is YAML
    (tmp_path / "logs/best.pth").write_bytes(files[system].read_bytes())
    given = ["--checkpoint", tmp_path / "logs/best.pth", "--evaluate", "--output_dir", tmp_path / "out"]
    ending = call(Retrieval.main, *given, "--set", *settings_of(system, benchmark))
    assert ending.code == 0, ending.errors
    read = load_config(tmp_path / "logs/configs.yaml", settings_of(system, benchmark))
    assert read.system == system and read.test_file.endswith("processed_data/test.json")
    assert json.loads((tmp_path / "out/metrics.json").read_text())["stage1"]["captions"] > 0


def test_what_does_not_fit_is_said_in_one_line(benchmark, files, tmp_path):
    for more, told in (("k_test=5", "does not re-rank"), ("max_words=78", "clip.text_length"), ("temp=1", "temp")):
        ending = evaluate("clip", files["clip"], benchmark, tmp_path / "out", more)
        assert ending.code == 2 and told in ending.errors.splitlines()[-1]
    ending = evaluate("clip", files["clip"], benchmark, tmp_path / "out", "clip.vision_depth=3")
    assert ending.code == 2 and "does not fit the configured model" in ending.errors.splitlines()[-1]
    assert not (tmp_path / "out/metrics.json").exists()


def test_an_unknown_system_is_said_with_those_there_are():
    ending = call(Retrieval.main, "--set", "system=irr", "--dry_run")
    assert ending.code == 2 and "--set system=irr: `system` must be one of mars, clip, irra, rde" in ending.errors


def test_a_file_of_another_system_is_told(benchmark, files, tmp_path):
    told = evaluate("clip", files["rde"], benchmark, tmp_path / "out").errors
    assert "is of RDE: set system=rde" in told
    for file in ("irra", "clip"):
        ending = evaluate("rde", files[file], benchmark, tmp_path / "other")
        assert ending.code == 2 and "is not of RDE" in ending.errors.splitlines()[-1]
    resnet = {"visual.layer1.0.conv1.weight": torch.zeros(2, 2, 1, 1), "token_embedding.weight": torch.zeros(9, 2)}
    torch.save(resnet, tmp_path / "resnet.pt")
    ending = evaluate("clip", tmp_path / "resnet.pt", benchmark, tmp_path / "other")
    assert ending.code == 2 and "encoded by a ResNet" in ending.errors.splitlines()[-1]
    given = ["--config", "configs/demo_from_nothing.yaml", "--output_dir", tmp_path / "mars", "--evaluate"]
    settings = ["vocabulary_size=100", *data_settings(benchmark)]
    ending = call(Retrieval.main, *given, "--checkpoint", files["clip"], "--set", *settings)
    assert ending.code == 2 and "which system=clip and system=rde evaluate" in ending.errors.splitlines()[-1]


def test_heads_are_one_for_64_numbers_unless_they_are_configured():
    large = ["clip.vision_width=1024", "clip.text_width=768"]
    size = load_config("configs/clip_cuhk_pedes.yaml", large).size
    assert (size.vision_heads, size.text_heads) == (16, 12)
    assert load_config("configs/clip_cuhk_pedes.yaml", [*large, "clip.text_heads=6"]).size.text_heads == 6


@pytest.mark.parametrize("system", ["clip", "rde"])
def test_search_ranks_as_evaluation_does_and_with_the_same_heads_alone(benchmark, files, tmp_path, system):
    config = written(tmp_path, benchmark, system)
    gallery = ["--gallery", tmp_path / "gallery"]
    indexed = call(search, "index", benchmark / "imgs", "--config", config, "--checkpoint", files[system], *gallery)
    assert indexed.code == 0, indexed.errors
    assert call(search, "query", "a woman in a red coat", *gallery).code == 0
    refused = call(search, "query", "a woman in a red coat", *gallery, "--set", "clip.text_heads=4")
    assert refused.code == 2


def test_search_and_studies_take_it(benchmark, files, tmp_path):
    given = ["--config", written(tmp_path, benchmark, "clip"), "--checkpoint", files["irra"]]
    gallery = ["--gallery", tmp_path / "gallery"]
    indexed = call(search, "index", benchmark / "imgs", *given, *gallery)
    assert indexed.code == 0, indexed.errors
    answer = call(search, "query", "a woman in a red coat", *gallery, "--json")
    assert answer.code == 0, answer.errors
    hits = json.loads(answer.output)["hits"]
    assert len(hits) > 1 and all(hit["match"] is None for hit in hits)
    assert [hit["similarity"] for hit in hits] == sorted((hit["similarity"] for hit in hits), reverse=True)

    def study(name: str) -> Ending:
        return call(lambda: evaluation([name, *map(str, given), "--output_dir", str(tmp_path / "studies")]))

    studied = study("density")
    assert studied.code == 0, studied.errors
    for name in ("reconstruction", "cost"):
        refused = study(name)
        assert refused.code == 2 and "this needs ALBEF, RaSa or MARS" in refused.errors.splitlines()[-1]


@pytest.mark.parametrize("system", ["clip", "rde"])
def test_a_hit_is_explained_by_what_words_add_to_its_cosine(benchmark, files, tmp_path, system):
    pytest.importorskip("pymilvus")
    from fastapi.testclient import TestClient

    from search.page.reasons import reasons_as_html
    from search.serving.api import build_app

    encoder = Encoder.open(files[system], written(tmp_path, benchmark, system), overrides=["precision=fp32"])
    with open_gallery(str(tmp_path / "gallery"), encoder, benchmark / "imgs/test") as gallery:
        index(gallery, encoder)
        searcher = Searcher(encoder, gallery)
        client = TestClient(build_app(searcher))
        text = "A woman in a red coat,grey jeans (and white sneakers)."
        hit = searcher.search(text).hits[0]
        found = explain(searcher, text, hit.path)
        record = gallery.records.by_path[hit.path]
        answer = client.post("/api/explain", json={"text": text, "id": record.id}).json()
    assert [one.words for one in found.attributes] == ["red coat", "grey jeans", "white sneakers"]
    assert found.match is None and found.similarity == pytest.approx(hit.similarity, abs=1e-4)
    less = encoder.encode_query("A woman in a red coat, (and white sneakers).").embedding
    image = encoder.encode_images([encoder.decode_image((benchmark / "imgs/test" / hit.path).read_bytes())])[1][0]
    jeans = found.attributes[1]
    assert jeans.match is None and jeans.similarity == pytest.approx(hit.similarity - float(less @ image), abs=1e-4)
    assert jeans.heat.shape == (4, 2) and 0 <= jeans.heat.min() <= jeans.heat.max() <= 1
    assert (answer["match"], answer["similarity"]) == (None, found.similarity)
    assert answer["attributes"][1]["similarity"] == jeans.similarity and answer["heat"] == found.heat.tolist()
    page = reasons_as_html(found)
    assert f"cosine {found.similarity:.2f}" in page and f"adds {jeans.similarity:.3f}" in page


def written(folder: Path, data: Path, system: str) -> Path:
    """The settings of a small model as a file."""
    file = folder / f"{system}.yaml"
    save_yaml(file, load_config(f"configs/{system}_cuhk_pedes.yaml", settings_of(system, data)))
    return file
