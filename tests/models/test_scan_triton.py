"""The Triton kernels of the scan, by Triton's interpreter and compiler: neither needs a GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="torch of this machine comes without Triton")
HERE = Path(__file__).parent
# bfloat16 keeps 8 bits, and the interpreter cuts off the rest
TOLERANCES = {"float32": 5e-6, "bfloat16": 2e-2}


@pytest.fixture(scope="module")
def interpreted():
    """What `interpreted_scan` measures."""
    paths = {"PYTHONPATH": f"{HERE.parents[1]}:{HERE}", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "interpreted_scan.py")]
    done = subprocess.run(command, env=paths, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


WAYS = [f"{size} float32 {way}" for size in ("whole", "ragged", "single") for way in ("forward", "reverse")]


@pytest.mark.parametrize("case", [*WAYS, "ragged bfloat16 reverse"])
def test_results_and_gradients_are_those_of_the_recurrence_and_of_the_loop(interpreted, case):
    found, tolerance = interpreted["differences"][case], TOLERANCES[case.split()[1]]
    assert found["types"]
    assert max(found["plain"].values()) < tolerance, found["plain"]
    assert max(found["loop"].values()) < tolerance, found["loop"]
    assert len(found["plain"]) == 8


def test_gradients_are_the_slopes_of_results(interpreted):
    for name, (by_gradient, by_differences) in interpreted["slopes"].items():
        assert by_gradient == pytest.approx(by_differences, rel=2e-3, abs=2e-3), name


def test_the_pace_is_exact_where_it_is_tiny_and_where_it_is_large(interpreted):
    assert interpreted["extremes"] < 2e-6


@pytest.mark.parametrize(("name", "dtype", "capability"), [("scan", "fp32", 80), ("gradients", "bf16", 90)])
def test_they_compile_for_gpus(name, dtype, capability, tmp_path, monkeypatch):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from models.kernels import scan_triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel, rows = getattr(scan_triton, f"{name}_kernel"), ("u_", "delta_", "B_", "C_", "y_", "of_y_", "of_u_")
    fixed = {"REVERSE": True, "KEEP": True, "CHUNK": scan_triton.CHUNK, "GROUP": scan_triton.GROUP, "STATES": 16}
    fixed = {name: value for name, value in fixed.items() if name in kernel.arg_names}
    pointers = {name: f"*{dtype if name in rows else 'fp32'}" for name in kernel.arg_names if name.endswith("_")}
    types = {name: "constexpr" if name in fixed else pointers.get(name, "i32") for name in kernel.arg_names}
    source, target = ASTSource(kernel, types, fixed), GPUTarget("cuda", capability, 32)
    made = compile(source, target, {"num_warps": scan_triton.WARPS})
    assert made.asm["cubin"]
