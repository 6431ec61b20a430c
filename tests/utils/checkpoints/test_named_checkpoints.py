"""Checkpoints of the repository are meant by their names, and a wrong name is met with the right one."""

import pytest

from utils.checkpoints import named
from utils.checkpoints.files import read_checkpoint
from utils.checkpoints.named import checkpoint_path
from utils.errors import UserError


@pytest.fixture(autouse=True)
def ours(tmp_path, monkeypatch):
    """The folder of the repository's checkpoints, and an empty one to work in."""
    folder, work = tmp_path / "checkpoints", tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    (folder / "demo_start.safetensors").touch()
    monkeypatch.setattr(named, "STARTS", folder)
    monkeypatch.chdir(work)
    return folder


def test_what_is_there_goes_before_what_the_repository_has(ours, tmp_path):
    assert checkpoint_path("demo_start") == ours / "demo_start.safetensors"
    (tmp_path / "work" / "demo_start").mkdir()
    assert str(checkpoint_path("demo_start")) == "demo_start"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("demo_strat", " (did you mean 'demo_start'?)"),
        ("elsewhere/demo_strat", ""),  # a path: no name of the repository's
        ("bets.pth", " (did you mean 'best.pth'?)"),
    ],
)
def test_a_wrong_name_is_met_with_the_right_one(name, hint, tmp_path):
    (tmp_path / "work" / "best.pth").touch()
    with pytest.raises(UserError) as told:
        read_checkpoint(checkpoint_path(name))
    assert str(told.value) == f"checkpoint {name} does not exist{hint}"
