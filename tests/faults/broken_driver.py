"""The driver, with something that is not finite put into one process.

    BREAK=what:rank:first-last python tests/faults/broken_driver.py ...   (steps of the run, 0-based)

what: input (pixels), loss, gradient, or parameter (which stays broken).
"""

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import Retrieval
from utils.errors import run_command_line
from utils.processes.distributed import rank

WHAT, RANK, STEPS = os.environ["BREAK"].split(":")
FIRST, LAST = map(int, STEPS.split("-"))
NAN = float("nan")
forward = Retrieval.Training.forward


def broken(training, batch, step, first):
    """`Training.forward`, with a fault."""
    if rank() != int(RANK) or not FIRST <= step.number <= LAST:
        return forward(training, batch, step, first)
    if WHAT == "parameter":
        with torch.no_grad():
            training.model.text_proj.weight[0, 0] = NAN
    if WHAT == "input":
        hook = training.model.visual_encoder.patch_embed.register_forward_pre_hook(lambda _, given: (given[0] * NAN,))
    found = forward(training, batch, step, first)
    if WHAT == "input":
        hook.remove()
    if WHAT == "loss":
        found["mlm"] = found["mlm"] * NAN
    if WHAT == "gradient":
        found["mae"].register_hook(lambda gradient: gradient * torch.inf)
    return found


Retrieval.Training.forward = broken
if __name__ == "__main__":
    run_command_line(Retrieval.main)
