"""Training images that cannot be used, found before training and left out when that is wished.

The main process looks, once, so that all processes leave out the same images for the whole run.
"""

import logging
import os
from collections.abc import Mapping, Sequence

from dataset.annotations import Entry, check_image_root
from dataset.digests import CHANGED
from dataset.image_files import missing_images, normal_path, read_images
from utils.errors import UserError

MOST = 0.001
"""Share of the images that may be left out; more mean that something else is wrong."""

SHOWN = 3

logger = logging.getLogger(__name__)


def find_bad_images(
    entries: Sequence[Entry], image_root: str | os.PathLike, digests: Mapping[str, str]
) -> tuple[str, ...]:
    """Normalised names of the images that are missing, unusable, or not what `digests` say, in order of appearance.

    Every file is read and decoded in full, by parallel threads; what is found is logged.
    Raises UserError when it is more than 0.1% of the images, or `image_root` is no folder.
    """
    check_image_root(image_root)
    images = list(dict.fromkeys(normal_path(entry.image) for entry in entries))
    missing = missing_images(images, image_root)
    present = [image for image in images if image not in missing]
    faults = dict(missing)
    for image, (fault, digest) in zip(present, read_images(present, image_root, full=True), strict=True):
        if fault or digests.get(image, digest) != digest:
            faults[image] = fault or CHANGED
    bad = [image for image in images if image in faults]
    if bad:
        _report({image: faults[image] for image in bad}, len(images), image_root)
    return tuple(bad)


def leave_out(entries: Sequence[Entry], skipped: Sequence[str]) -> list[Entry]:
    """The entries without those of the skipped images.

    Raises UserError when one of these is in no entry: they were recorded with other annotations.
    """
    left_out = set(skipped)
    unknown = left_out - {normal_path(entry.image) for entry in entries}
    if unknown:
        raise UserError(
            f"the run left out image {min(unknown)}, which the training files do not name; resume with the"
            " training files of the run"
        )
    return [entry for entry in entries if normal_path(entry.image) not in left_out]


def _report(faults: Mapping[str, str], images: int, image_root: str | os.PathLike) -> None:
    """Warn of the bad images. Raises UserError when they are too many."""
    some = ", ".join(f"{image} ({fault})" for image, fault in list(faults.items())[:SHOWN])
    dots = ", ..." if len(faults) > SHOWN else ""
    found = f"{len(faults)} of {images} training images in {image_root} ({len(faults) / images:.2%})"
    if len(faults) > MOST * images:
        raise UserError(
            f"bad_images: {found} cannot be used, more than the {MOST:.1%} that may be skipped: {some}{dots}; replace"
            " them or remove their annotations"
        )
    logger.warning("bad_images: %s are skipped: %s%s", found, some, dots)
