"""One process at a time holds a lock, and none that is gone."""

import errno
import fcntl
import logging
import os
import signal
import threading
import time

import pytest

from utils.errors import UserError
from utils.locks import locked


def lock(folder):
    return locked(folder / "deep" / ".lock", "the folder", "wait")


def test_a_lock_is_held_until_the_block_ends_and_its_file_says_by_whom(tmp_path):
    for _ in range(2):
        with lock(tmp_path):
            with pytest.raises(UserError, match=rf"^the folder is in use by process {os.getpid()} on .+; wait$"):
                lock(tmp_path).__enter__()
            with pytest.raises(UserError):  # and that attempt has opened nothing
                lock(tmp_path).__enter__()
    assert os.listdir(tmp_path / "deep") == [".lock"]


def test_an_error_within_the_block_opens_it(tmp_path):
    with pytest.raises(ValueError, match="within"), lock(tmp_path):
        raise ValueError("within")
    with lock(tmp_path):
        pass


def test_who_waits_for_it_says_for_whom_and_gets_it(tmp_path, caplog):
    held, end = threading.Event(), threading.Event()

    def hold() -> None:
        with lock(tmp_path):
            held.set()
            end.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(30)
    threading.Timer(0.2, end.set).start()
    with caplog.at_level(logging.INFO), locked(tmp_path / "deep" / ".lock", "the folder", "", wait=True):
        assert end.is_set()
    assert f"the folder is in use by process {os.getpid()} on " in caplog.text
    holder.join()


def test_a_child_that_outlives_a_killed_holder_does_not_hold_it(tmp_path):
    receive, send = os.pipe()
    parent = os.fork()
    if parent == 0:
        with lock(tmp_path):
            child = os.fork()
            if child:
                os.write(send, b"%d" % child)
            time.sleep(60)
        os._exit(0)
    child = int(os.read(receive, 20))
    try:
        with pytest.raises(UserError, match=f"process {parent} "):
            lock(tmp_path).__enter__()
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        os.kill(child, 0)  # it is still there
        with lock(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(receive)
        os.close(send)


def test_a_lock_file_of_no_known_process_locks_too(tmp_path):
    with lock(tmp_path):
        (tmp_path / "deep" / ".lock").write_bytes(b"\xff")
        with pytest.raises(UserError, match=r"^the folder is in use by another process; wait$"):
            lock(tmp_path).__enter__()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_there_is_a_warning_and_the_work_goes_on(tmp_path, monkeypatch, caplog, code):
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", fail)
    with lock(tmp_path):
        assert "the folder: no locks on this file system" in caplog.text
    assert os.listdir(tmp_path / "deep") == [".lock"]


def test_a_lock_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / ".lock").mkdir()
    with (
        pytest.raises(UserError, match=r"^x: cannot lock .*\.lock: Is a directory"),
        locked(tmp_path / ".lock", "x", ""),
    ):
        pytest.fail("locked")
