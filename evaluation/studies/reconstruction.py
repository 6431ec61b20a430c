"""Does the caption guide the masked autoencoder? Removed patches drawn with a right and with a wrong caption.

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
from PIL import Image, ImageDraw
from torch import Tensor

from dataset.evaluation_split import EvaluationSplit, blocks_of, load_blocks
from evaluation.drawing.panels import Cell, beside, draw_cell, stack, text_line
from evaluation.drawing.pictures import GREY, INK, PAPER, RIGHT, WRONG, clean, font, load_picture, wrap
from evaluation.ranking import progress
from evaluation.statistics import Estimate, estimate, paired_p_value
from evaluation.studies.study import (
    markdown_table,
    open_models,
    open_output,
    study_parser,
    tell,
    write_table,
)
from evaluation.trained import TrainedModel
from models.decoder import patchify, unpatchify
from models.image_encoder import PatchSubset
from utils.errors import UserError
from utils.files import atomic_write

NAME = "reconstruction"
MOST_SHOWN = 50

MARGIN, GAP = 16, 14
PICTURE = (140, 280)  # most width and height of a picture
CAPTIONS = 330  # width of the captions beside the pictures
TITLE, TEXT = 24, 18  # letters
HIDDEN = 0.5  # grey of a removed patch


@dataclass(frozen=True)
class Task:
    """An image of a split, and the captions that it is drawn with: all places in the split."""

    image: int
    right: int
    wrong: int


@dataclass(frozen=True)
class Drawn:
    """What became of one image, on the CPU. image, right, wrong [3, H, W] from 0 to 1; removed [L] True = removed.

    right and wrong are predictions where patches were removed, and the image elsewhere; the errors are theirs.
    """

    image: Tensor
    right: Tensor
    wrong: Tensor
    removed: Tensor
    right_error: float
    wrong_error: float


def build_parser() -> argparse.ArgumentParser:
    parser = study_parser(NAME, __doc__)
    parser.add_argument("--examples", type=int, default=4, metavar="N", help="how many images are shown (%(default)s)")
    parser.add_argument("--images", type=int, metavar="N", help="measure on N images drawn by seed (default: all)")
    parser.add_argument("--mask_ratio", type=float, metavar="SHARE", help="of patches removed (default: as trained)")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Raises UserError for bad input."""
    options = build_parser().parse_args(arguments)
    check_options(options)
    [(label, trained)] = open_models(options).items()
    require_decoder(trained)
    ratio = checked_ratio(trained, options.mask_ratio)
    folder = open_output(options, trained.checkpoint.parent)
    split = trained.open_split(options.split)
    tasks = choose_tasks(split, options.images, options.seed)
    shown = np.random.default_rng((options.seed, 1)).permutation(len(tasks))[: options.examples].tolist()
    errors, examples = redraw(trained, split, tasks, ratio, options.seed, set(shown))
    groups = split.image_identity[torch.tensor([task.image for task in tasks])].numpy()
    summary = summarise(errors, groups, options.seed)
    sheet = draw_sheet(split, [(tasks[row], examples[row]) for row in sorted(shown)], trained, titles(label, summary))
    with atomic_write(folder / f"{NAME}.png") as temporary:
        sheet.save(temporary, format="PNG")
    write_table(
        folder,
        NAME,
        tabulate(split, tasks, errors, shown),
        checkpoint=trained.checkpoint,
        split=options.split,
        seed=options.seed,
        mask_ratio=ratio,
        images=len(tasks),
        **as_facts(summary),
    )
    tell(folder, NAME, markdown_table(printed(summary)))


def check_options(options: argparse.Namespace) -> None:
    """Raises UserError for numbers out of range."""
    if not 1 <= options.examples <= MOST_SHOWN:
        raise UserError(f"--examples: from 1 to {MOST_SHOWN} images can be shown, not {options.examples}")
    if options.images is not None and options.images < 1:
        raise UserError(f"--images must be 1 or more, not {options.images}")


