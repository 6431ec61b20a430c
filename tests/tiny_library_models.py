"""Small models of the architectures that open_clip builds with timm, and folders of them as they lie on the Hub."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.eva import _create_eva
from timm.models.vision_transformer import _create_vision_transformer
from tiny_clip_files import randomised
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

SETTINGS, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
WORDS = ["woman", "man", "in", "red", "blue", "coat", "jeans", "with", "black", "backpack", "and", "the", "wears"]
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "squash"}
TEXT = {"width": 16, "heads": 2, "layers": 2}


@register_model
def tiny_siglip(pretrained: bool = False, **options: Any) -> nn.Module:
    """As vit_base_patch16_siglip_224: no CLS, attention pooling."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    form = {"class_token": False, "global_pool": "map"}
    return _create_vision_transformer("tiny_siglip", pretrained=pretrained, **{**sizes, **form, **options})


@register_model
def tiny_eva02(pretrained: bool = False, **options: Any) -> nn.Module:
    """As eva02_base_patch16_clip_224: rotary positions beside learned ones, CLS."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.7}
    form = {"qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True}
    rotary = {"use_rot_pos_emb": True, "ref_feat_shape": (4, 4), "global_pool": "token"}
    return _create_eva("tiny_eva02", pretrained=pretrained, **{**sizes, **form, **rotary, **options})


def siglip_config(**text: Any) -> dict[str, Any]:
    """What describes a SigLIP: bidirectional text of fixed length that is read at its last position."""
    reading = {"context_length": 16, "vocab_size": 64, "hf_tokenizer_name": "timm/any", "no_causal_mask": True}
    pooling = {"proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
    vision = {"image_size": 32, "timm_model_name": "tiny_siglip", "timm_model_pretrained": False}
    return {
        "model_cfg": {
            "embed_dim": 16,
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": {**vision, "timm_pool": "map", "timm_proj": "none"},
            "text_cfg": {**TEXT, **reading, **pooling, "tokenizer_kwargs": {"clean": "canonicalize"}, **text},
        },
        "preprocess_cfg": HALF,
    }


def eva_config() -> dict[str, Any]:
    """What describes an EVA02-CLIP: CLIP's own captions, and pixels as CLIP's."""
    vision = {"image_size": 32, "timm_model_name": "tiny_eva02", "timm_model_pretrained": False}
    vision |= {"timm_pool": "token", "timm_proj": None}
    model = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": {**TEXT, "context_length": 77}, "custom_text": True}
    return {"model_cfg": model, "preprocess_cfg": {"interpolation": "bicubic", "resize_mode": "squash"}}


def averaging_config() -> dict[str, Any]:
    """A transformer of open_clip itself that is not OpenAI's: as CLIPA's, its patches are averaged."""
    vision = {"image_size": 32, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8, "no_ln_pre": True}
    vision |= {"pool_type": "avg", "final_ln_after_pool": True, "pos_embed_type": "sin_cos_2d"}
    model = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": {**TEXT, "context_length": 77}}
    return {"model_cfg": model, "preprocess_cfg": {**HALF, "interpolation": "bilinear"}}


CONFIGS = {"siglip": siglip_config, "eva02": eva_config, "averaging": averaging_config}


def word_tokenizer(mask: bool = False) -> PreTrainedTokenizerFast:
    """Words and letters, padded by id 1, which also ends each caption, as SigLIP's vocabulary does it."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    special = ["<pad>", "</s>", "<unk>", *(["<mask>"] if mask else [])]
    pieces = [*special, "▁", *letters, *(f"▁{word}" for word in WORDS)]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(rank > 30) - 1) for rank, piece in enumerate(pieces)], 2))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    named = {"mask_token": "<mask>"} if mask else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="</s>", eos_token="</s>", unk_token="<unk>", **named
    )


def smallest_configs() -> dict[str, dict[str, Any]]:
    """The same by the names of folders in docs/clip.md, with models that timm has without this file."""
    siglip, eva = siglip_config(), eva_config()
    siglip["model_cfg"]["vision_cfg"] |= {"timm_model_name": "test_vit3", "image_size": 160}
    siglip["model_cfg"]["embed_dim"] = 96
    eva["model_cfg"]["vision_cfg"] |= {"timm_model_name": "eva02_tiny_patch14_224", "image_size": 224}
    return {"ViT-B-16-SigLIP": siglip, "EVA02-B-16": eva}


def library_folder(folder: Path, config: dict[str, Any], mask: bool = False) -> Path:
    """A folder of open_clip with a model of large random weights; SigLIP's tokenizer beside it."""
    folder.mkdir(parents=True)
    (folder / SETTINGS).write_text(json.dumps(config))
    if "hf_tokenizer_name" in config["model_cfg"]["text_cfg"]:
        word_tokenizer(mask).save_pretrained(folder)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    weights = {key: value.contiguous() for key, value in randomised(model).state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    return folder


def theirs(folder: Path) -> tuple[nn.Module, Any, Any]:
    """The model, its preprocessing and its tokenizer, as open_clip reads a folder."""
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    return model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{folder}")


def pixels(height: int, width: int, count: int = 2) -> torch.Tensor:
    """Images of noise, uint8."""
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)
