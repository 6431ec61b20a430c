"""The frame around a person: which hit it is of, over the HTTP API and on the page."""

import io

from fastapi import FastAPI
from fastapi.responses import Response
from PIL import Image

from dataset.decoding import Unusable
from search.files.crops import draw_box, file_and_box
from search.gallery.searchable_gallery import SearchableGallery
from search.searcher import Searcher
from utils.errors import NotThere

QUALITY = 90  # of the JPEG


def frame_around(gallery: SearchableGallery, path: str) -> Image.Image | None:
    """The frame that an image was cut out of, with its box; None for a whole image.

    Raises Unusable when its file is gone or another one.
    """
    _, box = file_and_box(path)
    return None if box is None else draw_box(gallery.frame_of(path), box)


def add_frames(app: FastAPI, searcher: Searcher) -> None:
    @app.get("/api/frames/{image}")
    def frame(image: str) -> Response:
        """The frame that an image of the gallery was cut out of, as JPEG, with its box."""
        found = searcher.gallery.records.by_id.get(image)
        if found is None:
            raise NotThere("the gallery holds no image of this id")
        searcher.authorize("frame", image=found.path)
        try:
            picture = frame_around(searcher.gallery, found.path)
        except Unusable as fault:
            raise NotThere(f"the file of this image {fault}") from None
        if picture is None:
            raise NotThere("this image was not cut out of a frame")
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=QUALITY)
        return Response(file.getvalue(), media_type="image/jpeg", headers={"X-Content-Type-Options": "nosniff"})
