"""Every command of README.md and docs/ and every script, run for real at tiny size.

A copy of the repository gets tiny data sets in the three raw forms, tiny checkpoints named as in the
README, and configurations that shrink the networks; the commands themselves run word for word.
`SMALLER_NUMBERS` and `SHORTENED` say where not.
"""

import argparse
import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_data import REPOSITORY, TINY, environment
from documents import PAGES, README, commands_of
from in_process import call
from preloaded import start_server
from preloaded_python import write_stand_in
from ruamel.yaml import YAML
from tiny_clip_files import CLIP_SETTINGS, WIDTH, clip_files
from tiny_library_models import library_folder, smallest_configs

from configs.loading import load_config
from dataset.captions import clean_caption
from dataset.tokens import CaptionTokenizer
from evaluation.__main__ import main as evaluation
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
    "CONFIG=configs/demo_vim.yaml OUTPUT=output/demo-vim bash shell/demo.sh --from-nothing",
    "bash shell/demo_start.sh",
    'cd output && bash ../shell/search.sh query "a woman in a red coat" --gallery ../gallery',
    "bash shell/lint.sh style",
]
ASK = """import ssl, time, urllib.error, urllib.request
for _ in range(300):
    try: urllib.request.urlopen('ADDRESS/api/gallery', context=ssl._create_unverified_context()); break
    except urllib.error.HTTPError: break  # it asks for a password
    except OSError: time.sleep(0.2)
else: raise SystemExit('nothing is served')"""


def served(serve: str, *requests: str) -> str:
    """What serves for good, ended when it has answered the requests."""
    ask = ASK.replace("ADDRESS", f"{'https' if '--tls_cert' in serve else 'http'}://127.0.0.1:7897")
    asked = " && ".join([f'python -c "{ask}"', *requests])
    return f"{serve} --port 7897 & server=$!; {asked}; answered=$?; kill $server; wait; exit $answered"


# run the tests that this file belongs to: here one file of them
SHORTENED = {
    "bash shell/search.sh serve --gallery gallery": served("bash shell/search.sh serve --gallery gallery"),
    "bash shell/comparison.sh": "PEOPLE=normal bash shell/comparison.sh",
    "bash shell/test.sh": "bash shell/test.sh tests/evaluation/test_metrics.py",
    "bash shell/torture.sh --quick": "bash shell/torture.sh --quick tests/dataset/test_data_ledger.py",
}

# run by a new Python each; a process that has imported everything forks those of the others
NEW = {
    "bash shell/cuhk_train.sh ALBEF.pth",
    "bash shell/cuhk-eval.sh MARS.pth",
    "bash shell/search.sh serve --gallery gallery",
    "python -m evaluation gradcam --checkpoint output/demo/checkpoint_best.pth",
}

# ---- the pages below docs/ -------------------------------------------------------------

# The variants of ablations that are trained here; of a study's page one stands for two others.
TRAINED_VARIANTS = ("full", "no MAE", "vim", "IRRA", "RDE")
COPIED = "; ".join(
    f"cp -r output/ablation/runs/no-mae output/ablation/runs/{name}"
    for name in ("no-attribute-loss", "partial-cross-attention")
)

# Numbers that fit full-size data, and the photos of a reader: page -> (what it says, what is run).
SMALLER_NUMBERS = {
    "frames.md": [("synthetic.street street", "synthetic.street street --people 4 --frames 6")],
    "search.md": [
        ("--gallery gallery", "--gallery photos-gallery"),  # `gallery` is that of the README
        ("index photos", "index photos --metadata cameras.csv"),
        ("benchmarks.gallery", "benchmarks.gallery --quick"),
    ],
    "scale.md": [
        (
            "benchmarks.index_scale --images 100000 --queries 50",
            "benchmarks.index_scale --quick --dimensions 8 --types FLAT",
        ),
        ("benchmarks.serving", "benchmarks.serving --quick"),
    ],
    "security.md": [("python -m search password", "echo correct horse battery | python -m search password")],
    "studies.md": [
        ("--captions 105 697", "--captions 1 2"),
        ("--pick gain", "--pick random"),  # there may be none between models that have hardly learned
        ("--processes 15 --set precision=tf32", f"--processes 2 --set precision=tf32 && {COPIED}"),
        ("--val 8 --seed", "--val 8 --test 4 --images-per-identity 2 --no-masks --seed"),
        ("--val 200 --difficulty", "--val 8 --test 4 --images-per-identity 2 --no-masks --difficulty"),
    ],
}
# Requests to a server, which are sent while the command before them is tested.
REQUESTS = "curl "
STUDY = "python -m evaluation "


