"""Wrong arguments and files of the other commands and scripts, and real commands from end to end."""

import pickle
import shutil
import sys

import pytest
from benchmark_data import REPOSITORY, data_settings, run
from refusals import SMALL, Ending, call, check_refusal, snapshot

from dataset import prepare
from dataset.synthetic import __main__ as synthetic
from evaluation import report

# ---- the other commands ----------------------------------------------------------------

PREPARE = {
    "unknown name": (("CUHK", "."), "data set 'CUHK' is not known (did you mean 'CUHK-PEDES'?)"),
    "missing folder": (("CUHK-PEDES", "nowhere"), "nowhere does not exist"),
    "no annotations": (("CUHK-PEDES", "."), "reid_raw.json does not exist; put the annotations"),
    "no held out identities": (("CUHK-PEDES", ".", "--val-identities", "-3"), "must be at least 1, found -3"),
    "no workers": (("CUHK-PEDES", ".", "--workers", "0"), "must be at least 1, found 0"),
    "a seed of nothing": (("CUHK-PEDES", ".", "--seed", "3"), "--seed chooses whom --val_identities holds out"),
    "contradiction": (("CUHK-PEDES", ".", "--skip-images", "--decode", "full"), "exclude each other"),
}
SYNTHETIC = {
    "no folder": ((), "no folder is named"),
    "unknown preset": (("new", "--preset", "tyni"), "did you mean 'tiny'?"),
    "negative identities": (("new", "--train", "-1"), "train is -1"),
    "no identities": (("new", "--train", "0", "--val", "0", "--test", "0"), "no identities"),
    "half a size": (("new", "--size", "10"), "size '10' is not understood"),
    "negative seed": (("new", "--seed", "-1"), "seed is -1"),
    "NaN": (("new", "--occlusion", "nan"), "occlusion is nan"),
    "no workers": (("new", "--preset", "tiny", "--workers", "0"), "workers is 0"),
    "foreign folder": (("foreign", "--preset", "tiny"), "is not empty and was not made by this program"),
    "a file": (("foreign/a.txt", "--preset", "tiny"), "is a file"),
    "below a file": (("foreign/a.txt/b", "--preset", "tiny"), "cannot write"),
    "preview of another kind": (("--preview", "a.txt"), "is not a .png file"),
    "preview into a folder": (("new", "--preview", "a.png"), "for which a folder has no use; leave out one of them"),
    "preview by workers": (("--preview", "a.png", "--workers", "2"), "for which --workers has no use"),
    "preview over another": (("--preview", "a.png", "--overwrite"), "for which --overwrite has no use"),
}
REPORT = {
    "missing folder": (("nowhere",), "nowhere holds none of log.txt"),
    "foreign folder": (("foreign",), "foreign holds none of log.txt"),
    "no queries": (("output", "--queries", "0"), "must be between 1 and 300, not 0"),
    "negative seed": (("output", "--seed", "-1"), "the seed must be 0 or more"),
}
COMMANDS = {
    f"{main.__module__} {case}": (main, *table[case])
    for main, table in ((prepare.main, PREPARE), (synthetic.main, SYNTHETIC), (report.main, REPORT))
    for case in table
}


@pytest.mark.parametrize("case", COMMANDS)
def test_wrong_arguments_of_other_commands_are_refused(ground, run_folder, case):
    main, arguments, *parts = COMMANDS[case]
    (ground.folder / "foreign").mkdir()
    ground.write("foreign/a.txt", "keep me")
    before = snapshot(ground.folder)
    check_refusal(call(main, *arguments), *parts)
    assert snapshot(ground.folder) == before


RESULTS = {
    "empty metrics": ("metrics.json", b"", "is not valid JSON"),
    "metrics nested too deeply": ("metrics.json", b"[" * 100_000, "is not valid JSON"),
    "a number of 5000 digits": ("metrics.json", b"9" * 5000, "is not valid JSON"),
    "foreign log": ("log.txt", b"hello\nworld\n", "line 1 of"),
    "log nested too deeply": ("log.txt", b"[" * 100_000 + b"\n{}\n", "line 1 of"),
    "text as rankings": ("rankings.npz", b"hello", "is not a readable rankings file: write it again"),
    "pickle as rankings": ("rankings.npz", pickle.dumps([1]), "is not a readable rankings file: write it again"),
}


