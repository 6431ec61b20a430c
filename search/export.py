"""Takes a trained model out of its run: one file, or a folder with a model card and ONNX of the two encoders.

    FILE.safetensors           weights as below, with settings and word pieces as its metadata

    FOLDER/model.safetensors   all weights that search needs, momentum model and queues aside
    FOLDER/config.json         the settings, FOLDER/tokenizer.json the word pieces
    FOLDER/README.md           the model card
    FOLDER/image_encoder.onnx, text_encoder.onnx   where asked for

Letters: B images or captions, H and W height and width, T text tokens, E embedding.
"""

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from evaluation.metrics import METRIC_NAMES
from evaluation.tables import markdown_table
from models.person_search import PersonSearchModel
from models.released import needed_to_search
from search.encoder import Encoder
from utils.checkpoints.exported import SETTINGS, TOKENIZER, WEIGHTS
from utils.errors import UserError
from utils.files import atomic_write, require_file, require_folder, write_json

logger = logging.getLogger(__name__)

CARD = "README.md"
# What is of use without training beside search: word and pixel predictions, which studies show.
PREDICTIONS = (
    "text_encoder.cls.",
    "mask_token",
    "visual_decoder.",
    "visual_decoder_pos_embed",
    "decoder_pred.",
    "temp",
)
IMAGE_ONNX, TEXT_ONNX = "image_encoder.onnx", "text_encoder.onnx"
TOLERANCE = 1e-4  # between ONNX and torch, of embeddings of length 1


def export_file(encoder: Encoder, file: Path, dtype: torch.dtype) -> None:
    """Write the model as one file, which is read as a checkpoint.

    Raises UserError when there is one already, or the model is of another system than MARS.
    """
    require_mars(encoder)
    require_file(file, "file")
    if file.exists():
        raise UserError(f"{file} exists; name a new file")
    about = {"config": json.dumps(settings_of(encoder)), "tokenizer": encoder.trained.tokenizer.to_json()}
    write_weights(file, encoder, dtype, about)


def write_weights(file: Path, encoder: Encoder, dtype: torch.dtype, about: Mapping[str, str]) -> None:
    """All weights that are of use without training; floating point numbers in `dtype`."""
    from safetensors.torch import save

    # a copy of each: safetensors refuses tensors that share their memory, as tied embeddings do
    needed = {name: value for name, value in encoder.model.state_dict().items() if is_exported(name)}
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in needed.items()}
    weights = {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}
    with atomic_write(file) as temporary:
        temporary.write_bytes(save(weights, metadata={"format": "pt", **about}))


def export(
    encoder: Encoder,
    folder: Path,
    metrics: Mapping[str, Any] | None,
    with_onnx: bool,
    dtype: torch.dtype = torch.float32,
) -> list[str]:
    """Write the folder; returns the names of its files. metrics: for the card, by stage; dtype: of weights.

    Raises UserError when it cannot be written, ONNX and torch differ, or the model is of another system than MARS.
    """
    require_mars(encoder)
    require_folder(folder, "folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; name a new folder")
    write_weights(folder / WEIGHTS, encoder, dtype, {})
    write_json(folder / SETTINGS, settings_of(encoder), indent=2)
    with atomic_write(folder / TOKENIZER) as temporary:
        temporary.write_text(encoder.trained.tokenizer.to_json(), encoding="utf-8")
    with atomic_write(folder / CARD) as temporary:
        temporary.write_text(model_card(encoder, metrics), encoding="utf-8")
    if with_onnx:
        export_onnx(encoder, folder)
    return sorted(path.name for path in folder.iterdir())


def require_mars(encoder: Encoder) -> None:
    """Raises UserError for a model whose tensors are not known to `is_exported`."""
    if not encoder.model.reranks:
        raise UserError(f"models of the system {encoder.config.system} are not exported; use their own checkpoint")


def is_exported(name: str) -> bool:
    """Whether a tensor is of use without training: momentum copies, queues and heads of other losses are not."""
    return needed_to_search(name) or name.startswith(PREDICTIONS)


def settings_of(encoder: Encoder) -> dict[str, Any]:
    """The settings of a model, without those that name files of its training."""
    settings = encoder.config.model_dump(mode="json")
    files = "_file", "_image_root", "checkpoint", "image_cache"
    return {key: value for key, value in settings.items() if not key.endswith(files)}


