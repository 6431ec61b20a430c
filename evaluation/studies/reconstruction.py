"""What the masked autoencoder fills in, with a right and with a wrong caption: does the text guide it?

Most patches of an image are removed, and the decoder (MARS section 3.4) draws them from the rest and a caption: one
that was written for the image, or one of another person. Both see the same patches, so that all that differs is the
text. The mean squared error is that of normalised pixels of removed patches, as in training.

Letters: G images, B images of a block, L patches, P patch, H and W pixels.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset.evaluation_split import EvaluationSplit, blocks_of, load_blocks
from evaluation.drawing.pictures import save_picture
from evaluation.stages.encoding import progress
from evaluation.statistics import Estimate, estimate, paired_p_value
from evaluation.studies.comparison import image_indices
from evaluation.studies.reconstruction_sheet import Drawn, Task, as_picture, draw_sheet, fill
from evaluation.studies.study import ModelStudy, model_study
from evaluation.tables import Row, markdown_table
from evaluation.trained import TrainedModel
from models.decoder import patchify
from models.image_encoder import PatchSubset
from utils.errors import CommandParser, UserError

MAX_SHOWN = 50


def add_options(parser: CommandParser) -> None:
    parser.add_argument("--examples", type=int, default=4, metavar="N", help="how many images are shown (%(default)s)")
    parser.add_argument("--images", type=int, metavar="N", help="measure on N images drawn by seed (default: all)")
    parser.add_argument("--mask_ratio", type=float, metavar="SHARE", help="of patches removed (default: as trained)")


@model_study(add_options, most=1)
def main(study: ModelStudy) -> None:
    """Fill in every image twice, and compare the errors."""
    options, trained, seed = study.options, study.model, study.seed
    check(options)
    require_decoder(trained)
    ratio = checked_ratio(trained, options.mask_ratio)
    split = study.split
    tasks = choose_tasks(split, options.images, seed)
    shown = np.random.default_rng((seed, 1)).permutation(len(tasks))[: options.examples].tolist()
    errors, examples = redraw(trained, split, tasks, ratio, seed, set(shown))
    people = split.image_identity[torch.tensor([task.image for task in tasks])].numpy()
    summary = summarise(errors, people, seed)
    pairs = [(tasks[row], examples[row]) for row in sorted(shown)]
    save_picture(draw_sheet(split, pairs, trained.matcher, titles(study.labels[0], summary)), study.picture)
    study.finish(
        tabulate(split, tasks, errors, shown),
        markdown_table(printed(summary)),
        checkpoint=trained.checkpoint,
        split=options.split,
        seed=seed,
        mask_ratio=ratio,
        images=len(tasks),
        **as_facts(summary),
    )


def check(options: argparse.Namespace) -> None:
    """Raises UserError for numbers out of range."""
    if not 1 <= options.examples <= MAX_SHOWN:
        raise UserError(f"--examples: from 1 to {MAX_SHOWN} images can be shown, not {options.examples}")
    if options.images is not None and options.images < 1:
        raise UserError(f"--images must be 1 or more, not {options.images}")


def require_decoder(trained: TrainedModel) -> None:
    """Raises UserError when the model cannot draw."""
    if not trained.matcher.objective.uses("mae"):
        raise UserError(
            f"checkpoint {trained.checkpoint} has no decoder: weights.mae is 0 in its configuration; name a"
            " model that was trained with that loss"
        )


def checked_ratio(trained: TrainedModel, asked: float | None) -> float:
    """The share of patches that is removed. Raises UserError unless it removes some and keeps some."""
    ratio = trained.matcher.objective.mask_ratio if asked is None else asked
    patches = trained.model.grid[0] * trained.model.grid[1]
    kept = int(patches * (1 - ratio)) if 0 < ratio < 1 else 0
    if not 0 < kept < patches:
        raise UserError(
            f"--mask_ratio {ratio} does not keep and remove at least one of {patches} patches; choose a"
            " share between 0 and 1, such as 0.75"
        )
    return ratio


# ---- what is drawn ---------------------------------------------------------------------


def choose_tasks(split: EvaluationSplit, wanted: int | None, seed: int) -> list[Task]:
    """`wanted` images (None = all) with one of their captions and one of another person each, drawn by seed.

    An image's captions depend on the seed and its index alone. Raises UserError when there is one person only.
    """
    own: dict[int, list[int]] = {}
    for caption, image in enumerate(image_indices(split)):
        own.setdefault(image, []).append(caption)
    persons = split.caption_identity.numpy()
    if len(np.unique(persons)) < 2:
        raise UserError("a wrong caption is one of another person, and this split has captions of one person alone")
    images = sorted(own)
    if wanted is not None and wanted < len(images):
        order = np.random.default_rng(seed).permutation(len(images))[:wanted]
        images = sorted(images[row] for row in order)
    return [choose_captions(image, own[image], persons, seed) for image in images]


def choose_captions(image: int, own: Sequence[int], persons: np.ndarray, seed: int) -> Task:
    """A caption of the image, and one of another person: persons [C], of each caption."""
    rng = np.random.default_rng((seed, image))
    right = own[int(rng.integers(len(own)))]
    others = np.flatnonzero(persons != persons[right])
    return Task(image, right, int(others[rng.integers(len(others))]))


def patch_noise(tasks: Sequence[Task], patches: int, seed: int) -> Tensor:
    """Noise [B, L] that chooses the patches to remove: of each image by seed and index, whatever the block."""
    rows = [np.random.default_rng((seed, task.image, 1)).random(patches, np.float32) for task in tasks]
    return torch.from_numpy(np.stack(rows))


@torch.inference_mode()
def redraw(
    trained: TrainedModel, split: EvaluationSplit, tasks: Sequence[Task], ratio: float, seed: int, shown: set[int]
) -> tuple[np.ndarray, dict[int, Drawn]]:
    """Mean squared errors [G, 2] with the right and with the wrong caption, and the pictures of the tasks `shown`."""
    setting, errors = trained.setting, []
    examples: dict[int, Drawn] = {}
    blocks = blocks_of(len(tasks), setting.batch_size)
    wanted = [[tasks[row].image for row in block] for block in blocks]
    loaded = load_blocks(split, wanted, setting.image_size, setting.device, setting.workers)
    for block, images in zip(progress(blocks, "reconstruction"), loaded, strict=True):
        own = [tasks[row] for row in block]
        images = trained.matcher.normalise(images)
        noise = patch_noise(own, trained.model.grid[0] * trained.model.grid[1], seed)
        keep = PatchSubset.from_noise(noise.to(setting.device), ratio)
        captions = [task.right for task in own], [task.wrong for task in own]
        both = [predict(trained, split, images, keep, chosen) for chosen in captions]
        found = torch.stack([removed_error(pixels, images, keep, trained) for pixels in both], 1).cpu()  # [B, 2]
        errors.append(found.numpy())
        for row in sorted(shown.intersection(block)):
            examples[row] = drawn_of(row - block.start, images, both, keep, found, trained)
    return np.concatenate(errors), examples


def drawn_of(
    index: int, images: Tensor, both: Sequence[Tensor], keep: PatchSubset, errors: Tensor, trained: TrainedModel
) -> Drawn:
    """What became of one image of a block: images [B, 3, H, W], both predictions [B, L, P*P*3], errors [B, 2]."""
    image, removed = images[index], keep.removed[index]
    right, wrong = (fill(pixels[index], image, removed, trained.matcher) for pixels in both)
    drawn = as_picture(image, trained.matcher)
    return Drawn(drawn, right, wrong, removed.cpu(), float(errors[index, 0]), float(errors[index, 1]))


def predict(
    trained: TrainedModel, split: EvaluationSplit, images: Tensor, keep: PatchSubset, captions: Sequence[int]
) -> Tensor:
    """Patches [B, L, P*P*3] of images [B, 3, H, W], drawn from the kept ones and a caption for each, in float32."""
    reading = trained.matcher.encode_text(split.captions.tokens(captions).to(trained.setting.device))
    return trained.matcher.predict_patches(images, keep, reading)


def removed_error(pixels: Tensor, images: Tensor, keep: PatchSubset, trained: TrainedModel) -> Tensor:
    """Mean squared error [B] of patches [B, L, P*P*3] where they were removed."""
    errors = (pixels - patchify(images, trained.model.patch_size)).square().mean(-1)  # [B, L]
    return (errors * keep.removed).sum(1) / keep.removed.sum(1)


# ---- numbers ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """Mean squared errors over images, the wrong caption's less the right one's, and how often that is above 0 (%)."""

    right: Estimate
    wrong: Estimate
    difference: Estimate
    better: Estimate
    p_value: float


def summarise(errors: np.ndarray, people: np.ndarray, seed: int) -> Summary:
    """Of errors [G, 2] (right, wrong caption) of images of these people [G]."""
    right, wrong = errors.T.astype(float)
    return Summary(
        right=estimate(right, people, seed),
        wrong=estimate(wrong, people, seed),
        difference=estimate(wrong - right, people, seed),
        better=estimate(100.0 * (right < wrong), people, seed),
        p_value=paired_p_value(right, wrong, people, seed),
    )


def as_facts(summary: Summary) -> dict[str, Any]:
    """For the JSON file."""
    names = ("right", "wrong", "difference", "better")
    return {name: getattr(summary, name).as_row("mean") for name in names} | {"p_value": summary.p_value}


def tabulate(split: EvaluationSplit, tasks: Sequence[Task], errors: np.ndarray, shown: Sequence[int]) -> list[Row]:
    """A row for each image."""
    return [
        {
            "image": split.images[task.image],
            "right_caption": task.right,
            "wrong_caption": task.wrong,
            "right_error": float(right),
            "wrong_error": float(wrong),
            "shown": row in shown,
        }
        for row, (task, (right, wrong)) in enumerate(zip(tasks, errors, strict=True))
    ]


def printed(summary: Summary) -> list[Row]:
    """For the terminal."""
    what = {"right caption": summary.right, "wrong caption": summary.wrong, "difference": summary.difference}
    rows = [
        {"mean squared error": name, "mean": f"{one.mean:.4f}", "95 % interval": f"{one.low:.4f} to {one.high:.4f}"}
        for name, one in what.items()
    ]
    rows[-1]["mean squared error"] += f" (p = {summary.p_value:.4f}, {summary.right.count} images)"
    better = summary.better
    share = {"mean": f"{better.mean:.1f}", "95 % interval": f"{better.low:.1f} to {better.high:.1f}"}
    return [*rows, {"mean squared error": "% of images that the right caption draws better", **share}]


def titles(label: str, summary: Summary) -> list[str]:
    """What stands above the pictures."""
    difference = summary.difference
    return [
        f"{label}: removed patches drawn with a right and with a wrong caption",
        f"Mean squared error on {summary.right.count} images: {summary.right.mean:.4f} with the right caption,"
        f" {summary.wrong.mean:.4f} with a wrong one.",
        f"Difference {difference.mean:.4f} [{difference.low:.4f}, {difference.high:.4f}], p = {summary.p_value:.4f};"
        f" the right caption is better on {summary.better.mean:.0f} %.",
    ]
