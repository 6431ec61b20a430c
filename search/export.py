"""Takes a trained model out of its run: one file, or a folder with a model card and ONNX of the two encoders.

    FILE.safetensors           weights as below, with settings and word pieces as its metadata

    FOLDER/model.safetensors   all weights that search needs, momentum model and queues aside
    FOLDER/config.json         the settings, FOLDER/tokenizer.json the word pieces
    FOLDER/calibration.json    what scores mean, where that is known
    FOLDER/README.md           the model card
    FOLDER/image_encoder.onnx, text_encoder.onnx   where asked for

    FOLDER/open_clip_model.safetensors   or both towers of CLIP and IRRA under the names of open_clip
    FOLDER/open_clip_config.json         with their sizes, and a model card

Letters: B images or captions, H and W height and width, T text tokens, E embedding.
"""

import json
import logging
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dataset.batch import TextTokens
from dataset.clip_tokens import ClipTokenizer
from evaluation.calibration import Calibration
from evaluation.metrics import METRIC_NAMES, STAGE_NAMES
from evaluation.tables import markdown_table
from models.clip.irra import IRRA
from models.clip.open_clip import open_clip_config, open_clip_tensors
from models.clip.towers import DualEncoder
from models.search_model import SearchModel
from search.encoder import Encoder
from utils.checkpoints.exported import CALIBRATION, OPEN_CLIP_SETTINGS, OPEN_CLIP_WEIGHTS, SETTINGS, TOKENIZER, WEIGHTS
from utils.errors import UserError
from utils.files import atomic_write, require_writable_file, require_writable_folder, write_json
from utils.text import counted

logger = logging.getLogger(__name__)

CARD = "README.md"
USE = """from search import from_pretrained

encoder = from_pretrained("this-folder")"""
OPEN_CLIP_USE = """import open_clip

model, preprocess = open_clip.create_model_from_pretrained("local-dir:this-folder")
tokenizer = open_clip.get_tokenizer("local-dir:this-folder")"""
IMAGE_ONNX, TEXT_ONNX = "image_encoder.onnx", "text_encoder.onnx"
EXAMPLES = "a woman in a red coat and blue jeans", "a man"  # that ONNX is tried with
TOLERANCE = 1e-4  # between ONNX and torch, of embeddings of length 1


def export_file(encoder: Encoder, file: Path, dtype: torch.dtype) -> None:
    """Write the model as one file, which is read as a checkpoint.

    Raises UserError when there is one already.
    """
    require_writable_file(file, "file")
    if file.exists():
        raise UserError(f"{file} exists; name a new file")
    about = {"config": json.dumps(settings_of(encoder)), "tokenizer": encoder.trained.tokenizer.to_json()}
    if calibration := calibration_of(encoder):
        about["calibration"] = json.dumps(calibration)
    write_weights(file, exported_tensors(encoder.model), dtype, about)


def exported_tensors(model: SearchModel) -> dict[str, Tensor]:
    """All weights that are of use without training."""
    return {name: value for name, value in model.state_dict().items() if model.is_exported(name)}


