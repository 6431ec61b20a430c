"""The search index: Milvus, embedded (Milvus Lite, a file) or a server; the same calls for both.

An index holds nothing that a gallery's records do not hold: it can always be built again from them.
"""

import contextlib
import functools
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from tqdm import tqdm

from search.files.records import DIGEST, ID, OWN_FIELDS, PATH, VECTOR, IndexedImage
from search.milvus.client import OutOfReach, connect, is_server, milvus_errors
from search.milvus.collection_names import own_name, owner_by_earlier_name
from search.milvus.index_types import AUTO, EXACT, INDEX_TYPES, chosen_type
from search.milvus.literals import literal
from utils.errors import Unavailable, UserError

logger = logging.getLogger(__name__)

ROWS = 2  # version of `as_row`
BATCH = 1000
FRESH = 1.0  # seconds, after which a process that only searches asks again what the index is built as
CONSISTENCY = "Strong"  # every search sees what was written before it
WAIT_SECONDS = 3600
REBUILD = "python -m search rebuild builds it again"

IndexHit = tuple[str, str, float]
"""Id and path of an image that was found, and its cosine similarity as the index has it."""

P = ParamSpec("P")
R = TypeVar("R")


def translate_milvus_errors(method: Callable[Concatenate["Store", P], R]) -> Callable[Concatenate["Store", P], R]:
    """Decorator: errors of Milvus in a method of the store say how to build the index again, and are Unavailable."""

    @functools.wraps(method)
    def wrapped(store: "Store", *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with milvus_errors(f"the index {store.uri} fails ({method.__name__}; {REBUILD})"):
                return method(store, *args, **kwargs)
        except OutOfReach:
            raise OutOfReach(f"the server of the index {store.uri} does not answer; is it running?") from None

    return wrapped


class Store:
    """One collection of a Milvus index.

    On a server the collection is versioned (`search.milvus.collection_names`) behind an alias, the name that all ask
    for: a rebuild fills a new version and switches the alias (`replace`). No collection is removed that an alias stands
    for: it is that of another gallery.
    """

    def __init__(
        self, uri: str, collection: str, dimensions: int, create_missing: bool = True, requested_type: str = AUTO
    ):
        """uri: a file of Milvus Lite, or http://host:port of a server. create_missing: an empty collection when there
        is none. requested_type: the type of the index when it is built (`search.milvus.index_types.CHOICES`).

        Raises UserError when it cannot be opened, or there is none.
        """
        self.uri, self.collection, self.dimensions = uri, collection, dimensions
        self.client, self.requested_type, self.writable = connect(uri), requested_type, create_missing
        self.index_type, self.built_with, self.described_at = EXACT, dict[str, Any](), 0.0
        try:
            self.open(create_missing)
        except BaseException:
            with contextlib.suppress(UserError):  # which would hide the error that matters
                self.close()
            raise

    @translate_milvus_errors
    def open(self, create_missing: bool) -> None:
        """Load the collection; where there is none, make an empty one, or raise UserError unless `create_missing`."""
        if not self.client.has_collection(self.collection):
            if not create_missing:
                raise UserError(f"{self.uri} has no index {self.collection}; {REBUILD}")
            if is_server(self.uri):
                self.client.create_alias(self.create_next_version().collection, self.collection)
            else:
                self.create(self.collection)
        elif is_server(self.uri):
            self.require_own()
        self.client.load_collection(self.collection)
        self.refresh_index_info()

    def require_own(self) -> None:
        """Raises UserError when the name is that of a collection which an earlier version made for another gallery."""
        if self.real_name(self.collection) != self.collection:
            return
        if owner := owner_by_earlier_name(self.collection, self.aliases(self.collection)):
            raise UserError(
                f"{self.uri}/{self.collection} is where an earlier version keeps the index of {self.uri}/{owner}; name"
                f" another, or free it: python -m search rebuild --gallery {self.uri}/{owner}"
            )

    def real_name(self, name: str) -> str:
        """The name of a collection itself, of which this may be an alias."""
        return str(self.client.describe_collection(name)["collection_name"])

    def aliases(self, name: str) -> list[str]:
        return list(self.client.list_aliases(name)["aliases"])

    def is_in_use(self, name: str) -> bool:
        """Whether there is a collection of this name which is, or has, an alias."""
        if not self.client.has_collection(name):
            return False
        return self.real_name(name) != name or bool(self.aliases(name))

    def drop(self, name: str) -> None:
        """Remove a collection, if there is one, unless an alias stands for it."""
        if self.client.has_collection(name) and not self.is_in_use(name):
            self.client.drop_collection(name)

    def refresh_index_info(self) -> None:
        """Ask what the index is built as."""
        found, self.described_at = self.describe_index(), time.monotonic()
        self.index_type, self.built_with = found.get("index_type", EXACT), parameters_of(found)

    def create(self, name: str) -> None:
        """An empty collection. Metadata are dynamic fields: every gallery has its own."""
        from pymilvus import DataType

        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=True)
        schema.add_field(ID, DataType.VARCHAR, is_primary=True, max_length=64)
        schema.add_field(PATH, DataType.VARCHAR, max_length=8192)
        schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=self.dimensions)
        self.client.create_collection(
            name, schema=schema, index_params=self.index_parameters(EXACT, 0), consistency_level=CONSISTENCY
        )

    def index_parameters(self, index_type: str, images: int) -> Any:
        parameters = self.client.prepare_index_params()
        # as a value named "params", which Milvus Lite and servers both read
        built_with = {"params": dict(INDEX_TYPES[index_type].build(images))}
        parameters.add_index(VECTOR, index_type=index_type, metric_type="COSINE", params=built_with)
        return parameters

    @translate_milvus_errors
    def describe_index(self) -> Mapping[str, Any]:
        """What Milvus says of the index of embeddings."""
        return self.client.describe_index(self.collection, VECTOR) or {}

    @translate_milvus_errors
    def count(self, where: str = "") -> int:
        """The number of images, or of those that pass a filter on metadata."""
        found = self.client.query(self.collection, filter=where, output_fields=["count(*)"])
        return int(found[0]["count(*)"])

    @translate_milvus_errors
    def ids(self) -> set[str]:
        """The ids of all images."""
        found: set[str] = set()
        pages = self.client.query_iterator(self.collection, batch_size=BATCH, output_fields=[ID])
        while page := pages.next():
            found.update(row[ID] for row in page)
        pages.close()
        return found

    @translate_milvus_errors
    def upsert(self, images: Sequence[IndexedImage]) -> None:
        """Add images, or replace those of the same ids."""
        for start in range(0, len(images), BATCH):
            self.client.upsert(self.collection, [as_row(image) for image in images[start : start + BATCH]])

    @translate_milvus_errors
    def remove(self, ids: Sequence[str]) -> None:
        """Remove images by their ids."""
        for start in range(0, len(ids), BATCH):
            self.client.delete(self.collection, ids=list(ids[start : start + BATCH]))

    @translate_milvus_errors
    def images(self, ids: Sequence[str]) -> list[IndexedImage]:
        """What the index holds of images by their ids; nothing of those that it does not hold."""
        rows: list[Mapping[str, Any]] = []
        for start in range(0, len(ids), BATCH):
            rows += self.client.get(self.collection, ids=list(ids[start : start + BATCH]), output_fields=["*"])
        return [as_image(row) for row in rows]

    @translate_milvus_errors
    def images_where(self, name: str, value: str) -> list[IndexedImage]:
        """What the index holds of images whose id or path is this."""
        found = self.client.query(self.collection, filter=f"{name} == {literal(value)}", output_fields=["*"])
        return [as_image(row) for row in found]

    def search(self, vector: np.ndarray, count: int, where: str = "") -> list[IndexHit]:
        """The `count` nearest images, best first, as of `search_all`."""
        return self.search_all(vector[None], count, where)[0]

    def search_all(self, vectors: np.ndarray, count: int, where: str = "") -> list[list[IndexHit]]:
        """For each vector [Q, E] the `count` nearest images, best first; where: a filter on metadata.

        Raises UserError for a filter that Milvus does not understand (`search.gallery.filters` refuses what is none),
        and Unavailable when the index fails.
        """
        if not self.writable and time.monotonic() - self.described_at > FRESH:
            self.refresh_index_info()  # the process that changes the gallery may have built another
        parameters = dict(INDEX_TYPES[self.index_type].search(count, self.built_with))
        what = f"the search with the filter {where!r} failed" if where else "the search failed"
        with milvus_errors(what, kind=UserError if where else Unavailable):
            found = self.client.search(
                self.collection,
                data=list(vectors.astype(np.float32)),
                limit=count,
                filter=where,
                output_fields=[PATH],
                search_params={"params": parameters},
            )
        return [[(hit[ID], hit["entity"][PATH], float(hit["distance"])) for hit in one] for one in found]

    @translate_milvus_errors
    def finish(self) -> None:
        """Write everything out, choose the index that this many images need, and wait until it is complete."""
        self.client.flush(self.collection)
        images = self.count()
        chosen = chosen_type(self.requested_type, images)
        if self.index_type != chosen:
            logger.info("building the index %s", chosen)
            self.client.release_collection(self.collection)
            self.client.drop_index(self.collection, VECTOR)
            self.client.create_index(self.collection, self.index_parameters(chosen, images))
            self.client.load_collection(self.collection)
        self.wait_until_complete()
        self.refresh_index_info()

    def require_buildable(self, index_type: str) -> None:
        """Raises UserError unless this Milvus builds indices of a type; nothing of the gallery is touched."""
        if index_type == AUTO:
            return
        name, some = own_name(self.collection, "trial"), np.eye(1, self.dimensions, dtype=np.float32)[0]
        try:
            trial = self.create_empty(name)
            trial.requested_type = index_type
            trial.upsert([IndexedImage("trial", "trial", some)])
            trial.finish()
        except OutOfReach:
            raise
        except UserError as error:
            said = str(error).rpartition(f"{REBUILD}): ")[2]
            raise UserError(f"the Milvus of {self.uri} does not build an index {index_type}: {said}") from None
        finally:
            with contextlib.suppress(Exception):  # which would hide the error that matters
                self.drop(name)

    def wait_until_complete(self) -> None:
        """Raises UserError when it takes an hour."""
        deadline = time.monotonic() + WAIT_SECONDS
        with tqdm(desc="indexing", unit="image", leave=False, disable=None) as bar:
            while True:
                state = self.describe_index()
                bar.total = int(state.get("total_rows") or 0)
                bar.n = int(state.get("indexed_rows") or 0)
                bar.refresh()
                if state.get("state") in (None, "Finished") and not state.get("pending_index_rows"):
                    return
                if time.monotonic() > deadline:
                    raise UserError(f"the index in {self.uri} is not complete after {WAIT_SECONDS // 60} minutes")
                time.sleep(0.2)

    @translate_milvus_errors
    def replace(self, images: Iterable[IndexedImage]) -> None:
        """Let the index hold exactly these images, built anew. On a server, searches find all of it meanwhile."""
        if not is_server(self.uri):
            self.client.drop_collection(self.collection)
            self.create(self.collection)
            self.client.load_collection(self.collection)
            self.refresh_index_info()
            self.upsert(list(images))
            self.finish()
            return
        old = self.real_name(self.collection)
        if old == self.collection:  # of an earlier version, without an alias
            old = self.free_name()
            self.drop(old)
            self.client.rename_collection(self.collection, old)
            self.client.create_alias(old, self.collection)
        version = self.create_next_version()
        version.upsert(list(images))
        version.finish()
        self.client.alter_alias(version.collection, self.collection)
        self.index_type, self.built_with = version.index_type, version.built_with
        self.drop(old)

    def free_name(self) -> str:
        """The first name for a collection of this gallery that is not in use, also where a killed process has left one
        of that name: so there are two of them at most."""
        names = (own_name(self.collection, number) for number in itertools.count(1))
        return next(name for name in names if not self.is_in_use(name))

    def create_next_version(self) -> "Store":
        """An empty collection, the next version of the one that is searched."""
        return self.create_empty(self.free_name())

    def create_empty(self, name: str) -> "Store":
        """An empty collection of this name, in place of one that a killed process has left."""
        self.drop(name)
        self.create(name)
        other = copy(self)
        other.collection, other.writable = name, True
        self.client.load_collection(name)
        other.refresh_index_info()
        return other

    @translate_milvus_errors
    def discard(self) -> None:
        """Remove the collection."""
        found = self.real_name(self.collection)
        if found != self.collection:  # which is an alias of it
            self.client.drop_alias(self.collection)
        self.drop(found)

    @translate_milvus_errors
    def close(self) -> None:
        """Close the connection, and the file, which the server of Milvus Lite in this process would else hold open."""
        self.client.close()
        if not is_server(self.uri):
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(self.uri)


