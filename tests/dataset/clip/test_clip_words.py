"""Masked, replaced and removed words: published numbers, a plain twin, and what the random numbers depend on."""

import pytest
import torch
from clip_golden import clip_parts

from dataset.clip_tokens import ClipSpecialTokens
from dataset.clip_words import WordNoise, augment_words, is_word, mask_words

REAL = ClipSpecialTokens.of(49408)
SMALL = ClipSpecialTokens.of(40)  # mask 37, start 38, end 39
MASKING, AUGMENTATION = clip_parts("masking"), clip_parts("text_augmentation")


def published_noise(part: dict) -> WordNoise:
    return WordNoise(part["uniform"], part["random_ids"])


def noise_of(uniform: list[float], words: list[int] | None = None) -> WordNoise:
    return WordNoise(torch.tensor([uniform]).double(), torch.tensor([words or [5] * len(uniform)]))


# ---- published numbers -----------------------------------------------------------------


@pytest.mark.parametrize("name", MASKING)
def test_masked_words_are_the_published_ones(name):
    part = MASKING[name]
    masked = mask_words(part["ids"], published_noise(part), REAL)
    # captions that are empty, or begin with a special token that the published tokenizer obeyed
    odd = ~is_word(part["ids"][:, 1], REAL)
    assert masked.ids[~odd].equal(part["mlm_ids"][~odd])
    assert masked.labels[~odd].equal(part["mlm_labels"][~odd])
    # of an empty one the published code masks the end
    empty = part["ids"][:, 1] == REAL.end
    assert empty.sum() == 1 and part["mlm_labels"][empty, 1] == REAL.end
    assert masked.ids[empty].equal(part["ids"][empty]) and not masked.labels[empty].any()


@pytest.mark.parametrize("name", AUGMENTATION)
def test_augmented_captions_are_the_published_ones(name):
    part = AUGMENTATION[name]
    assert augment_words(part["ids"], published_noise(part), REAL).equal(part["augmented"])
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


def test_a_caption_without_words_is_left_alone():
    ids = torch.tensor([[38, 39, 0, 0]])
    masked = mask_words(ids, noise_of([0.0] * 4), SMALL)
    assert masked.ids.equal(ids) and not masked.labels.any()
    assert augment_words(ids, noise_of([0.19] * 4), SMALL).equal(ids)


def test_an_augmented_word_is_hidden_replaced_or_removed():
    ids = torch.tensor([[38, 10, 11, 0, 12, 13, 39, 0]])
    augmented = augment_words(ids, noise_of([0, 0.119, 0.13, 0, 0.17, 0.2, 0, 0], [1, 2, 3, 4, 5, 6, 7, 8]), SMALL)
    assert augmented.tolist() == [[38, 37, 3, 0, 13, 39, 0, 0]]  # the 0 within is a symbol of a word


# ---- a plain twin ----------------------------------------------------------------------


def plain_masked(ids: list[int], uniform: list[float], words: list[int]) -> tuple[list[int], list[int]]:
    read, labels = list(ids), [0] * len(ids)
    for index, number in enumerate(ids):
        if 1 <= number < SMALL.mask and uniform[index] < 0.15:
            labels[index] = number
            if uniform[index] / 0.15 < 0.8:
                read[index] = SMALL.mask
            elif uniform[index] / 0.15 < 0.9:
                read[index] = words[index]
    positions = [index for index, number in enumerate(ids) if 1 <= number < SMALL.mask]
    if positions and not any(labels):
        labels[positions[0]], read[positions[0]] = ids[positions[0]], SMALL.mask
    return read, labels


def plain_augmented(ids: list[int], uniform: list[float], words: list[int]) -> list[int]:
    kept = []
    for index, number in enumerate(ids):
        if 1 <= number < SMALL.mask and uniform[index] < 0.2:
            if uniform[index] / 0.2 < 0.6:
                kept.append(SMALL.mask)
            elif uniform[index] / 0.2 < 0.8:
                kept.append(words[index])
        else:
            kept.append(number)
    return kept + [0] * (len(ids) - len(kept))


def drawn_captions(count: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, SMALL.mask, (count, length), generator=generator)
    for row, words in zip(ids, torch.randint(0, length - 1, (count,), generator=generator).tolist(), strict=True):
        row[0], row[words + 1], row[words + 2 :] = SMALL.start, SMALL.end, 0
    return ids


def test_many_captions_are_changed_as_by_a_plain_twin():
    ids = drawn_captions(500, 12)
    noise = WordNoise.draw("mlm", 0, 0, range(500), 12, SMALL)
    masked, augmented = mask_words(ids, noise, SMALL), augment_words(ids, noise, SMALL)
    for row in range(500):
        one = ids[row].tolist(), noise.uniform[row].tolist(), noise.words[row].tolist()
        assert (masked.ids[row].tolist(), masked.labels[row].tolist()) == plain_masked(*one)
        assert augmented[row].tolist() == plain_augmented(*one)


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
    counts = noise.words.flatten().bincount(minlength=SMALL.mask + 1)
    assert counts[0] == counts[SMALL.mask] == 0
    assert counts[1 : SMALL.mask].min() > 0.8 * 40_000 / 36
