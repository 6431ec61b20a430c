"""What a process that only searches knows of a gallery's images: asked of the index, image by image, never all at once.

The index holds with each image what `Records` does (`search.milvus.store.as_row`).
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from search.files.records import ID, PATH, IndexedImage
from search.milvus.store import Store

FRESH = 1.0  # seconds for which an answer of the index is taken for what is there now
MAX_KEPT = 10_000  # images


class IndexRecords:
    """The images of a gallery by path and by id, as its index knows them now."""

    def __init__(self, store: Store):
        self.store = store
        self.kept: OrderedDict[str, IndexedImage] = OrderedDict()  # by id, which changes with all that is said of one
        self.seen: OrderedDict[str, tuple[str, float]] = OrderedDict()  # by path: its id, and when it had that
        self.lock = threading.Lock()
        self.by_path: Mapping[str, IndexedImage] = LazyMapping(self.find_by_path)
        self.by_id: Mapping[str, IndexedImage] = LazyMapping(self.find_by_id)

    def __len__(self) -> int:
        return self.store.count()

    def note(self, found: Sequence[tuple[str, str]]) -> dict[str, IndexedImage]:
        """Take (id, path) of a search for what is there now, and fetch at once what is not known of them.

        Returns them by id; those that the index does not hold any more are left out.
        """
        now = time.monotonic()
        with self.lock:
            there = {image_id: self.kept[image_id] for image_id, _ in found if image_id in self.kept}
        images = self.store.images([image_id for image_id, _ in found if image_id not in there])
        with self.lock:
            self.keep(images)
            self.see(found, now)
        return there | {image.id: image for image in images}

    def keep(self, images: Sequence[IndexedImage]) -> None:
        for image in images:
            self.kept[image.id] = image
            self.kept.move_to_end(image.id)
        while len(self.kept) > MAX_KEPT:
            self.kept.popitem(last=False)

    def see(self, found: Iterable[tuple[str, str]], now: float) -> None:
        """Note that images of these (id, path) were there at this time."""
        for image_id, path in found:
            self.seen[path] = image_id, now
            self.seen.move_to_end(path)
        while len(self.seen) > MAX_KEPT:
            self.seen.popitem(last=False)

    def find_by_path(self, path: str) -> IndexedImage | None:
        """The image of a path; None when there is none."""
        with self.lock:
            image_id, when = self.seen.get(path, ("", 0.0))
            if time.monotonic() - when < FRESH and image_id in self.kept:
                return self.kept[image_id]
        return self.fetched(self.store.images_where(PATH, path))

    def find_by_id(self, image_id: str) -> IndexedImage | None:
        """The image of an id; None when there is none, or none any more."""
        return self.fetched(self.store.images_where(ID, image_id))

    def fetched(self, images: Sequence[IndexedImage]) -> IndexedImage | None:
        with self.lock:
            self.keep(images)
            self.see([(image.id, image.path) for image in images], time.monotonic())
        return images[0] if images else None


class LazyMapping(Mapping[str, IndexedImage]):
    """A mapping that is asked key by key, and cannot be listed."""

    def __init__(self, find: Callable[[str], IndexedImage | None]):
        self.find = find

    def __getitem__(self, key: str) -> IndexedImage:
        found = self.find(key)
        if found is None:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[str]:
        raise TypeError("the images of a gallery that is only read are not listed")

    def __len__(self) -> int:
        raise TypeError("the images of a gallery that is only read are not listed")
