"""A model that only matches, small enough for a test of re-ranking, shared by several folders."""

import torch

from benchmarks.rerank import SPECIAL
from models.decoder import DecoderSize
from models.fusion import TextEncoder
from models.fusion_size import FusionSize
from models.image_encoder import VisionSize
from models.objectives import Objective, only
from models.person_search import PersonSearchModel
from models.vision_transformer import VisionTransformer


def tiny_matcher(full_ca: bool, longest: int) -> PersonSearchModel:
    """For images of 9 tokens of width 16, and captions of up to `longest` of 200 word pieces."""
    torch.manual_seed(0)
    fusion = FusionSize(
        vocab_size=200,
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=longest,
        fusion_layer=2,
        encoder_width=16,
        full_ca=full_ca,
    )
    vision = VisionSize(image_size=(32, 16), patch_size=8, width=16, depth=1, heads=2)
    objective = Objective(weights=only("pitm"), queue_size=1)
    encoders = VisionTransformer(vision), TextEncoder(fusion)
    model = PersonSearchModel(*encoders, DecoderSize(1, 2), objective, SPECIAL, 8).eval()
    for parameter in model.parameters():  # biases too, and far from the start, so that scores differ
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model
