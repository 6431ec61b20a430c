"""Adds uploaded images to a gallery."""

from dataset.decoding import Unusable, examine, explained, usual_ending
from dataset.digests import blake2_of
from search.files.records import IndexedImage
from search.gallery.gallery import held
from search.searcher import Searcher
from utils.errors import UserError

LARGEST_UPLOAD = 20 * 2**20  # bytes
FOLDER = "uploads"  # below that of the images


def add_image(searcher: Searcher, content: bytes) -> IndexedImage:
    """Write an uploaded image below the folder of images, named by its content, and add it to the gallery.

    Raises UserError when it is not a usable image.
    """
    encoder, gallery = searcher.encoder, held(searcher.gallery)
    try:
        with explained():
            ending = usual_ending(examine(content).format)
        pixels = encoder.decode_image(content)
    except Unusable as fault:
        raise UserError(f"the upload {fault}") from None
    digest = blake2_of(content)
    path = f"{FOLDER}/{digest[:32]}{ending}"
    with searcher.model_lock:
        gallery.catch_up()
        if path in gallery.records.by_path:
            return gallery.records.by_path[path]
        searcher.authorize("upload", image=path)
        gallery.images.write(path, content)
        _, embeddings = encoder.encode_images([pixels])
        image = IndexedImage(path, digest, embeddings[0], {})
        gallery.put([image])
        gallery.finish()
    return image
