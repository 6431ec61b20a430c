"""Wrong configurations, files, checkpoints and flags: one clear line, exit code 2, nothing changed.

Most cases call a command's `main` in this process, which is fast; some start the real command.
"""

import contextlib
import gc
import hashlib
import io
import json
import logging
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from benchmark_data import REPOSITORY, TINY, data_settings, run
from PIL import Image

import Retrieval
from dataset import prepare
from dataset.synthetic import __main__ as synthetic
from evaluation import report
from utils.errors import UserError, run_command_line

# settings that train without spaCy, 4 batches an epoch
SMALL = [*TINY, "weights.attribute=0", "hard_negatives_within=", "max_steps=2"]
DEMO = REPOSITORY / "configs" / "demo.yaml"


# ---- calling and checking --------------------------------------------------------------


@dataclass(frozen=True)
class Ending:
    """How a command ended."""

    code: int
    errors: str


def call(main: Callable, *arguments: str | Path) -> Ending:
    """Run a command's `main` as its script does, in this process."""
    errors, before = io.StringIO(), sys.argv
    sys.argv = ["command", *map(str, arguments)]
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            run_command_line(main)
    except SystemExit as end:
        return Ending(end.code, errors.getvalue())
    finally:
        sys.argv = before
    raise AssertionError("a command ends with an exit code")


def check_refusal(ending: Ending, *parts: str, alone: bool = True) -> None:
    """Exit code 2 and one error line, the last, with all `parts`; `alone` = nothing else was printed."""
    assert ending.code == 2, ending.errors
    lines = [line for line in ending.errors.splitlines() if line.strip()]
    assert "Traceback" not in ending.errors
    assert [line.startswith("error: ") for line in lines].count(True) == 1, ending.errors
    assert lines[-1].startswith("error: ")
    assert len(lines[-1]) < 700
    for part in parts:
        assert part in lines[-1]
    assert len(lines) == 1 or not alone, ending.errors


