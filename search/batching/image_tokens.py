"""Image tokens of what is re-ranked: those used last are kept in memory, others encoded again from their files.

Letters: B images, N image tokens, D width.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set

from torch import Tensor

from dataset.decoding import Unusable, load_decoders
from search.encoder import Encoder
from search.files.images import State
from search.files.records import IndexedImage
from search.gallery.searchable_gallery import SearchableGallery
from utils.processes.parallel import map_in_threads

ENCODED_AT_ONCE = 32
CACHE_BYTES = 2**30
GONE = "does not exist"


class TokenCache:
    """Image tokens [N, D] by `IndexedImage.content_key`: those used last, at most `capacity` bytes of them."""

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

    def drop(self, content_key: str) -> None:
        """Hold nothing of a file any more."""
        tokens = self.tokens.pop(content_key, None)
        self.held -= 0 if tokens is None else tokens.nbytes


class ImageTokens:
    """Image tokens of a gallery for the model that re-ranks."""

    def __init__(self, gallery: SearchableGallery, encoder: Encoder, capacity: int):
        self.gallery, self.encoder, self.cache = gallery, encoder, TokenCache(capacity)
        self.read_as: dict[str, State | None] = {}  # by path: the state of the file when it was read

    def of(
        self, images: Iterable[IndexedImage], on_progress: Callable[[int], None] = lambda done: None
    ) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Tokens [N, D] by content of the images, each file read once; and by path why others could not be read.

        on_progress: called with how many are read by now.
        """
        each = list({image.path: image for image in images}.values())
        self.gallery.image_source.look_at([image.file for image in each])
        cached = {image.content_key: self.cache.get(image.content_key) for image in each}
        found = {content: tokens for content, tokens in cached.items() if tokens is not None}
        missing: dict[str, str] = {}
        while each:  # again where the one file of several equal ones that was read is damaged
            states = {image.path: self.gallery.image_source.state(image.file) for image in each}
            reads, skipped = self.to_read(each, states, set(found))
            waiting: dict[str, Tensor] = {}
            for image, pixels in zip(reads, self.read_all(reads), strict=True):
                if isinstance(pixels, Unusable):
                    missing[image.path] = str(pixels)
                    continue
                self.read_as[image.path] = states[image.path]
                if image.content_key not in found:
                    waiting[image.content_key] = pixels
                if len(waiting) == ENCODED_AT_ONCE:
                    found |= self.encode(waiting)
                    waiting = {}
                    on_progress(len(found))
            found |= self.encode(waiting)
            each = [image for image in skipped if image.content_key not in found]
        return found, missing

    def to_read(
        self, images: Sequence[IndexedImage], states: Mapping[str, State | None], known: Set[str]
    ) -> tuple[list[IndexedImage], list[IndexedImage]]:
        """(those whose files are read, those that are not): of `known` contents, and of equal ones all but the first,
        files that have not been touched since they were read last need not be read."""
        reads: list[IndexedImage] = []
        skipped: list[IndexedImage] = []
        seen = set(known)
        for image in images:
            state = states[image.path]
            untouched = state is not None and state == self.read_as.get(image.path)
            (skipped if untouched and image.content_key in seen else reads).append(image)
            seen.add(image.content_key)
        return reads, skipped

    def read_all(self, images: Sequence[IndexedImage]) -> Iterator[Tensor | Unusable]:
        """Each image as pixels [3, H, W], or why it is not, by threads that are some images ahead."""

        def read(image: IndexedImage) -> Tensor | Unusable:
            try:
                return self.encoder.decode_image(self.gallery.read_image(image))
            except Unusable as fault:
                return fault

        load_decoders()
        return map_in_threads(read, images, self.gallery.image_source.threads)

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
        self.cache.drop(image.content_key)
        self.read_as.pop(image.path, None)
