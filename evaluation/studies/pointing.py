"""Pointing game and energy of heat maps on the masks of what they should find.

Pointing: is the peak of a map inside the mask (of equal peaks, the share that is)? Energy: the share of the map inside
the mask. A map that is zero everywhere points nowhere: it misses, with energy 0.

Letters: M mentions, C mentions of one caption, L patches, H and W pixels of a mask.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from evaluation.stages.encoding import progress
from evaluation.studies.caption_maps import CaptionMaps, upsample
from evaluation.studies.mentions import Mentions, read_mask

MEASURES = ("pointing", "energy")
WITHOUT_WORDS = ("random", "centre", "mask on the grid")
OTHER = "other attribute"
CENTRE_WIDTH = 0.25  # standard deviation of the centre prior, in heights and widths of the image

Scores = dict[str, np.ndarray]  # measure -> [M], 0 to 1, NaN where there is none


@dataclass(frozen=True)
class Measured:
    """M mentions that can be seen and were read. attribute, caption [M]: mask value, and index among the captions.

    scores: by name of what made the maps; left_out: how many mentions, and why; nowhere: empty maps of each model.
    """

    attribute: np.ndarray
    caption: np.ndarray
    scores: dict[str, Scores]
    left_out: dict[str, int]
    nowhere: dict[str, int]


# ---- one caption -----------------------------------------------------------------------


def centre_prior(height: int, width: int) -> Tensor:
    """A Gaussian [H, W] around the middle."""
    rows, columns = (((torch.arange(n) + 0.5) / n - 0.5) / CENTRE_WIDTH for n in (height, width))
    return torch.exp(-(rows[:, None].square() + columns.square()) / 2)


def score(heat: Tensor, inside: Tensor) -> Tensor:
    """Pointing and energy [K, C, 2] of maps [K, H, W] on masks [C, H, W] (True = inside); 0 where a map is all 0."""
    peaks = (heat == heat.amax((1, 2), keepdim=True)) & (heat > 0)
    masks = inside.flatten(1).double().T  # [H * W, C]
    parts = [part.flatten(1).double() for part in (peaks, heat)]
    return torch.stack([part @ masks / part.sum(1, keepdim=True).clamp(min=1e-300) for part in parts], -1)


def score_wordless(inside: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
    """Scores [C, 2] on masks [C, H, W] of maps that read no word."""
    size = inside.shape[1], inside.shape[2]
    patches = upsample(adaptive_avg_pool2d(inside.float(), grid).flatten(1), grid, size)
    found = [*score(torch.stack([torch.ones(size), centre_prior(*size)]), inside), diagonal(score(patches, inside))]
    return dict(zip(WITHOUT_WORDS, found, strict=True))


def diagonal(scores: Tensor) -> Tensor:
    """Of scores [C, C, 2] those of each map on its own mask [C, 2]."""
    return scores.diagonal().T


def mean_of_others(scores: Tensor, attributes: Tensor) -> Tensor:
    """Mean scores [C, 2] of the maps of other attributes: scores [C maps, C masks, 2]; NaN where there is no other."""
    other = (attributes[:, None] != attributes).to(scores.dtype)
    return (scores * other[..., None]).sum(0) / other.sum(0)[:, None]


def measure(
    mentioned: Mentions, found: Mapping[str, Sequence[CaptionMaps]], grids: Mapping[str, tuple[int, int]]
) -> Measured:
    """Pointing and energy of every mention that can be seen and that all models read.

    found: maps of the captions by model, in the order of `mentioned`; grids: of each model. `mask on the grid` takes
    that of the first model.
    """
    left_out, nowhere = Counter({"not visible": 0, "cut off": 0}), Counter(dict.fromkeys(found, 0))
    scores: dict[str, list[Tensor]] = {}
    attributes, captions = [], []
    for number in progress(range(len(mentioned.captions)), "measuring"):
        mask = read_mask(mentioned.masks[number])
        maps = {name: of_captions[number] for name, of_captions in found.items()}
        values = [mention.attribute for mention in mentioned.mentions[number]]
        used = usable(mask, values, maps.values(), left_out)
        if not used:
            continue
        of_used, size = torch.tensor(values)[used], (mask.shape[0], mask.shape[1])
        heat = {name: upsample(one.attributes[used], grids[name], size) for name, one in maps.items()}
        nowhere.update({name: int((one == 0).all((1, 2)).sum()) for name, one in heat.items()})
        for name, own in score_caption(mask, of_used, heat, next(iter(grids.values()))).items():
            scores.setdefault(name, []).append(own)
        attributes += of_used.tolist()
        captions += [number] * len(used)
    attribute, caption = np.array([attributes, captions], dtype=int)
    return Measured(attribute, caption, by_measure(scores), dict(left_out), dict(nowhere))


def usable(mask: Tensor, values: Sequence[int], maps: Iterable[CaptionMaps], left_out: Counter) -> list[int]:
    """Which mentions can be seen in a mask [H, W] and were read for all maps; counts in `left_out` those that are not.

    values: of the mentions' attributes in masks.
    """
    visible = [bool((mask == value).any()) for value in values]
    read = [all(present) for present in zip(*(one.present for one in maps), strict=True)]
    used = [index for index in range(len(values)) if visible[index] and read[index]]
    left_out.update({"not visible": visible.count(False), "cut off": visible.count(True) - len(used)})
    return used


def score_caption(
    mask: Tensor, attributes: Tensor, heat: Mapping[str, Tensor], grid: tuple[int, int]
) -> dict[str, Tensor]:
    """Scores [C, 2] of all kinds of maps on the mentions of one caption.

    mask [H, W]; attributes [C]: their values in it; heat: maps of the mentions [C, H, W] by model.
    """
    inside = mask == attributes[:, None, None]
    scores = score_wordless(inside, grid)
    for name, maps in heat.items():
        table = score(maps, inside)
        scores |= {name: diagonal(table), with_other(name): mean_of_others(table, attributes)}
    return scores


def with_other(name: str) -> str:
    """Name of the control of a model."""
    return f"{name}, {OTHER}"


def by_measure(scores: Mapping[str, Sequence[Tensor]]) -> dict[str, Scores]:
    """Scores [C, 2] of each caption by name -> name -> measure -> [M]."""
    return {name: dict(zip(MEASURES, torch.cat(list(parts)).numpy().T, strict=True)) for name, parts in scores.items()}
