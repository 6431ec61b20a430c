"""Erases images from a gallery that is being served, as the command `forget` does while none is."""

from search.gallery.gallery import require_writable_gallery
from search.searcher import Searcher
from utils.errors import NotThere


def erase_image(searcher: Searcher, path: str) -> None:
    """Erase an image from records and index, from what pages have shown, and from memory; its file is left alone.

    Raises NotThere when the gallery holds none of this path.
    """
    gallery = require_writable_gallery(searcher.gallery)
    with searcher.model_lock:
        image = gallery.records.by_path.get(path)
        if image is None:
            gallery.sync_if_stale()  # of an erasure that could not be finished
            raise NotThere(f"the gallery holds no image {path!r}")
        searcher.authorize("erase", image=path)
        try:
            gallery.forget([path])
        finally:
            if path not in gallery.records.by_path:
                searcher.tokens.forget(image)
                for drop in searcher.drops:
                    drop(image.content_key)
