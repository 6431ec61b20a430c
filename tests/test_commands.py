"""Every command of the README and every script, run for real at tiny size.

A copy of the repository gets tiny data sets in the three raw forms, tiny checkpoints named as in the
README, and configurations that shrink the networks; the commands themselves run word for word.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmark_data import REPOSITORY, TINY, environment
from ruamel.yaml import YAML

from configs.schema import load_config
from dataset.captions import clean_caption
from dataset.tokens import CaptionTokenizer
from models.build import build_image_encoder, build_model
from utils.config import apply_overrides

RAW_FORMS = {"CUHK-PEDES": "reid_raw.json", "ICFG-PEDES": "ICFG-PEDES.json", "RSTPReid": "data_captions.json"}
SMALLER = [*TINY, "text_encoder=tokenizer", "schedular.epochs=1", "max_steps=2", "batch_size_train=2"]

# Scripts that the README names as "likewise".
MORE = [
    "bash shell/icfg_train.sh ALBEF.pth",
    "bash shell/rstp_train.sh ALBEF.pth",
    "bash shell/icfg-eval.sh",
    "bash shell/rstp-eval.sh MARS.pth",
    "CONFIG=configs/demo_vim.yaml OUTPUT=output/demo-vim bash shell/demo.sh",
    'cd output && bash ../shell/search.sh query "a woman in a red coat" --gallery ../gallery',
    "bash shell/lint.sh style",
]


def readme_commands() -> list[str]:
    """The lines of the README's bash blocks, continued lines joined, comments dropped."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [command for line in lines if (command := re.sub(r"\s+#.*$", "", line).strip())]


COMMANDS = [*readme_commands(), *MORE]
ASK = """import time, urllib.request
for _ in range(300):
    try: urllib.request.urlopen('http://127.0.0.1:7897/api/gallery'); break
    except OSError: time.sleep(0.2)
else: raise SystemExit('nothing is served')"""
# run the tests that this file belongs to: here one file of them; what serves for good is ended when it has answered
SHORTENED = {
    **{
        command: f'{command} --port 7897 & python -c "{ASK}"; answered=$?; kill $!; wait; exit $answered'
        for command in ("python -m search serve --gallery gallery", "bash shell/search.sh serve --gallery gallery")
    },
    "bash shell/test.sh": "bash shell/test.sh tests/evaluation/test_metrics.py",
    "bash shell/torture.sh --quick": "bash shell/torture.sh --quick tests/dataset/test_data_ledger.py",
}


def shrink_configs(folder: Path, vocabulary: int) -> None:
    """The same configurations with tiny networks, for a tokenizer of `vocabulary` word pieces."""
    yaml = YAML(typ="safe", pure=True)
    for path in folder.glob("*.yaml"):
        values = yaml.load(path.read_text())
        bert = values.pop("bert_config", {})
        full = "partial" not in bert if isinstance(bert, str) else bert.get("full_ca", True)
        kept = [setting for setting in SMALLER if setting.partition("=")[0] not in ("k_test", "eval_epoch")]
        kept += [f"bert_config.full_ca={str(full).lower()}", f"bert_config.vocab_size={vocabulary}"]
        values = apply_overrides(values, kept)
        with open(path, "w") as file:
            yaml.dump(values, file)


def plant_data(root: Path, benchmark: Path) -> None:
    """The tiny benchmark in the three published raw forms, and as a CSV of one's own."""
    entries = json.loads((benchmark / "reid_raw.json").read_text())
    for name, file in RAW_FORMS.items():
        folder = root / "data" / name
        folder.mkdir(parents=True)
        os.symlink(benchmark / "imgs", folder / "imgs")
        own = [dict(entry) for entry in entries if name != "ICFG-PEDES" or entry["split"] != "val"]
        if name == "RSTPReid":
            own = [{**entry, "img_path": entry.pop("file_path")} for entry in own]
        (folder / file).write_text(json.dumps(own))
    mine = root / "data" / "mine"
    mine.mkdir()
    os.symlink(benchmark / "imgs", mine / "imgs")
    rows = [
        f'{e["file_path"]},{e["id"]},"{caption.replace(chr(34), "")}",{e["split"]}'
        for e in entries
        for caption in e["captions"]
    ]
    (mine / "annotations.csv").write_text("\n".join(["image,identity,caption,split", *rows]) + "\n")


