"""Two processes that serve a gallery on a Milvus server, and a third that adds to it: whoever is killed, at whatever
moment, both others find every image that was acknowledged, within a second."""

import io
import itertools
import re
import shutil
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pytest
from benchmark_data import REPOSITORY, environment
from harness import FULL
from in_process import call_here
from PIL import Image
from preloaded import Popen
from served import MilvusServer

from search.__main__ import main

pytest.importorskip("pymilvus")

NUMBERS = itertools.count()  # of pictures
MAX_PER_GROUP = 20 if FULL else 2
SEEN_WITHIN = 1.0  # seconds, beside the time that the answer takes
SENTENCE = "A woman in a red coat and grey jeans."


class Serving:
    """A process that serves a gallery, which may be killed and started again."""

    def __init__(self, gallery, *options):
        self.options = ["--gallery", gallery, *options]
        self.start()

    def start(self):
        command = [sys.executable, "-m", "search", "serve", "--port", "0", *self.options]
        self.process = Popen(
            command, cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        said = ""
        for line in self.process.stdout:
            said += line.decode()
            if found := re.match(r"(http://.*:\d+) \(page\)|(http://.*:\d+)/? ", line.decode()):
                self.client = httpx.Client(base_url=found[1] or found[2], timeout=60)
                threading.Thread(target=self.process.stdout.read, daemon=True).start()
                return
        raise AssertionError(said)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def wait_until_answered(self):
        """While its index is out of reach, it says so, and no more."""
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            answer = self.client.post("/api/search", json={"text": SENTENCE, "candidates": 0})
            if answer.status_code == 200:
                return
            assert answer.status_code == 503 and "error" in answer.json(), answer.text
            time.sleep(0.1)
        raise AssertionError("does not answer again")

    def all_found(self):
        """The ids of all images, as a search answers them."""
        answer = self.client.post("/api/search", json={"text": SENTENCE, "top": 1000, "candidates": 0})
        return {hit["id"] for hit in answer.raise_for_status().json()["hits"]}


def picture(seed):
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 20, 3), np.uint8)).save(content, "PNG")
    return content.getvalue()


class Adding(threading.Thread):
    """Uploads pictures one after another until it is told to stop, or its server is gone; keeps acknowledged ids."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.acknowledged, self.ended = server, [], threading.Event()

    def run(self):
        while not self.ended.is_set():
            try:
                answer = self.server.client.post("/api/images", content=picture(next(NUMBERS)))
            except httpx.HTTPError:
                return
            if answer.status_code == 200:
                self.acknowledged.append(answer.json()["id"])


@pytest.fixture(scope="module")
def deployed(benchmark, trained, tmp_path_factory):
    """Milvus, two processes that search, one that writes. A test starts again whom it kills."""
    folder = tmp_path_factory.mktemp("deployed")
    photos = shutil.copytree(benchmark / "imgs" / "test", folder / "photos")
    milvus = MilvusServer(folder / "milvus")
    milvus.start()
    gallery, started = f"{milvus.uri}/g", []
    place = ["--files", str(folder / "files")]
    call_here(main, "index", photos, "--gallery", gallery, *place, "--checkpoint", trained)
    try:
        for options in ((), (), ("--allow_upload",)):
            started.append(Serving(gallery, *place, *options))
        yield milvus, started[:2], started[2]
    finally:
        for one in [*started, milvus]:
            one.kill()


@pytest.mark.parametrize("killed", ["the writer", "a reader", "the index"])
def test_nothing_acknowledged_is_lost_whoever_is_killed(deployed, killed):
    milvus, readers, writer = deployed
    acknowledged = set(readers[0].all_found())
    moments = np.random.default_rng(0).uniform(0.05, 0.6, MAX_PER_GROUP)
    for moment in moments:
        adding = Adding(writer)
        adding.start()
        time.sleep(moment)
        victim = {"the writer": writer, "a reader": readers[0], "the index": milvus}[killed]
        victim.kill()
        if victim is readers[0]:  # the others go on
            before = len(adding.acknowledged)
            while len(adding.acknowledged) == before:
                time.sleep(0.01)
        adding.ended.set()
        adding.join()
        acknowledged |= set(adding.acknowledged)
        if victim is not milvus:
            time.sleep(SEEN_WITHIN)
            assert acknowledged <= readers[1].all_found()
        victim.start()
        for one in (*readers, writer):
            one.wait_until_answered()
            assert acknowledged <= one.all_found()
        last = writer.client.post("/api/images", content=picture(next(NUMBERS))).raise_for_status().json()["id"]
        acknowledged.add(last)
        time.sleep(SEEN_WITHIN)
        for one in readers:
            assert acknowledged <= one.all_found()
            assert one.client.get(f"/api/images/{last}").status_code == 200
