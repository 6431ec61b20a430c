"""Masked, replaced and removed words: published numbers, a plain twin, and what the random numbers depend on."""

from dataclasses import astuple

import numpy as np
import pytest
import torch
from clip_golden import clip_parts

from dataset.clip_tokens import ClipSpecialTokens
from dataset.tokens import CaptionTokenizer
from dataset.word_noise import WordIds, WordNoise, augment_words, mask_words


def words_of(size: int) -> WordIds:
    special = ClipSpecialTokens.of(size)
    return WordIds.of(size, astuple(special), special.mask)


REAL, SMALL = words_of(49408), words_of(40)
MASK, START, END = 37, 38, 39
MASKING, AUGMENTATION = clip_parts("masking"), clip_parts("text_augmentation")


def published_noise(part: dict) -> WordNoise:
    return WordNoise(part["uniform"], part["random_ids"])


def noise_of(uniform: list[float], words: list[int] | None = None) -> WordNoise:
    return WordNoise(torch.tensor([uniform]).double(), torch.tensor([words or [5] * len(uniform)]))


def augmented_rows(ids: torch.Tensor, noise: WordNoise, words: WordIds) -> torch.Tensor:
    """Rows of captions [B, T], changed one by one and padded again."""
    rows = zip(ids.numpy(), noise.uniform.numpy(), noise.words.numpy(), strict=True)
    found = [augment_words(*row, words)[0] for row in rows]
    return torch.from_numpy(np.stack([np.pad(row, (0, ids.shape[1] - len(row))) for row in found]))


# ---- published numbers -----------------------------------------------------------------


@pytest.mark.parametrize("name", MASKING)
def test_masked_words_are_the_published_ones(name):
    part = MASKING[name]
    masked = mask_words(part["ids"], published_noise(part), REAL)
    # captions that are empty, or begin with a special token that the published tokenizer obeyed
    odd = torch.from_numpy(~REAL.among(part["ids"][:, 1].numpy()))
    assert masked.ids[~odd].equal(part["mlm_ids"][~odd])
    assert masked.labels[~odd].equal(part["mlm_labels"][~odd])
    # of an empty one the published code masks the end
    empty = part["ids"][:, 1] == 49407
    assert empty.sum() == 1 and part["mlm_labels"][empty, 1] == 49407
    assert masked.ids[empty].equal(part["ids"][empty]) and not masked.labels[empty].any()


@pytest.mark.parametrize("name", AUGMENTATION)
def test_augmented_captions_are_the_published_ones(name):
    part = AUGMENTATION[name]
    assert augmented_rows(part["ids"], published_noise(part), REAL).equal(part["augmented"])
    assert not part["augmented"].equal(part["ids"])


# ---- small enough to check by hand -----------------------------------------------------


def test_a_masked_word_is_hidden_replaced_or_kept():
    ids = torch.tensor([[38, 10, 11, 12, 13, 39, 0]])
    masked = mask_words(ids, noise_of([0, 0.119, 0.121, 0.136, 0.15, 0, 0], [1, 2, 3, 4, 5, 6, 7]), SMALL)
    assert masked.ids.tolist() == [[38, 37, 3, 12, 13, 39, 0]]
    assert masked.labels.tolist() == [[0, 10, 11, 12, 0, 0, 0]]


def test_where_no_word_is_taken_the_first_is_hidden():
    masked = mask_words(torch.tensor([[38, 10, 11, 39, 0]]), noise_of([0.9] * 5), SMALL)
    assert masked.ids.tolist() == [[38, 37, 11, 39, 0]] and masked.labels.tolist() == [[0, 10, 0, 0, 0]]
    inner = mask_words(torch.tensor([[38, 0, 11, 39, 0]]), noise_of([0.9] * 5), SMALL)
    assert inner.ids.tolist() == [[38, 0, 37, 39, 0]] and inner.labels.tolist() == [[0, 0, 11, 0, 0]]


def test_masked_words_are_counted_for_a_loss_that_reads_no_others():
    ids = torch.arange(1, 31).clamp(max=29).repeat(2, 1)
    for taken, most in ((0, 8), (4, 8), (5, 16)):  # of 2 captions; none is the first of each
        uniform = (torch.arange(30) >= taken).double().repeat(2, 1)
        masked = mask_words(ids, WordNoise(uniform, torch.ones(2, 30, dtype=torch.long)), SMALL)
        assert (masked.labels != 0).sum() == max(2, 2 * taken) and masked.most == most


def test_a_caption_without_words_is_left_alone():
    ids = torch.tensor([[38, 39, 0, 0]])
    masked = mask_words(ids, noise_of([0.0] * 4), SMALL)
    assert masked.ids.equal(ids) and not masked.labels.any()
    assert augmented_rows(ids, noise_of([0.19] * 4), SMALL).equal(ids)


def test_an_augmented_word_is_hidden_replaced_or_removed():
    ids = np.array([38, 10, 11, 0, 12, 13, 39], np.uint8)
    uniform = np.array([0, 0.119, 0.13, 0, 0.17, 0.2, 0, 0])  # of more positions than there are
    augmented, kept = augment_words(ids, uniform, np.array([1, 2, 3, 4, 5, 6, 7, 8]), SMALL)
    assert augmented.tolist() == [38, 37, 3, 0, 13, 39]  # the 0 within is a symbol of a word
    assert kept.tolist() == [0, 1, 2, 3, 5, 6] and augmented.dtype == np.int64


