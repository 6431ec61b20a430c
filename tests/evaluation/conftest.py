"""A tiny model, trained once for all commands that study one."""

import json

import numpy as np
import pytest
from in_process import retrieve
from PIL import Image
from report_output import METRICS, epoch, rankings_arrays, write_log


@pytest.fixture(scope="session")
def tiny_run(benchmark, tmp_path_factory):
    """The folder of a tiny run; read only."""
    output = tmp_path_factory.mktemp("studied") / "run"
    retrieve(output, benchmark, settings=["max_steps=3"])
    return output


@pytest.fixture
def output(tmp_path):
    """An output folder with all three files."""
    folder, images = tmp_path / "run<1>", tmp_path / "images"
    (images / "camera").mkdir(parents=True)
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (20, 50), (40 * number, 0, 0)).save(images / "camera" / f"{number}.png")
    write_log(folder, epoch(0), epoch(1, val={"stage1": METRICS, "reranked": METRICS}))
    (folder / "metrics.json").write_text(json.dumps({"stage1": {**METRICS, "r1": 60}, "reranked": METRICS}))
    np.savez(folder / "rankings.npz", **rankings_arrays(images))
    return folder


@pytest.fixture
def evaluated(output):
    """The same of a run that was evaluated only: no log, so no curves to wait for."""
    (output / "log.txt").unlink()
    return output