def require_decoder(trained: TrainedModel) -> None:
    """Raises UserError when the model cannot draw."""
    if not trained.model.objective.uses("mae"):
        raise UserError(
            f"checkpoint {trained.checkpoint} has no decoder: weights.mae is 0 in its configuration; name a"
            " model that was trained with that loss"
        )


def checked_ratio(trained: TrainedModel, asked: float | None) -> float:
    """The share of patches that is removed. Raises UserError unless it removes some and keeps some."""
    ratio = trained.config.mask_ratio if asked is None else asked
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

    An image's captions depend on the seed and its place alone. Raises UserError when there is one person only.
    """
    own: dict[int, list[int]] = {}
    for caption, image in enumerate(split.caption_image.tolist()):
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
    """Noise [B, L] that chooses the patches to remove: of each image by seed and place, whatever the block."""
    rows = [np.random.default_rng((seed, task.image, 1)).random(patches, np.float32) for task in tasks]
    return torch.from_numpy(np.stack(rows))


@torch.inference_mode()
def redraw(
    trained: TrainedModel, split: EvaluationSplit, tasks: Sequence[Task], ratio: float, seed: int, shown: set[int]
) -> tuple[np.ndarray, dict[int, Drawn]]:
    """Mean squared errors [G, 2] with the right and with the wrong caption, and the pictures of the tasks `shown`."""
    setting, errors, examples = trained.setting, [], {}
    blocks = blocks_of(len(tasks), setting.batch_size)
    wanted = [[tasks[row].image for row in block] for block in blocks]
    loaded = load_blocks(split, wanted, setting.image_size, setting.device, setting.workers)
    for block, images in zip(progress(blocks, "reconstruction"), loaded, strict=True):
        own = [tasks[row] for row in block]
        images = trained.model.normalise(images)
        noise = patch_noise(own, trained.model.grid[0] * trained.model.grid[1], seed)
        keep = PatchSubset.from_noise(noise.to(setting.device), ratio)
        both = [
            predict(trained, split, images, keep, places)
            for places in ([task.right for task in own], [task.wrong for task in own])
        ]
        found = torch.stack([removed_error(pixels, images, keep, trained) for pixels in both], 1).cpu()  # [B, 2]
        errors.append(found.numpy())
        for row in sorted(shown.intersection(block)):
            place = row - block.start
            pictures = [fill(pixels[place], images[place], keep.removed[place], trained) for pixels in both]
            removed = keep.removed[place].cpu()
            examples[row] = Drawn(as_picture(images[place], trained), *pictures, removed, *found[place].tolist())
    return np.concatenate(errors), examples


def predict(
    trained: TrainedModel, split: EvaluationSplit, images: Tensor, keep: PatchSubset, captions: Sequence[int]
) -> Tensor:
    """Patches [B, L, P*P*3] of images [B, 3, H, W], drawn from the kept ones and a caption for each, in float32."""
    reading = trained.model.encode_text(split.captions.tokens(captions).to(trained.setting.device))
    return trained.model.predict_patches(images, keep, reading)


def removed_error(pixels: Tensor, images: Tensor, keep: PatchSubset, trained: TrainedModel) -> Tensor:
    """Mean squared error [B] of patches [B, L, P*P*3] where they were removed."""
    errors = (pixels - patchify(images, trained.model.patch_size)).square().mean(-1)  # [B, L]
    return (errors * keep.removed).sum(1) / keep.removed.sum(1)


def fill(pixels: Tensor, image: Tensor, removed: Tensor, trained: TrainedModel) -> Tensor:
    """The image [3, H, W] with predicted patches [L, P*P*3] where they were removed [L]: 0 to 1."""
    patches = torch.where(removed[:, None], pixels, patchify(image[None], trained.model.patch_size)[0])
    return as_picture(unpatchify(patches[None], trained.model.grid, trained.model.patch_size)[0], trained)


def as_picture(image: Tensor, trained: TrainedModel) -> Tensor:
    """A normalised image [3, H, W] -> from 0 to 1, on the CPU."""
    return trained.model.visual_encoder.statistics.restore(image).cpu()


# ---- numbers ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """Mean squared errors over images, the wrong caption's less the right one's, and how often that is above 0 (%)."""

    right: Estimate
    wrong: Estimate
    difference: Estimate
    better: Estimate
    p_value: float


def summarise(errors: np.ndarray, groups: np.ndarray, seed: int) -> Summary:
    """Of errors [G, 2] (right, wrong caption) of images of the persons `groups` [G]."""
    right, wrong = errors.T.astype(float)
    values = (right, wrong, wrong - right, 100.0 * (right < wrong))
    return Summary(*(estimate(part, groups, seed) for part in values), paired_p_value(right, wrong, groups, seed))


def as_facts(summary: Summary) -> dict[str, Any]:
    """For the JSON file."""
    names = ("right", "wrong", "difference", "better")
    return {name: getattr(summary, name).as_row("mean") for name in names} | {"p_value": summary.p_value}


def tabulate(
    split: EvaluationSplit, tasks: Sequence[Task], errors: np.ndarray, shown: Sequence[int]
) -> list[dict[str, Any]]:
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


def printed(summary: Summary) -> list[dict[str, str]]:
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


# ---- the picture -----------------------------------------------------------------------


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


def draw_sheet(
    split: EvaluationSplit, examples: Sequence[tuple[Task, Drawn]], trained: TrainedModel, lines: Sequence[str]
) -> Image.Image:
    """A line for each image: its captions, and four pictures."""
    rows = [draw_example(split, task, drawn, trained) for task, drawn in examples]
    width = max(row.width for row in rows)
    heading = stack([text_line(lines[0], TITLE, width), *(text_line(line, TEXT, width, GREY) for line in lines[1:])], 4)
    return stack([heading, *rows], 2 * GAP, MARGIN)


def draw_example(split: EvaluationSplit, task: Task, drawn: Drawn, trained: TrainedModel) -> Image.Image:
    """Captions on the left; what was seen, both drawings, and the image, in the shape of its file."""
    path = split.image_root / split.images[task.image]
    whole = load_picture(path, PICTURE)
    if whole is None:
        raise UserError(f"image {path} cannot be read any more; run the command again")
    cells = [
        Cell(to_pil(hide(drawn, trained), whole.size), "seen"),
        Cell(to_pil(drawn.right, whole.size), "right caption", f"error {drawn.right_error:.3f}", RIGHT),
        Cell(to_pil(drawn.wrong, whole.size), "wrong caption", f"error {drawn.wrong_error:.3f}", WRONG),
        Cell(to_pil(drawn.image, whole.size), "image"),
    ]
    pictures = [draw_cell(cell, PICTURE, TEXT, title_lines=1) for cell in cells]
    texts = draw_captions(split.texts[task.right], split.texts[task.wrong], max(one.height for one in pictures))
    return beside([texts, *pictures], GAP)


def hide(drawn: Drawn, trained: TrainedModel) -> Tensor:
    """The image [3, H, W] with its removed patches grey."""
    size = trained.model.patch_size
    patches = patchify(drawn.image[None], size)[0].masked_fill(drawn.removed[:, None], HIDDEN)
    return unpatchify(patches[None], trained.model.grid, size)[0]


def to_pil(picture: Tensor, size: tuple[int, int]) -> Image.Image:
    """[3, H, W] from 0 to 1 -> a picture of `size` (width, height)."""
    pixels = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def draw_captions(right: str, wrong: str, height: int) -> Image.Image:
    """Both captions in the colours of their pictures' frames, cut where they do not fit."""
    sheet = Image.new("RGB", (CAPTIONS, height), PAPER)
    draw, line = ImageDraw.Draw(sheet), TEXT + 4
    most, top = (height - 3 * line) // (2 * line) - 1, line
    for name, text, colour in (("right caption", right, RIGHT), ("wrong caption", wrong, WRONG)):
        draw.text((0, top), name, fill=colour, font=font(TEXT))
        wrapped = wrap(clean(text), TEXT, CAPTIONS, most)
        draw.multiline_text((0, top + line), wrapped, fill=INK, font=font(TEXT), spacing=2)
        top += (most + 2) * line
    return sheet
