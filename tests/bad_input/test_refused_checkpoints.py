"""Wrong checkpoints, runs that cannot be resumed, folders that cannot be written."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from utils.checkpoints.files import save_checkpoint

# ---- checkpoints -----------------------------------------------------------------------


class Code:
    """Pickled, it asks for a command to be run when it is read."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def saved(folder: Path, content: object) -> Path:
    if isinstance(content, dict):
        content = {key: value for key, value in content.items() if key != "format"}  # as another program writes it
    torch.save(content, folder / "wrong.pth")
    return folder / "wrong.pth"


def written(folder: Path, content: bytes) -> Path:
    (folder / "wrong.pth").write_bytes(content)
    return folder / "wrong.pth"


CHECKPOINTS = {
    "missing": (lambda folder, good: folder / "nothing.pth", "nothing.pth does not exist"),
    "a folder": (lambda folder, good: good.parent, "is a folder"),
    "a device": (lambda folder, good: Path("/dev/null"), "checkpoint /dev/null is not a file"),
    "text": (lambda folder, good: written(folder, b"hello world\n" * 99), "damaged, cut off, or not a checkpoint"),
    "zero bytes": (lambda folder, good: written(folder, b""), "damaged, cut off, or not a checkpoint"),
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
    ground.refuses("holds checkpoint_last.pth of another run; add --resume to go on with it, or name another folder")


@pytest.mark.parametrize("kept", ["checkpoint_best.pth", "metrics.json", "rankings.npz"])
def test_training_replaces_nothing_of_another_run(ground, run_folder, kept):
    for path in run_folder.iterdir():
        if path.name != kept and path.is_file():
            path.unlink()
    ground.refuses(f"holds {kept} of another run; name another folder")


def test_evaluation_does_not_replace_the_results_of_another_run(ground, run_folder, finished):
    path = finished / "checkpoint_best.pth"
    ground.refuses("checkpoint_last.pth of another run", arguments=("--evaluate", "--checkpoint", path))


def test_evaluation_may_replace_results_of_its_own_run_and_of_evaluations(ground, run_folder, finished):
    for output, checkpoint in ((run_folder, run_folder), (ground.folder / "results", finished)):
        for candidates in (0, 2):
            arguments = ("--evaluate", "--checkpoint", checkpoint / "checkpoint_best.pth")
            ending = ground.retrieve(*arguments, settings=(f"k_test={candidates}",), output=output)
            assert ending.code == 0, ending.errors
            stages = json.loads((output / "metrics.json").read_text()).keys() - {"ceiling"}
            assert len(stages) == (2 if candidates else 1)


def test_resuming_without_a_run_says_how_to_begin_one(ground):
    ground.refuses("checkpoint_last.pth does not exist; leave out --resume", arguments=("--resume",))


@pytest.mark.parametrize(
    ("trained", "evaluated"),
    [
        ((), ("bert_config.full_ca=false",)),
        (("vision_depth=2",), ("vision_depth=1",)),
        (("bert_config.num_hidden_layers=3",), ("bert_config.num_hidden_layers=2",)),
    ],
)
def test_a_checkpoint_of_a_larger_model_is_not_evaluated(ground, trained, evaluated):
    ending = ground.retrieve(settings=trained)
    assert ending.code == 0, ending.errors
    arguments = ("--evaluate", "--checkpoint", ground.output / "checkpoint_best.pth")
    part = "tensors that the configured model does not have"
    ground.refuses(part, arguments=arguments, settings=evaluated, output=ground.folder / "results", alone=False)


def test_evaluation_at_another_size_than_training_is_said(ground, finished):
    arguments = ("--evaluate", "--checkpoint", finished / "checkpoint_best.pth")
    ending = ground.retrieve(*arguments, settings=("image_res=[64,32]", "max_words=20"))
    assert ending.code == 0
    assert "was trained with image_res [32, 16], and is evaluated with [64, 32]" in ending.errors
    assert "was trained with max_words 40, and is evaluated with 20" in ending.errors


@pytest.mark.parametrize(
    ("flag", "here"), [("--evaluate", "is evaluated with"), ("--dry_run", "this run starts from it with")]
)
def test_heads_that_no_shape_tells_are_said_where_they_differ(ground, finished, flag, here):
    arguments = (flag, "--checkpoint", finished / "checkpoint_best.pth")
    ending = ground.retrieve(*arguments, settings=("vision_heads=1",), output=ground.folder / "other")
    assert ending.code == 0, ending.errors
    assert f"was trained with vision_heads 2, and {here} 1" in ending.errors
    assert "was trained with" not in ground.retrieve(*arguments, output=ground.folder / "same").errors


def test_another_run_is_not_resumed_over_the_one_in_the_folder(ground, run_folder, finished):
    ground.refuses(
        "of another run",
        "leave out --checkpoint",
        arguments=("--resume", "--checkpoint", finished / "checkpoint_last.pth"),
        settings=("max_steps=4",),
    )


def test_resuming_needs_the_state_of_the_optimizer(ground, finished):
    ground.refuses(
        "holds no interrupted run; resume from a checkpoint_last.pth",
        arguments=("--resume", "--checkpoint", finished / "checkpoint_best.pth"),
    )


def test_resuming_with_another_model_is_refused(ground, run_folder):
    ground.refuses(
        "was made with another configuration: another embed_dim (16 there, 8 here); the settings of its run, from",
        arguments=("--resume",),
        settings=("embed_dim=8",),
    )


def test_resuming_with_another_image_encoder_names_it(ground, run_folder):
    ground.refuses(
        "another image_encoder (vit there, vim here)", arguments=("--resume",), settings=("image_encoder=vim",)
    )


def test_when_both_checkpoints_are_damaged_both_are_named(ground, run_folder):
    for name in ("checkpoint_last.pth", "checkpoint_previous.pth"):
        (run_folder / name).write_bytes(b"no checkpoint")
    ground.refuses(
        "checkpoint_last.pth cannot be read",
        "checkpoint_previous.pth, the one before it, cannot be read either",
        arguments=("--resume",),
    )


def test_a_file_that_is_no_image_encoder_is_named_by_its_option(ground):
    ground.write("wrong.pth", "no checkpoint")
    ground.refuses("vision_checkpoint wrong.pth cannot be read", arguments=("--vision_checkpoint", "wrong.pth"))
    ground.refuses("vision_checkpoint none.pth does not exist", arguments=("--vision_checkpoint", "none.pth"))


# two of four steps are done: with twice the batch none would be left, with half of it samples would come again
@pytest.mark.parametrize(("batch", "steps"), [(16, 2), (4, 8)])
def test_resuming_within_an_epoch_needs_steps_of_the_same_size(ground, run_folder, batch, steps):
    ground.refuses(
        f"stopped after step 2 of 4 in an epoch, which here has {steps}",
        "batch_size_train",
        arguments=("--resume",),
        settings=(f"batch_size_train={batch}", "max_steps=4"),
    )


@pytest.mark.parametrize(
    "change",
    [
        {"step": "x"},
        {"next_iteration": -1},
        {"next_iteration": 5},
        {"optimizer": {}},
        {"optimizer": [1]},
        {"best": None},
        {"next_epoch": None},
        {"epoch_log": {}},
        {"seed": "x"},
        {"seed": -1},
        {"data": None},
        {"evaluated": []},
    ],
    ids=str,
)
def test_a_damaged_state_of_a_run_is_refused_and_the_run_left_alone(ground, run_folder, change):
    last = run_folder / "checkpoint_last.pth"
    save_checkpoint(last, {**torch.load(last, weights_only=True), **change})
    ground.refuses("checkpoint_last.pth", arguments=("--resume",), settings=("max_steps=4",))


def test_a_finished_run_is_not_resumed_elsewhere_without_its_best_model(ground, finished):
    ground.refuses(
        "is finished",
        "does not hold its checkpoint_best.pth",
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
