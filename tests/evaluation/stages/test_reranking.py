"""Stage 2 of the search: groups of images, what a GPU is asked, and how work is shared by processes.

That scores are those of one pair at a time, test_ranking.py says.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pretended_gpu import GPU, Launches, on_gpu, pretended_gpu
from tiny_matcher import tiny_matcher
from torch import Tensor

from benchmarks.rerank import PATCHES, WIDTH, build, pretend_split, random_captions
from dataset.evaluation_split import Captions, blocks_of
from evaluation.stages import reranking
from evaluation.stages.dealing import deal
from evaluation.stages.encoding import KeptTokens, Setting
from evaluation.stages.reranking import AtOnce, SortedPairs, TextPrefixes, at_once, portions, score_candidates
from models.kernels import attend, segments
from utils.precision import autocast
from utils.processes import distributed

CPU = torch.device("cpu")
MEMORY = {"kept": None, "encoded": 0}  # bytes
FEW = AtOnce(768, 1)


# ---- groups of images ------------------------------------------------------------------


def random_problem(captions: int = 40, images: int = 30, candidates: int = 6) -> tuple[Captions, Tensor]:
    """Captions, and candidates [C, K]; image 3 is nobody's, image 4 everyone's."""
    generator = torch.Generator().manual_seed(0)
    likes = torch.rand(captions, images, generator=generator)
    likes[:, 3], likes[:, 4] = -1, 2
    return random_captions(captions, generator), likes.argsort(1, descending=True)[:, :candidates]


@pytest.mark.parametrize("at_once", [AtOnce(1, 1), AtOnce(100, 3), AtOnce(10**6, 4), AtOnce(10**6, 100)])
def test_groups_hold_every_pair_once_and_images_of_one_block(at_once):
    captions, candidates = random_problem()
    lengths = reranking.lengths_of(captions)
    pairs = SortedPairs(candidates, lengths)
    groups = pairs.groups(blocks_of(30, 8), at_once)
    images = [image for group in groups for image in group.images]
    assert images == sorted(set(candidates.flatten().tolist())) and 3 not in images
    found = []
    for group in groups:
        assert group.source.start <= group.images[0] and group.images[-1] < group.source.stop
        assert len(group.images) <= at_once.images
        words = int(lengths[pairs.captions[group.pairs]].sum())
        assert words <= at_once.words or len(group.images) == 1
        assert group.work == words + reranking.WORDS_PER_IMAGE * len(group.images)
        attended = np.repeat(group.images, group.texts).tolist()
        found += zip(pairs.order[group.pairs].tolist(), attended, strict=True)
    assert [index for index, _ in found] == pairs.order.tolist()
    assert all(candidates.flatten()[index] == image for index, image in found)
    # of each image the short captions first, so that those of equal length are side by side
    for image in set(images):
        own = lengths[pairs.captions[pairs.images == image]]
        assert (np.diff(own) >= 0).all()


def test_portions_hold_no_more_than_they_may():
    found = [(p.start, p.stop) for p in portions([2, 3, 4, 5, 5, 20], 12, longest=2)]
    assert found == [(0, 2), (2, 4), (4, 5), (5, 6)]


# ---- what a GPU is given, by tensors without content -----------------------------------


def launches_for(precision: str, images: Sequence[int]) -> list[Launches]:
    """What a GPU is given for a group of so many images, each with 20 captions of real lengths, by 4 wide layers."""
    captions = random_captions(40, torch.Generator().manual_seed(0))
    setting, found = Setting(GPU, partial(autocast, precision, "cuda"), (384, 384), 64, 16, memory=2**40), []
    pairs = SortedPairs(
        torch.stack([torch.arange(16) + 16 * (caption % 2) for caption in range(40)]), reranking.lengths_of(captions)
    )
    with torch.device("meta"):
        model = build(4)
    with pretended_gpu(), torch.inference_mode():
        on_gpu(model)
        with reranking.prepare_fusion(model.text_encoder, setting.precision) as fusion:
            texts = TextPrefixes(model, captions, setting)
            for count in images:
                group = pairs.groups([range(32)], AtOnce(2**15, count))[0]
                assert len(group.images) == count
                tokens = torch.empty(count, PATCHES + 1, WIDTH, device=GPU, dtype=reranking.kept_dtype(setting))
                scores = torch.empty(len(pairs.order), device=GPU)
                with Launches() as launches:
                    reranking.score_group(model, fusion, texts, pairs, group, tokens, scores)
                found.append(launches)
    return found


@pytest.mark.parametrize(("precision", "kernel"), [("bf16", "_flash"), ("fp32", "_efficient")])
def test_a_gpu_is_given_a_group_of_images_and_asked_nothing(precision, kernel):
    one, many = launches_for(precision, [1, 16])
    assert not one.waits and not many.waits
    attention = [name for name in many.names if "attention" in name]
    assert attention == [f"{kernel}_attention_forward"] * 7  # that of captions in the first of 4 layers was kept
    # what is given does not grow with the images of a group: an image alone takes as many launches as sixteen
    assert len(one.names) == len(many.names) <= 25 * 4


def test_what_waits_is_noticed():
    launches = Launches()
    with pretended_gpu(), torch.inference_mode(), launches:
        numbers = torch.empty(3, device=GPU)
        numbers[1:].view(1, 2).to(torch.bfloat16)
        numbers[torch.empty(3, dtype=torch.long, device=GPU)]
        assert (launches.names, launches.waits) == (["to", "index"], [])
        numbers.cpu()
    assert launches.waits == ["to"]


# ---- kernels of attention --------------------------------------------------------------


def test_attention_takes_a_kernel_that_can_serve(monkeypatch):
    capability = [(9, 0)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability[0])
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    kernel_for, half = segments.kernel_for, torch.bfloat16
    assert kernel_for(torch.device("cpu"), half, 8) is None
    for capability[0], kernel in (((7, 5), None), ((8, 0), "flash"), ((9, 0), "flash")):
        assert kernel_for(GPU, half, 64) == kernel
    assert kernel_for(GPU, half, 512) is None
    assert kernel_for(GPU, torch.float32, 64) == "efficient"
    assert kernel_for(GPU, torch.float32, 12) is None
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: False)
    assert kernel_for(GPU, half, 64) is None


def segments_of(queries: list[int], keys: list[int]) -> segments.Segments:
    starts = [torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32) for lengths in (queries, keys)]
    return segments.Segments.of_lengths(np.array(queries), np.array(keys), *starts)


def test_segments_of_about_equal_length_side_by_side_are_one_run():
    found = segments_of([2, 2, 2, 3, 3, 2], [40, 40, 41, 40, 40, 90]).runs
    assert [run.count for run in found] == [3, 2, 1]
    assert [(run.queries, run.keys) for run in found] == [
        (slice(0, 6), slice(0, 121)),
        (slice(6, 12), slice(121, 201)),
        (slice(12, 14), slice(201, 291)),
    ]
    assert [run.mask is None for run in found] == [False, True, True]


@pytest.mark.parametrize(
    ("queries", "keys"),
    [([5, 5, 6, 6, 9], [5, 5, 6, 6, 9]), ([1, 1, 1, 1], [18, 19, 20, 40]), ([7], [3]), ([4, 5], [9, 9])],
)
def test_segments_attend_to_their_own_keys_alone(queries, keys):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(sum(rows), 2, 8, generator=generator) for rows in (queries, keys, keys))
    found = segments.attend_segments(query, key, value, segments_of(queries, keys))
    parts = zip(query.split(queries), key.split(keys), value.split(keys), strict=True)
    expected = [attend(*(part.transpose(0, 1)[None] for part in three))[0].transpose(0, 1) for three in parts]
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-6, rtol=1e-5)


# ---- several processes -----------------------------------------------------------------


def work_of_a_gallery(images: int, seed: int = 0) -> list[int]:
    """Words that attend to each image, some images far more than others."""
    return (7000 * np.random.default_rng(seed).lognormal(0, 0.8, images)).astype(int).tolist()


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_sixty_four_processes_have_about_the_same_work(size, seed):
    work = work_of_a_gallery(3074 // size, seed)
    owners = [piece * size // 64 % 64 for piece in range(len(work))]  # blocks of 64 images: 15 processes have none
    takers = deal(work, owners, 64)
    loads = np.bincount(takers, weights=work, minlength=64)
    assert np.bincount(owners, minlength=64).min() == 0
    assert loads.max() <= {1: 1.03, 4: 1.1}[size] * loads.mean()
    assert loads.sum() == sum(work)


def test_work_that_is_even_stays_with_its_owners():
    assert deal([5, 5, 5, 5], [0, 1, 0, 1], 2) == [0, 1, 0, 1]
    assert deal([5, 4, 5, 4], [0, 1, 0, 1], 2) == [0, 1, 0, 1]
    assert deal([], [], 3) == []
    assert deal([7], [0], 3) == [0]


def test_pieces_go_where_there_is_least_to_do():
    # 0 has 6 + 3 + 3, and 1 has 2: a gap of 10, which moving 6 would close to 2 and moving 3 to 4
    assert deal([6, 3, 3, 2], [0, 0, 0, 1], 2) == [1, 0, 0, 1]
    assert deal([1, 1, 1], [0, 0, 0], 3) == [1, 2, 0]


@pytest.mark.parametrize(("width", "words", "images"), [(768, 768, 1), (1024, 768, 1), (128, 4608, 6)])
def test_a_narrow_model_scores_more_at_once(width, words, images):
    model = SimpleNamespace(text_encoder=SimpleNamespace(size=SimpleNamespace(hidden_size=width)))
    assert at_once(model, CPU) == AtOnce(words, images)


def test_a_process_begins_the_captions_that_it_needs_alone(monkeypatch):
    model = tiny_matcher(True, 60)
    captions = Captions([[101, *range(104, 104 + n), 102] for n in (3, 5, 2, 9, 4, 1, 6)], 0)
    setting = setting_of(images=3, batch_size=2)
    everything = TextPrefixes(model, captions, setting)
    encoded: list[list[int]] = []
    encode = TextPrefixes.encode
    monkeypatch.setattr(
        TextPrefixes, "encode", lambda self, *given: encoded.append(list(given[0])) or encode(self, *given)
    )
    some = TextPrefixes(model, captions, setting, np.array([1, 4, 5]))
    assert encoded == [[0, 1], [4, 5]]  # whole blocks, and none that nobody needs
    assert len(some.states) == 7 + 6 + 3
    for index in (1, 4, 5):
        assert torch.equal(some.text_prefix(np.array([index])), everything.text_prefix(np.array([index])))


def setting_of(images: int, batch_size: int, memory: int | None = None) -> Setting:
    return Setting(CPU, partial(autocast, "fp32", "cpu"), (32, 16), batch_size, images, memory=memory)


def shared_problem(rank: int, processes: int, memory: int | None = None, few: AtOnce = FEW) -> tuple[Tensor, int, int]:
    """Scores of 23 captions with 5 of 30 images, few at once; how many blocks were encoded again, and groups sent."""
    model, generator = tiny_matcher(True, 60), torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 20, (23,), generator=generator).tolist()
    captions = Captions([[101, *range(104, 104 + length), 102] for length in lengths], 0)
    likes = torch.rand(23, 30, generator=generator)
    likes[:, :8] += 0.5  # images of the first block have most of the work
    candidates, setting = likes.argsort(1, descending=True)[:, :5], setting_of(30, 4, memory)
    tokens = torch.randn(30, 9, 16, generator=generator)
    kept, encoded, moved, exchange = KeptTokens(setting.room()), [], [], distributed.exchange
    for number, block in enumerate(blocks_of(30, 4)):
        if number % processes == rank:
            kept.offer(block, tokens[block.start : block.stop])

    def load(split, blocks, *_):
        for block in blocks:
            encoded.append(block)
            yield tokens[block.start : block.stop]

    reranking.at_once = lambda model, device: few
    reranking.load_blocks = load
    reranking.encode_images = lambda model, images, setting: (images, images)
    reranking.exchange = lambda sent, received: moved.extend(sent) or exchange(sent, received)
    scores = score_candidates(model, pretend_split(30, captions), setting, candidates, kept)
    assert not kept.blocks
    return scores, len(encoded), len(moved)


def run_process(rank: int, processes: int, store: str, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)
    with torch.inference_mode():
        for name, memory in MEMORY.items():
            scores, *counts = shared_problem(rank, processes, memory)
            Path(folder, f"{name}{rank}.json").write_text(json.dumps([scores.tolist(), *counts]))
    torch.distributed.destroy_process_group()


@pytest.fixture
def put_back(monkeypatch):
    """Undoes what `shared_problem` replaces."""
    for name in ("at_once", "load_blocks", "encode_images", "exchange"):
        monkeypatch.setattr(reranking, name, getattr(reranking, name))


@pytest.mark.parametrize("few", [AtOnce(10**6, 16), AtOnce(150, 3), AtOnce(1, 1)])
@torch.inference_mode()
def test_images_scored_together_have_the_scores_of_each_alone(put_back, few):
    expected, *_ = shared_problem(0, 1)
    found, *_ = shared_problem(0, 1, few=few)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert torch.equal(found.argsort(1), expected.argsort(1))


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_give_the_scores_of_one_to_the_last_bit(put_back, processes, tmp_path):
    with torch.inference_mode():
        expected = {name: shared_problem(0, 1, memory)[0] for name, memory in MEMORY.items()}
    assert expected["kept"].std() > 0.01
    torch.testing.assert_close(expected["kept"], expected["encoded"], atol=1e-5, rtol=0)
    arguments = (processes, str(tmp_path / "store"), str(tmp_path))
    # forked, as importing torch takes longer than all the rest; they use one thread each, so that none is missed
    torch.multiprocessing.start_processes(run_process, arguments, processes, start_method="fork")
    again, sent = dict.fromkeys(MEMORY, 0), dict.fromkeys(MEMORY, 0)
    for rank in range(processes):
        for name in MEMORY:
            scores, encoded, moved = json.loads((tmp_path / f"{name}{rank}.json").read_text())
            assert scores == expected[name].tolist(), (name, rank)
            again[name] += encoded
            sent[name] += moved
    # tokens were sent where all were kept, and else made again
    assert sent["kept"] > 0 == again["kept"] and again["encoded"] > 0 == sent["encoded"]
