"""One model finds candidates and another re-ranks them, compared with one pair at a time."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_data import data_settings, run
from in_process import Ending, call, retrieve
from tiny_clip_files import CLIP_SETTINGS, WIDTH, clip_files

import Retrieval
from configs.loading import load_config
from dataset.evaluation_split import EvaluationSplit
from dataset.images import load_image
from evaluation.evaluate import evaluate
from evaluation.trained import TrainedModel, open_reranker
from models.pairing import Pairing
from search.__main__ import main as search
from search.encoder import Encoder
from search.explain import explain
from search.gallery.gallery import open_gallery
from search.gallery.indexing import index
from search.searcher import Searcher
from utils.checkpoints.files import read_checkpoint
from utils.config import save_yaml
from utils.errors import UserError

SENTENCE = "A woman in a red coat, grey jeans and white sneakers."
K = 6  # candidates, of the tiny models of MARS


@pytest.fixture(scope="module")
def rde(benchmark, tmp_path_factory) -> Path:
    """A small RDE with its configuration beside it."""
    folder = tmp_path_factory.mktemp("rde")
    torch.save(clip_files()["RDE.pth"], folder / "RDE.pth")
    settings = [*CLIP_SETTINGS, f"selection_width={WIDTH}", *data_settings(benchmark), "precision=fp32"]
    save_yaml(folder / "config.yaml", load_config("configs/rde_cuhk_pedes.yaml", settings))
    return folder / "RDE.pth"


@pytest.fixture(scope="module")
def mars(benchmark, tmp_path_factory) -> Path:
    """A small MARS, far from its start, so that scores differ."""
    folder = tmp_path_factory.mktemp("mars")
    retrieve(folder / "run", benchmark, settings=["max_steps=1"])
    content = read_checkpoint(folder / "run/checkpoint_best.pth")
    chance = torch.Generator().manual_seed(3)
    weights = {
        name: value + 0.2 * torch.randn(value.shape, generator=chance) if value.is_floating_point() else value
        for name, value in content["model"].items()
    }
    torch.save({"model": weights, "config": content["config"], "tokenizer": content["tokenizer"]}, folder / "MARS.pth")
    return folder / "MARS.pth"


def evaluation(checkpoint: Path, output: Path, *more: str | Path) -> Ending:
    config = checkpoint.with_name("config.yaml")
    given = ["--config", config] if config.exists() else []
    return call(Retrieval.main, *given, "--output_dir", output, "--checkpoint", checkpoint, "--evaluate", *more)


def results(folder: Path) -> tuple[dict, dict[str, np.ndarray]]:
    with np.load(folder / "rankings.npz") as arrays:
        return json.loads((folder / "metrics.json").read_text()), dict(arrays)


@torch.inference_mode()
def cosines(trained: TrainedModel, split: EvaluationSplit) -> np.ndarray:
    """Every caption with every image [C, G], one by one."""
    model, config = trained.model, trained.config
    paths = [split.image_root / name for name in split.images]
    images = [
        model.encode_image(load_image(path, config.image_size, resampling=config.resampling)[None])[1] for path in paths
    ]
    texts = [model.embed_text(split.captions.tokens([caption])) for caption in range(len(split.texts))]
    return np.array([[float(text @ image.T) for image in images] for text in texts])


@torch.inference_mode()
def match_scores(trained: TrainedModel, split: EvaluationSplit, caption: int, images: list[int]) -> list[float]:
    """One caption with some images, one by one."""
    model, config, found = trained.matcher, trained.config, []
    reading = model.encode_text(split.captions.tokens([caption]))
    for image in images:
        path = split.image_root / split.images[image]
        tokens, _ = model.encode_image(load_image(path, config.image_size, resampling=config.resampling)[None])
        keys_values = model.text_encoder.project_images(tokens)
        prefix, mask = reading.prefix.states, reading.tokens.mask
        found.append(float(model.match_scores(prefix, mask, keys_values, Pairing())))
    return found


def metrics_of(order: list[list[int]], split: EvaluationSplit) -> dict[str, float]:
    """Metrics of full rankings, by loops."""
    r1, precisions = [], []
    for row, person in zip(order, split.caption_identity.tolist(), strict=True):
        right = [int(split.image_identity[image]) == person for image in row]
        ranks = [rank for rank, is_right in enumerate(right, 1) if is_right]
        r1.append(right[0])
        precisions.append(sum(n / rank for n, rank in enumerate(ranks, 1)) / len(ranks))
    return {"r1": 100 * sum(r1) / len(r1), "mAP": 100 * sum(precisions) / len(precisions)}


def test_what_a_dual_encoder_finds_is_re_ranked_by_another_model(rde, mars, tmp_path):
    ending = evaluation(rde, tmp_path / "out", "--rerank", mars)
    assert ending.code == 0, ending.errors
    assert f"candidates of each caption: {K}, re-ranked by {mars}" in ending.errors
    metrics, found = results(tmp_path / "out")
    assert [name for name in metrics if name != "ceiling"] == ["bge", "tse", "stage1", "reranked"]

    finder, matcher = TrainedModel.open(rde), TrainedModel.open(mars)
    assert finder.config.image_size != matcher.config.image_size
    assert finder.config.resampling != matcher.config.resampling
    split, as_matched, order = finder.open_split("test"), matcher.open_split("test"), []
    for caption, row in enumerate(cosines(finder, split)):
        by_cosine = np.argsort(-row, kind="stable").tolist()
        scores = np.array(match_scores(matcher, as_matched, caption, by_cosine[:K]))
        by_score = np.argsort(-scores, kind="stable")
        order.append([*(by_cosine[index] for index in by_score), *by_cosine[K:]])
        assert found["stage1_indices"][caption].tolist() == by_cosine[:K]
        assert found["reranked_indices"][caption].tolist() == order[-1][:K]
        np.testing.assert_allclose(found["reranked_scores"][caption], scores[by_score], atol=1e-4)
    for name, value in metrics_of(order, split).items():
        assert metrics["reranked"][name] == pytest.approx(value)
    assert metrics["reranked"] != metrics["stage1"]


def test_a_model_that_re_ranks_may_find_for_another(benchmark, rde, mars, tmp_path):
    """With itself as the second model, MARS ends with its own numbers; with another it finds the same."""
    for name, more in (("alone", []), ("itself", ["--rerank", mars])):
        ending = evaluation(mars, tmp_path / name, *more)
        assert ending.code == 0, ending.errors
    (metrics, alone), (again, itself) = results(tmp_path / "alone"), results(tmp_path / "itself")
    assert metrics == again and alone.keys() == itself.keys()
    assert all(np.array_equal(alone[name], itself[name]) for name in alone)
    retrieve(tmp_path / "other", benchmark, settings=["max_steps=1", "k_test=4"])
    ending = evaluation(mars, tmp_path / "two", "--rerank", tmp_path / "other/checkpoint_best.pth")
    assert ending.code == 0, ending.errors
    _, two = results(tmp_path / "two")
    assert np.array_equal(two["stage1_indices"], alone["stage1_indices"][:, :4])
    assert not np.array_equal(two["reranked_scores"], alone["reranked_scores"][:, :4])


def test_results_depend_neither_on_memory_nor_on_portions(rde, mars, tmp_path):
    found = []
    for memory, size in ((0, 3), (1, 64)):
        settings = [f"evaluation_memory={memory}", f"batch_size_test={size}"]
        ending = evaluation(rde, tmp_path / str(size), "--rerank", mars, "--set", *settings)
        assert ending.code == 0, ending.errors
        found.append(results(tmp_path / str(size)))
    (one, few), (other, many) = found
    assert one == other and np.array_equal(few["reranked_indices"], many["reranked_indices"])


def test_two_processes_find_what_one_does(rde, mars, tmp_path):
    given = ["--config", rde.with_name("config.yaml"), "--checkpoint", rde, "--evaluate", "--rerank", mars]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    settings = ["--set", "batch_size_test=5"]
    run(sys.executable, *launcher, "Retrieval.py", *given, "--output_dir", tmp_path / "two", *settings, new=True)
    assert evaluation(rde, tmp_path / "one", "--rerank", mars, *settings).code == 0
    (metrics, one), (again, two) = results(tmp_path / "one"), results(tmp_path / "two")
    assert metrics == again
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_what_cannot_re_rank_is_said_in_one_line(rde, mars, tmp_path):
    content = torch.load(mars, weights_only=True)
    torch.save({**content, "config": {**content["config"], "k_test": 0}}, tmp_path / "none.pth")
    torch.save({"model": content["model"]}, tmp_path / "bare.pth")
    for second, words in (
        (rde, "is of the system rde, which does not fuse captions with images"),
        (tmp_path / "none.pth", "re-ranks nothing, as its k_test is 0"),
        (tmp_path / "bare.pth", "does not say how it was trained; give --config (of --rerank: --rerank_config)"),
        (tmp_path / "nothing.pth", "does not exist"),
    ):
        ending = evaluation(rde, tmp_path / "out", "--rerank", second)
        assert ending.code == 2 and words in ending.errors.splitlines()[-1], ending.errors
    assert not (tmp_path / "out").exists()
    for flags, words in (
        (["--rerank", mars], "--rerank is for --evaluate"),
        (["--rerank_config", mars, "--evaluate"], "--rerank_config is of the checkpoint of --rerank"),
    ):
        ending = call(Retrieval.main, *flags, "--output_dir", tmp_path / "new")
        assert ending.code == 2 and words in ending.errors


def test_the_number_of_candidates_is_that_of_the_second_configuration(rde, mars, tmp_path):
    own = torch.load(mars, weights_only=True)["config"]
    (tmp_path / "own.yaml").write_text(json.dumps(own))
    (tmp_path / "fewer.yaml").write_text("k_test: 3\n")
    given = ["--rerank", mars, "--rerank_config", tmp_path / "own.yaml", tmp_path / "fewer.yaml"]
    ending = evaluation(rde, tmp_path / "out", *given)
    assert ending.code == 0, ending.errors
    _, found = results(tmp_path / "out")
    assert found["reranked_indices"].shape[1] == found["stage1_indices"].shape[1] == 3


def test_results_of_two_models_do_not_replace_those_of_a_run(rde, mars, tmp_path):
    shutil.copytree(rde.parent, tmp_path / "run")
    (tmp_path / "run/checkpoint_last.pth").touch()
    ending = evaluation(tmp_path / "run/RDE.pth", tmp_path / "run", "--rerank", mars)
    assert ending.code == 2 and "is that of a run; with --rerank, name another folder" in ending.errors


# ---- one's own photos ------------------------------------------------------------------


def test_search_ranks_as_an_evaluation_does(rde, mars, benchmark, tmp_path):
    pytest.importorskip("pymilvus")
    from fastapi.testclient import TestClient

    from search.serving.api import build_app

    finder, reranker = Encoder.open(rde), Encoder.open(mars)
    split = finder.trained.open_split("test")
    second = open_reranker(mars, None, finder.config, finder.setting.device)
    evaluate(finder.model, split, finder.setting, tmp_path, reranker=second)
    _, expected = results(tmp_path)
    with open_gallery(str(tmp_path / "gallery"), finder, benchmark / "imgs") as gallery:
        index(gallery, finder)
        gallery.drop([path for path in gallery.records.by_path if path not in set(split.images)])
        searcher = Searcher(finder, gallery, reranker=reranker)
        for caption, text in enumerate(split.texts):
            found = searcher.search(text, top=K, candidates=K)
            indices = expected["reranked_indices"][caption]
            assert [hit.path for hit in found.hits] == [split.images[index] for index in indices]
            scores = expected["reranked_scores"][caption].tolist()
            assert [hit.score for hit in found.hits] == pytest.approx(scores, abs=1e-4)
        why = explain(searcher, SENTENCE, searcher.search(SENTENCE).hits[0].path)
        assert why.match == pytest.approx(searcher.search(SENTENCE).hits[0].match, abs=1e-4)
        assert [one.words for one in why.attributes] == ["red coat", "grey jeans", "white sneakers"]
        assert why.image.shape[:2] == reranker.config.image_size
        client = TestClient(build_app(searcher))
        (hit,) = client.post("/api/search", json={"text": SENTENCE, "top": 1}).json()["hits"]
        assert hit["match"] == pytest.approx(why.match, abs=1e-4)
        assert client.post("/api/explain", json={"text": SENTENCE, "id": hit["id"]}).json()["attributes"]
        answer = searcher.search(f"{SENTENCE} \u7ea2\u8272")
        assert answer.warnings == ["in re-ranking: not known to the model, and not read: \u7ea2\u8272"]
        assert answer.reading()["unknown"] == ["\u7ea2\u8272"]
        assert searcher.search(f"{SENTENCE} \u7ea2\u8272", candidates=0).warnings == []  # CLIP reads bytes
        with pytest.raises(UserError, match="does not fuse captions with images"):
            Searcher(finder, gallery, reranker=finder)


def test_the_commands_of_search_take_a_second_model(rde, mars, benchmark, tmp_path):
    pytest.importorskip("pymilvus")
    gallery = ["--gallery", tmp_path / "gallery"]
    indexed = call(search, "index", benchmark / "imgs/test", "--checkpoint", rde, *gallery)
    assert indexed.code == 0, indexed.errors
    found = {}
    for name, more in (("one", []), ("two", ["--rerank", mars])):
        answer = call(search, "query", SENTENCE, *gallery, "--json", *more)
        assert answer.code == 0, answer.errors
        found[name] = json.loads(answer.output)["hits"]
    assert all(hit["match"] is None for hit in found["one"])
    matches = [hit["match"] for hit in found["two"]]
    assert len(matches) > 1 and matches == sorted(matches, reverse=True)
    refused = call(search, "query", SENTENCE, *gallery, "--rerank", rde)
    assert refused.code == 2 and "does not fuse captions with images" in refused.errors.splitlines()[-1]
    refused = call(search, "query", SENTENCE, *gallery, "--rerank_config", rde)
    assert refused.code == 2 and "--rerank_config is of the checkpoint of --rerank" in refused.errors
    assert "--rerank" in call(search, "serve", "--help").output