def as_run(page: str, commands: list[str]) -> dict[str, str]:
    """The commands of a page, as they stand there -> as they are run here."""
    run = dict(zip(commands, commands, strict=True))
    for said, instead in SMALLER_NUMBERS.get(page, ()):
        assert any(said in command for command in commands), f"{page} says {said} no more"
        run = {command: text.replace(said, instead) for command, text in run.items()}
    requests = [text for command, text in run.items() if command.startswith(REQUESTS)]
    there = [text.replace("curl -s", "curl -s -f").replace(":7860", ":7897") for text in requests]
    for command, text in run.items():
        if " serve " in command:
            run[command] = served(f"{text} --allow_upload", *there)
    return {command: text for command, text in run.items() if not command.startswith(REQUESTS)}


def on_pages() -> dict[str, tuple[str, str]]:
    """The commands of all pages but those of the README, each once -> its page, and how it is run here."""
    run: dict[str, tuple[str, str]] = {}
    for page in PAGES[1:]:
        for command, text in as_run(page.name, commands_of(page)).items():
            run.setdefault(command, (page.stem, SHORTENED.get(command, text)))
    return {command: where for command, where in run.items() if command not in commands_of(README)}


ON_PAGES = on_pages()
COMMANDS = [*commands_of(README), *ON_PAGES, *MORE]


def shrink_configs(folder: Path, vocabulary: int) -> None:
    """The same configurations with tiny networks, for a tokenizer of `vocabulary` word pieces."""
    systems = {path: load_config(path).system for path in folder.glob("*.yaml")}
    for path, system in systems.items():
        with changed(path) as values:
            if system != "mars":
                small = [f"selection_width={WIDTH}"] if system == "rde" else []
                short = ["schedular.epochs=1", "max_steps=2", "batch_size_train=2"]
                values.update(apply_overrides(values, [*CLIP_SETTINGS, *small, *short]))
                continue
            bert = values.pop("bert_config", {})
            full = "partial" not in bert if isinstance(bert, str) else bert.get("full_ca", True)
            kept = [setting for setting in SMALLER if setting.partition("=")[0] not in ("k_test", "eval_epoch")]
            kept += [f"bert_config.full_ca={str(full).lower()}", f"bert_config.vocab_size={vocabulary}"]
            values.update(apply_overrides(values, kept))
            if "look_alikes" in values:
                values["batch_size_train"] = 8  # a group of them
    for path in folder.glob("recipes/*.yaml"):
        with changed(path) as values:
            values.pop("batch_size_train", None)
    for path in folder.glob("ablations/*.yaml"):
        with changed(path) as values:
            some = {name: variant for name, variant in values["variants"].items() if name in TRAINED_VARIANTS}
            for variant in filter(None, some.values()):  # as many steps as `max_steps` says
                own = variant.get("set", [])
                variant["set"] = [setting for setting in own if not setting.startswith("schedular.steps=")]
            values.update({"seeds": [1], "set": ["schedular.epochs=1"], "variants": some})
            if values.get("checkpoint") == "demo_start":
                values["checkpoint"] = "MARS.pth"  # as of `START` below


@contextlib.contextmanager
def changed(path: Path) -> Iterator[dict[str, Any]]:
    """The values of a YAML file, which is written anew with what has become of them."""
    yaml = YAML(typ="safe", pure=True)
    values = yaml.load(path.read_text())
    yield values
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


