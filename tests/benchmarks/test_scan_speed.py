"""The benchmark of the scan: its plain way is the product's twin, and every figure is told."""

import pytest
import torch

from benchmarks import scan
from benchmarks.scan import Size, differences, forward, forward_and_backward, make_inputs, plain_scan
from models.kernels.scan import selective_scan

TINY = Size(2, 9, 5, 4)


def test_both_ways_agree():
    inputs = make_inputs(TINY)
    torch.testing.assert_close(selective_scan(*inputs), plain_scan(*inputs))
    found = differences(TINY)
    assert len(found) == 8 and max(found.values()) < 1e-5


@pytest.mark.parametrize("run", [forward, forward_and_backward])
@pytest.mark.parametrize("way", scan.WAYS)
def test_each_repeat_is_timed(run, way):
    assert len(run(way, TINY, 3)) == 3


def test_the_command_prints_its_ratios(monkeypatch, capsys):
    monkeypatch.setattr(scan, "QUICK", TINY)
    monkeypatch.setattr(scan, "peak_memory_of", lambda run, *arguments: (run(*arguments), 200 if arguments else 100))
    scan.main(["--quick", "--repeats", "1"])
    printed = capsys.readouterr().out
    for name in ("forward", "forward and backward"):
        assert f"ratio {name}: " in printed and f"ratio {name}, freed memory kept: " in printed
    assert "beyond the 100 MiB of libraries 100 and 100 (100%)" in printed
