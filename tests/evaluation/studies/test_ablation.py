"""An ablation trains what its plan says and nothing twice, and its table follows from the runs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ablation_plans import ALONG, LENGTHS, PLAN, plan_of
from benchmark_data import REPOSITORY, TINY, data_settings, environment
from preloaded import Popen

from configs.loading import load_config
from evaluation.studies import ablation, ablation_diagram
from evaluation.studies.jobs import Job, run_jobs
from utils.errors import UserError

PEOPLE = ["a", "a", "b", "b", "c", "c"]


# ---- jobs ------------------------------------------------------------------------------


def shell(name, line, folder, after=None):
    return Job(name, ["bash", "-c", line], folder / f"{name}.txt", after)


def run_quietly(jobs, processes=2, done=lambda job: None):
    run_jobs(jobs, processes, lambda place: {"PLACE": str(place)}, done, lambda names: None)


def test_jobs_wait_for_those_they_rest_on(tmp_path):
    order = []
    jobs = [
        shell("late", f"cat {tmp_path}/made > {tmp_path}/copied", tmp_path, after="early"),
        shell(
            "early",
            f"until [ -e {tmp_path}/other ]; do sleep 0.1; done; sleep 1; echo $PLACE > {tmp_path}/made",
            tmp_path,
        ),
        shell("other", f"touch {tmp_path}/other", tmp_path),
    ]
    run_quietly(jobs, done=lambda job: order.append(job.name))
    assert order == ["other", "early", "late"]
    assert (tmp_path / "copied").read_text() in ("0\n", "1\n")


def test_a_failed_job_stops_the_others_and_says_why(tmp_path):
    jobs = [
        shell("slow", "trap 'echo kept; exit' TERM; sleep 60 & wait", tmp_path),
        shell("bad", "sleep 0.5; echo started; echo error: no such key >&2; exit 2", tmp_path),
    ]
    start = time.monotonic()
    with pytest.raises(UserError, match=r"bad ended with exit code 2: error: no such key \(all .*bad.txt\)"):
        run_quietly(jobs)
    assert time.monotonic() - start < 30
    assert (tmp_path / "slow.txt").read_text() == "kept\n"


# ---- results ---------------------------------------------------------------------------


def plant_run(folder, first_ranks, reranked=None):
    """The files of a finished run in which each caption's only right image has this rank, also when re-ranked."""
    folder.mkdir(parents=True)
    count = len(first_ranks)
    arrays = {
        "captions": [f"caption {n}" for n in range(count)],
        "caption_identities": PEOPLE[:count],
        "image_paths": [f"{n}.jpg" for n in range(10)],
        "image_identities": PEOPLE[:1] * 10,
        "image_root": "images",
        "stage1_indices": np.zeros((count, 1), int),
        "stage1_scores": np.zeros((count, 1)),
        "stage1_ranks": np.array(first_ranks)[:, None],
    }
    if reranked:
        arrays |= {f"reranked_{name}": arrays[f"stage1_{name}"] for name in ("indices", "scores")}
        arrays["reranked_ranks"] = np.array(reranked)[:, None]
    np.savez(folder / "rankings.npz", **arrays)
    (folder / "metrics.json").write_text("{}")
    (folder / "log.txt").write_text('{"epoch": 0, "seconds": 90}\n')


def test_the_table_follows_from_the_runs(tmp_path, capsys):
    (tmp_path / "study.yaml").write_text(PLAN)
    runs = tmp_path / "out" / "runs"
    plant_run(runs / "full" / "seed-1", [1, 1, 1, 1, 2, 2])
    plant_run(runs / "full" / "seed-2", [1, 1, 1, 1, 1, 1])
    plant_run(runs / "no-mae" / "seed-1", [1, 2, 2, 2, 4, 4])
    plant_run(runs / "no-mae" / "seed-2", [1, 2, 2, 2, 2, 2])
    ablation.main(["--config", str(tmp_path / "study.yaml"), "--output_dir", str(tmp_path / "out"), "--report"])
    rows = json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"]
    of = {(row["variant"], row["metric"]): row for row in rows}
    full, without = of["full", "r1"], of["no MAE", "r1"]
    assert full["by_seed"] == pytest.approx([400 / 6, 100]) and full["mean"] == pytest.approx(500 / 6)
    assert full["std"] == pytest.approx(np.std([400 / 6, 100], ddof=1)) and full["minutes"] == 1.5
    assert full["low"] <= full["mean"] <= full["high"] and "p" not in full
    assert without["difference"] == pytest.approx(100 / 6 - 500 / 6) and 0.1 < without["p"] < 0.4  # 3 people: 2 of 8
    assert of["no MAE", "mAP"]["mean"] == pytest.approx(100 * (2 + 6 * 0.5 + 2 * 0.5 + 2 * 0.25) / 12)
    printed = capsys.readouterr().out
    assert "83.33 ± 23.57" in printed and (tmp_path / "out" / "ablation.md").read_text() in printed
    assert {path.suffix for path in (tmp_path / "out").glob("ablation.*")} == {".csv", ".json", ".md", ".png"}


