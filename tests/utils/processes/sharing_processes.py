"""One of several processes that share what one of them reads: prints, as JSON, what it read and received.

torchrun ... sharing_processes.py FOLDER
"""

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from utils.checkpoints import files
from utils.checkpoints.files import read_checkpoint
from utils.checkpoints.run_folder import RunFolder
from utils.errors import UserError
from utils.processes import sharing
from utils.processes.sharing import shared_from_main
from utils.values import sha256_of


def content() -> dict:
    """Of all types, with tensors that share a storage, have none, or are larger than what is sent at a time."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(300, generator=generator)
    moments = {
        n: {"step": torch.tensor(float(n)), "exp_avg": torch.randn(n + 1, generator=generator)} for n in range(9)
    }
    return {
        "model": {"a": whole, "half": whole[150:], "turned": whole.view(20, 15).t(), "none": torch.empty(0, 3)},
        "optimizer": {"state": moments, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]},
        "types": [torch.ones(3, dtype=torch.bool), torch.ones(5, dtype=torch.bfloat16), torch.tensor(1 + 2j)],
        "tokenizer": "text",
        "metrics": None,
    }


def main() -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    folder, reads, read_content = RunFolder(Path(sys.argv[1])), [], files.read_content
    sharing.BLOCK = 500
    files.read_content = lambda path: reads.append(str(path)) or read_content(path)
    if dist.get_rank() == 0:
        folder.save_last(content())
        folder.finish()
    found = shared_from_main(folder.newest)()
    path = found.pop("path")
    found.pop("format")
    problems = []
    try:
        shared_from_main(read_checkpoint)(sys.argv[1] + "/missing.pth")
    except UserError as error:
        problems.append(str(error))
    same, rank = sha256_of(found) == sha256_of(content()), dist.get_rank()
    dist.barrier()
    dist.destroy_process_group()
    Path(sys.argv[1], f"{rank}.json").write_text(json.dumps([len(reads), same, path, problems]))


if __name__ == "__main__":
    main()
