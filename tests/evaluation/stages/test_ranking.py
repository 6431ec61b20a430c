"""Both stages of the search against a plain twin: one pair of caption and image at a time."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from configs.loading import load_config
from dataset.annotations import Entry
from dataset.evaluation_split import blocks_of, make_split
from dataset.images import load_image
from dataset.tokens import CaptionTokenizer
from evaluation.stages.encoding import KeptTokens, Setting, embed_images
from evaluation.stages.ranking import best, rank_split, right_images, search, summarise_stages
from evaluation.stages.reranking import TextPrefixes, portions, room_for_images, score_candidates
from models.build import build_model
from models.pairing import Pairing
from models.person_search import PersonSearchModel
from utils.precision import autocast

COLOURS = ["red", "green", "blue", "white", "black", "yellow", "brown"]
SIZES = [
    "image_res=[32,16]",
    "patch_size=8",
    "vision_width=32",
    "vision_depth=2",
    "vision_heads=4",
    "embed_dim=16",
    "decoder_heads=4",
    "queue_size=16",
    "bert_config.hidden_size=32",
    "bert_config.num_hidden_layers=4",
    "bert_config.num_attention_heads=4",
    "bert_config.intermediate_size=64",
    "bert_config.fusion_layer=2",
    "bert_config.encoder_width=32",
    "bert_config.max_position_embeddings=40",
    "max_words=30",
]


@pytest.fixture
def split(tmp_path):
    """13 images of 6 identities, 1 to 3 captions of different length each."""
    chance = np.random.default_rng(0)
    entries = []
    for place in range(13):
        pixels = chance.integers(0, 255, (32, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{place}.png")
        captions = tuple(
            "a person " + " ".join(chance.choice(COLOURS, chance.integers(1, 25))) for _ in range(1 + place % 3)
        )
        entries.append(Entry(f"{place}.png", int(chance.integers(0, 6)), captions))
    tokenizer = CaptionTokenizer.train([c for e in entries for c in e.captions], 100, 1)
    return make_split(entries, tmp_path, tokenizer, max_words=30), tokenizer


def tiny_model(tokenizer, full_ca: bool):
    sizes = [*SIZES, f"bert_config.vocab_size={tokenizer.vocabulary_size}"]
    config = load_config(None, [*sizes, f"bert_config.full_ca={str(full_ca).lower()}"])
    torch.manual_seed(1)
    model = build_model(config, tokenizer.special).eval()
    for parameter in model.parameters():  # far from the symmetric start, so that scores differ
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def setting(candidates: int, batch_size: int = 4, memory: int = 2**30, precision: str = "fp32") -> Setting:
    in_precision = partial(autocast, precision, "cpu")
    return Setting(torch.device("cpu"), in_precision, (32, 16), batch_size, candidates, memory=memory)


@torch.no_grad()
def plain_stages(model, split, k):
    """Similarities [C, G], and ITM scores [C, G] of the k best (others -inf), one pair at a time."""
    images = [load_image(split.image_root / name, (32, 16))[None] for name in split.images]
    encoded = [model.encode_image(image) for image in images]
    similarity, itm = [], []
    for place in range(len(split.captions)):
        reading = model.encode_text(split.captions.tokens([place]))
        row = torch.cat([embedding @ reading.embedding[0] for _, embedding in encoded])
        scores = torch.full((len(images),), -torch.inf)
        for image in row.argsort(descending=True, stable=True)[:k].tolist():
            memory = model.text_encoder.project_images(encoded[image][0])
            scores[image] = model.match_scores(reading.prefix.states, reading.tokens.mask, memory, Pairing())
        similarity.append(row)
        itm.append(scores)
    return torch.stack(similarity), torch.stack(itm)


def plain_metrics(order: torch.Tensor, split) -> dict[str, float]:
    """Metrics of a full ranking [C, G], by loops."""
    first, precisions = {1: [], 5: [], 10: []}, []
    for row, identity in zip(order.tolist(), split.caption_identity.tolist(), strict=True):
        right = [int(split.image_identity[image]) == identity for image in row]
        places = [place + 1 for place, is_right in enumerate(right) if is_right]
        precisions.append(sum((n + 1) / place for n, place in enumerate(places)) / len(places))
        for k, hits in first.items():
            hits.append(any(right[:k]))
    mean = {f"r{k}": 100 * sum(hits) / len(hits) for k, hits in first.items()}
    return {**mean, "mAP": 100 * sum(precisions) / len(precisions)}


@pytest.mark.parametrize("full_ca", [True, False])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_both_stages_agree_with_one_pair_at_a_time(split, full_ca, k):
    split, tokenizer = split
    model = tiny_model(tokenizer, full_ca)
    results = rank_split(model, split, setting(k))
    similarity, itm = plain_stages(model, split, k)

    kept = min(k, len(split.images))
    order = similarity.argsort(dim=1, descending=True, stable=True)
    assert torch.equal(results["stage1"].indices, order[:, :kept])
    reranked = itm.argsort(dim=1, descending=True, stable=True)[:, :kept]
    assert torch.equal(results["reranked"].indices, reranked)
    torch.testing.assert_close(results["reranked"].scores, itm.gather(1, reranked), atol=1e-5, rtol=0)

    behind = torch.stack([row[kept:] for row in order])
    metrics = summarise_stages(results, split)
    for stage, full in (("stage1", order), ("reranked", torch.cat([reranked, behind], dim=1))):
        for name, value in plain_metrics(full, split).items():
            assert metrics[stage][name] == pytest.approx(value), (stage, name)


def test_results_do_not_depend_on_the_block_size(split):
    split, tokenizer = split
    model = tiny_model(tokenizer, True)
    one, all_ = rank_split(model, split, setting(5, 1)), rank_split(model, split, setting(5, 100))
    for stage in one:
        assert torch.equal(one[stage].indices, all_[stage].indices)
        torch.testing.assert_close(one[stage].scores, all_[stage].scores, atol=1e-5, rtol=0)


# ---- what is kept in memory ------------------------------------------------------------

TOKEN_BYTES = 9 * 32 * 4  # of an image: CLS and 8 patches, width 32, float32


def text_bytes(split) -> int:
    return sum(map(len, split.captions.ids)) * 32 * 4


@pytest.fixture
def encoded(monkeypatch):
    """The sizes of the blocks of images that models encode, in order."""
    blocks, encode = [], PersonSearchModel.encode_image
    monkeypatch.setattr(
        PersonSearchModel, "encode_image", lambda self, images: blocks.append(len(images)) or encode(self, images)
    )
    return blocks


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("full_ca", [True, False])
def test_results_are_the_same_whatever_is_kept(split, full_ca, precision):
    split, tokenizer = split
    model = tiny_model(tokenizer, full_ca)
    everything = rank_split(model, split, setting(5, precision=precision))
    texts_and_two_blocks = text_bytes(split) + 8 * TOKEN_BYTES
    for memory in (0, text_bytes(split) // 2, text_bytes(split), texts_and_two_blocks):
        found = rank_split(model, split, setting(5, memory=memory, precision=precision))
        for stage in everything:
            assert torch.equal(found[stage].indices, everything[stage].indices)
            torch.testing.assert_close(found[stage].scores, everything[stage].scores, atol=1e-5, rtol=0)


def test_images_encoded_again_give_the_same_scores_to_the_last_bit(split, monkeypatch):
    split, tokenizer = split
    model = tiny_model(tokenizer, True)
    found = []
    for room in (2**30, 0):
        monkeypatch.setattr("evaluation.stages.ranking.room_for_images", lambda *_, room=room: room)
        found.append(rank_split(model, split, setting(5))["reranked"])
    assert torch.equal(found[0].scores, found[1].scores)


def test_images_are_encoded_once_when_they_fit_and_else_again_by_blocks(split, encoded):
    split, tokenizer = split
    model = tiny_model(tokenizer, True)
    for room, expected in (
        (13 * TOKEN_BYTES, [4, 4, 4, 1]),
        (13 * TOKEN_BYTES - 1, [4, 4, 4, 1, 1]),  # the last block of one image does not fit
        (9 * TOKEN_BYTES, [4, 4, 4, 1, 4]),  # nor does the third, but the last one does
        (0, [4, 4, 4, 1, 4, 4, 4, 1]),
    ):
        encoded.clear()
        rank_split(model, split, setting(40, memory=text_bytes(split) + room))
        assert encoded == expected


def test_blocks_that_nobody_asks_for_are_not_encoded_again(split, encoded):
    split, tokenizer = split
    model = tiny_model(tokenizer, True)
    asked = torch.zeros(len(split.captions), 1, dtype=torch.long)
    score_candidates(model, split, setting(1), asked, KeptTokens(0))
    assert encoded == [4]


def test_no_more_is_kept_than_memory_allows(split):
    split, tokenizer = split
    model = tiny_model(tokenizer, True)
    for memory in (0, 1000, text_bytes(split) - 1, text_bytes(split), text_bytes(split) + 5 * TOKEN_BYTES, 10**9):
        limited = setting(5, memory=memory)
        kept = KeptTokens(room_for_images(model, split.captions, limited))
        embed_images(model, split, limited, kept)
        texts = TextPrefixes(model, split.captions, limited)
        images = sum(tokens.nbytes for tokens in kept.blocks.values())
        assert texts.states.nbytes + images <= memory
        assert texts.states.nbytes == min(memory, text_bytes(split)) or not texts.is_kept.all()


def test_tokens_are_let_go_as_soon_as_they_are_used(split):
    split, tokenizer = split
    model, all_kept = tiny_model(tokenizer, True), KeptTokens(2**30)
    embed_images(model, split, setting(5), all_kept)
    everyone = torch.arange(13).expand(len(split.captions), -1)
    score_candidates(model, split, setting(13), everyone, all_kept)
    assert all_kept.blocks == {}


def test_without_candidates_there_is_only_stage_one(split):
    split, tokenizer = split
    assert set(rank_split(tiny_model(tokenizer, True), split, setting(0))) == {"stage1"}


def test_best_keeps_the_gallery_order_of_ties():
    scores = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0], [3.0, 3.0, 3.0, 3.0, 3.0]])
    values, indices = best(scores, 2)
    assert indices.tolist() == [[1, 2], [0, 1]]
    assert values.tolist() == [[2, 2], [3, 3]]


def test_best_agrees_with_a_full_stable_sort_on_many_ties():
    generator = torch.Generator().manual_seed(0)
    for keep in (1, 3, 20):
        scores = torch.randint(0, 4, (50, 20), generator=generator).float()
        assert torch.equal(best(scores, keep)[1], scores.argsort(dim=1, descending=True, stable=True)[:, :keep])


def test_search_ranks_right_images_over_the_whole_gallery():
    # similarities 0.6, 0.8, 1.0, 0.0 of one caption; images 0 and 3 are right: ranks 3 and 4
    images = torch.tensor([[0.6, 0.8], [0.8, 0.6], [1.0, 0.0], [0.0, 1.0]])
    found = search(torch.tensor([[1.0, 0.0]]), images, torch.tensor([[0, 3]]), keep=1)
    assert found.indices.tolist() == [[2]]
    assert found.ranks.tolist() == [[3, 4]]


def test_right_images_are_padded_with_minus_one(split):
    split, _ = split
    for row, identity in zip(right_images(split).tolist(), split.caption_identity.tolist(), strict=True):
        expected = [place for place, other in enumerate(split.image_identity.tolist()) if other == identity]
        assert row == expected + [-1] * (len(row) - len(expected))


def test_blocks_cover_everything_once():
    assert [list(block) for block in blocks_of(5, 2)] == [[0, 1], [2, 3], [4]]
    assert blocks_of(0, 3) == []


def test_portions_hold_as_many_captions_as_fit():
    # 2 + 3 + 4 = 9, and 5 more are too many; 5 + 5 = 10; one of 20 is alone
    assert [(p.start, p.stop) for p in portions([2, 3, 4, 5, 5, 20], 12)] == [(0, 3), (3, 5), (5, 6)]
    assert list(portions([], 12)) == []