def model_card(encoder: Encoder, metrics: Mapping[str, Any] | None) -> str:
    """What the model is, how it was measured, how to use it, and what for."""
    config, model = encoder.config, encoder.model
    image_encoder = getattr(config, "image_encoder", config.system)
    count = sum(value.numel() for name, value in model.named_parameters() if is_exported(name))
    rows = [
        {"": stage, **{title: float(found[name]) for name, title in METRIC_NAMES.items() if name in found}}
        for stage, found in (metrics or {}).items()
    ]
    table = markdown_table(rows) or "Not measured here."
    return f"""---
library_name: text-based-person-search
pipeline_tag: image-feature-extraction
tags: [person-search, retrieval]
---
# A text-based person search model

Finds the images of a person that a sentence describes. Image encoder: {image_encoder}, images of
{config.image_size[0]}x{config.image_size[1]} pixels; sentences of at most {config.max_words} word pieces;
{count:,} parameters; embeddings of {encoder.dimensions} numbers, compared by their cosine.

## Metrics

On the test split of its run, per cent:

{table}

## Use

```python
from search import from_pretrained

encoder = from_pretrained("this-folder")
```

## Limits

It ranks, with errors that are unevenly distributed over groups of people its training data describe badly. A person
must look at every result. It must not be used to track, profile or identify people without a legal basis. Licences of
the data that it was trained on may restrict its use, for those of CUHK-PEDES, ICFG-PEDES and RSTPReid to research.
"""


# ---- ONNX ------------------------------------------------------------------------------


class ImageTower(nn.Module):
    """Images [B, 3, H, W], 0 to 255 -> embeddings [B, E]."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: PersonSearchModel):
        super().__init__()
        self.encoder, self.projection = model.visual_encoder, model.vision_proj
        statistics = model.visual_encoder.statistics
        self.register_buffer("mean", torch.tensor(statistics.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(statistics.std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return normalize(self.projection(self.encoder((images / 255 - self.mean) / self.std)[:, 0]), dim=-1)


class TextTower(nn.Module):
    """Word pieces [B, T] and mask [B, T] (1 = word) -> embeddings [B, E]."""

    def __init__(self, model: PersonSearchModel):
        super().__init__()
        self.encoder, self.projection = model.text_encoder, model.text_proj

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        keep = mask.bool()
        states = self.encoder.encode_text(self.encoder.encode_prefix(ids, keep), keep)
        return normalize(self.projection(states[:, 0]), dim=-1)


@torch.no_grad()
def export_onnx(encoder: Encoder, folder: Path) -> None:
    """Both encoders in float32, for any batch and length. Raises UserError when they differ from torch."""
    height, width = encoder.config.image_size
    images = torch.randint(0, 256, (2, 3, height, width)).float()
    ids = torch.randint(5, encoder.trained.tokenizer.vocabulary_size, (2, 12))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    towers = {
        IMAGE_ONNX: (ImageTower(encoder.trained.matcher), {"images": images}, {"images": {0: "batch"}}),
        TEXT_ONNX: (
            TextTower(encoder.trained.matcher),
            {"ids": ids, "mask": mask},
            {"ids": {0: "batch", 1: "length"}, "mask": {0: "batch", 1: "length"}},
        ),
    }
    for name, (tower, inputs, axes) in towers.items():
        tower = tower.cpu().float().eval()
        write_onnx(tower, inputs, axes, folder / name)
        check_onnx(tower, inputs, folder / name)


def write_onnx(
    tower: nn.Module, inputs: Mapping[str, Tensor], axes: Mapping[str, Mapping[int, str]], path: Path
) -> None:
    for noisy in ("onnxscript", "onnx_ir"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    shapes = {name: dict.fromkeys(places, torch.export.Dim.AUTO) for name, places in axes.items()}
    with atomic_write(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own inside
        program = torch.onnx.export(
            tower,
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=["embeddings"],
            dynamic_shapes=shapes,
            verbose=False,
        )
        if program is None:  # of the older exporter alone
            raise TypeError("torch.onnx.export gave no program")
        program.save(temporary, external_data=False)


def check_onnx(tower: nn.Module, inputs: Mapping[str, Tensor], path: Path) -> None:
    """Raises UserError unless onnxruntime gives what torch gives, on other batches than that of the export too."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 2, 3):
        some = {name: value[torch.arange(count) % len(value)] for name, value in inputs.items()}
        found = session.run(None, {name: value.numpy() for name, value in some.items()})[0]
        difference = float(np.abs(found - tower(**some).numpy()).max())
        if not difference <= TOLERANCE:
            raise UserError(f"{path} differs from torch by {difference:g}, more than {TOLERANCE:g}")
    logger.info("%s differs from torch by %.1e", path.name, difference)
