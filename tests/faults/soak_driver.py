"""The driver, which writes down what the process holds: a JSON list of [step, bytes, open files] in SOAK.

Bytes are those in use, as glibc counts them: what it keeps for reuse, which grows in steps as it comes to lie
in pieces, is none of them. With PYTHONMALLOC=malloc they are of all objects of Python, too.
"""

import ctypes
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import Retrieval
from utils.errors import run_command_line

EVERY = 10  # steps
train_step, seen = Retrieval.Trainer.train_step, []


class Mallinfo(ctypes.Structure):
    """`struct mallinfo2` of malloc.h (glibc 2.33 or newer)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Mallinfo


def watched(trainer, batches):
    """`Trainer.train_step`, with a look at memory and open files."""
    if trainer.state.step.number % EVERY == 0:
        found = mallinfo()
        seen.append([trainer.state.step.number, found.uordblks + found.hblkhd, len(os.listdir("/proc/self/fd"))])
    return train_step(trainer, batches)


Retrieval.Trainer.train_step = watched
if __name__ == "__main__":
    try:
        run_command_line(Retrieval.main)
    finally:
        Path(os.environ["SOAK"]).write_text(json.dumps(seen))
