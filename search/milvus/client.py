"""Clients of Milvus: of a file, or of a server that may be stopped and started again while galleries are searched."""

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from search.milvus.login import milvus_login, without_secrets
from utils.errors import Unavailable, UserError

OF_LOADED = ("search", "query", "get", "query_iterator", "upsert", "delete")  # what is asked of a loaded collection
NOT_LOADED = "released", "not loaded", "not fully loaded"  # in errors of Milvus Lite and of servers
UNAVAILABLE = "UNAVAILABLE", "DEADLINE_EXCEEDED"  # codes of grpc
NO_CONNECTION = 2  # code of pymilvus
TRIES, PAUSE = 20, 0.1  # seconds
# pymilvus asks every 10 s whether the server is alive, also when idle; servers take more than one in 5 minutes for an
# attack, close the connection (ENHANCE_YOUR_CALM, too_many_pings), and grpc prints that
KEEPALIVE: Mapping[str, int] = {"grpc.keepalive_time_ms": 600_000, "grpc.keepalive_permit_without_calls": 0}


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


class OutOfReach(Unavailable):
    """The server of an index does not answer."""


@contextmanager
def milvus_errors(
    what: str, login: Mapping[str, Any] | None = None, kind: type[UserError] = Unavailable
) -> Iterator[None]:
    """Raise errors of Milvus with one line that starts with `what`, and repeats nothing of a login.

    As OutOfReach when the server does not answer, else as `kind`: UserError where what was asked for may be wrong.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # pymilvus, grpc and Milvus Lite raise nearly any type
        said = getattr(error, "message", None) or str(error)
        said = re.split(r" at column [0-9]+", " ".join(str(said).split()))[0]  # then the place, drawn below the filter
        said = without_secrets(said, login or {})
        raise (OutOfReach if is_out_of_reach(error) else kind)(f"{what}: {said[:300]}") from None


def is_server(uri: str) -> bool:
    """Whether an address is that of a Milvus server, not a file."""
    return uri.startswith(("http://", "https://"))


def connect(uri: str) -> Any:
    """A client of Milvus. Raises UserError when it is not installed, or what `uri` names cannot be opened."""
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        raise UserError(f"no pymilvus or milvus-lite ({error}): pip install pymilvus milvus-lite") from None
    for noisy in ("pymilvus", "milvus_lite", "grpc", "faiss"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # they log tracebacks of what `milvus_errors` raises
    login = milvus_login(uri) if is_server(uri) else {}
    with milvus_errors(f"the index {uri} cannot be {'reached' if is_server(uri) else 'opened'}", login):
        client = MilvusClient(uri, grpc_options=KEEPALIVE, **login)
    return ReloadingClient(client) if is_server(uri) else client
