"""A tiny synthetic benchmark and a tiny model, for tests that run the real commands."""

import os
import subprocess
import sys
from pathlib import Path

from preloaded import Popen

REPOSITORY = Path(__file__).resolve().parent.parent

TINY = [
    "image_res=[32,16]",
    "patch_size=8",
    "vision_width=32",
    "vision_depth=1",
    "vision_heads=2",
    "embed_dim=16",
    "decoder_depth=1",
    "decoder_heads=2",
    "queue_size=32",
    "vocabulary_size=300",
    "max_words=40",
    "bert_config.hidden_size=32",
    "bert_config.num_hidden_layers=2",
    "bert_config.num_attention_heads=2",
    "bert_config.intermediate_size=64",
    "bert_config.fusion_layer=1",
    "bert_config.encoder_width=32",
    "bert_config.max_position_embeddings=80",
    "bert_config.hidden_dropout_prob=0.0",
    "bert_config.attention_probs_dropout_prob=0.0",
    "text_encoder=from_captions",
    "workers=0",
    "precision=fp32",
    "batch_size_train=8",
    "batch_size_test=5",
    "k_test=6",
    "eval_epoch=0",
    "schedular.epochs=2",
    "hard_negatives_within=null",
]


def environment(**more: str) -> dict[str, str]:
    """This environment, offline, for a command run by a test."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **more}


def run(*command: str | Path, check: bool = True, new: bool = False, **more: str) -> subprocess.CompletedProcess:
    """Run a command in the repository; on failure show what it printed.

    new: by a new Python that imports everything, rather than by a fork of one that has (see preloaded.py).
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    words = [str(part) for part in command]
    with (subprocess.Popen if new else Popen)(words, cwd=REPOSITORY, env=environment(**more), **pipes) as process:
        try:
            output, errors = process.communicate(timeout=600)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(words, process.returncode, output, errors)
    if check and done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done


def make_benchmark(root: Path) -> Path:
    """The tiny synthetic benchmark, prepared: ROOT/processed_data and ROOT/imgs."""
    run(sys.executable, "-m", "dataset.synthetic", root, "--preset", "tiny", "--no-masks")
    run(sys.executable, "-m", "dataset.prepare", "CUHK-PEDES", root)
    return root


def data_settings(root: Path) -> list[str]:
    """Settings that point a configuration at a prepared benchmark."""
    files = root / "processed_data"
    return [
        f"train_file=[{files}/train.json]",
        f"val_file={files}/val.json",
        f"test_file={files}/test.json",
        *(f"{split}_image_root={root}/imgs" for split in ("train", "val", "test")),
    ]
