"""A client of a Milvus server that is stopped and started again while galleries are searched."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

OF_LOADED = ("search", "query", "get", "query_iterator", "upsert", "delete")  # what is asked of a loaded collection
UNAVAILABLE = "UNAVAILABLE", "DEADLINE_EXCEEDED"  # codes of grpc
NO_CONNECTION = 2  # code of pymilvus


class ReloadingClient:
    """A client of pymilvus in all, but that it loads a collection which the server has not loaded any more."""

    def __init__(self, client: Any):
        self.client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        return self.again(method) if name in OF_LOADED else method

    def again(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The same method, tried twice where its collection was not loaded. All of them may be repeated."""

        def call(collection: str, *args: Any, **kwargs: Any) -> Any:
            try:
                return method(collection, *args, **kwargs)
            except Exception:  # pymilvus and grpc raise nearly any type
                if not self.load(collection):
                    raise
                return method(collection, *args, **kwargs)

        return call

    def load(self, collection: str) -> bool:
        """Load a collection that is not; whether there was anything to load."""
        with suppress(Exception):  # then the first error tells more
            if getattr(self.client.get_load_state(collection)["state"], "name", "") != "NotLoad":
                return False
            self.client.load_collection(collection)
            return True
        return False


def is_out_of_reach(error: Exception) -> bool:
    """Whether an error of pymilvus or grpc says that the server does not answer, whatever it was asked."""
    code = getattr(error, "code", None)
    if callable(code):
        return getattr(code(), "name", "") in UNAVAILABLE
    return code == NO_CONNECTION
