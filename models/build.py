"""The configured model: the one place that turns settings into networks."""

import os
import shutil

import torch

from dataset.batch import SpecialTokens
from models.decoder import DecoderBlock
from models.encoders import family_of
from models.fusion import Layer, TextEncoder
from models.image_encoder import ImageEncoder
from models.objectives import Objective
from models.person_search import PersonSearchModel
from models.settings import ModelSettings
from utils.errors import UserError

SHAPES = 64  # of batches, that a compiled step is prepared for


def build_image_encoder(settings: ModelSettings) -> ImageEncoder:
    """The image encoder alone, freshly initialised."""
    return family_of(settings.image_encoder).build(settings.vision, settings.gradient_checkpointing)


def build_text_encoder(settings: ModelSettings, special: SpecialTokens) -> TextEncoder:
    """The text and fusion encoder alone, freshly initialised."""
    size = settings.bert_config.model_copy(update={"pad_token_id": special.pad})
    return TextEncoder(size, settings.gradient_checkpointing)


def build_model(settings: ModelSettings, special: SpecialTokens) -> PersonSearchModel:
    """A freshly initialised model."""
    return PersonSearchModel(
        visual_encoder=build_image_encoder(settings),
        text_encoder=build_text_encoder(settings, special),
        decoder=settings.decoder,
        objective=Objective.part_of(settings),
        special=special,
        embed_dim=settings.embed_dim,
    )


def require_compiler() -> None:
    """Raises UserError unless the C++ compiler that torch.compile calls is there."""
    command = os.environ.get("CXX") or "g++"
    if shutil.which(command.split()[0]) is None:
        raise UserError(
            f"config: `compile` needs a C++ compiler, and {command} is not there; install it, name another in the"
            " environment variable CXX, or leave `compile` out"
        )


def compile_model(model: PersonSearchModel, how: bool | str) -> None:
    """What the configuration calls `compile`: the whole "step", the "layers" (or True), or nothing (False)."""
    if how:
        (compile_step if how == "step" else compile_layers)(model)


def compile_step(model: PersonSearchModel) -> None:
    """Let torch.compile write kernels for a training step's forward and backward pass as a whole.

    Once for each shape of batch: `TrainBatch.with_few_shapes` makes them few.
    """
    torch._dynamo.config.recompile_limit = SHAPES
    torch._dynamo.config.optimize_ddp = False  # which would cut the graph where gradients are exchanged
    model.compile(fullgraph=True, dynamic=False)


def compile_layers(model: PersonSearchModel) -> None:
    """Let torch.compile write kernels for the layers of all encoders, on first use and for any caption length.

    Layers of one type share them; parameter names stay as they are.
    """
    parts = [part for encoder in (model.visual_encoder, model.visual_encoder_m) for part in encoder.compiled_parts()]
    parts += [module for module in model.modules() if isinstance(module, Layer | DecoderBlock)]
    for part in parts:
        part.compile(dynamic=True)
