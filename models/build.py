"""The configured model: the one place that turns a configuration into networks."""

import os
import shutil

from configs.schema import Config
from dataset.batch import SpecialTokens
from models.decoder import DecoderBlock, DecoderSize
from models.fusion import FusionSize, Layer
from models.image_encoder import ImageEncoder, VisionSize
from models.person_search import Objective, PersonSearchModel
from models.vision_mamba import VisionMamba
from models.vision_transformer import VisionTransformer
from utils.errors import UserError

IMAGE_ENCODERS: dict[str, type[ImageEncoder]] = {"vit": VisionTransformer, "vim": VisionMamba}


def build_image_encoder(config: Config) -> ImageEncoder:
    """The image encoder alone, freshly initialised."""
    size = VisionSize(
        config.image_size,
        config.patch_size,
        config.vision_width,
        config.vision_depth,
        config.vision_heads,
        config.drop_path,
        config.vision_states,
    )
    return IMAGE_ENCODERS[config.image_encoder](size, config.gradient_checkpointing)


def build_model(config: Config, special: SpecialTokens) -> PersonSearchModel:
    """A freshly initialised model."""
    bert = {name: getattr(config.bert_config, name) for name in FusionSize.__dataclass_fields__}
    bert["pad_token_id"] = special.pad
    objective = Objective(
        weights=config.weights.model_dump(),
        temp=config.temp,
        momentum=config.momentum,
        queue_size=config.queue_size,
        mask_ratio=config.mask_ratio,
        mlm_probability=config.mlm_probability,
        mrtd_mask_probability=config.mrtd_mask_probability,
        mlm_distill_axis=config.mlm_distill_axis,
        contrastive_terms=tuple(config.contrastive_terms),
        contrastive_keys=config.contrastive_keys,
    )
    return PersonSearchModel(
        build_image_encoder(config),
        FusionSize(**bert),
        DecoderSize(config.decoder_depth, config.decoder_heads),
        objective,
        special,
        config.embed_dim,
        config.gradient_checkpointing,
    )


def require_compiler() -> None:
    """Raises UserError unless the C++ compiler that torch.compile calls is there."""
    command = os.environ.get("CXX") or "g++"
    if shutil.which(command.split()[0]) is None:
        raise UserError(
            f"config: `compile` needs a C++ compiler, and {command} is not there; install it, name another in the"
            " environment variable CXX, or leave `compile` out"
        )


def compile_layers(model: PersonSearchModel) -> None:
    """Let torch.compile write kernels for the layers of all encoders, on first use and for any caption length.

    Layers of one kind share them; parameter names stay as they are.
    """
    parts = [part for encoder in (model.visual_encoder, model.visual_encoder_m) for part in encoder.compiled_parts()]
    parts += [module for module in model.modules() if isinstance(module, Layer | DecoderBlock)]
    for part in parts:
        part.compile(dynamic=True)