def plant_checkpoints(root: Path, benchmark: Path) -> int:
    """ALBEF.pth, MARS.pth and vim_b.pth of tiny size, and the tokenizer they use; returns its number of word pieces."""
    entries = json.loads((benchmark / "reid_raw.json").read_text())
    tokenizer = CaptionTokenizer.train([clean_caption(c, 40) for e in entries for c in e["captions"]], 300)
    tokenizer.save(root / "tokenizer")
    # square, as the released ones are
    config = load_config(None, [*TINY, "image_res=32", f"bert_config.vocab_size={tokenizer.vocabulary_size}"])
    for name in ("ALBEF.pth", "MARS.pth"):
        torch.save({"model": build_model(config, tokenizer.special).state_dict()}, root / name)
    vim = build_image_encoder(load_config(None, [*TINY, "image_res=32", "image_encoder=vim"]))
    weights = {**vim.state_dict(), "head.weight": torch.zeros(3, 32), "head.bias": torch.zeros(3)}
    torch.save({"model": weights, "args": argparse.Namespace(lr=1e-3)}, root / "vim_b.pth")
    return tokenizer.vocabulary_size


@pytest.fixture(scope="module")
def sandbox(benchmark, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sandbox") / "repository"
    everywhere, on_top = {"__pycache__", ".pytest_cache", ".ruff_cache"}, {".git", ".venv", "output", "data"}
    shutil.copytree(
        REPOSITORY,
        root,
        ignore=lambda folder, names: everywhere | (on_top if Path(folder) == REPOSITORY else set()),
    )
    plant_data(root, benchmark)
    shrink_configs(root / "configs", plant_checkpoints(root, benchmark))
    return root


def run_here(command: str, root: Path) -> subprocess.CompletedProcess:
    """Run one command line as a user in the repository's folder would."""
    binaries = Path(sys.executable).parent
    more = {
        "MARS_ENV": str(Path(sys.prefix)),
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "DEMO_DATA": "--train 8 --val 4 --test 4 --images-per-identity 2 --size 96x48 --no-masks",
        "PYTHONPATH": "",
    }
    return subprocess.run(
        ["bash", "-c", command], cwd=root, env=environment(**more), capture_output=True, text=True, timeout=600
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command, sandbox):
    done = run_here(SHORTENED.get(command, command), sandbox)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


def test_every_script_is_run():
    named = {Path(script).name for command in COMMANDS for script in re.findall(r"shell/[\w-]+\.sh", command)}
    scripts = {path.name for path in (REPOSITORY / "shell").glob("*.sh")} - {"common.sh"}
    assert scripts <= named


def test_the_demo_left_its_report_and_metrics(sandbox):
    output = sandbox / "output" / "demo"
    metrics = json.loads((output / "metrics.json").read_text())
    assert set(metrics) == {"stage1", "reranked"}
    assert {"r1", "r5", "r10", "mAP", "mINP", "captions", "images"} <= set(metrics["reranked"])
    for name in ("checkpoint_last.pth", "checkpoint_best.pth", "rankings.npz", "log.txt", "config.yaml"):
        assert (output / name).is_file(), name
    for name in ("index.html", "curves.png", "rankings.png"):
        assert (output / "report" / name).stat().st_size > 1000, name


def test_a_second_demo_does_nothing_again(sandbox):
    output = sandbox / "output" / "demo"
    before = (output / "checkpoint_last.pth").stat().st_mtime_ns
    done = run_here("bash shell/demo.sh", sandbox)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "epoch" not in done.stderr
    assert (output / "checkpoint_last.pth").stat().st_mtime_ns == before


def test_a_script_works_from_another_folder(sandbox, tmp_path):
    done = run_here(f"cd {tmp_path} && OUTPUT=here bash {sandbox}/shell/cuhk-eval.sh {sandbox}/MARS.pth", sandbox)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "here" / "metrics.json").is_file()