@pytest.mark.parametrize("case", RESULTS)
def test_a_report_of_damaged_results_is_refused(ground, run_folder, case):
    name, content, *parts = RESULTS[case]
    (run_folder / name).write_bytes(content)
    before = snapshot(ground.folder)
    check_refusal(call(report.main, run_folder), str(run_folder / name), *parts)
    assert snapshot(ground.folder) == before


def test_rankings_with_a_damaged_byte_are_refused(ground, run_folder):
    content = bytearray((run_folder / "rankings.npz").read_bytes())
    for place in range(40, len(content) // 2, 7):
        content[place] ^= 0xFF
    (run_folder / "rankings.npz").write_bytes(content)
    check_refusal(call(report.main, run_folder), "is not a readable rankings file")


# ---- end to end ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "variables", "part"),
    [
        (("Retrieval.py", "--config", "configs/demo.yaml", "--set", "batch_sise_train=3"), {}, "did you mean"),
        (("Retrieval.py",), {"RANK": "abc", "WORLD_SIZE": "2"}, "must be integers"),
        (("-m", "dataset.prepare", "CUHK-PEDES", "/nowhere"), {}, "/nowhere does not exist"),
        (("-m", "dataset.synthetic", "/dev/null/x", "--preset", "tiny"), {}, "cannot write /dev/null/x"),
        (("-m", "evaluation", "report", "/nowhere"), {}, "/nowhere holds none of log.txt"),
    ],
    ids=["configuration", "environment", "prepare", "synthetic", "report"],
)
def test_a_real_command_ends_with_one_line_and_2(command, variables, part):
    done = run(sys.executable, *command, check=False, new=True, **variables)
    check_refusal(Ending(done.returncode, done.stderr), part)
    assert done.stdout == ""


def test_a_tokenizer_that_cannot_be_reached_is_refused(benchmark, tmp_path):
    done = run(
        sys.executable,
        "Retrieval.py",
        "--config",
        "configs/demo.yaml",
        "--output_dir",
        tmp_path / "output",
        "--text_encoder",
        "no-such-owner/no-such-model",
        "--set",
        *SMALL,
        *data_settings(benchmark),
        check=False,
    )
    part = "tokenizer no-such-owner/no-such-model is neither a folder here nor reachable on the model hub"
    check_refusal(Ending(done.returncode, done.stderr), part)
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("script", "arguments", "variables", "part"),
    [
        ("cuhk_train.sh", (), {"GPUS": "many"}, "GPUS=many: give the number of processes"),
        ("cuhk_train.sh", (), {"GPUS": "0"}, "GPUS=0: give the number of processes"),
        ("cuhk_train.sh", ("--set", "foo=1"), {"GPUS": "2"}, "unknown key `foo`"),
        ("cuhk_train.sh", ("--confgi", "x"), {"GPUS": "1"}, "unrecognized arguments: --confgi x (did you mean"),
        ("rstp-eval.sh", (), {"MARS_ENV": "/nowhere"}, "MARS_ENV=/nowhere does not exist"),
        ("icfg-eval.sh", ("nothing.pth",), {"GPUS": "1", "CONFIG": "/nowhere.yaml"}, "config /nowhere.yaml does not"),
        ("data_process.sh", ("CUHK", "/nowhere"), {}, "did you mean 'CUHK-PEDES'?"),
    ],
)
def test_a_script_with_a_wrong_argument_ends_with_one_line_and_2(script, arguments, variables, part):
    variables = {"MARS_ENV": sys.prefix, **variables}
    done = run("bash", f"shell/{script}", *arguments, check=False, **variables)
    check_refusal(Ending(done.returncode, done.stderr), part)


def test_the_first_use_of_a_script_makes_the_environment(tmp_path):
    # a Python that notes its arguments and fails, so that nothing is installed
    shutil.copytree(REPOSITORY / "shell", tmp_path / "shell")
    shutil.copy(REPOSITORY / "requirements.txt", tmp_path)
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@" >> "$0.calls"\n[ "$1" = -c ]\n')
    python.chmod(0o755)
    done = run("bash", tmp_path / "shell" / "cuhk_train.sh", check=False, PYTHON=str(python), MARS_ENV="")
    check_refusal(Ending(done.returncode, done.stderr), "cannot make a virtual environment", alone=False)
    assert f"-m venv {tmp_path / '.venv'}" in (tmp_path / "python.calls").read_text()
