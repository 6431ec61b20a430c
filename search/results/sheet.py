"""A picture of the hits of a search."""

from contextlib import suppress
from pathlib import Path

from dataset.decoding import Unusable
from evaluation.drawing.sheet import SheetRow, ranking_sheet
from search.files.crops import file_and_box
from search.files.images import LocalImages
from search.gallery.gallery import Gallery
from search.gallery.searchable_gallery import SearchableGallery
from search.results.search_result import Hit, SearchResult
from utils.errors import UserError
from utils.files import require_writable_file


def is_image_of(gallery: SearchableGallery, file: Path) -> bool:
    """Whether a file is one that the gallery holds, so that a picture must not take its place.

    Where its images are not listed, any file of their folder may be one.
    """
    if isinstance(gallery, Gallery):
        return str(file) in {gallery.image_source.named(image.file) for image in gallery.records}
    return (
        isinstance(gallery.image_source, LocalImages)
        and file.is_relative_to(gallery.image_source.path)
        and file.exists()
    )


def require_sheet(path: Path) -> None:
    """Raises UserError, before the search, when a picture cannot be written there."""
    if path.suffix.lower() != ".png":
        raise UserError(f"--sheet {path}: the picture is a PNG file; let its name end in .png")
    require_writable_file(path, "--sheet")


def picture_of(hit: Hit, gallery: SearchableGallery) -> Path | bytes:
    """A hit's file, or the content of one that is a part of a frame or in shared storage."""
    if file_and_box(hit.path)[1] is not None or not isinstance(gallery.image_source, LocalImages):
        with suppress(Unusable):  # else a field with its name
            return gallery.content_of(hit.path)
    return Path(gallery.image_source.named(hit.path))


def write_sheet(answer: SearchResult, gallery: SearchableGallery, path: Path) -> None:
    """A picture of the hits."""
    if not answer.hits:
        raise UserError(f"nothing was found, so there is nothing to draw: --sheet {path} is not written")
    scores = [
        next(one for one in (hit.probability, hit.match, hit.similarity) if one is not None) for hit in answer.hits
    ]
    row = SheetRow(answer.query.text, "", [picture_of(hit, gallery) for hit in answer.hits], None, scores)
    ranking_sheet([row], path, len(answer.hits))
