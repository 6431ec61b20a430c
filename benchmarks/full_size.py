"""Models and batches of published size with made-up content, for what measures speed and memory."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from configs.loading import load_config
from configs.schema import MarsConfig
from dataset.batch import SpecialTokens, TextTokens, TrainBatch
from models.build import build_model
from models.person_search import PersonSearchModel
from models.randomness import RandomDraws

SPECIAL = SpecialTokens(pad=0, cls=101, sep=102, mask=103)  # of bert-base-uncased
SHORTEST, LONGEST = 18, 48  # word pieces of the captions of the three benchmarks, [CLS] and [SEP] included
MEAN_WORDS, SPREAD = 23.5, 0.4  # of a caption of CUHK-PEDES (Li et al., 2017, section 3); of the logarithm, assumed
MIN_WORDS, MAX_WORDS = 3, 75  # as many as training keeps
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
TINY = [  # everything small: seconds on one core
    "image_res=[32,16]",
    "patch_size=8",
    "vision_width=32",
    "vision_depth=2",
    "vision_heads=2",
    "decoder_depth=1",
    "decoder_heads=2",
    "embed_dim=16",
    "queue_size=32",
    "bert_config.hidden_size=32",
    "bert_config.num_hidden_layers=4",
    "bert_config.num_attention_heads=2",
    "bert_config.intermediate_size=64",
    "bert_config.encoder_width=32",
    "bert_config.fusion_layer=2",
    "bert_config.vocab_size=2000",
    "bert_config.initializer_range=0.2",
]
Lengths = Callable[[int, torch.Generator], Tensor]  # word pieces [C] of so many captions


def configuration(quick: bool, *settings: str, dropout: bool = False) -> MarsConfig:
    """MARS as published, or of reduced size; without dropout two ways to compute a step can be compared."""
    config = load_config(CONFIG, [*(() if dropout else NO_DROPOUT), *(QUICK if quick else ()), *settings])
    assert isinstance(config, MarsConfig)
    return config


def make_model(config: MarsConfig) -> PersonSearchModel:
    """Random parameters, the same for the same configuration."""
    torch.manual_seed(0)
    return build_model(config, SPECIAL)


def even_lengths(count: int, generator: torch.Generator) -> Tensor:
    """Evenly spread from SHORTEST to LONGEST, so that every batch has the same longest caption."""
    return torch.linspace(SHORTEST, LONGEST, count).round().long()[torch.randperm(count, generator=generator)]


def drawn_lengths(count: int, generator: torch.Generator) -> Tensor:
    """Log-normal around the published mean, a word piece per word: batches differ in their longest caption."""
    deviates = torch.randn(count, generator=generator, dtype=torch.float64)
    words = MEAN_WORDS * torch.exp(SPREAD * deviates - SPREAD**2 / 2)
    return words.round().long().clamp(MIN_WORDS, MAX_WORDS) + 2


def make_captions(count: int, vocabulary: int, seed: int, lengths_of: Lengths = even_lengths) -> TextTokens:
    """Random captions, padded to the longest."""
    generator = torch.Generator().manual_seed(seed)
    lengths = lengths_of(count, generator)
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.randint(1000, vocabulary, mask.shape, generator=generator)
    ids[:, 0] = SPECIAL.cls
    ids[torch.arange(count), lengths - 1] = SPECIAL.sep
    return TextTokens(ids.where(mask, SPECIAL.pad), mask, words=int(lengths.sum()))


def make_attributes(text: TextTokens) -> Tensor:
    """Attribute numbers [B, T]: two words each, from the third token on, as many as the caption has room for."""
    place = torch.arange(text.ids.shape[1])
    numbers = torch.where((place >= 2) & (place % 4 < 2), 1 + (place - 2) // 4, 0)
    return numbers.where(text.mask & (text.ids != SPECIAL.sep), 0)


def make_batch(config: MarsConfig, size: int, lengths_of: Lengths = even_lengths, number: int = 0) -> TrainBatch:
    """Training samples of `size` people; another `number` gives others."""
    first = 3 * number + 1
    generator = torch.Generator().manual_seed(first)
    image = [torch.randn(size, 3, *config.image_size, generator=generator) for _ in range(2)]
    vocabulary = config.bert_config.vocab_size
    caption, caption2 = (make_captions(size, vocabulary, seed, lengths_of) for seed in (first + 1, first + 2))
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


def make_draws(model: PersonSearchModel, batch: TrainBatch) -> RandomDraws:
    """The random draws of a step."""
    return model.make_draws(model.noise_source(42)(0, batch.index.tolist()), batch.caption)


def flop_of(model: PersonSearchModel, batch: TrainBatch, draws: RandomDraws, alpha: float) -> float:
    """Floating-point operations of the matrix products of a step, forward and backward; a model on the meta device
    counts without computing."""
    device = next(model.parameters()).device
    with FlopCounterMode(display=False) as counter:
        found, _ = model(batch.to(device), draws.to(device), alpha)
        sum(found.values()).backward()
    return counter.get_total_flops()
