"""The search index: Milvus, embedded (Milvus Lite, a file) or a server; the same calls for both.

An index can always be built again from a gallery's records, and never knows more than these.
"""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from search.records import Record
from utils.errors import UserError

logger = logging.getLogger(__name__)

ID, PATH, VECTOR = "id", "path", "embedding"
OWN_FIELDS = (ID, PATH, VECTOR)
EXACT, GRAPH = "FLAT", "HNSW"  # all images compared; a graph of near neighbours (Malkov and Yashunin, 2020)
EXACT_BELOW = 100_000  # images; from there on a graph
BUILT_WITH = {EXACT: {}, GRAPH: {"M": 32, "efConstruction": 256}}
LOOKED_AT = 512, 4  # images that a search of a graph keeps in view: so many, and so many times those that are wanted
BATCH = 1000
CONSISTENCY = "Strong"  # everybody sees what was written before they asked
WAIT_SECONDS = 3600
REBUILD = "python -m search rebuild makes it again"


class Store:
    """One collection of a Milvus index."""

    def __init__(self, uri: str, collection: str, dimensions: int):
        """uri: a file of Milvus Lite, or http://host:port of a server. Raises UserError when it cannot be opened."""
        self.client, self.collection, self.dimensions = Told(connect(uri), uri), collection, dimensions
        self.uri = uri
        if not self.client.has_collection(collection):
            self.create()
        self.client.load_collection(collection)
        self.kind = self.described().get("index_type", EXACT)

    def create(self) -> None:
        """An empty collection. Metadata are dynamic fields: every gallery has its own."""
        from pymilvus import DataType

        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=True)
        schema.add_field(ID, DataType.VARCHAR, is_primary=True, max_length=64)
        schema.add_field(PATH, DataType.VARCHAR, max_length=8192)
        schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=self.dimensions)
        self.client.create_collection(
            self.collection, schema=schema, index_params=self.index(EXACT), consistency_level=CONSISTENCY
        )

    def index(self, kind: str) -> Any:
        wanted = self.client.prepare_index_params()
        # as a value named "params", which Milvus Lite and servers both read
        wanted.add_index(VECTOR, index_type=kind, metric_type="COSINE", params={"params": BUILT_WITH[kind]})
        return wanted

    def described(self) -> Mapping[str, Any]:
        """What Milvus says of the index of embeddings."""
        return self.client.describe_index(self.collection, VECTOR) or {}

    def count(self) -> int:
        found = self.client.query(self.collection, filter="", output_fields=["count(*)"])
        return int(found[0]["count(*)"])

    def ids(self) -> set[str]:
        """Of all images in it."""
        found: set[str] = set()
        with complaints(f"the index {self.uri} fails ({REBUILD})"):
            pages = self.client.query_iterator(self.collection, batch_size=BATCH, output_fields=[ID])
            while page := pages.next():
                found.update(row[ID] for row in page)
            pages.close()
        return found

    def put(self, records: Sequence[Record]) -> None:
        """Add images, or replace what was known of them."""
        for start in range(0, len(records), BATCH):
            self.client.upsert(self.collection, [row_of(record) for record in records[start : start + BATCH]])

    def remove(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), BATCH):
            self.client.delete(self.collection, ids=list(ids[start : start + BATCH]))

    def search(self, vector: np.ndarray, count: int, where: str = "") -> list[tuple[str, str, float]]:
        """The `count` nearest images: (id, path, cosine similarity), best first; where: a filter on metadata.

        Raises UserError for a filter that Milvus does not understand.
        """
        least, times = LOOKED_AT
        with complaints(f"the filter {where!r} is not understood") if where else complaints("the search failed"):
            found = self.client.client.search(
                self.collection,
                data=[vector.astype(np.float32)],
                limit=count,
                filter=where,
                output_fields=[PATH],
                search_params={"params": {"ef": max(least, times * count)} if self.kind == GRAPH else {}},
            )
        return [(hit[ID], hit["entity"][PATH], float(hit["distance"])) for hit in found[0]]

    def finish(self) -> None:
        """Write everything out, choose the index that this many images need, and wait until it is complete."""
        self.client.flush(self.collection)
        wanted = EXACT if self.count() < EXACT_BELOW else GRAPH
        if self.kind != wanted:
            logger.info("building the index %s", wanted)
            self.client.release_collection(self.collection)
            self.client.drop_index(self.collection, VECTOR)
            self.client.create_index(self.collection, self.index(wanted))
            self.client.load_collection(self.collection)
            self.kind = wanted
        self.wait_until_complete()

    def wait_until_complete(self) -> None:
        """Raises UserError when it takes an hour."""
        deadline = time.monotonic() + WAIT_SECONDS
        with tqdm(desc="indexing", unit="image", leave=False, disable=None) as bar:
            while True:
                state = self.described()
                bar.total = int(state.get("total_rows") or 0)
                bar.n = int(state.get("indexed_rows") or 0)
                bar.refresh()
                if state.get("state") in (None, "Finished") and not state.get("pending_index_rows"):
                    return
                if time.monotonic() > deadline:
                    raise UserError(f"the index in {self.uri} is not complete after {WAIT_SECONDS // 60} minutes")
                time.sleep(0.2)

    def clear(self) -> None:
        """Remove all of it."""
        self.client.drop_collection(self.collection)
        self.create()
        self.kind = EXACT
        self.client.load_collection(self.collection)

    def close(self) -> None:
        """Let go of it; of a file too, which the server of Milvus Lite within this process would hold to its end."""
        self.client.close()
        if not is_server(self.uri):
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(self.uri)


def is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def connect(uri: str) -> Any:
    """A client of Milvus. Raises UserError when it is not installed, or what `uri` names cannot be opened."""
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        raise UserError(f"no pymilvus or milvus-lite ({error}): pip install pymilvus milvus-lite") from None
    for noisy in ("pymilvus", "milvus_lite", "grpc", "faiss"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # tracebacks of what is told in a line here
    with complaints(f"the index {uri} cannot be {'reached' if is_server(uri) else 'opened'}"):
        return MilvusClient(uri)


class Told:
    """A client of Milvus whose errors are UserErrors of one line."""

    def __init__(self, client: Any, uri: str):
        self.client, self.uri = client, uri

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        def call(*arguments: Any, **named: Any) -> Any:
            with complaints(f"the index {self.uri} fails ({name}; {REBUILD})"):
                return method(*arguments, **named)

        return call


class complaints:
    """Errors of Milvus within are a UserError of one line that begins with `what`."""

    def __init__(self, what: str):
        self.what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            said = getattr(error, "message", None) or str(error)
            raise UserError(f"{self.what}: {' '.join(str(said).split())[:300]}") from None
        return False


def row_of(record: Record) -> Mapping[str, Any]:
    """A record as Milvus wants it."""
    return {**record.metadata, ID: record.id, PATH: record.path, VECTOR: record.embedding}


def synchronise(store: Store, records: Iterable[Record]) -> int:
    """Have the index hold what the records hold; returns how many entries had to change."""
    wanted = {record.id: record for record in records}
    there = store.ids()
    missing, extra = [wanted[one] for one in wanted.keys() - there], sorted(there - wanted.keys())
    if extra:
        store.remove(extra)
    store.put(missing)
    if missing or extra:
        store.finish()
    return len(missing) + len(extra)
