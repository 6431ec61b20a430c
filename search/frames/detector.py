"""Finds people in frames by a detector: one of torchvision with weights of a file, or any function of a module.

    torchvision:fasterrcnn_resnet50_fpn_v2=WEIGHTS.pth    trained on COCO, whose first class is people
    my_module:make_detector                               `make_detector()` returns a `Detector`

What was found is kept in the gallery by the content of each frame, so that no frame is looked at twice.
Letters: H height, W width of a frame; P people found.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dataset.decoding import Unusable, decode
from dataset.digests import blake2_of
from search.files.images import ImageSource
from search.frames.boxes import BoxCollector, People
from utils.checkpoints.files import read_checkpoint
from utils.device import prepare_device
from utils.errors import UserError, did_you_mean, one_line
from utils.files import read_json, write_json
from utils.paths import expand_home

TORCHVISION = "torchvision:"
PERSON = 1  # among the classes of COCO
MIN_SCORE = 0.5
DETECTED = "detected.json"  # in the folder of a gallery
SAVE_EVERY = 50  # frames

Detector = Callable[[Tensor], tuple[Tensor, Tensor]]
"""uint8 [3, H, W] -> boxes [P, 4], left, top, right and bottom in pixels, and scores [P] from 0 to 1."""


@dataclass(frozen=True)
class NamedDetector:
    """A detector, what it is called, and the score from which what it finds counts as a person."""

    name: str
    detect: Detector
    least: float = MIN_SCORE


def open_detector(name: str, least: float = MIN_SCORE, device: str = "auto") -> NamedDetector:
    """Raises UserError when there is no such detector, or its weights do not fit."""
    if not 0 <= least <= 1:
        raise UserError(f"--least_score {least}: scores are from 0 to 1")
    return NamedDetector(name, make_detector(name, prepare_device(device)), least)


def make_detector(name: str, device: torch.device) -> Detector:
    """Raises UserError when there is no such detector, or its weights do not fit."""
    if name.startswith(TORCHVISION):
        return torchvision_detector(name.removeprefix(TORCHVISION), device)
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise UserError(f"--detector {name}: give MODULE:FUNCTION, or {TORCHVISION}MODEL=WEIGHTS.pth")
    try:
        detector = getattr(importlib.import_module(module), function)()
    except Exception as error:  # code of others
        raise UserError(f"--detector {name} cannot be made: {one_line(str(error))} ({type(error).__name__})") from error
    if not callable(detector):
        raise UserError(f"--detector {name}: {function}() must return a function that finds people, not {detector!r}")
    return detector


def torchvision_detector(name: str, device: torch.device) -> Detector:
    """A detector of torchvision; MODEL=WEIGHTS.pth. Nothing is downloaded."""
    from torchvision.models import detection, get_model, list_models

    model_name, equals, weights = name.partition("=")
    known = list_models(detection)
    if model_name not in known:
        raise UserError(f"--detector: torchvision has no detector {model_name}{did_you_mean(model_name, known)}")
    if not equals or not weights:
        raise UserError(f"--detector {TORCHVISION}{model_name}=WEIGHTS.pth: which file has its weights?")
    content = read_checkpoint(Path(expand_home(weights)))
    found = content.get("model", content)
    state = {key: value for key, value in found.items() if isinstance(value, Tensor)}
    model = get_model(model_name, weights=None, weights_backbone=None)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        fault = str(error).splitlines()[-1].strip()
        raise UserError(f"--detector: {weights} does not fit {model_name}: {fault}") from None
    model.eval().to(device)

    @torch.inference_mode()
    def detect(frame: Tensor) -> tuple[Tensor, Tensor]:
        (answer,) = model([frame.to(device).float() / 255])
        people = answer["labels"] == PERSON
        return answer["boxes"][people].cpu(), answer["scores"][people].cpu()

    return detect


# ---- all frames of a gallery -----------------------------------------------------------


def find_people(image_source: ImageSource, images: Sequence[str], detector: NamedDetector, kept_in: Path) -> People:
    """The people in frames, as `search.frames.boxes.read_people` gives them, each with its `score`.

    kept_in: the folder of the gallery. A frame that cannot be read stands for itself: indexing it tells why. Raises
    UserError when the detector answers something else than boxes.
    """
    path = kept_in / DETECTED
    known, unsaved = kept_detections(path, detector.name), 0
    found = BoxCollector(f"detector {detector.name}")
    try:
        for image in tqdm(images, desc="detecting", unit="frame", disable=None):
            try:
                content = image_source.read(image)
                digest = blake2_of(content)
                if digest not in known:
                    known[digest] = detect(detector, content, image)
                    unsaved += 1
            except Unusable:
                found.people[image] = {image: {}}
                continue
            add_people(found, image, known[digest], detector.least)
            if unsaved >= SAVE_EVERY:
                write_json(path, {"detector": detector.name, "frames": known})
                unsaved = 0
    finally:  # also when the detector fails
        if unsaved:
            write_json(path, {"detector": detector.name, "frames": known})
    return found.people


def kept_detections(path: Path, name: str) -> dict[str, list[list[float]]]:
    """Rows of left, top, right, bottom and score by digest of a frame, as the same detector found them before."""
    content = read_json(path, "file of detections") if path.is_file() else {}
    same = isinstance(content, dict) and content.get("detector") == name and isinstance(content.get("frames"), dict)
    return content["frames"] if same else {}


def detect(detector: NamedDetector, content: bytes, image: str) -> list[list[float]]:
    """Rows of one frame. Raises UserError when the detector answers something else, Unusable for what is no image."""
    pixels = np.array(decode(content).convert("RGB"))
    try:
        boxes, scores = detector.detect(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())
        boxes, scores = torch.as_tensor(boxes), torch.as_tensor(scores)
    except Exception as error:  # code of others
        reason = f"{one_line(str(error))} ({type(error).__name__})"
        raise UserError(
            f"detector {detector.name} fails on {image}: {reason}; it must answer boxes [P, 4] and scores [P]"
        ) from error
    if boxes.ndim != 2 or boxes.shape[1:] != (4,) or scores.shape != boxes.shape[:1]:
        raise UserError(
            f"detector {detector.name} found boxes {list(boxes.shape)} and scores {list(scores.shape)} in {image};"
            " [P, 4] and [P] are expected"
        )
    rows = torch.cat([boxes.double(), scores.double()[:, None]], dim=1)
    if not rows.isfinite().all():
        raise UserError(f"detector {detector.name} found a box in {image} whose sides or score are no numbers")
    return [[round(value, 3) for value in row] for row in rows.tolist()]


def add_people(found: BoxCollector, image: str, rows: Sequence[Sequence[float]], least: float) -> None:
    """Those of at least a score, whose boxes have an area; of equal boxes the first."""
    for number, (left, top, right, bottom, score) in enumerate(rows, 1):
        box = (left, top, right - left, bottom - top)
        if score >= least and min(box[2:]) > 0 and right > 0 and bottom > 0 and not found.has(image, box):
            found.add(image, box, {"score": score}, f"box {number}")
