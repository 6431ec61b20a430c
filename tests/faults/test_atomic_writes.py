"""Files survive full and failing disks, and processes that are killed while they write."""

import contextlib
import errno
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from utils import files
from utils.checkpoints.files import read_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.files import atomic_write, machine, read_json, remove_leftovers, write_json

pytestmark = pytest.mark.promise("Atomic files")

FOLDER = Path(__file__).resolve().parent


def state(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- killed processes ------------------------------------------------------------------


def killed(folder: Path, how: str) -> dict:
    command = [sys.executable, FOLDER / "killed_writer.py", folder, how]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_two_hundred_kills_at_random_moments_lose_nothing(tmp_path, trials):
    trial = trials("killed while it writes checkpoints", 200)
    found = killed(tmp_path, "200")
    assert found["problems"] == []
    assert found["kills"] == 200
    assert found["within_a_file"] > 20  # else the moments were not those that matter
    assert found["acknowledged"] > 20
    trial.survive(found["kills"])


def test_a_kill_before_or_after_any_step_loses_nothing(tmp_path, trials):
    trial = trials("killed before or after a system call of it", 80)
    found = killed(tmp_path, "steps")
    assert found["problems"] == []
    assert found["kills"] > 30
    assert found["went_back"] > 0  # without hard links there is a moment with the one before alone
    trial.measure("killed", found["kills"], "times")  # the others had ended before that call
    trial.survive(80)


# ---- failing disks ---------------------------------------------------------------------


@contextlib.contextmanager
def failing(monkeypatch, name: str, number: int, code: int, only_folders: bool = False) -> Iterator[None]:
    """A function of `os` fails when it is called for the `number`-th time."""
    function, calls = getattr(os, name), iter(range(10**9))

    def fail(*arguments, **more):
        is_meant = not only_folders or stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
        if is_meant and next(calls) == number:
            raise OSError(code, os.strerror(code))
        return function(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, name, fail)
        yield


FAILURES = {
    "file is not flushed": ("fsync", 0, errno.EIO, "Input/output error; check the disk"),
    "file is not flushed to a full disk": ("fsync", 0, errno.ENOSPC, "No space left on device; free space there"),
    "names are not flushed": ("fsync", 1, errno.EIO, "Input/output error; check the disk"),
    "new name is refused": ("replace", 0, errno.EACCES, "Permission denied; name another place"),
    "new name has no space": ("replace", 0, errno.ENOSPC, "No space left on device; free space there"),
    "second name has no space": ("link", 0, errno.ENOSPC, "No space left on device; free space there"),
}


@pytest.mark.parametrize("keeps", [False, True], ids=["alone", "with the one before"])
@pytest.mark.parametrize("case", FAILURES)
def test_a_failing_disk_is_told_and_leaves_the_files_as_they_were(tmp_path, monkeypatch, case, keeps):
    name, number, code, message = FAILURES[case]
    previous = tmp_path / "before.json" if keeps else None
    for text in ("oldest", "older", "old"):
        with atomic_write(tmp_path / "a.json", previous) as temporary:
            temporary.write_text(text)
    before = state(tmp_path)
    kept = r"; the earlier a\.json there is whole$"
    with (
        failing(monkeypatch, name, number, code),
        pytest.raises(UserError, match=rf"^cannot write {tmp_path}/a\.json: {message}{kept}"),
        atomic_write(tmp_path / "a.json", previous) as temporary,
    ):
        temporary.write_text("new")
    assert state(tmp_path) == before


@pytest.mark.parametrize("case", [case for case in FAILURES if "second" not in case])
def test_a_failing_disk_leaves_no_first_file(tmp_path, monkeypatch, case):
    name, number, code, message = FAILURES[case]
    with (
        failing(monkeypatch, name, number, code),
        pytest.raises(UserError, match=rf"^cannot write {tmp_path}/a\.json: {message}$"),
    ):
        write_json(tmp_path / "a.json", 1)
    assert state(tmp_path) == {}


@pytest.mark.parametrize("number", [0, 1, 2])
def test_without_hard_links_a_failing_disk_leaves_a_whole_file_too(tmp_path, monkeypatch, number):
    last, previous = tmp_path / "a.json", tmp_path / "before.json"
    for text in ("older", "old"):
        with atomic_write(last, previous) as temporary:
            temporary.write_text(text)
    with (
        failing(monkeypatch, "link", 0, errno.EOPNOTSUPP),
        failing(monkeypatch, *(("replace", number) if number < 2 else ("fsync", 1)), errno.EIO),
        pytest.raises(UserError, match="cannot write"),
        atomic_write(last, previous) as temporary,
    ):
        temporary.write_text("new")
    assert last.read_text() == "old"


def test_a_file_that_was_replaced_but_cannot_be_kept_is_told(tmp_path, monkeypatch):
    for text in ("older", "old"):
        with atomic_write(tmp_path / "a", tmp_path / "b") as temporary:
            temporary.write_text(text)
    message = "is written, but what it replaced cannot be kept as .*b: Input/output error"
    with (
        failing(monkeypatch, "replace", 1, errno.EIO),
        pytest.raises(UserError, match=message),
        atomic_write(tmp_path / "a", tmp_path / "b") as temporary,
    ):
        temporary.write_text("new")
    assert state(tmp_path) == {"a": b"new", "b": b"older"}


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_disks_that_cannot_flush_names_are_written_to(tmp_path, monkeypatch, code):
    with failing(monkeypatch, "fsync", 0, code, only_folders=True):
        write_json(tmp_path / "a.json", 1)
    assert state(tmp_path) == {"a.json": b"1\n"}


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_after(tmp_path, monkeypatch):
    steps = []

    def note(name, function):
        def noted(*arguments, **more):
            is_folder = name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            steps.append("fsync folder" if is_folder else name)
            return function(*arguments, **more)

        monkeypatch.setattr(files.os, name, noted)

    for name in ("fsync", "replace"):
        note(name, getattr(os, name))
    write_json(tmp_path / "a.json", 1)
    assert steps == ["fsync", "replace", "fsync folder"]


LIMITED = """
import resource, sys
from utils.files import write_json
from utils.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_json(sys.argv[1], ["x" * 5000])
except UserError as error:
    print(error)
"""


def test_a_file_that_may_not_grow_is_told(tmp_path):
    write_json(tmp_path / "a.json", 1)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "a.json")], capture_output=True, text=True, cwd=FOLDER.parents[1]
    )
    limit = "File too large; files may not grow so large there (see ulimit -f)"
    assert done.stdout == f"cannot write {tmp_path}/a.json: {limit}; the earlier a.json there is whole\n"
    assert state(tmp_path) == {"a.json": b"1\n"}


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of one megabyte; tests are skipped where none may be made."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"a small disk cannot be made here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def content_of(megabytes: float) -> dict:
    return {"model": {"a": torch.ones(int(megabytes * 2**18))}, "step": 1}


