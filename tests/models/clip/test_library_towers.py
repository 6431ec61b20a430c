"""Towers that open_clip builds: its embeddings at the size of its training, and what follows from other sizes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

open_clip = pytest.importorskip("open_clip")

from tiny_library_models import CONFIGS, library_folder, pixels, siglip_config, theirs  # noqa: E402

from dataset.batch import PairBatch, TextTokens  # noqa: E402
from evaluation.trained import TrainedModel  # noqa: E402
from models.clip.build import load_clip  # noqa: E402
from models.clip.library_towers import LibrarySize  # noqa: E402
from models.image_encoder import PixelStatistics  # noqa: E402
from utils.errors import UserError  # noqa: E402

SENTENCES = [
    "a woman in a red coat and blue jeans",
    "a man",
    "the man wears black, with a backpack, a coat, and jeans!",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("library")
    return {name: library_folder(root / name, CONFIGS[name]()) for name in CONFIGS}


def opened(folder: Path, *settings: str) -> TrainedModel:
    return TrainedModel.open(folder, None, ["precision=fp32", "workers=0", *settings])


def tokens_of(trained: TrainedModel, sentences: list[str]) -> TextTokens:
    """As an evaluation pads them: to the longest."""
    most = trained.config.max_words
    rows = [trained.tokenizer.encode(trained.tokenizer.clean(text, most), most).ids for text in sentences]
    length = max(map(len, rows))
    ids = torch.tensor([row + [trained.tokenizer.special.pad] * (length - len(row)) for row in rows])
    return TextTokens(ids, torch.tensor([[place < len(row) for place in range(length)] for row in rows]))


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_embeddings_are_those_of_open_clip(folders, name):
    model, preprocess, tokenizer = theirs(folders[name])
    trained, images = opened(folders[name]), pixels(32, 32)
    mean, std = (torch.tensor(preprocess.transforms[-1].__dict__[key])[:, None, None] for key in ("mean", "std"))
    expected = model.encode_image((images / 255 - mean) / std, normalize=True)
    found = trained.model.encode_image(images)[1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    expected = model.encode_text(tokenizer(SENTENCES), normalize=True)
    text = tokens_of(trained, SENTENCES)
    torch.testing.assert_close(trained.model.embed_text(text), expected, atol=1e-5, rtol=0)
    alone = [trained.model.embed_text(tokens_of(trained, [text]))[0] for text in SENTENCES]  # padding is the same
    torch.testing.assert_close(torch.stack(alone), expected, atol=1e-5, rtol=0)
    assert (expected[0] - expected[1]).abs().max() > 1e-3


@torch.inference_mode()
def test_padding_is_attended_where_the_model_was_trained_so(folders):
    """SigLIP's caption changes with the token that fills it up; EVA's, which is read at its end, does not."""
    for name, attended in (("siglip", True), ("eva02", False)):
        trained = opened(folders[name])
        text = tokens_of(trained, SENTENCES[1:2])
        found = trained.model.embed_text(text)
        size = trained.model.base_model.size
        trained.model.base_model.size = replace(size, pad=size.pad + 4)
        changed = trained.model.embed_text(text)
        assert torch.allclose(found, changed, atol=1e-6) != attended


@torch.inference_mode()
def test_a_caption_is_cut_before_it_is_filled_up(folders):
    model, _, tokenizer = theirs(folders["siglip"])
    trained = opened(folders["siglip"], "max_words=6")
    text = tokens_of(trained, SENTENCES[2:])
    assert text.ids.shape == (1, 6) and text.ids[0, -1] == 1
    assert text.ids[0].tolist() == tokenizer(SENTENCES[2:], context_length=6)[0].tolist()
    row = torch.nn.functional.pad(text.ids, (0, 10), value=1)
    expected = model.encode_text(row, normalize=True)
    torch.testing.assert_close(trained.model.embed_text(text), expected, atol=1e-5, rtol=0)


# ---- tokens ----------------------------------------------------------------------------


@torch.inference_mode()
def test_the_token_that_is_pooled_is_the_feature(folders):
    encoder, ids = opened(folders["eva02"]).model.base_model, torch.tensor([[90, 1, 2, 91, 0], [90, 3, 91, 0, 0]])
    image, text = encoder.encode_image(torch.randn(2, 3, 32, 32)), encoder.encode_text(ids)
    assert image.tokens().shape == (2, 17, 12) and text.tokens().shape == (2, 5, 12)
    torch.testing.assert_close(image.tokens()[:, 0], image.feature())
    torch.testing.assert_close(text.tokens()[torch.arange(2), torch.tensor([3, 2])], text.feature())
    feature, tokens = image.with_tokens()
    assert torch.equal(feature, image.feature()) and torch.equal(tokens, image.tokens())


@torch.inference_mode()
def test_tokens_without_cls_are_the_patches(folders):
    siglip, averaging = (opened(folders[name]).model.base_model for name in ("siglip", "averaging"))
    images = torch.randn(2, 3, 32, 32)
    trunk = siglip.visual.trunk
    torch.testing.assert_close(siglip.encode_image(images).tokens(), trunk.forward_features(images))
    assert siglip.encode_image(images).tokens().shape == (2, 16, 16)
    assert averaging.encode_image(images).tokens().shape == (2, 16, 12)
    last = siglip.encode_text(torch.full((2, 16), 5))
    torch.testing.assert_close(last.tokens()[:, -1], last.feature())  # SigLIP reads a caption at its last position


# ---- other sizes of images -------------------------------------------------------------


def by_hand(table: Tensor, old: tuple[int, int], new: tuple[int, int], others: int) -> Tensor:
    """Bicubic and antialiased, as timm and open_clip document it; a channel at a time."""
    rows = table.reshape(-1, table.shape[-1])
    patches = [
        interpolate(channel.reshape(1, 1, *old), size=new, mode="bicubic", antialias=True).flatten()
        for channel in rows[others:].T
    ]
    return torch.cat([rows[:others], torch.stack(patches, 1)])


@pytest.mark.parametrize(("name", "others"), [("siglip", 0), ("eva02", 1), ("averaging", 1)])
@torch.inference_mode()
def test_positions_are_resized_to_other_images(folders, name, others):
    square, tall = opened(folders[name]), opened(folders[name], "image_res=[64,24]")
    assert square.model.grid == (4, 4) and tall.model.grid == (8, 3)
    table = square.model.base_model.images.positions
    before, after = (trained.model.base_model.state_dict()[table] for trained in (square, tall))
    torch.testing.assert_close(after.reshape(-1, 16), by_hand(before, (4, 4), (8, 3), others), atol=1e-5, rtol=0)
    found = tall.model.encode_image(pixels(64, 24))[1]
    model = theirs(folders[name])[0]
    if name == "averaging":
        model.visual.positional_embedding.data = by_hand(before, (4, 4), (8, 3), others)
    else:
        model.visual.set_input_size((64, 24))
    expected = model.encode_image(tall.model.statistics.normalise(pixels(64, 24)))
    torch.testing.assert_close(found, normalize(expected, dim=-1), atol=1e-5, rtol=0)


def test_an_image_smaller_than_a_patch_is_refused(folders):
    with pytest.raises(UserError, match=r"`image_res`: \[32, 7\] is smaller than a patch of 8 pixels"):
        opened(folders["siglip"], "image_res=[32,7]")


def test_positions_of_no_grid_are_refused(folders, tmp_path):
    trained = opened(folders["siglip"])
    weights = {f"base_model.{name}": value for name, value in trained.model.base_model.state_dict().items()}
    name = "base_model.visual.trunk.pos_embed"
    weights[name] = weights[name][:, :-1]
    with pytest.raises(UserError, match=r"checkpoint here does not fit.*visual\.trunk\.pos_embed"):
        load_clip(trained.model, {"path": "here", "model": weights})


# ---- learning --------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_reach_all_and_checkpointing_does_not_change_them(folders, name):
    found = []
    for checkpointed in ("false", "true"):
        model = opened(folders[name], f"gradient_checkpointing={checkpointed}").model.train()
        ids = torch.tensor([[20, 5, 9, 21], [20, 8, 21, 0]])
        batch = PairBatch(image=pixels(32, 32), ids=ids, identity=torch.arange(2), index=torch.arange(2))
        losses, _ = model(batch)
        losses["itc"].backward()
        found.append({name: value.grad for name, value in model.named_parameters() if value.requires_grad})
    assert all(value is not None and value.isfinite().all() for value in found[0].values())
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], atol=1e-6, rtol=1e-4)


def test_nothing_is_left_out_by_chance(folders):
    """A resumed run would otherwise draw other patches than one that was never stopped."""
    config = siglip_config()["model_cfg"]
    config["vision_cfg"] |= {"patch_dropout": 0.5, "timm_drop_path": 0.5, "timm_drop": 0.5}
    size = LibrarySize(config, (32, 32), PixelStatistics((0.5,) * 3, (0.5,) * 3), pad=1)
    model = size.build(gradient_checkpointing=False).train()
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.encode_image(image).feature(), model.encode_image(image).feature())
