"""Models and batches small enough for a test, shared by the tests of `models/`."""

import torch
from torch import Tensor

from dataset.batch import SpecialTokens, TextTokens, TrainBatch
from models.decoder import DecoderSize
from models.fusion import TextEncoder
from models.fusion_size import FusionSize
from models.image_encoder import ImageEncoder, VisionSize
from models.objectives import LOSSES, Objective
from models.person_search import PersonSearchModel
from models.randomness import RandomDraws, StepNoise
from models.training_step import StepOutput
from models.vision_transformer import VisionTransformer

SPECIAL = SpecialTokens(pad=0, cls=1, sep=2, mask=3)
VOCABULARY = 40
IDENTITIES = [0, 1, 0, 2]
VISION = VisionSize(image_size=(32, 16), patch_size=8, width=16, depth=2, heads=2)  # 4 x 2 patches
FUSION = FusionSize(
    vocab_size=VOCABULARY,
    hidden_size=24,
    num_hidden_layers=4,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=20,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    initializer_range=0.2,
    fusion_layer=2,
    encoder_width=16,
    full_ca=True,
)
DECODER = DecoderSize(depth=2, heads=2)


def weights(**changed: float) -> dict[str, float]:
    """All losses with weight 1, but for those named."""
    return dict.fromkeys(LOSSES, 1.0) | changed


def tiny_model(
    loss_weights: dict[str, float] | None = None,
    vision: VisionSize = VISION,
    seed: int = 0,
    gradient_checkpointing: bool = False,
    objective: dict | None = None,
    encoder: type[ImageEncoder] = VisionTransformer,
    **fusion,
) -> PersonSearchModel:
    """A model whose parameters depend on `seed` alone; further names change sizes of the fusion encoder."""
    torch.manual_seed(seed)
    goal = Objective(weights=loss_weights or weights(), queue_size=12, **(objective or {}))
    size = FUSION.model_copy(update={"encoder_width": vision.width, **fusion})
    visual_encoder = encoder(vision, gradient_checkpointing)
    return PersonSearchModel(visual_encoder, TextEncoder(size, gradient_checkpointing), DECODER, goal, SPECIAL, 8)


def captions(lengths: list[int], seed: int = 0) -> TextTokens:
    """Random captions of these lengths, [CLS] and [SEP] included, padded to the longest."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    ids = torch.randint(4, VOCABULARY, mask.shape, generator=generator)
    ids[:, 0] = SPECIAL.cls
    ids[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = SPECIAL.sep
    return TextTokens(ids.where(mask, SPECIAL.pad), mask, words=sum(lengths))


def tiny_batch(identity: list[int], with_attributes: bool = True, seed: int = 0) -> TrainBatch:
    """Samples of these identities. Caption 0 has attributes 1 (tokens 1, 2) and 2 (token 3), caption 1 has
    attribute 1 (token 2), the others have none; caption2 of sample 0 is another text."""
    size, generator = len(identity), torch.Generator().manual_seed(seed)
    image = [torch.randn(size, 3, *VISION.image_size, generator=generator) for _ in range(2)]
    lengths = [5 + i % 3 for i in range(size)]
    caption, other = captions(lengths, seed), captions([6] * size, seed + 1)
    ids, mask = (torch.nn.functional.pad(part, (0, 1)) for part in (caption.ids, caption.mask))
    ids[0, :6], mask[0, :6] = other.ids[0], other.mask[0]
    caption2 = TextTokens(ids, mask, words=int(mask.sum()))
    attributes = torch.zeros_like(caption2.ids)
    if with_attributes:
        attributes[0, 1:4] = torch.tensor([1, 1, 2])
        attributes[1:2, 2] = 1
    replaced = torch.zeros(size, dtype=torch.long)
    replaced[0] = 1
    return TrainBatch(
        image1=image[0],
        image2=image[1],
        caption=caption,
        caption2=caption2,
        attributes=attributes,
        attribute_count=int(attributes.max()),
        identity=torch.tensor(identity),
        replaced=replaced,
        index=torch.arange(size),
    )


def tiny_draws(size: int, epoch: int = 0, vision: VisionSize = VISION) -> RandomDraws:
    """The draws of a batch of samples 0, 1, ..., of at most 12 tokens."""
    return RandomDraws(StepNoise.draw(0, epoch, list(range(size)), 12, vision.patches), SPECIAL, VOCABULARY)


def lived_in(model: PersonSearchModel) -> PersonSearchModel:
    """Momentum parameters apart from the online ones, and a queue that is partly filled."""
    torch.manual_seed(3)
    with torch.no_grad():
        for momentum in model.momentum_pairs()[0]:
            momentum += 0.1 * torch.randn_like(momentum)
    model.idx_queue[0, :5] = torch.tensor([0, 9, 1, 1, 8])
    model.queue_ptr[:] = 10  # a batch of four wraps around
    return model.train()


def run_step(model: PersonSearchModel, batch: TrainBatch, draws: RandomDraws | None = None, **options) -> StepOutput:
    """Losses, and what enters the queues."""
    options = {"alpha": 0.4} | options
    return model(batch, draws or tiny_draws(batch.size), **options)


def step(model: PersonSearchModel, batch: TrainBatch, draws: RandomDraws | None = None, **options) -> dict[str, Tensor]:
    """Losses by name."""
    return run_step(model, batch, draws, **options).losses
