"""Files are whole or not there."""

import json
import os

import pytest

from utils.errors import UserError
from utils.files import as_json, atomic_write, read_json, require_writable_file, require_writable_folder, write_json


def test_a_new_file_and_its_folders_appear(tmp_path):
    with atomic_write(tmp_path / "a" / "b" / "c.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "new"
    assert os.listdir(tmp_path / "a" / "b") == ["c.txt"]


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        temporary.write_text("whole")
    assert path.read_text() == "whole"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, UserError])
def test_a_failure_leaves_the_old_file_and_no_temporary(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error("stop")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_failure_without_an_old_file_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="stop"), atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise ValueError("stop")
    assert os.listdir(tmp_path) == []


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(UserError, match="cannot write"), atomic_write(path):
        pass
    assert path.read_text() == "old"


def test_a_failed_move_leaves_no_temporary(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot write"), atomic_write(tmp_path / "folder") as temporary:
        temporary.write_text("x")
    assert os.listdir(tmp_path) == ["folder"]


def test_a_file_cannot_be_written_below_a_file(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(UserError, match=r"cannot write .*b\.txt"), atomic_write(tmp_path / "a" / "b.txt"):
        raise AssertionError("the block is not entered")


def test_json_is_read_as_it_was_written(tmp_path):
    value = {"name": "\u00e4\u4f60", "numbers": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", value, indent=1)
    assert read_json(tmp_path / "a.json", "thing") == value


def test_what_is_no_json_value_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {1, 2})
    assert read_json(tmp_path / "a.json", "thing") == 1
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"9" * 5000, "is not valid JSON"),
        (b"\xff", "cannot be read"),
        (None, "does not exist"),
    ],
    ids=["cut off", "too deep", "too long a number", "not UTF-8", "missing"],
)
def test_unreadable_json_is_told_by_its_role_and_name(tmp_path, content, message):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"^thing {path} {message}"):
        read_json(path, "thing")


def test_a_folder_that_can_be_made_is_fine_and_is_not_made(tmp_path):
    require_writable_folder(tmp_path, "output")
    require_writable_folder(tmp_path / "a" / "b", "output")
    assert os.listdir(tmp_path) == []


def test_a_folder_at_or_below_a_file_is_refused(tmp_path):
    (tmp_path / "a").write_text("x")
    for folder in (tmp_path / "a", tmp_path / "a" / "b" / "c"):
        with pytest.raises(UserError, match=f"^output {folder}: {tmp_path / 'a'} is not a folder"):
            require_writable_folder(folder, "output")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"):
        require_writable_folder(tmp_path / "a", "output")
    tmp_path.chmod(0o700)


def test_a_folder_without_permission_is_refused_to_everybody(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=f"cannot be written: no permission in {tmp_path}"):
        require_writable_folder(tmp_path / "a", "output")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("name", ["a.jpg", "größe.jpg", "日本語.jpg", "😀.jpg", "caf\udce9.jpg"])
def test_json_can_be_written_and_read_in_every_encoding(encoding, name):
    assert json.loads(as_json({"path": name}, encoding=encoding).encode(encoding).decode(encoding)) == {"path": name}


def test_json_keeps_the_letters_that_there_are():
    assert as_json(["größe", "日本語"]) == '["größe", "日本語"]'
    assert as_json(["größe"], encoding="latin-1") == '["größe"]'


def test_a_name_that_is_not_utf8_is_read_as_it_was_written(tmp_path):
    write_json(tmp_path / "a.json", "caf\udce9")
    assert read_json(tmp_path / "a.json", "file") == "caf\udce9"


def test_a_file_that_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("x")
    (tmp_path / "folder").mkdir()
    for path, why in (
        (tmp_path / "folder", "is a folder; name a file"),
        (tmp_path / "a" / "b.png", f"cannot be written: {tmp_path / 'a'} is not a folder"),
        (tmp_path / "a" / "b" / "c.png", f"cannot be written: {tmp_path / 'a'} is not a folder"),
    ):
        with pytest.raises(UserError, match=f"^--sheet {path} {why}"):
            require_writable_file(path, "--sheet")
    require_writable_file(tmp_path / "a", "--sheet")  # replaced as a whole
    require_writable_file(tmp_path / "new" / "b.png", "--sheet")
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=f"b.png cannot be written: no permission in {tmp_path}, or its disk"):
        require_writable_file(tmp_path / "b.png", "--sheet")
