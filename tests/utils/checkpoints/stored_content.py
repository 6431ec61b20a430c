"""What the tests of checkpoint files write."""

import torch

CONTENT = {
    "model": {"a.weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3)},
    "config": {"lr": 1e-5, "files": ["a", None], "on": True},
    "step": 7,
}