def parameters_of(described: Mapping[str, Any]) -> dict[str, Any]:
    """What an index was built with, as numbers where they are: servers name parameters one by one, as text."""
    inner = described.get("params")
    found = {**described, **(inner if isinstance(inner, dict) else {})}
    return {name: int(value) if str(value).isdigit() else value for name, value in found.items()}


def as_row(image: IndexedImage) -> Mapping[str, Any]:
    """An image as a row of the collection."""
    return {**image.metadata, ID: image.id, PATH: image.path, VECTOR: image.embedding, DIGEST: image.digest}


def as_image(row: Mapping[str, Any]) -> IndexedImage:
    """The image that a row of the collection tells of. Raises UserError for a row of an earlier version."""
    if not row.get(DIGEST):
        raise UserError(f"the index is of an earlier version; {REBUILD}")
    # None stands for what other images have alone
    metadata = {name: value for name, value in row.items() if name not in OWN_FIELDS and value is not None}
    return IndexedImage(row[PATH], row[DIGEST], np.asarray(row[VECTOR], np.float32), metadata)


def synchronise(store: Store, images: Iterable[IndexedImage]) -> int:
    """Make the index hold exactly these images; returns how many entries had to change."""
    wanted = {image.id: image for image in images}
    there = store.ids()
    missing, extra = [wanted[one] for one in wanted.keys() - there], sorted(there - wanted.keys())
    if extra:
        store.remove(extra)
    store.upsert(missing)
    if missing or extra:
        store.finish()
    return len(missing) + len(extra)