# of a disk of one megabyte, 0.7 of which are in use: too large for it, too large beside the others, by a little
@pytest.mark.parametrize("size", [3.0, 0.5, 0.3])
def test_a_full_disk_is_told_and_leaves_the_checkpoints_as_they_were(small_disk, size):
    last, previous = small_disk / "last.pth", small_disk / "previous.pth"
    for _ in range(2):
        save_checkpoint(last, content_of(0.35), previous)
    before = state(small_disk)
    kept = r"free space there; the earlier last\.pth there is whole"
    with pytest.raises(UserError, match=rf"^cannot write {last}: .*; {kept}$"):
        save_checkpoint(last, {**content_of(size), "step": 2}, previous)
    assert state(small_disk) == before
    previous.unlink()
    save_checkpoint(last, {**content_of(0.3), "step": 3}, previous)  # with space there, it goes on
    assert (read_checkpoint(last)["step"], read_checkpoint(previous)["step"]) == (3, 1)


def test_a_disk_that_is_full_at_any_point_of_a_file_leaves_the_earlier_one(small_disk, trials):
    trial = trials("disk full at a point of a file", 60)
    last = small_disk / "last.pth"
    save_checkpoint(last, content_of(0.2))
    before, endings = last.read_bytes(), []
    for blocks in range(140, 200):  # of 4096 bytes, of 256: from enough space for another file to hardly any
        (small_disk / "filler").write_bytes(bytes(4096 * blocks))
        try:
            save_checkpoint(last, content_of(0.2))
            endings.append("written")
        except UserError as error:
            endings.append(str(error).rpartition("; free space there; ")[2])
        assert last.read_bytes() == before
        assert sorted(os.listdir(small_disk)) == ["filler", "last.pth"]
        trial.survive()
    assert set(endings) == {"written", "the earlier last.pth there is whole"}
    assert endings == sorted(endings, reverse=True)


# ---- what killed processes leave -------------------------------------------------------


@pytest.fixture(scope="module")
def gone() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text("x")


def test_files_of_a_process_that_is_gone_are_removed(tmp_path, gone):
    names = [f".{name}.{machine()}-{gone}.tmp" for name in ("a.pth", "a.pth.old", "\u00e4 b")]
    write(tmp_path, *names, "a.pth")
    assert remove_leftovers(tmp_path) == sorted(names)
    assert os.listdir(tmp_path) == ["a.pth"]
    assert remove_leftovers(tmp_path) == []