# ---- a plain twin ----------------------------------------------------------------------


def plain_masked(ids: list[int], uniform: list[float], words: list[int]) -> tuple[list[int], list[int]]:
    read, labels = list(ids), [0] * len(ids)
    for index, number in enumerate(ids):
        if 1 <= number < MASK and uniform[index] < 0.15:
            labels[index] = number
            if uniform[index] / 0.15 < 0.8:
                read[index] = MASK
            elif uniform[index] / 0.15 < 0.9:
                read[index] = words[index]
    positions = [index for index, number in enumerate(ids) if 1 <= number < MASK]
    if positions and not any(labels):
        labels[positions[0]], read[positions[0]] = ids[positions[0]], MASK
    return read, labels


def plain_augmented(ids: list[int], uniform: list[float], words: list[int]) -> list[int]:
    kept = []
    for index, number in enumerate(ids):
        if 1 <= number < MASK and uniform[index] < 0.2:
            if uniform[index] / 0.2 < 0.6:
                kept.append(MASK)
            elif uniform[index] / 0.2 < 0.8:
                kept.append(words[index])
        else:
            kept.append(number)
    return kept + [0] * (len(ids) - len(kept))


def drawn_captions(count: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, MASK, (count, length), generator=generator)
    for row, words in zip(ids, torch.randint(0, length - 1, (count,), generator=generator).tolist(), strict=True):
        row[0], row[words + 1], row[words + 2 :] = START, END, 0
    return ids


def test_many_captions_are_changed_as_by_a_plain_twin():
    ids = drawn_captions(500, 12)
    noise = WordNoise.draw("mlm", 0, 0, range(500), 12, SMALL)
    masked, augmented = mask_words(ids, noise, SMALL), augmented_rows(ids, noise, SMALL)
    for row in range(500):
        one = ids[row].tolist(), noise.uniform[row].tolist(), noise.words[row].tolist()
        assert (masked.ids[row].tolist(), masked.labels[row].tolist()) == plain_masked(*one)
        assert augmented[row].tolist() == plain_augmented(*one)


# ---- which ids are words ----------------------------------------------------------------


def test_words_are_all_but_special_ids_wherever_these_stand():
    words = WordIds.of(9, [8, 3, 0, 3], mask=3)
    assert words.special == (0, 3, 8)
    assert words.among(np.arange(9)).tolist() == [number in (1, 2, 4, 5, 6, 7) for number in range(9)]
    drawn = np.bincount(words.draw(np.random.default_rng(0), 6000), minlength=9)
    assert drawn[[0, 3, 8]].tolist() == [0, 0, 0] and drawn[[1, 2, 4, 5, 6, 7]].min() > 900


def test_words_of_clip_are_drawn_as_whole_numbers_are():
    drawn, plain = (np.random.default_rng(5) for _ in range(2))
    assert np.array_equal(REAL.draw(drawn, 1000), plain.integers(1, 49405, 1000))


def test_special_ids_of_bert_are_never_changed_nor_put_in():
    tokenizer = CaptionTokenizer.train(["a man in a red coat"], 60, 1)
    words, special = tokenizer.words, tokenizer.special
    assert words.special == (0, 1, 2, 3, 4) and words.size == tokenizer.vocabulary_size
    ids = np.array(tokenizer.encode("red \u7ea2 coat", None).ids)
    unknown = ids.tolist().index(tokenizer.unknown)
    augmented, kept = augment_words(ids, np.zeros(len(ids)), np.zeros(len(ids), int), words)
    expected = [special.mask] * len(ids)
    expected[0], expected[unknown], expected[-1] = special.cls, tokenizer.unknown, special.sep
    assert augmented.tolist() == expected and len(kept) == len(ids)
    removed, kept = augment_words(ids, np.full(len(ids), 0.19), np.zeros(len(ids), int), words)
    assert removed.tolist() == [special.cls, tokenizer.unknown, special.sep]
    assert kept.tolist() == [0, unknown, len(ids) - 1]


# ---- random numbers --------------------------------------------------------------------


def test_numbers_depend_on_seed_epoch_sample_and_purpose_alone():
    together = WordNoise.draw("mlm", 3, 1, [5, 9, 7], 20, REAL)
    alone = WordNoise.draw("mlm", 3, 1, [9], 20, REAL)
    assert alone.uniform[0].equal(together.uniform[1]) and alone.words[0].equal(together.words[1])
    others = [("mlm", 4, 1, 9), ("mlm", 3, 2, 9), ("mlm", 3, 1, 8), ("augmentation", 3, 1, 9)]
    for purpose, seed, epoch, sample in others:
        other = WordNoise.draw(purpose, seed, epoch, [sample], 20, REAL)
        assert not other.uniform.equal(alone.uniform) and not other.words.equal(alone.words)


def test_numbers_are_uniform_and_words_are_words():
    noise = WordNoise.draw("augmentation", 0, 0, range(2000), 20, SMALL)
    assert noise.uniform.dtype == torch.float64 and noise.uniform.min() >= 0 and noise.uniform.max() < 1
    assert abs(noise.uniform.mean() - 0.5) < 0.01
    counts = noise.words.flatten().bincount(minlength=MASK + 1)
    assert counts[0] == counts[MASK] == 0 and len(counts) == MASK + 1
    assert counts[1:MASK].min() > 0.8 * 40_000 / 36
