"""The contract of image encoders, and the pixels they take."""

from dataclasses import replace

import pytest
import torch
from tiny_model import IDENTITIES, VISION, lived_in, step, tiny_batch, tiny_model

from models.image_encoder import CLIP_STATISTICS, PatchSubset, PixelStatistics, insert_rows, split_rows
from models.vision_mamba import VisionMamba
from models.vision_transformer import VisionTransformer

ENCODERS = pytest.mark.parametrize("encoder", [VisionTransformer, VisionMamba])


@ENCODERS
def test_an_encoder_states_what_the_model_asks_of_it(encoder):
    network = encoder(VISION)
    assert (network.width, network.grid, network.patch_size) == (16, (4, 2), 8)
    assert network.statistics == CLIP_STATISTICS
    names = {name for name, _ in network.named_parameters()}
    assert network.undecayed() <= names and set(network.positions) <= names
    assert all(isinstance(part, torch.nn.Module) for part in network.compiled_parts())
    tokens = network(torch.zeros(3, 3, 32, 16), PatchSubset.from_noise(torch.rand(3, 8), 0.5))
    assert tokens.shape == (3, 5, 16)


def test_bytes_are_normalised_channel_by_channel():
    statistics = PixelStatistics((0.0, 0.5, 0.2), (1.0, 0.25, 0.1))
    image = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    found = statistics.normalise(image)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.flatten(), torch.tensor([1.0, -2.0, 0.0]))
    torch.testing.assert_close(statistics.restore(found).flatten(), torch.tensor([1.0, 0.0, 0.2]))


def test_floats_are_taken_as_normalised():
    image = torch.randn(1, 3, 2, 2)
    assert CLIP_STATISTICS.normalise(image) is image


def test_a_step_on_bytes_is_one_on_images_normalised_for_its_encoder():
    model, batch = lived_in(tiny_model()), tiny_batch(IDENTITIES)
    model.visual_encoder.statistics = PixelStatistics((0.2, 0.3, 0.4), (0.5, 0.6, 0.7))
    images = torch.randint(0, 256, (2, *batch.image1.shape), dtype=torch.uint8)
    normalised = [model.visual_encoder.statistics.normalise(image) for image in images]
    found, expected = (
        step(model, replace(batch, image1=first, image2=second)) for first, second in (images, normalised)
    )
    assert {name: value.item() for name, value in found.items()} == {n: v.item() for n, v in expected.items()}


def test_an_image_is_encoded_from_its_bytes_as_from_its_normalised_pixels():
    model = tiny_model().eval()
    image = torch.randint(0, 256, (2, 3, 32, 16), dtype=torch.uint8)
    for found, expected in zip(
        model.encode_image(image), model.encode_image(CLIP_STATISTICS.normalise(image)), strict=True
    ):
        assert found.equal(expected)


@pytest.mark.parametrize(("index", "count"), [(0, 1), (2, 1), (0, 3), (1, 2), (3, 2), (4, 0)])
def test_rows_are_inserted_and_split_again(index, count):
    rows, more = torch.randn(2, 5, 3), torch.randn(2, count, 3)
    found = insert_rows(rows, more, index)
    assert found[:, index : index + count].equal(more)
    again = split_rows(found, index, count)
    assert again[0].equal(rows) and again[1].equal(more)
