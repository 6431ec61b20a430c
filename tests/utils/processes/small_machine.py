"""Loads the images of a folder by loader processes, and prints what arrived: python small_machine.py FOLDER WORKERS.

With a third argument, a file of that name is let grow until its disk is full once the first block is there.
"""

import sys
from contextlib import suppress
from pathlib import Path

import torch

from dataset.evaluation_split import Captions, EvaluationSplit, load_blocks
from utils.errors import run_command_line
from utils.logs import set_up_logging

SIZE = (512, 512)  # 0.75 MiB for an image


def fill(path: str) -> None:
    with suppress(OSError), open(path, "ab", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def main() -> None:
    folder, workers, *filled = sys.argv[1:]
    images = sorted(path.name for path in Path(folder).iterdir())
    nobody = torch.zeros(len(images), dtype=torch.long)
    split = EvaluationSplit(images, Path(folder), nobody, [], nobody[:0], [0], Captions([], 0))
    blocks = [range(start, start + 2) for start in range(0, len(images), 2)]
    for block in load_blocks(split, blocks, SIZE, torch.device("cpu"), int(workers)):
        assert (block == block[:, :1, :1, :1]).all()
        print(*block[:, 0, 0, 0].tolist(), flush=True)
        for path in filled:
            fill(path)


if __name__ == "__main__":
    set_up_logging(is_main=True)
    run_command_line(main)
