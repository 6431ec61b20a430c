"""The driver, which writes down what the process holds: a JSON list of [step, bytes, open files] in SOAK."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import Retrieval
from utils.errors import run_command_line

EVERY = 50  # steps
prepare, seen = Retrieval.Trainer.prepare, []


def watched(trainer, batch, step):
    """`Trainer.prepare`, with a look at memory and open files."""
    if step.number % EVERY == 0:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        seen.append([step.number, resident, len(os.listdir("/proc/self/fd"))])
    return prepare(trainer, batch, step)


Retrieval.Trainer.prepare = watched
if __name__ == "__main__":
    try:
        run_command_line(Retrieval.main)
    finally:
        Path(os.environ["SOAK"]).write_text(json.dumps(seen))
