"""A Milvus server of the tests' own: that of Milvus Lite, which speaks the protocol of all others."""

import contextlib
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

SERVER = Path(sys.executable).with_name("milvus-lite")


@contextlib.contextmanager
def milvus_server(folder):
    """The address of a server that keeps its data in a folder."""
    if not SERVER.exists():
        pytest.skip("needs milvus-lite, which is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [SERVER, "server", "--data-dir", folder, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