def test_variants_are_compared_at_the_same_length(tmp_path, monkeypatch):
    (tmp_path / "study.yaml").write_text(LENGTHS)
    runs, drawn = tmp_path / "out" / "runs", {}
    plant_run(runs / "full-x-0.5" / "seed-1", [2, 2, 2, 2, 2, 2])
    plant_run(runs / "full-x-2" / "seed-1", [1, 1, 1, 1, 2, 2])
    plant_run(runs / "albef-x-0.5" / "seed-1", [1, 2, 2, 2, 2, 2])
    plant_run(runs / "albef-x-2" / "seed-1", [1, 1, 1, 1, 1, 1])
    monkeypatch.setattr(ablation_diagram, "draw_estimates", lambda axes, x, lines: drawn.update({"x": x, **lines}))
    ablation.main(["--config", str(tmp_path / "study.yaml"), "--output_dir", str(tmp_path / "out"), "--report"])
    rows = json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"]
    differences = {row["variant"]: row.get("difference") for row in rows if row["metric"] == "r1"}
    assert differences["full x 0.5"] is None and differences["full x 2"] is None
    assert differences["ALBEF x 0.5"] == pytest.approx(100 / 6) and differences["ALBEF x 2"] == pytest.approx(200 / 6)
    assert drawn["x"] == [0.5, 2] and list(drawn)[1:] == ["full", "ALBEF"]
    assert drawn["ALBEF"][1].mean > drawn["ALBEF"][0].mean > 0  # the last metric drawn: mAP
    assert (tmp_path / "out" / "ablation.png").stat().st_size > 10_000


def test_what_is_kept_along_values_is_told(tmp_path, monkeypatch, capsys):
    (tmp_path / "study.yaml").write_text(ALONG)
    runs, drawn = tmp_path / "out" / "runs", {}
    plant_run(runs / "full-noisy-rate-0" / "seed-1", [1, 1, 1, 1, 2, 2])
    plant_run(runs / "full-noisy-rate-0.5" / "seed-1", [1, 2, 2, 2, 2, 2])
    plant_run(runs / "albef-noisy-rate-0" / "seed-1", [2, 2, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1])
    plant_run(runs / "albef-noisy-rate-0.5" / "seed-1", [2, 2, 2, 2, 2, 2], [1, 1, 1, 1, 1, 2])
    monkeypatch.setattr(ablation_diagram, "draw_estimates", lambda axes, x, lines: drawn.update({"x": x, **lines}))
    ablation.main(["--config", str(tmp_path / "study.yaml"), "--output_dir", str(tmp_path / "out"), "--report"])
    rows = json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"]
    of = {(row["variant"], row["stage"]): row for row in rows if row["metric"] == "r1"}
    assert "kept" not in of["full, noisy_rate=0", "stage1"] and "kept" not in of["ALBEF, noisy_rate=0", "reranked"]
    full, albef = of["full, noisy_rate=0.5", "stage1"], of["ALBEF, noisy_rate=0.5", "reranked"]
    assert full["kept"] == pytest.approx(25) and "kept_p" not in full
    assert albef["kept"] == pytest.approx(500 / 6) and albef["kept_low"] < 500 / 6 < albef["kept_high"]
    assert albef["kept_difference"] == pytest.approx(500 / 6 - 25) and 0 < albef["kept_p"] <= 1
    # the final stages are compared, though the base does not re-rank
    assert albef["difference"] == pytest.approx(500 / 6 - 100 / 6)
    assert of["ALBEF, noisy_rate=0.5", "stage1"]["kept"] == 0
    printed = capsys.readouterr().out
    assert "±" not in printed  # of one seed
    assert "R@1 kept" in printed and "25.0 %" in printed and "83.3 % (p " in printed
    assert drawn["x"] == [0, 0.5] and list(drawn)[1:] == ["full", "ALBEF"]


def test_the_share_that_is_kept_is_a_mean_over_captions():
    rng = np.random.default_rng(0)
    people, before = np.arange(4000) // 4, (rng.random((2, 4000)) < 0.8) * 100.0
    after = np.where(rng.random((2, 4000)) < 0.75, before, 0)
    values = ablation.kept(after, before)
    assert values.mean() == pytest.approx(100 * after.mean() / before.mean())
    found = ablation.compare_kept(values, None, people, 0)
    drawn = np.random.default_rng(1).integers(0, 1000, (400, 1000))  # people, with all their captions
    means = [array.mean(0).reshape(1000, 4).sum(1) for array in (after, before)]
    quotients = 100 * means[0][drawn].sum(1) / means[1][drawn].sum(1)
    low, high = np.quantile(quotients, [0.025, 0.975])
    assert (found["kept_low"], found["kept_high"]) == (pytest.approx(low, abs=0.4), pytest.approx(high, abs=0.4))
    assert ablation.kept(after, np.zeros((2, 4000))) is None and ablation.compare_kept(None, None, people, 0) == {}


