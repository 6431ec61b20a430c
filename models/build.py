"""The configured model: the one place that turns settings into networks."""

import os
import shutil
from typing import Any

import torch
from torch import nn

from dataset.batch import SpecialTokens
from models.clip.blocks import Block
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


def compiler() -> str:
    """The command of the C++ compiler that torch.compile calls."""
    return (os.environ.get("CXX") or "g++").split()[0]


def require_compiler() -> None:
    """Raises UserError unless the C++ compiler that torch.compile calls is there."""
    if shutil.which(compiler()) is None:
        raise UserError(
            f"config: `compile` needs a C++ compiler, and {compiler()} is not there; install it, name another in the"
            " environment variable CXX, or set `compile` to false"
        )


def compile_model(model: PersonSearchModel, how: bool | str, cuda_graphs: bool = False) -> None:
    """What the configuration calls `compile`: the whole "step", the "layers" (or True), or nothing (False).

    cuda_graphs: see `compile_step`.
    """
    if how == "step":
        compile_step(model, cuda_graphs)
    elif how:
        compile_layers(model)


def compile_step(model: PersonSearchModel, cuda_graphs: bool = False) -> None:
    """Let torch.compile write kernels for a training step's forward and backward pass as a whole.

    Once for each shape of batch: `TrainBatch.with_few_shapes` makes them few. cuda_graphs: kernels are launched
    together; what a pass returns is overwritten by the next one. A step raises UserError where torch.compile fails.
    """
    torch._dynamo.config.recompile_limit = SHAPES
    torch._dynamo.config.optimize_ddp = False  # which would cut the graph where gradients are exchanged
    model.compile(fullgraph=True, dynamic=False, **({"mode": "reduce-overhead"} if cuda_graphs else {}))
    compiled = model._compiled_call_impl
    assert compiled is not None

    def call(*given: Any, **options: Any) -> Any:
        try:
            return compiled(*given, **options)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"config: `compile: step` fails here: {reason}; set `compile` to false") from error

    model._compiled_call_impl = call


def compile_layers(model: PersonSearchModel) -> None:
    """Let torch.compile write kernels for the layers of all encoders, on first use and for any caption length.

    Layers of one type share them; parameter names stay as they are.
    """
    parts = [part for encoder in (model.visual_encoder, model.visual_encoder_m) for part in encoder.compiled_parts()]
    parts += [module for module in model.modules() if isinstance(module, Layer | DecoderBlock)]
    for part in parts:
        part.compile(dynamic=True)


def compile_blocks(model: nn.Module, how: bool | str) -> None:
    """Let torch.compile write kernels for the transformer blocks of a CLIP system, where `how` asks for it."""
    if how:
        for block in (module for module in model.modules() if isinstance(module, Block)):
            block.compile(dynamic=True)