def plant_photos(root: Path, benchmark: Path) -> None:
    """A folder of one's own photos, what is known of them, and one to upload."""
    images = sorted((benchmark / "imgs").rglob("*.jpg"))[:6]
    (root / "photos" / "cam1").mkdir(parents=True)
    rows = ["image,camera,time,person"]
    for number, image in enumerate(images[1:], start=1):
        shutil.copy(image, root / "photos" / "cam1" / f"{number:04}.jpg")
        rows.append(f"cam1/{number:04}.jpg,c1,{800 + number},{'anna' if number == 3 else 'ben'}")
    (root / "cameras.csv").write_text("\n".join(rows) + "\n")
    shutil.copy(images[0], root / "photo.jpg")


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
    for name, weights in clip_files().items():
        torch.save(weights, root / name)
    for name, described in smallest_configs().items():
        library_folder(root / name, described)
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
    plant_photos(root, benchmark)
    shrink_configs(root / "configs", plant_checkpoints(root, benchmark))
    return root


def run_here(command: str, root: Path, new: bool = False) -> subprocess.CompletedProcess:
    """Run one command line as a user in the repository's folder would.

    new: by a new Python that imports everything, rather than by a fork of one that has (see preloaded.py).
    """
    number, variables = (None, surroundings(Path(sys.prefix), root)) if new else stand_in(root)
    return subprocess.run(
        ["bash", "-c", command],
        cwd=root,
        env=variables,
        pass_fds=[] if number is None else [number],
        capture_output=True,
        text=True,
        timeout=600,
    )


def surroundings(python: Path, root: Path) -> dict[str, str]:
    """The environment of a command line in the sandbox, with a virtual environment."""
    more = {
        "MARS_ENV": str(python),
        "PATH": f"{python / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DEMO_DATA": "--train 8 --val 4 --test 4 --images-per-identity 2 --size 96x48",
        "START": str(root / "MARS.pth"),  # of the size of the configurations here
        "OTHER_DATA": "--train 8 --val 4 --test 4 --images-per-identity 2 --size 96x48",
        "PYTHONPATH": "",
        "GOMP_SPINCOUNT": "2000",  # as scripts set it
    }
    return environment(**more)


@functools.cache
def stand_in(root: Path) -> tuple[int, dict[str, str]]:
    """The socket of a server of commands of the sandbox, and the environment of those that it shall fork."""
    folder = root.parent / "stand-in"
    server = start_server(root, surroundings(folder, root))
    number = server.connection.fileno()
    write_stand_in(folder / "bin" / "python", number, server.environment, root / "tests")
    return number, dict(server.environment)


def require_success(command: str, done: subprocess.CompletedProcess) -> None:
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command, sandbox, monkeypatch):
    """Studies of the pages run in the process of the tests, which saves them the seconds that starting takes."""
    page, text = ON_PAGES.get(command, ("README", SHORTENED.get(command, command)))
    if page == "README" or STUDY not in text or "ablation --config" in text:  # ablations start processes themselves
        done = run_here(text, sandbox, new=command in NEW)
        assert done.returncode == 0, f"{page}: {command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return
    words = run_here(text.replace(STUDY, r"printf '%s\0' "), sandbox).stdout.split("\0")[:-1]
    monkeypatch.chdir(sandbox)
    ending = call(lambda: evaluation(words))
    assert ending.code == 0, f"{page}: {command}\n{ending.errors}"


def test_every_study_is_shown():
    studies = {
        path.stem for path in (REPOSITORY / "evaluation" / "studies").glob("*.py") if "\ndef main(" in path.read_text()
    }
    assert len(studies) >= 12
    assert studies <= {name for command in COMMANDS for name in re.findall(f"{STUDY}(\\w+)", command)}


def test_real_starts_are_among_the_commands():
    assert set(COMMANDS) >= NEW


def test_every_script_is_run():
    named = {Path(script).name for command in COMMANDS for script in re.findall(r"shell/[\w-]+\.sh", command)}
    scripts = {path.name for path in (REPOSITORY / "shell").glob("*.sh")} - {"common.sh"}
    assert scripts <= named


def test_the_demo_left_its_report_and_metrics(sandbox):
    output = sandbox / "output" / "demo"
    metrics = json.loads((output / "metrics.json").read_text())
    assert set(metrics) == {"stage1", "reranked", "ceiling"}
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
