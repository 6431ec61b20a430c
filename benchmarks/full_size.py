"""Models and batches of published size with made-up content, for what measures speed and memory."""

from pathlib import Path

import torch
from torch import Tensor

from configs.schema import Config, load_config
from dataset.batch import SpecialTokens, TextTokens, TrainBatch
from models.build import build_model
from models.person_search import PersonSearchModel
from models.randomness import RandomDraws, StepNoise

SPECIAL = SpecialTokens(pad=0, cls=101, sep=102, mask=103)  # of bert-base-uncased
SHORTEST, LONGEST = 18, 48  # word pieces of the captions of the three benchmarks, [CLS] and [SEP] included
CONFIG = Path(__file__).resolve().parent.parent / "configs" / "PS_cuhk_pedes.yaml"
NO_DROPOUT = ["bert_config.hidden_dropout_prob=0", "bert_config.attention_probs_dropout_prob=0"]
QUICK = [  # full width and resolution; few layers, and vocabulary and queue in proportion
    "vision_depth=2",
    "decoder_depth=1",
    "bert_config.num_hidden_layers=2",
    "bert_config.fusion_layer=1",
    "bert_config.vocab_size=5000",
    "queue_size=8192",
]


def configuration(quick: bool, *settings: str, dropout: bool = False) -> Config:
    """MARS as published, or of reduced size; without dropout two ways to compute a step can be compared."""
    return load_config(CONFIG, [*(() if dropout else NO_DROPOUT), *(QUICK if quick else ()), *settings])


def make_model(config: Config) -> PersonSearchModel:
    """Random parameters, the same for the same configuration."""
    torch.manual_seed(0)
    return build_model(config, SPECIAL)


def make_captions(count: int, vocabulary: int, seed: int) -> TextTokens:
    """Random captions of evenly spread realistic lengths, padded to the longest."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.linspace(SHORTEST, LONGEST, count).round().long()[torch.randperm(count, generator=generator)]
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.randint(1000, vocabulary, mask.shape, generator=generator)
    ids[:, 0] = SPECIAL.cls
    ids[torch.arange(count), lengths - 1] = SPECIAL.sep
    return TextTokens(ids.where(mask, SPECIAL.pad), mask)


def make_attributes(text: TextTokens) -> Tensor:
    """Attribute numbers [B, T]: two words each, from the third token on, as many as the caption has room for."""
    place = torch.arange(text.ids.shape[1])
    numbers = torch.where((place >= 2) & (place % 4 < 2), 1 + (place - 2) // 4, 0)
    return numbers.where(text.mask & (text.ids != SPECIAL.sep), 0)


def make_batch(config: Config, size: int) -> TrainBatch:
    """Training samples of `size` people."""
    generator = torch.Generator().manual_seed(1)
    image = [torch.randn(size, 3, *config.image_size, generator=generator) for _ in range(2)]
    caption, caption2 = (make_captions(size, config.bert_config.vocab_size, seed) for seed in (2, 3))
    attributes = make_attributes(caption2)
    return TrainBatch(
        image1=image[0],
        image2=image[1],
        caption=caption,
        caption2=caption2,
        attributes=attributes,
        attribute_count=int(attributes.max()),
        identity=torch.arange(size),
        replaced=torch.arange(size) % 2,
        index=torch.arange(size),
    )


def make_draws(model: PersonSearchModel, size: int) -> RandomDraws:
    """The random draws of a step of so many samples."""
    patches = model.grid[0] * model.grid[1]
    encoder = model.text_encoder.size
    noise = StepNoise.draw(42, 0, list(range(size)), encoder.max_position_embeddings, patches)
    return RandomDraws(noise, model.special, encoder.vocab_size)
