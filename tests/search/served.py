"""A Milvus server of the tests' own: that of Milvus Lite, which speaks the protocol of all others."""

import contextlib
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

SERVER = Path(sys.executable).with_name("milvus-lite")


class MilvusServer:
    """A server that keeps its data in a folder, and may be killed and started again on the same port."""

    def __init__(self, folder):
        if not SERVER.exists():
            pytest.skip("needs milvus-lite, which is not installed")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"

    def start(self):
        self.process = subprocess.Popen(
            [SERVER, "server", "--data-dir", self.folder, "--host", "127.0.0.1", "--port", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self.process.poll() is None
                time.sleep(0.1)

    def kill(self):
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def milvus_server(folder):
    """The address of a server that keeps its data in a folder."""
    server = MilvusServer(folder)
    server.start()
    try:
        yield server.uri
    finally:
        server.kill()