def snapshot(*folders: Path) -> dict[str, str]:
    """Every file and folder below, with a digest of its content."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for folder in folders
        for path in sorted(folder.rglob("*"))
    }


@dataclass(frozen=True)
class Ground:
    """A benchmark and a place for outputs; every refusal must leave both as they were."""

    data: Path
    folder: Path

    @property
    def output(self) -> Path:
        return self.folder / "output"

    def retrieve(self, *arguments: str | Path, settings: tuple = (), output: Path | None = None) -> Ending:
        return call(
            Retrieval.main, "--config", DEMO, "--device", "cpu", "--output_dir", output or self.output, *arguments,
            "--set", *SMALL, *data_settings(self.data), *settings,
        )

    def refuses(
        self, *parts: str, arguments: tuple = (), settings: tuple = (), output: Path | None = None, alone: bool = True
    ) -> None:
        before = snapshot(self.data, self.folder)
        check_refusal(self.retrieve(*arguments, settings=settings, output=output), *parts, alone=alone)
        assert snapshot(self.data, self.folder) == before

    def write(self, name: str, content: object) -> Path:
        """A file of bytes or text, or of JSON for anything else."""
        path = self.folder / name
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        path.write_bytes(content)
        return path


@pytest.fixture(autouse=True, scope="module")
def fast_endings():
    """Every command ends with a garbage collection, which need not look at all imported modules."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def quiet_again():
    """The commands set up logging for a process of their own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def ground(benchmark, tmp_path, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_NTASKS", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return Ground(benchmark, tmp_path)


@pytest.fixture(scope="module")
def finished(benchmark, tmp_path_factory) -> Path:
    """The output folder of a run of two steps; read only."""
    ground = Ground(benchmark, tmp_path_factory.mktemp("finished"))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    ending = ground.retrieve()
    root.handlers[:] = handlers
    root.setLevel(level)
    assert ending.code == 0, ending.errors
    return ground.output


@pytest.fixture
def run_folder(finished, ground) -> Path:
    """A copy of that run as the output folder."""
    shutil.copytree(finished, ground.output)
    return ground.output


def entries_of(ground: Ground, split: str = "train") -> list[dict]:
    return json.loads((ground.data / "processed_data" / f"{split}.json").read_text())


# ---- the command line itself -----------------------------------------------------------


def test_a_message_of_several_lines_becomes_one(capsys):
    def main():
        raise UserError("first\nsecond")

    with pytest.raises(SystemExit) as end:
        run_command_line(main)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: first second\n"


def test_an_error_line_does_not_continue_a_progress_bar():
    def main():
        from tqdm import tqdm

        bar = tqdm(total=3)
        error = UserError("broken")  # keeps the bar: error -> traceback -> frame -> error and bar
        bar.update()
        raise error

    check_refusal(call(main), "broken", alone=False)


# ---- configuration: YAML files ---------------------------------------------------------

YAML_FILES = {
    "unknown key": ("batch_sise_train: 3", "unknown key `batch_sise_train` (did you mean 'batch_size_train'?)"),
    "unknown nested key": ("optimizer: {lrr: 3}", "unknown key `optimizer.lrr` (did you mean 'lr'?)"),
    "unknown key beside others": ("k_test: 1.5\nfoo: 1\nalpha: 4", "unknown key `foo`", "and 2 more problems"),
    "wrong type": ("embed_dim: many", "`embed_dim` must be a valid integer, not 'many'"),
    "text for a switch": ("warm_up: maybe", "`warm_up` must be a valid boolean, not 'maybe'"),
    "switch for a number": ("k_test: true", "`k_test` must be a valid integer, not True"),
    "syntax error": ("k_test: 3\nalpha: [1\nmomentum: 1", "line 3", "not valid YAML"),
    "duplicate key": ("k_test: 3\nk_test: 4", "line 2", "duplicate key"),
    "empty file": ("", "is empty"),
    "only a comment": ("# nothing", "is empty"),
    "a list": ("- k_test", "not a list"),
    "a single value": ("hello", "not a single value"),
    "two documents": ("k_test: 3\n---\nk_test: 4", "line 2", "another document"),
    "a number as key": ("1: 2", "key 1 must be a name"),
    "program code": ("alpha: !!python/object/apply:os.system ['touch pwned']", "line 1", "not valid YAML"),
    "nested too deeply": ("[" * 5000, "nested too deeply"),
    "a number of 5000 digits": ("k_test: " + "9" * 5000, "not valid YAML"),
    "a long text for a number": ("k_test: " + "x" * 5000, "must be a valid integer", "..."),
    "binary": (bytes(range(256)), "cannot be read"),
    "NUL": (b"\0\1\2", "not valid YAML"),
    "missing loss list": ("weights: [1, 2, 3]", "`weights`", "a list of 5 or 7 numbers is expected", "not 3"),
    "null for a section": ("optimizer:", "`optimizer` must hold keys of its own, not be None"),
}


@pytest.mark.parametrize("case", YAML_FILES)
def test_a_wrong_yaml_file_is_refused(ground, case):
    content, *parts = YAML_FILES[case]
    path = ground.write("wrong.yaml", content)
    before = snapshot(ground.folder)
    check_refusal(call(Retrieval.main, "--config", path, "--output_dir", ground.output), "wrong.yaml", *parts)
    assert snapshot(ground.folder) == before


def test_a_missing_yaml_file_names_the_nearest_one(ground):
    ending = call(Retrieval.main, "--config", REPOSITORY / "configs" / "PS_cuhk_pede.yaml")
    check_refusal(ending, "does not exist", "did you mean 'PS_cuhk_pedes.yaml'?")


def test_a_folder_is_no_yaml_file(ground):
    check_refusal(call(Retrieval.main, "--config", REPOSITORY / "configs"), "cannot be read", "Is a directory")


# ---- configuration: settings -----------------------------------------------------------

SETTINGS = {
    "no equals sign": (["alpha"], "--set alpha: write it as key.path=value"),
    "no key": (["=3"], "--set =3: write it as key.path=value"),
    "into a scalar": (["k_test=3", "k_test.x=3"], "`k_test` is 3 and has no keys below it"),
    "into a list": (["train_file.0=a.json"], "`train_file` is", "has no keys below it"),
    "syntax": (["alpha=[1"], "--set alpha=[1", "not valid YAML"),
    "unknown key": (["optimizer.learning_rate=1"], "unknown key `optimizer.learning_rate`"),
    "misspelt loss": (["weights.attributes=1"], "unknown key `weights.attributes` (did you mean 'attribute'?)"),
    "nothing for a number": (["max_words="], "`max_words` must be a valid integer, not None"),
    "out of range": (["momentum=1.5"], "`momentum` must be less than or equal to 1, not 1.5"),
    "NaN": (["temp=.nan"], "`temp` must be a finite number"),
    "the text nan": (["temp=nan"], "`temp` must be a valid number, not 'nan'"),
    "infinity": (["optimizer.lr=.inf"], "`optimizer.lr` must be a finite number"),
    "side not divisible": (["image_res=[33,16]"], "`image_res`: [33, 16] is not divisible by patch_size 8"),
    "three sides": (["image_res=[32,16,3]"], "`image_res`", "[height, width] is expected, not [32, 16, 3]"),
    "negative side": (["image_res=-32"], "`image_res`", "not -32"),
    "unknown precision": (["precision=fp16"], "`precision` must be 'fp32', 'tf32' or 'bf16', not 'fp16'"),
    "negative weight": (["weights.cl=-1"], "`weights.cl` must be greater than or equal to 0, not -1"),
    "all weights 0": (["weights=[0,0,0,0,0]"], "every weight is 0"),
    "weight as text": (["weights=[a,0,0,0,0]"], "`weights.cl` must be a valid number, not 'a'"),
    "fusion layer too large": (["bert_config.fusion_layer=2"], "fusion_layer must be below num_hidden_layers (2)"),
    "text heads": (["bert_config.num_attention_heads=3"], "hidden_size 32 is not divisible by 3 heads"),
    "vision heads": (["vision_heads=3"], "`vision_heads`: vision_width 32 is not divisible by 3 heads"),
    "decoder heads": (["decoder_heads=3"], "`decoder_heads`: vision_width 32 is not divisible by 3 heads"),
    "encoder width": (["bert_config.encoder_width=17"], "is 17, but vision_width is 32"),
    "more words than positions": (["max_words=81"], "`max_words`: is beyond", "(80)"),
    "queue below batch": (["queue_size=7"], "`queue_size`: must hold a batch of 8"),
    "later batch not in groups": (["hard_negatives_within=[4,3]"], "must divide batch_size_train (8)"),
    "no groups": (["hard_negatives_within=[]"], "hard_negatives_within"),
    "batch not in groups": (["hard_negatives_within=3"], "must divide batch_size_train (8)"),
    "nothing left of an image": (["mask_ratio=0.99"], "`mask_ratio`: leaves no patch"),
    "no step": (["max_steps=0"], "`max_steps` must be greater than or equal to 1, not 0"),
    "empty batches": (["batch_size_test=0"], "`batch_size_test` must be greater than or equal to 1"),
    "unknown split": (["model_selection=train"], "`model_selection` must be 'val' or 'test', not 'train'"),
    "missing BERT file": (["bert_config=nothing.json"], "bert_config", "nothing.json does not exist"),
    "two problems": (["bert_config=[1]", "k_test=-1"], "`bert_config` must hold keys", "and 1 more problem"),
    "no training file": (["train_file=[]"], "`train_file` is not set", "--set train_file="),
    "no validation file": (["val_file="], "`val_file` is not set"),
    "no validation images": (["val_image_root="], "`val_image_root` is not set"),
    "missing training file": (["train_file=nothing.json"], "train_file nothing.json does not exist"),
    "missing image folder": (["train_image_root=nowhere"], "train_image_root nowhere does not exist"),
    "missing test images": (["test_image_root=nowhere"], "test_image_root nowhere does not exist"),
    "batch beyond the training set": (
        ["batch_size_train=33", "queue_size=64"],
        "has 32 captions, fewer than one batch of 33",
        "lower batch_size_train",
    ),
    "more accumulation than batches": (["accumulate_steps=5"], "an epoch has 4 batches, fewer than accumulate_steps"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_wrong_setting_is_refused(ground, case):
    settings, *parts = SETTINGS[case]
    ground.refuses(*parts, settings=tuple(settings))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ('{"hidden_size": 32,,}', ("bert.json, line 1", "not valid YAML")),
        ('{"hidden_size": 32, "hidden_sise": 4}', ("`bert_config.hidden_sise` (did you mean 'hidden_size'?)",)),
        ("", ("bert.json", "is empty")),
    ],
    ids=["not JSON", "unknown key", "empty"],
)
def test_a_wrong_bert_file_is_refused(ground, content, parts):
    ground.refuses(*parts, settings=(f"bert_config={ground.write('bert.json', content)}",))


# ---- flags and environment -------------------------------------------------------------

FLAGS = {
    "unknown device": (("--device", "tpu"), "--device 'tpu' is unknown; use auto, cpu, cuda or cuda:0"),
    "device of another kind": (("--device", "mps"), "--device 'mps' is unknown"),
    "no device": (("--device", ""), "--device '' is unknown"),
    "negative device": (("--device", "cuda:-1"), "--device 'cuda:-1' is unknown"),
    "negative seed": (("--seed", "-1"), "--seed must be from 0 to 4294967295, not -1"),
    "seed of 33 bits": (("--seed", str(2**32)), "--seed must be from 0 to 4294967295"),
    "endless seed": (("--seed", "9" * 40), "--seed must be from 0 to 4294967295"),
    "evaluate nothing": (("--evaluate",), "--evaluate needs --checkpoint"),
    "resume nothing": (("--resume",), "checkpoint_last.pth does not exist"),
    "empty tokenizer folder": (("--text_encoder", "."), "tokenizer folder", "no tokenizer.json and no vocab.txt"),
}


@pytest.mark.parametrize("case", FLAGS)
def test_a_wrong_flag_is_refused(ground, case):
    arguments, *parts = FLAGS[case]
    ground.refuses(*parts, arguments=arguments)


@pytest.mark.parametrize(
    "arguments", [("--foo",), ("--seed", "1.5"), ("--eval",)], ids=["unknown", "wrong type", "ambiguous"]
)
def test_what_argparse_refuses_ends_with_2_and_names_the_flag(ground, arguments):
    before = snapshot(ground.folder)
    ending = ground.retrieve(*arguments)
    assert ending.code == 2
    assert arguments[0] in ending.errors.splitlines()[-1]
    assert snapshot(ground.folder) == before


@pytest.mark.parametrize("device", ["cuda", "cuda:7"])
def test_cuda_without_a_gpu_is_refused(ground, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ground.refuses(f"--device {device}: no CUDA device is visible; use --device cpu", arguments=("--device", device))


def test_a_gpu_beyond_the_last_one_is_refused(ground, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    ground.refuses("--device cuda:7: this node has 1 CUDA devices", arguments=("--device", "cuda:7"))


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        ({"RANK": "abc", "WORLD_SIZE": "2"}, "must be integers"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": ""}, "must be integers"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2, WORLD_SIZE=2"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK=-1"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE=0"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "-1"}, "LOCAL_RANK=-1"),
        ({"SLURM_NTASKS": "many"}, "must be integers"),
    ],
)
def test_a_wrong_place_among_processes_is_refused(ground, variables, part, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ground.refuses(part)


@pytest.mark.parametrize("url", ["nonsense", "foo://host", "tcp://localhost", "tcp://localhost:abc", "file://"])
def test_a_nonsense_meeting_place_is_refused(ground, url, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    ground.refuses(f"process 0 cannot join the others at {url}", arguments=("--dist_url", url))


# ---- annotations -----------------------------------------------------------------------

ENTRY = {"captions": ["A man in a red coat."], "file_path": "a.jpg", "id": 1, "split": "train"}

ANNOTATIONS = {
    "empty list": ([], "holds no entries"),
    "not JSON": ("hello", "is not valid JSON"),
    "zero bytes": ("", "is empty"),
    "cut off": (json.dumps([ENTRY])[:40], "is not valid JSON"),
    "an object": ({"train": [ENTRY]}, "must hold a list of entries, found an object"),
    "entries without keys": ([{"caption": "x"}], "entry 1: has no 'file_path'"),
    "boolean identity": ([{**ENTRY, "id": True}], "entry 1 (a.jpg): 'id' must be an integer or a string, found true"),
    "no captions": ([{**ENTRY, "captions": []}], "entry 1 (a.jpg): has an empty list of captions"),
    "caption without words": ([{**ENTRY, "captions": ["..."]}], "caption 1 has no words"),
    "nested too deeply": ("[" * 100_000, "is not valid JSON"),
    "other encoding": ("[\"caf\xe9\"]".encode("latin-1"), "is not UTF-8"),
    "one identity written two ways": ([ENTRY, {**ENTRY, "file_path": "b.jpg", "id": "1"}], "write it one way"),
    "one image of two people": ([ENTRY, {**ENTRY, "id": 2}], "identity 2, but 1 in entry 1"),
    "image outside its folder": ([{**ENTRY, "file_path": "../a.jpg"}], "leaves the image folder"),
    "missing image": ([ENTRY], "1 of 1 images are missing", "a.jpg (no such file)"),
}


@pytest.mark.parametrize("case", ANNOTATIONS)
def test_a_wrong_training_file_is_refused(ground, case):
    content, *parts = ANNOTATIONS[case]
    ground.refuses(*parts, settings=(f"train_file={ground.write('wrong.json', content)}",))


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("case", ["empty list", "not JSON", "no captions", "missing image"])
def test_a_wrong_file_of_another_split_is_refused_before_training(ground, case, split):
    content, *parts = ANNOTATIONS[case]
    ground.refuses(*parts, settings=(f"{split}_file={ground.write('wrong.json', content)}",))


@pytest.mark.parametrize("case", ["empty list", "no captions", "missing image"])
def test_a_wrong_test_file_is_refused_before_evaluation(ground, case, finished):
    content, *parts = ANNOTATIONS[case]
    path = ground.write("wrong.json", content)
    checkpoint = ("--evaluate", "--checkpoint", finished / "checkpoint_best.pth")
    ground.refuses(*parts, arguments=checkpoint, settings=(f"test_file={path}",))


def test_a_dry_run_finds_missing_test_images(ground):
    ground.refuses("1 of 1 images are missing", arguments=("--dry_run",),
                   settings=(f"test_file={ground.write('wrong.json', [ENTRY])}",))


def test_an_annotation_file_of_another_kind_is_refused(ground):
    ground.refuses("must end in .json or .csv", settings=(f"train_file={ground.folder}",))


def test_a_file_in_place_of_the_image_folder_is_refused(ground):
    ground.refuses("a.txt is not a folder", settings=(f"val_image_root={ground.write('a.txt', 'x')}",))


def test_evaluation_without_a_test_file_is_refused(ground, finished):
    checkpoint = ("--evaluate", "--checkpoint", finished / "checkpoint_best.pth")
    ground.refuses("`test_file` is not set", arguments=checkpoint, settings=("test_file=",))


# ---- images ----------------------------------------------------------------------------


def png(path: Path) -> bytes:
    """The picture of a file as PNG."""
    buffer = io.BytesIO()
    Image.open(path).save(buffer, "PNG")
    return buffer.getvalue()


BROKEN_IMAGES = {
    "text": (lambda path: b"hello", "is no image"),
    "zero bytes": (lambda path: b"", "is no image"),
    "cut off JPEG": (lambda path: path.read_bytes()[: path.stat().st_size // 2], "truncated"),
    "cut off PNG": (lambda path: png(path)[: len(png(path)) // 2], "truncated"),
}


@pytest.fixture
def own_ground(ground) -> Ground:
    """A ground with a copy of the benchmark that may be damaged."""
    shutil.copytree(ground.data, ground.folder / "data")
    return Ground(ground.folder / "data", ground.folder)


@pytest.mark.parametrize("case", BROKEN_IMAGES)
def test_training_stops_at_a_broken_image_and_names_it(own_ground, case):
    damage, part = BROKEN_IMAGES[case]
    path = own_ground.data / "imgs" / entries_of(own_ground)[3]["file_path"]
    path.write_bytes(damage(path))
    ending = own_ground.retrieve(settings=("max_steps=4",))  # one epoch: every image is read
    check_refusal(ending, str(path), part, alone=False)
    assert not list(own_ground.output.glob("checkpoint*"))


def test_a_broken_image_leaves_the_checkpoints_of_a_resumed_run_alone(finished, own_ground):
    shutil.copytree(finished, own_ground.output)
    for entry in entries_of(own_ground):
        (own_ground.data / "imgs" / entry["file_path"]).write_bytes(b"")
    before = snapshot(own_ground.output)
    ending = own_ground.retrieve("--resume", settings=("max_steps=4", "workers=2"))
    check_refusal(ending, "is no image", alone=False)
    after = snapshot(own_ground.output)
    for name in ("checkpoint_last.pth", "checkpoint_best.pth", "metrics.json", "rankings.npz"):
        assert after[str(own_ground.output / name)] == before[str(own_ground.output / name)]


def test_evaluation_stops_at_a_broken_image_and_names_it(finished, own_ground):
    path = own_ground.data / "imgs" / entries_of(own_ground, "test")[3]["file_path"]
    path.write_bytes(b"hello")
    ending = own_ground.retrieve("--evaluate", "--checkpoint", finished / "checkpoint_best.pth")
    check_refusal(ending, str(path), "is no image", alone=False)
    assert not own_ground.output.exists()


def test_a_folder_in_place_of_an_image_is_refused(own_ground):
    path = own_ground.data / "imgs" / entries_of(own_ground)[3]["file_path"]
    path.unlink()
    path.mkdir()
    own_ground.refuses("1 of 16 images are missing", path.name)


# ---- checkpoints -----------------------------------------------------------------------


class Code:
    """Pickled, it asks for a command to be run when it is read."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def saved(folder: Path, content: object) -> Path:
    torch.save(content, folder / "wrong.pth")
    return folder / "wrong.pth"


