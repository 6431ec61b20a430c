"""A client of a Milvus server that is stopped and started again while galleries are searched."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

OF_LOADED = ("search", "query", "get", "query_iterator", "upsert", "delete")  # what is asked of a loaded collection
NOT_LOADED = "released", "not loaded", "not fully loaded"  # in errors of Milvus Lite and of servers
UNAVAILABLE = "UNAVAILABLE", "DEADLINE_EXCEEDED"  # codes of grpc
NO_CONNECTION = 2  # code of pymilvus
TRIES, PAUSE = 20, 0.1  # seconds


class ReloadingClient:
    """A client of pymilvus in all, but that it loads a collection which the server has not loaded any more."""

    def __init__(self, client: Any):
        self.client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        return self.again(method) if name in OF_LOADED else method

    def again(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The same method, tried again where its collection was not loaded. All of them may be repeated."""

        def call(collection: str, *args: Any, **kwargs: Any) -> Any:
            for _ in range(TRIES):
                try:
                    return method(collection, *args, **kwargs)
                except Exception as error:  # pymilvus and grpc raise nearly any type
                    if not self.load(collection, str(error)):
                        raise
                    time.sleep(PAUSE)
            return method(collection, *args, **kwargs)

        return call

    def load(self, collection: str, error: str) -> bool:
        """Load a collection that is not, or was not a moment ago, as another process may load it too; whether that is
        what the error was about."""
        with suppress(Exception):  # then the first error tells more
            state = getattr(self.client.get_load_state(collection)["state"], "name", "")
            if state == "NotLoad" or any(words in error for words in NOT_LOADED):
                with suppress(Exception):  # another process does
                    self.client.load_collection(collection)
                return True
        return False


def is_out_of_reach(error: Exception) -> bool:
    """Whether an error of pymilvus or grpc says that the server does not answer, whatever it was asked."""
    code = getattr(error, "code", None)
    if callable(code):
        return getattr(code(), "name", "") in UNAVAILABLE
    return code == NO_CONNECTION
