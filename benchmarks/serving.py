"""Search over HTTP under load: queries a second and latency, with searches answered together and one after the other.

    python -m benchmarks.serving --images FOLDER [--checkpoint C] [--clients 1 8 32 128] [--candidates 128]

One process serves a gallery of the images twice, on two ports: once answers are computed together for all who wait,
once for each by itself. As many clients as are named, each with a connection of its own, send one sentence after the
other to one and then to the other, in turn, so that other work on the machine meets both alike. No sentence is sent
twice to one of them, and the answers of both are compared.
"""

import argparse
import http.client
import json
import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import MIB, at_least, describe_machine, make_parser
from search.gallery.sample_sentences import sample_sentences
from search.searcher import MAX_CANDIDATES
from utils.errors import run_command_line

TOGETHER, ALONE = "together", "one by one"
CLOSE = 1e-5  # scores that differ by less are the same
TIMEOUT = 600.0  # seconds


# ---- the server ------------------------------------------------------------------------


def serve(pipe: Connection, checkpoint: Path, images: Path, threads: int) -> None:
    """Serve until the pipe says so; first it is told the ports, or what went wrong."""
    import torch
    import uvicorn

    from search.access.addresses import open_sockets
    from search.encoder import Encoder
    from search.gallery.gallery import open_gallery
    from search.gallery.indexing import index
    from search.searcher import Searcher
    from search.serving.api import build_app

    if threads:
        torch.set_num_threads(threads)
    encoder = Encoder.open(checkpoint)
    with tempfile.TemporaryDirectory() as folder, open_gallery(f"{folder}/gallery", encoder, images) as gallery:
        index(gallery, encoder)
        servers, ports = [], {}
        for name in (TOGETHER, ALONE):
            searcher = Searcher(encoder, gallery, together=name == TOGETHER)
            (socket,) = open_sockets("127.0.0.1", 0)
            server = uvicorn.Server(uvicorn.Config(build_app(searcher), log_level="error"))
            thread = threading.Thread(target=server.run, args=([socket],), daemon=True)
            thread.start()
            servers.append((server, thread))
            ports[name] = socket.getsockname()[1]
        pipe.send((ports, len(gallery.records), torch.get_num_threads()))
        pipe.recv()
        for server, thread in servers:
            server.should_exit = True
            thread.join()


def memory_of(process: int) -> float:
    """MiB that a process holds (Linux)."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024 / MIB


# ---- the load --------------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """What clients have seen: seconds of each query, of all together, and answers by sentence."""

    latencies: list[float]
    seconds: float
    answers: dict[str, Any]

    @property
    def rate(self) -> float:
        """Queries a second."""
        return len(self.latencies) / self.seconds


def send(port: int, texts: Sequence[str], clients: int, candidates: int) -> Load:
    """Send all sentences by so many clients at once."""
    rest, guard = list(reversed(texts)), threading.Lock()
    latencies, answers = list[float](), dict[str, Any]()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        while True:
            with guard:
                if not rest:
                    break
                text = rest.pop()
            body = json.dumps({"text": text, "candidates": candidates})
            began = time.perf_counter()
            connection.request("POST", "/api/search", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
            took = time.perf_counter() - began
            if response.status != 200:
                raise RuntimeError(f"status {response.status}: {answer}")
            with guard:
                latencies.append(took)
                answers[text] = answer
        connection.close()

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(client) for _ in range(clients)]:
            done.result()
    return Load(latencies, time.perf_counter() - began, answers)


def differences(one: dict[str, Any], other: dict[str, Any]) -> int:
    """How many sentences have other hits, or another order, or scores that are not close."""
    return sum(not same(one[text]["hits"], other[text]["hits"]) for text in one)


def same(one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> bool:
    if [hit["id"] for hit in one] != [hit["id"] for hit in other]:
        return False
    pairs = [(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in ("score", "similarity")]
    return all((a is None) == (b is None) and (a is None or abs(a - b) <= CLOSE) for a, b in pairs)


def stages_of(load: Load) -> str:
    """The median milliseconds of each stage, as the server tells them: of the batch that a query was answered in."""
    laps = [answer["milliseconds"] for answer in load.answers.values()]
    return ", ".join(f"{name} {statistics.median(lap[name] for lap in laps):.0f}" for name in laps[0])


def run(options: argparse.Namespace) -> None:
    context = multiprocessing.get_context("spawn")
    pipe, far = context.Pipe()
    server = partial(serve, far, options.checkpoint, options.images, options.threads)
    process = context.Process(target=run_command_line, args=(server,), daemon=True)
    process.start()
    while not pipe.poll(1):
        if not process.is_alive():
            raise SystemExit("the server ended; its lines above say why")
    ports, images, threads = pipe.recv()
    print(describe_machine())
    print(f"{images} images, {options.candidates} candidates, {threads} threads of the server")
    assert process.pid is not None
    measure(options, ports, process.pid)
    pipe.send("end")
    process.join(60)


def measure(options: argparse.Namespace, ports: dict[str, int], process: int) -> None:
    """Print a line for each number of clients and way."""
    counts = options.clients or ([1, 8] if options.quick else [1, 8, 32, 128])
    queries = options.queries or (16 if options.quick else 128)
    texts = iter(sample_sentences(sum(queries + count for count in counts) + 8))
    for port in ports.values():  # image tokens of the gallery are in memory from here on, as far as they fit
        send(port, sample_sentences(8, seed=1), 1, options.candidates)
    print(f"{'clients':>7} {'':10} {'queries/s':>9} {'median ms':>9} {'99 % ms':>9} {'MiB':>6}  stages in ms")
    for count in counts:
        asked = [next(texts) for _ in range(queries + count)]
        loads: dict[str, Load] = {}
        for name, port in ports.items():
            load = loads[name] = send(port, asked, count, options.candidates)
            middle, most = 1000 * np.quantile(load.latencies, [0.5, 0.99])
            memory = memory_of(process)
            print(
                f"{count:7} {name:10} {load.rate:9.2f} {middle:9.0f} {most:9.0f} {memory:6.0f}  {stages_of(load)}",
                flush=True,
            )
        wrong = differences(loads[TOGETHER].answers, loads[ALONE].answers)
        ratio = loads[TOGETHER].rate / loads[ALONE].rate
        print(f"{'':7} ratio {ratio:.2f}; {wrong} of {len(asked)} answers differ", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    model = "a trained model (%(default)s)"
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/demo_start.safetensors"), help=model)
    parser.add_argument("--images", type=Path, required=True, help="a folder of images to index")
    clients = "how many at once (1 8 32 128; quick: 1 8)"
    parser.add_argument("--clients", type=at_least(1), nargs="+", metavar="N", help=clients)
    queries = "sentences for each number of clients (128; quick: 16)"
    parser.add_argument("--queries", type=at_least(1), metavar="N", help=queries)
    number = at_least(0, MAX_CANDIDATES)
    parser.add_argument("--candidates", type=number, default=128, metavar="N", help="images to re-rank (%(default)s)")
    parser.add_argument("--threads", type=at_least(0), default=0, help="of torch in the server (0: as it chooses)")
    run(parser.parse_args(arguments))


if __name__ == "__main__":
    run_command_line(main)
