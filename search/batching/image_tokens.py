"""Image tokens of what is re-ranked: those used last are kept in memory, others encoded again from their files.

Letters: B images, N image tokens, D width.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable

from torch import Tensor

from dataset.decoding import Unusable
from search.encoder import Encoder
from search.files.images import State
from search.files.records import IndexedImage
from search.gallery.read_gallery import ReadGallery

ENCODED_AT_ONCE = 32
CACHE_BYTES = 2**30
GONE = "does not exist"


class TokenCache:
    """Image tokens [N, D] by content (`IndexedImage.content`): those used last, at most `capacity` bytes of them."""

    def __init__(self, capacity: int = CACHE_BYTES):
        self.capacity, self.held = capacity, 0
        self.tokens: OrderedDict[str, Tensor] = OrderedDict()

    def get(self, content: str) -> Tensor | None:
        if content in self.tokens:
            self.tokens.move_to_end(content)
        return self.tokens.get(content)

    def put(self, content: str, tokens: Tensor) -> None:
        if content in self.tokens or tokens.nbytes > self.capacity:
            return
        self.tokens[content] = tokens
        self.held += tokens.nbytes
        while self.held > self.capacity:
            self.held -= self.tokens.popitem(last=False)[1].nbytes

    def drop(self, digest: str) -> None:
        """Hold nothing of a file any more."""
        tokens = self.tokens.pop(digest, None)
        self.held -= 0 if tokens is None else tokens.nbytes


class ImageTokens:
    """Image tokens of a gallery for the model that re-ranks."""

    def __init__(self, gallery: ReadGallery, encoder: Encoder, capacity: int):
        self.gallery, self.encoder, self.cache = gallery, encoder, TokenCache(capacity)
        self.read_as: dict[str, State | None] = {}  # by path: the state of the file when it was read

    def of(
        self, images: Iterable[IndexedImage], tell: Callable[[int], None] = lambda done: None
    ) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Tokens [N, D] by content of the images, each file read once; and by path why others could not be read.

        tell: called with how many are read by now.
        """
        found: dict[str, Tensor] = {}
        waiting: dict[str, Tensor] = {}
        missing: dict[str, str] = {}
        each = list({image.path: image for image in images}.values())
        self.gallery.images.look_at([image.file for image in each])
        for image in each:
            key = image.content
            cached = found.get(key) if key in found else self.cache.get(key)
            try:
                content = self.content_unless_known(image, cached is not None or key in waiting)
                if cached is not None:
                    found[key] = cached
                elif content is not None and key not in waiting:
                    waiting[key] = self.encoder.read(content)
            except Unusable as fault:
                missing[image.path] = str(fault)
            if len(waiting) == ENCODED_AT_ONCE:
                found |= self.encode(waiting)
                waiting = {}
                tell(len(found))
        return found | self.encode(waiting), missing

    def content_unless_known(self, image: IndexedImage, known: bool) -> bytes | None:
        """The file of an image; None when it is `known` and the file has not been touched since it was read last.

        Raises Unusable when the file is gone or another one.
        """
        state = self.gallery.images.state(image.file)
        if known and state is not None and state == self.read_as.get(image.path):
            return None
        content = self.gallery.read_image(image)
        self.read_as[image.path] = state
        return content

    def encode(self, images: dict[str, Tensor]) -> dict[str, Tensor]:
        """uint8 images [3, H, W] by content -> tokens [N, D] by content, which the cache takes."""
        if not images:
            return {}
        tokens, _ = self.encoder.encode_images(list(images.values()))
        assert tokens is not None, "images are encoded again to be re-ranked"
        found = {key: one.clone() for key, one in zip(images, tokens, strict=True)}
        for key, one in found.items():
            self.cache.put(key, one)
        return found

    def forget(self, image: IndexedImage) -> None:
        """Hold nothing of an image any more."""
        self.cache.drop(image.content)
        self.read_as.pop(image.path, None)