@pytest.mark.parametrize(("values", "x"), [([0.5, 0], [0, 0.5]), (["a", "b"], [0, 1]), ([True, 2], [0, 1])])
def test_numbers_lie_where_they_are_and_others_side_by_side(tmp_path, monkeypatch, values, x):
    plan = plan_of(tmp_path, ALONG.replace("[0, 0.5]", json.dumps(values)))
    row = {"metric": "r1", "stage": "stage1", "mean": 50.0, "low": 40.0, "high": 60.0, "seeds": 1}
    names = [name + condition for name in plan.variants for condition in plan.conditions()]
    rows = [{**row, "variant": name, "metric": metric} for name in names for metric in ("r1", "mAP")]
    drawn = []
    monkeypatch.setattr(ablation_diagram, "draw_estimates", lambda axes, x, lines: drawn.append((axes, x)))
    monkeypatch.setattr(ablation_diagram, "legend_of_models", lambda figure, panel: None)
    ablation_diagram.draw_conditions(rows, dict.fromkeys(names, "stage1"), plan, tmp_path / "drawn.png", "")
    axes, positions = drawn[0]
    assert positions == x and axes.get_xlabel() == "noisy_rate"
    told = {at: label.get_text() for at, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)}
    assert [told[at] for at in x] == [json.dumps(value) for value in (values if x == [0, 1] else sorted(values))]


def test_results_that_do_not_fit_are_told(tmp_path):
    (tmp_path / "study.yaml").write_text(PLAN)
    options = ["--config", str(tmp_path / "study.yaml"), "--output_dir", str(tmp_path / "out"), "--report"]
    plant_run(tmp_path / "out" / "runs" / "full" / "seed-1", [1, 1, 1])
    with pytest.raises(UserError, match="no run of variant no MAE is finished"):
        ablation.main(options)
    plant_run(tmp_path / "out" / "runs" / "no-mae" / "seed-1", [1, 1])
    with pytest.raises(UserError, match="other captions than the base"):
        ablation.main(options)


# ---- the whole -------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path, benchmark):
    """A command that trains two variants of a tiny model, and its folder."""
    (tmp_path / "study.yaml").write_text(PLAN.replace("[1, 2]", "[1]"))
    settings = [*TINY, *data_settings(benchmark), "max_steps=3", "batch_size_train=4"]
    options = ["--config", str(tmp_path / "study.yaml"), "--output_dir", str(tmp_path / "out"), "--set", *settings]
    command = [sys.executable, "-m", "evaluation", "ablation", *options]
    return command, tmp_path / "out"


def start(command):
    return Popen(
        command, cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(path, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    assert path.exists(), process.communicate()[0]


def driver_processes(folder):
    """Processes of Retrieval.py that write below `folder`."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            line = Path(f"/proc/{entry}/cmdline").read_text() if entry.isdigit() else ""
        except OSError:
            continue
        if "Retrieval.py" in line and str(folder) in line:
            found.append(int(entry))
    return found


def test_it_goes_on_where_it_was_killed(study):
    command, folder = study
    killed = start(command)
    first, second = folder / "runs" / "full" / "seed-1", folder / "runs" / "no-mae" / "seed-1"
    wait_for(second / "made_with.json", killed)
    wait_for(second / "messages.txt", killed)  # the first run is finished, the second under way
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    deadline = time.monotonic() + 60
    while driver_processes(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not driver_processes(folder)  # it took its trainings with it
    finished = (first / "metrics.json").stat().st_mtime_ns, (first / "checkpoint_last.pth").read_bytes()
    again = start(command)
    printed = again.communicate(timeout=240)[0]
    assert again.returncode == 0, printed
    assert ((first / "metrics.json").stat().st_mtime_ns, (first / "checkpoint_last.pth").read_bytes()) == finished
    rows = json.loads((folder / "ablation.json").read_text())["rows"]
    assert {(row["variant"], row["stage"]) for row in rows} == {
        (variant, stage) for variant in ("full", "no MAE") for stage in ("stage1", "reranked")
    }
    assert load_config(second / "config.yaml").weights["mae"] == 0 < load_config(first / "config.yaml").weights["mae"]
    assert "| variant" in printed and "ablation.png" in printed


def test_a_run_that_fails_ends_it_with_one_line(study):
    command, _ = study
    done = start([*command, "batch_size_train=4000", "queue_size=8000"])
    printed = done.communicate(timeout=240)[0]
    assert done.returncode == 2
    last = printed.strip().splitlines()[-1]
    assert last.startswith("error: full, seed 1 ended with exit code 2: error:") and "messages.txt" in last
