"""What a program that opens an exported model has to load."""

import subprocess
import sys

from benchmark_data import REPOSITORY, environment

HEAVY = ("gradio", "fastapi", "uvicorn", "pymilvus", "milvus_lite", "onnx", "onnxruntime", "onnxscript", "spacy")


def test_the_package_is_imported_without_what_few_of_its_parts_need():
    code = f"import sys; from search import from_pretrained; print([n for n in {HEAVY} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
