"""What every command waits for before it begins: nothing that is slow to import and seldom used."""

import subprocess
import sys

import pytest
from harness import REPOSITORY

SLOW = {"timm", "torchvision", "torch._dynamo", "transformers", "spacy", "sympy", "sklearn", "scipy"}


@pytest.mark.parametrize("module", ["Retrieval", "evaluation.report", "search.__main__", "dataset.prepare"])
def test_commands_start_without_what_only_some_of_them_use(module):
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert module in done.stdout.split()
    assert not SLOW & set(done.stdout.split())