def written(folder: Path, content: bytes) -> Path:
    (folder / "wrong.pth").write_bytes(content)
    return folder / "wrong.pth"


CHECKPOINTS = {
    "missing": (lambda folder, good: folder / "nothing.pth", "nothing.pth does not exist"),
    "a folder": (lambda folder, good: good.parent, "is a folder"),
    "text": (lambda folder, good: written(folder, b"hello world\n" * 99), "damaged, cut off, or no checkpoint"),
    "zero bytes": (lambda folder, good: written(folder, b""), "damaged, cut off, or no checkpoint"),
    "half": (lambda folder, good: written(folder, good.read_bytes()[: good.stat().st_size // 2]), "damaged, cut off"),
    "no end": (lambda folder, good: written(folder, good.read_bytes()[:-30]), "damaged, cut off"),
    "a pickle": (lambda folder, good: written(folder, pickle.dumps(Code(folder / "pwned"))), "nothing else is ever"),
    "code inside": (lambda folder, good: saved(folder, {"model": Code(folder / "pwned")}), "nothing else is ever"),
    "a list": (lambda folder, good: saved(folder, [torch.zeros(3)]), "holds list, not named tensors"),
    "a tensor": (lambda folder, good: saved(folder, torch.zeros(3)), "holds Tensor, not named tensors"),
    "an empty mapping": (lambda folder, good: saved(folder, {}), "holds no named tensors"),
    "an empty model": (lambda folder, good: saved(folder, {"model": {}}), "holds no named tensors"),
    "damaged tokenizer": (
        lambda folder, good: saved(folder, {**torch.load(good, weights_only=True), "tokenizer": "{"}),
        "wrong.pth: its tokenizer is damaged",
    ),
}
MODES = {"train": (), "evaluate": ("--evaluate",), "resume": ("--resume",)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_wrong_checkpoint_is_refused(ground, finished, case, mode):
    make, *parts = CHECKPOINTS[case]
    path = make(ground.folder, finished / "checkpoint_last.pth")
    ground.refuses(*parts, arguments=("--checkpoint", path, *MODES[mode]))
    assert not (ground.folder / "pwned").exists()  # nothing in a file is ever run


@pytest.mark.parametrize("mode", ["train", "evaluate"])
def test_tensors_of_strangers_are_refused(ground, mode):
    path = saved(ground.folder, {"model": {"conv1.weight": torch.zeros(3)}})
    parts = ("wrong.pth matches only 0 of", "conv1.weight: no such parameter", "check bert_config")
    ground.refuses(*parts, arguments=("--checkpoint", path, *MODES[mode]))


@pytest.mark.parametrize("mode", MODES)
def test_a_checkpoint_of_another_width_is_refused(ground, finished, mode):
    wider = ("vision_width=64", "bert_config.encoder_width=64")
    checkpoint = finished / "checkpoint_last.pth"
    ground.refuses(str(checkpoint), arguments=("--checkpoint", checkpoint, *MODES[mode]), settings=wider)


def test_a_senseless_configuration_in_a_checkpoint_is_not_trusted(ground, finished):
    content = torch.load(finished / "checkpoint_best.pth", weights_only=True)
    path = saved(ground.folder, {**content, "config": {"image_res": [32, 16], "patch_size": 0}})
    assert ground.retrieve("--evaluate", "--checkpoint", path, settings=("text_encoder=from_captions",)).code == 0


# ---- resuming and output folders -------------------------------------------------------


def test_training_does_not_start_in_a_folder_that_holds_a_run(ground, run_folder):
    ground.refuses("holds a run (checkpoint_last.pth); add --resume to go on with it, or name another folder")


def test_another_run_is_not_resumed_over_the_one_in_the_folder(ground, run_folder, finished):
    ground.refuses(
        "holds a run", "leave out --checkpoint",
        arguments=("--resume", "--checkpoint", finished / "checkpoint_last.pth"), settings=("max_steps=4",),
    )


def test_resuming_needs_the_state_of_the_optimizer(ground, finished):
    ground.refuses(
        "holds no interrupted run; resume from a checkpoint_last.pth",
        arguments=("--resume", "--checkpoint", finished / "checkpoint_best.pth"),
    )


def test_resuming_with_another_model_is_refused(ground, run_folder):
    ground.refuses(
        "was made with another configuration", "resume with the config.yaml of its run",
        arguments=("--resume",), settings=("embed_dim=8",),
    )


# two of four steps are done: with twice the batch none would be left, with half of it samples would come again
@pytest.mark.parametrize(("batch", "steps"), [(16, 2), (4, 8)])
def test_resuming_within_an_epoch_needs_steps_of_the_same_size(ground, run_folder, batch, steps):
    ground.refuses(
        f"stopped after step 2 of 4 in an epoch, which here has {steps}", "batch_size_train",
        arguments=("--resume",), settings=(f"batch_size_train={batch}", "max_steps=4"),
    )


@pytest.mark.parametrize(
    "change",
    [
        {"step": "x"}, {"next_iteration": -1}, {"next_iteration": 4}, {"optimizer": {}}, {"optimizer": [1]},
        {"best": None}, {"next_epoch": None},
    ],
    ids=str,
)
def test_a_damaged_state_of_a_run_is_refused_and_the_run_left_alone(ground, run_folder, change):
    last = run_folder / "checkpoint_last.pth"
    torch.save({**torch.load(last, weights_only=True), **change}, last)
    ground.refuses("checkpoint_last.pth", arguments=("--resume",), settings=("max_steps=4",))


def test_a_finished_run_is_not_resumed_elsewhere_without_its_best_model(ground, finished):
    ground.refuses(
        "is finished", "does not hold its checkpoint_best.pth",
        arguments=("--resume", "--checkpoint", finished / "checkpoint_last.pth"),
    )


def test_a_run_resumed_in_a_new_folder_chooses_its_best_model_there(ground, finished):
    content = torch.load(finished / "checkpoint_last.pth", weights_only=True)
    path = saved(ground.folder, {**content, "best": 100.0})  # can never be exceeded
    ending = ground.retrieve("--resume", "--checkpoint", path, settings=("max_steps=4",))
    assert ending.code == 0, ending.errors
    assert torch.load(ground.output / "checkpoint_best.pth", weights_only=True)["step"] == 4
    assert (ground.output / "metrics.json").exists()


@pytest.mark.parametrize("mode", ["train", "evaluate"])
def test_an_output_folder_that_cannot_be_is_refused_before_any_work(ground, finished, mode):
    occupied = ground.write("occupied", "x")
    arguments = ("--checkpoint", finished / "checkpoint_best.pth", *MODES[mode])
    for output in (occupied, occupied / "below"):
        ground.refuses(f"--output_dir {output}", "is not a folder", arguments=arguments, output=output)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that takes no files")
def test_an_output_folder_that_takes_no_files_is_refused(ground):
    ground.refuses("/proc/output", output=Path("/proc/output"))


# ---- odd but valid ---------------------------------------------------------------------


def metrics_of(ground: Ground, finished: Path, *settings: str) -> dict:
    ending = ground.retrieve("--evaluate", "--checkpoint", finished / "checkpoint_best.pth", settings=settings)
    assert ending.code == 0, ending.errors
    return json.loads((ground.output / "metrics.json").read_text())


def test_no_candidates_means_no_second_stage(ground, finished):
    assert set(metrics_of(ground, finished, "k_test=0")) == {"stage1"}


def test_more_candidates_than_images_are_all_images(ground, finished):
    assert metrics_of(ground, finished, "k_test=1000") == metrics_of(ground, finished, "k_test=8")


def test_evaluation_does_not_depend_on_its_batch_size(ground, finished):
    one, many = (metrics_of(ground, finished, f"batch_size_test={size}") for size in (1, 64))
    assert one == many


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_the_least_and_the_greatest_seed_train(ground, seed):
    ending = ground.retrieve("--seed", str(seed))
    assert ending.code == 0, ending.errors


def test_seeds_differ_in_all_of_their_bits(ground):
    losses = []
    for seed in (0, 2**31):
        output = ground.folder / str(seed)
        ground.retrieve("--seed", str(seed), output=output)
        losses.append(json.loads((output / "log.txt").read_text())["train"]["total"])
    assert losses[0] != losses[1]


# ---- the other commands ----------------------------------------------------------------

PREPARE = {
    "unknown name": (("CUHK", "."), "data set 'CUHK' is not known (did you mean 'CUHK-PEDES'?)"),
    "missing folder": (("CUHK-PEDES", "nowhere"), "nowhere does not exist"),
    "no annotations": (("CUHK-PEDES", "."), "reid_raw.json does not exist; put the annotations"),
    "no held out identities": (("CUHK-PEDES", ".", "--val-identities", "-3"), "must be at least 1, found -3"),
    "no workers": (("CUHK-PEDES", ".", "--workers", "0"), "must be at least 1, found 0"),
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
        (("-m", "evaluation.report", "/nowhere"), {}, "/nowhere holds none of log.txt"),
    ],
    ids=["configuration", "environment", "prepare", "synthetic", "report"],
)
def test_a_real_command_ends_with_one_line_and_2(command, variables, part):
    done = run(sys.executable, *command, check=False, **variables)
    check_refusal(Ending(done.returncode, done.stderr), part)
    assert done.stdout == ""


def test_a_tokenizer_that_cannot_be_reached_is_refused(benchmark, tmp_path):
    done = run(
        sys.executable, "Retrieval.py", "--config", "configs/demo.yaml", "--output_dir", tmp_path / "output",
        "--text_encoder", "no-such-owner/no-such-model", "--set", *SMALL, *data_settings(benchmark), check=False,
    )
    part = "tokenizer no-such-owner/no-such-model is neither a folder here nor reachable on the model hub"
    check_refusal(Ending(done.returncode, done.stderr), part)
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("script", "arguments", "variables", "part"),
    [
        ("cuhk_train.sh", (), {"GPUS": "many"}, "GPUS=many: give the number of processes"),
        ("cuhk_train.sh", (), {"GPUS": "0"}, "GPUS=0: give the number of processes"),
        ("rstp-eval.sh", (), {"MARS_ENV": "/nowhere"}, "MARS_ENV=/nowhere is not a virtual environment"),
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
    check_refusal(Ending(done.returncode, done.stderr), "cannot make a virtual environment")
    assert f"-m venv {tmp_path / '.venv'}" in (tmp_path / "python.calls").read_text()
