"""Adds uploaded images to a gallery."""

import threading

from dataset.decoding import Unusable, examine, explained, usual_ending
from dataset.digests import blake2_of
from search.files.records import IndexedImage
from search.gallery.gallery import Gallery, require_writable_gallery
from search.searcher import Searcher
from utils.errors import UserError

LARGEST_UPLOAD = 20 * 2**20  # bytes
FOLDER = "uploads"  # below that of the images
DECODING = threading.BoundedSemaphore(2)  # an image of the most pixels takes half a gigabyte while it is decoded


def is_there(gallery: Gallery, image: IndexedImage) -> bool:
    """Whether the file of an image is as it was indexed: somebody may have deleted it, or put another in its place."""
    try:
        gallery.read_frame(image)
    except Unusable:
        return False
    return True


def add_image(searcher: Searcher, content: bytes) -> IndexedImage:
    """Write an uploaded image below the folder of images, named by its content, and add it to the gallery.

    One that the gallery holds is written where its file is gone.

    Raises UserError when it is not a usable image.
    """
    encoder, gallery = searcher.encoder, require_writable_gallery(searcher.gallery)
    try:
        with explained():
            ending = usual_ending(examine(content).format)
        with DECODING:
            pixels = encoder.decode_image(content)
    except Unusable as fault:
        raise UserError(f"the upload {fault}") from None
    digest = blake2_of(content)
    path = f"{FOLDER}/{digest[:32]}{ending}"
    with searcher.model_lock:
        gallery.sync_if_stale()
        known = gallery.records.by_path.get(path)
        if known is not None and is_there(gallery, known):
            return known
        searcher.authorize("upload", image=path)
        gallery.image_source.write(path, content)
        if known is not None:
            return known
        _, embeddings = encoder.encode_images([pixels])
        image = IndexedImage(path, digest, embeddings[0], {})
        gallery.add_or_replace([image])
        gallery.finish()
    return image