def test_files_of_a_process_that_runs_stay(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        names = [f".a.pth.{machine()}-{process.pid}.tmp", f".a.pth.{machine()}-1.tmp"]
        write(tmp_path, *names)
        assert remove_leftovers(tmp_path) == []
        process.stdin.close()
    assert remove_leftovers(tmp_path) == names[:1]


def test_files_of_a_process_that_has_ended_and_was_not_asked_for_its_end_are_removed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        name = f".a.pth.{machine()}-{process.pid}.tmp"
        write(tmp_path, name)
        assert remove_leftovers(tmp_path) == []
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
        assert remove_leftovers(tmp_path) == [name]


def test_the_file_that_this_process_writes_stays_and_older_ones_of_its_number_do_not(tmp_path):
    older = f".b.{machine()}-{os.getpid()}.tmp"
    write(tmp_path, older)
    with atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("x")
        assert remove_leftovers(tmp_path) == [older]
    assert os.listdir(tmp_path) == ["a"]


def test_two_at_a_time_write_one_file_whole_and_the_last_one_stays(tmp_path):
    with atomic_write(tmp_path / "a") as first:
        first.write_text("begun first")
        with atomic_write(tmp_path / "a") as second:
            second.write_text("done first")
            assert remove_leftovers(tmp_path) == []
        assert (tmp_path / "a").read_text() == "done first" and first.read_text() == "begun first"
        assert remove_leftovers(tmp_path) == []
    assert (tmp_path / "a").read_text() == "begun first"
    assert os.listdir(tmp_path) == ["a"]


def test_threads_that_write_one_file_leave_it_whole(tmp_path):
    def write_often(text: str) -> None:
        for _ in range(20):
            write_json(tmp_path / "a.json", text * 10_000)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write_often, "abcd"))
    assert read_json(tmp_path / "a.json", "file") in [letter * 10_000 for letter in "abcd"]
    assert os.listdir(tmp_path) == ["a.json"]


def test_files_of_another_machine_stay_for_a_day(tmp_path, gone, monkeypatch):
    name = f".a.0123abcd-{gone}.tmp"
    write(tmp_path, name)
    now = time.time()
    monkeypatch.setattr(files.time, "time", lambda: now + 23 * 3600)
    assert remove_leftovers(tmp_path) == []
    monkeypatch.setattr(files.time, "time", lambda: now + 25 * 3600)
    assert remove_leftovers(tmp_path) == [name]


def test_the_name_of_a_temporary_file_is_one_that_is_found(tmp_path):
    with atomic_write(tmp_path / "a.pth") as temporary:
        temporary.write_text("x")
        assert files.TEMPORARY.fullmatch(temporary.name)
    assert files.TEMPORARY.fullmatch(files.temporary_beside(Path("x.old")).name)


def test_nothing_else_is_ever_removed(tmp_path, gone):
    here = machine()
    names = [
        f"a.pth.{here}-{gone}.tmp",
        f".a.pth.{here}-{gone}.tmp.pth",
        f".a.pth.{here}-{gone}.TMP",
        f".{here}-{gone}.tmp",
        f".a.pth.{here}-{gone}",
        f".a.pth.{here}-{gone}x.tmp",
        f".a.pth.{here}-0{gone}.tmp",
        f".a.pth.{here}-.tmp",
        f".a.pth.{here.upper()}0-{gone}.tmp",
        f".a.pth.{here[:7]}-{gone}.tmp",
        f".a.pth.{here}{gone}.tmp",
        ".a.pth.tmp",
        f".notes.{gone}.tmp",
        ".notes.2024.tmp",
        "checkpoint_last.pth",
        ".tmp",
        f".a.pth.{here}-{gone}.tmp\n",
    ]
    write(tmp_path, *names)
    (tmp_path / f".folder.{here}-{gone}.tmp").mkdir()
    (tmp_path / f".link.{here}-{gone}.tmp").symlink_to(tmp_path / "checkpoint_last.pth")
    before = sorted(os.listdir(tmp_path))
    assert remove_leftovers(tmp_path) == []
    assert sorted(os.listdir(tmp_path)) == before


def test_where_there_is_no_folder_there_are_no_leftovers(tmp_path):
    assert remove_leftovers(tmp_path / "nowhere") == []
    write(tmp_path, "a")
    with pytest.raises(UserError, match=r"cannot clear temporary files in .*a: Not a directory"):
        remove_leftovers(tmp_path / "a")
