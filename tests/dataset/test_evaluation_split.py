"""Evaluation splits: galleries, queries, and the blocks they come in."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from dataset.annotations import Entry
from dataset.digests import blake2_of
from dataset.evaluation_split import Captions, EvaluationSplit, blocks_of, load_blocks, make_split
from dataset.tokens import CaptionTokenizer
from utils.errors import UserError

ENTRIES = [
    Entry("a.png", "p7", ("A man in RED!", "A man.")),
    Entry("b.png", 3, ("A woman with a bag",)),
    Entry("c.png", "p7", ()),
    Entry("d.png", 4, ("A man in a long green coat with a bag",)),
]
TOKENIZER = CaptionTokenizer.train([caption.lower() for entry in ENTRIES for caption in entry.captions], 200, 1)


@pytest.fixture
def split(tmp_path) -> EvaluationSplit:
    """Four images, each of one shade: 0, 50, 100, 150."""
    for number, entry in enumerate(ENTRIES):
        Image.new("RGB", (5, 9), (50 * number,) * 3).save(tmp_path / entry.image)
    return make_split(ENTRIES, tmp_path, TOKENIZER, 20)


def shades(split: EvaluationSplit, blocks: list, workers: int = 0) -> list[list[int]]:
    """The shade of each image of each block."""
    loaded = load_blocks(split, blocks, (4, 2), torch.device("cpu"), workers)
    return [images[:, 0, 0, 0].tolist() for images in loaded]


@pytest.mark.parametrize(
    ("count", "size", "blocks"),
    [
        (5, 2, [range(0, 2), range(2, 4), range(4, 5)]),
        (4, 2, [range(0, 2), range(2, 4)]),
        (1, 9, [range(0, 1)]),
        (0, 3, []),
    ],
)
def test_blocks_are_runs_of_equal_size_but_for_the_last(count, size, blocks):
    assert blocks_of(count, size) == blocks


def test_every_image_is_in_the_gallery_and_every_caption_a_query(split):
    assert split.images == ["a.png", "b.png", "c.png", "d.png"]
    assert split.texts == ["A man in RED!", "A man.", "A woman with a bag", "A man in a long green coat with a bag"]
    assert len(split.captions) == 4


def test_equal_identities_have_equal_numbers(split):
    assert split.identities == ["p7", 3, 4]
    assert split.image_identity.tolist() == [0, 1, 0, 2]
    assert split.caption_identity.tolist() == [0, 0, 1, 2]
    assert split.image_identity.dtype == split.caption_identity.dtype == torch.int64


def test_queries_are_cleaned_before_they_are_cut_into_word_pieces(split):
    assert split.captions.ids[0] == TOKENIZER.encode("a man in red", None).ids


def test_queries_keep_so_many_word_pieces(tmp_path):
    ids = make_split(ENTRIES, tmp_path, TOKENIZER, 4).captions.ids
    assert [len(row) for row in ids] == [4, 4, 4, 4]
    assert all(row[0] == TOKENIZER.special.cls and row[-1] == TOKENIZER.special.sep for row in ids)


def test_a_split_without_captions_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no captions"):
        make_split([ENTRIES[2]], tmp_path, TOKENIZER, 20)


def test_tokens_are_padded_to_the_longest_of_those_asked_for():
    captions = Captions([[1, 2], [1, 3, 4, 2], [1, 5, 2]], pad=9)
    text = captions.tokens([2, 0])
    assert text.ids.tolist() == [[1, 5, 2], [1, 2, 9]]
    assert text.mask.tolist() == [[True, True, True], [True, True, False]]
    assert captions.tokens(range(1, 2)).ids.tolist() == [[1, 3, 4, 2]]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_images_come_in_the_order_of_their_blocks(split, workers):
    assert shades(split, [[2, 0], [3], [1]], workers) == [[100, 0], [150], [50]]


def test_images_are_resized_and_stay_of_bytes(split):
    (images,) = load_blocks(split, [range(0, 4)], (4, 2), torch.device("cpu"), 0)
    assert images.shape == (4, 3, 4, 2) and images.dtype == torch.uint8
    assert images[0].eq(0).all() and images[3].eq(150).all()


def test_no_blocks_give_no_images(split):
    assert list(load_blocks(split, [], (4, 2), torch.device("cpu"), 2)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_changed_since_it_was_prepared_is_named(split, workers):
    digests = {name: blake2_of((split.image_root / name).read_bytes()) for name in split.images}
    entries = [*ENTRIES[:3], replace(ENTRIES[3], image="./d.png")]
    checked = make_split(entries, split.image_root, TOKENIZER, 20, digests)
    assert shades(checked, [[0, 1], [2], [3]], workers) == [[0, 50], [100], [150]]
    (split.image_root / "d.png").write_bytes((split.image_root / "c.png").read_bytes())
    assert shades(split, [[3]], workers) == [[100]]  # nothing is known of it
    with pytest.raises(UserError, match=r"d\.png changed since it was prepared"):
        shades(checked, [[0, 1], [2], [3]], workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named(split, workers):
    path = split.image_root / "c.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match=f"^image {path} "):
        shades(split, [[0, 1], [2], [3]], workers)