def write_weights(file: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype, about: Mapping[str, str]) -> None:
    """Floating point numbers are written in `dtype`."""
    from safetensors.torch import save

    # a copy of each: safetensors refuses tensors that share their memory, as tied embeddings do
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
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

    Raises UserError when it cannot be written, or ONNX and torch differ.
    """
    require_new_folder(folder)
    write_weights(folder / WEIGHTS, exported_tensors(encoder.model), dtype, {})
    write_json(folder / SETTINGS, settings_of(encoder), indent=2)
    write_text(folder / TOKENIZER, encoder.trained.tokenizer.to_json())
    write_calibration(encoder, folder)
    used = [value for name, value in encoder.model.named_parameters() if encoder.model.is_exported(name)]
    write_text(folder / CARD, model_card(encoder, metrics, used, USE))
    if with_onnx:
        export_onnx(encoder, folder)
    return sorted(path.name for path in folder.iterdir())


def export_open_clip(
    encoder: Encoder, folder: Path, metrics: Mapping[str, Any] | None, dtype: torch.dtype = torch.float32
) -> list[str]:
    """Write a folder that open_clip loads as "local-dir:FOLDER"; otherwise as `export`.

    Raises UserError when it cannot be written, or open_clip has no such model.
    """
    require_new_folder(folder)
    model, config = encoder.model, encoder.config
    if not isinstance(model, IRRA):
        raise UserError(
            f"--open_clip writes the two towers of CLIP, and a model of the system {config.system} ranks by more than"
            " them; leave it out"
        )
    if not isinstance(model.base_model, DualEncoder):
        raise UserError(
            "--open_clip writes towers of OpenAI's architecture; those of this model open_clip has built, for images of"
            " one size alone: leave it out"
        )
    if encoder.trained.tokenizer.to_json() != ClipTokenizer.from_package().to_json():
        raise UserError(
            "--open_clip: this model has a vocabulary of its own, open_clip that of CLIP alone; leave it out"
        )
    settings = open_clip_config(model.base_model.size, config.max_words, config.resampling)
    tensors = open_clip_tensors(model.base_model, config.max_words, model.settings.temperature)
    write_weights(folder / OPEN_CLIP_WEIGHTS[0], tensors, dtype, {})
    write_json(folder / OPEN_CLIP_SETTINGS, settings, indent=2)
    write_calibration(encoder, folder)
    write_text(folder / CARD, model_card(encoder, metrics, model.base_model.parameters(), OPEN_CLIP_USE))
    return sorted(path.name for path in folder.iterdir())


def require_new_folder(folder: Path) -> None:
    """Raises UserError when there are files in it, or it cannot be made."""
    require_writable_folder(folder, "folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; name a new folder")


def write_text(file: Path, text: str) -> None:
    with atomic_write(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def settings_of(encoder: Encoder) -> dict[str, Any]:
    """The settings of a model, without those that are of its training data."""
    settings = encoder.config.model_dump(mode="json")
    of_data = "_file", "_image_root", "checkpoint", "image_cache", "identities"
    return {key: value for key, value in settings.items() if not key.endswith(of_data)}


def calibration_of(encoder: Encoder) -> dict[str, Any]:
    """What the scores of a model mean, for files that hold its weights too; {} where it is not known."""
    known = encoder.trained.calibration
    return known.model_copy(update={"model": None}).model_dump(mode="json") if known else {}


def write_calibration(encoder: Encoder, folder: Path) -> None:
    if calibration := calibration_of(encoder):
        write_json(folder / CALIBRATION, calibration, indent=2)


def model_card(encoder: Encoder, metrics: Mapping[str, Any] | None, parameters: Iterable[Tensor], use: str) -> str:
    """What the model is, how it was measured, how to use it (lines of Python), and what for."""
    config, count = encoder.config, sum(value.numel() for value in parameters)
    image_encoder = config.encodes_images_by
    rows = [
        {"": stage, **{title: float(found[name]) for name, title in METRIC_NAMES.items() if name in found}}
        for stage, found in (metrics or {}).items()
    ]
    table = markdown_table(rows) or "Not measured here."
    scores = about_scores(encoder.trained.calibration)
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

## What scores mean

{scores}

## Use

```python
{use}
```

## Limits

It ranks, with errors that are unevenly distributed over groups of people its training data describe badly. A person
must look at every result. It must not be used to track, profile or identify people without a legal basis. Licences of
the data that it was trained on may restrict its use, for those of CUHK-PEDES, ICFG-PEDES and RSTPReid to research.
"""


def about_scores(calibration: Calibration | None) -> str:
    """For the card: on what scores were calibrated."""
    if calibration is None:
        return "Not calibrated: scores order images, and are no probabilities."
    of_stages = "; ".join(
        f"{STAGE_NAMES[stage]}: {found.captions:,} captions of {found.people:,} people, {found.images:,} images"
        for stage, found in calibration.stages.items()
    )
    people, phrases = [one.people for one in calibration.attributes.values()], ""
    if people:
        categories = counted(len(people), "category", "categories")
        phrases = f" So are phrases that describe people, of {categories}, on {max(people)} drawn ones."
    return f"""Search shows how likely an image shows the described person, if every second search is for somebody in
the gallery. Calibrated on validation people ({of_stages}); it holds for people and images like these.{phrases}"""


# ---- ONNX ------------------------------------------------------------------------------


class ImageTower(nn.Module):
    """Images [B, 3, H, W], 0 to 255 -> embeddings [B, E]."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: SearchModel):
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(model.statistics.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(model.statistics.std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.model.encode_image((images / 255 - self.mean) / self.std)[1]


class TextTower(nn.Module):
    """Word pieces [B, T] and, where the model reads one, mask [B, T] (1 = word) -> embeddings [B, E]."""

    def __init__(self, model: SearchModel):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        keep = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        return self.model.embed_text(TextTokens(ids, keep))


@torch.no_grad()
def export_onnx(encoder: Encoder, folder: Path) -> None:
    """Both encoders in float32, for any batch, and any length where captions have a mask.

    Raises UserError when they differ from torch.
    """
    height, width = encoder.config.image_size
    images = torch.randint(0, 256, (2, 3, height, width)).float()
    captions = example_captions(encoder)
    axes = {0: "batch"} if encoder.model.row_length else {0: "batch", 1: "length"}
    towers = {
        IMAGE_ONNX: (ImageTower(encoder.model), {"images": images}, {"images": {0: "batch"}}),
        TEXT_ONNX: (TextTower(encoder.model), captions, dict.fromkeys(captions, axes)),
    }
    for name, (tower, inputs, axes_of) in towers.items():
        tower = tower.cpu().float().eval()
        write_onnx(tower, inputs, axes_of, folder / name)
        check_onnx(tower, inputs, folder / name)


def example_captions(encoder: Encoder) -> dict[str, Tensor]:
    """Two captions of different length as the text encoder takes them: `ids` [2, T], and `mask` where it reads one."""
    tokenizer, most = encoder.trained.tokenizer, encoder.config.max_words
    encoded = [tokenizer.encode(tokenizer.clean(text, most), most).ids for text in EXAMPLES]
    length = encoder.model.row_length or max(map(len, encoded))
    ids = torch.tensor([row + [tokenizer.special.pad] * (length - len(row)) for row in encoded])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in encoded])
    return {"ids": ids} if encoder.model.row_length else {"ids": ids, "mask": mask}


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
