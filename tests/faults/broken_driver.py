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
from configs.systems.mars import MarsTraining
from models.person_search import PersonSearchModel
from models.training_step import StepOutput
from utils.errors import run_command_line
from utils.processes.distributed import rank

WHAT, RANK, STEPS = os.environ["BREAK"].split(":")
FIRST, LAST = map(int, STEPS.split("-"))
NAN = float("nan")
forward, prepare = PersonSearchModel.forward, MarsTraining.inputs
under_way = []  # the step, as its first micro-batch is prepared


def prepared(training, batch, step):
    """`MarsTraining.inputs`, which every micro-batch of a step passes."""
    under_way[:] = [step]
    return prepare(training, batch, step)


def broken(model, *given):
    """`PersonSearchModel.forward`, with a fault."""
    if rank() != int(RANK) or not FIRST <= under_way[0].number <= LAST:
        return forward(model, *given)
    if WHAT == "parameter":
        with torch.no_grad():
            model.text_proj.weight[0, 0] = NAN
    if WHAT == "input":
        hook = model.visual_encoder.patch_embed.register_forward_pre_hook(lambda _, given: (given[0] * NAN,))
    found, queued = forward(model, *given)
    if WHAT == "input":
        hook.remove()
    if WHAT == "loss":
        found["mlm"] = found["mlm"] * NAN
    if WHAT == "gradient":
        found["mae"].register_hook(lambda gradient: gradient * torch.inf)
    return StepOutput(found, queued)


MarsTraining.inputs, PersonSearchModel.forward = prepared, broken
if __name__ == "__main__":
    run_command_line(Retrieval.main)
