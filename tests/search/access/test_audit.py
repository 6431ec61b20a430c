"""The audit log: whole lines that nobody can forge, of every day, readable by its owner alone."""

import json
import os
import threading
from datetime import datetime, timedelta, timezone

import pytest

from search.access.audit import AuditLog
from search.access.callers import Caller
from utils.errors import Unavailable, UserError

ANNA = Caller("anna", frozenset({"search"}), "password", "192.0.2.7")
NOON = datetime(2026, 5, 4, 12, 0, 0, 131_000, timezone.utc)


def lines(path):
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


@pytest.fixture
def clock():
    return [NOON]


@pytest.fixture
def log(tmp_path, clock):
    return AuditLog(tmp_path / "audit.jsonl", days=3, now=lambda: clock[0])


def test_a_line_says_who_when_and_what(log):
    log.write("query", ANNA, text="a man", where="", hits=3)
    assert lines(log.path) == [
        {
            "time": "2026-05-04T12:00:00.131Z",
            "action": "query",
            "who": "anna",
            "by": "password",
            "address": "192.0.2.7",
            "text": "a man",
            "where": "",
            "hits": 3,
        }
    ]
    assert log.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text",
    [
        'x\n{"who": "otto"}',
        "x\r\n",
        "x\u2028y\u2029z\u0085",
        "\x00\x1b[2J",
        '"}\n',
        "\ud800",
        "😀" * 10_000,
        "\\n",
        "x" * 10**6,
    ],
)
def test_no_value_begins_a_line(log, text):
    log.write("query", ANNA, text=text)
    log.write("query", None, text="after")
    raw = log.path.read_bytes()
    assert raw.count(b"\n") == 2 and raw.isascii() and b"\r" not in raw and b"\x1b" not in raw
    first, second = lines(log.path)
    assert first["who"] == "anna" and second["who"] is None and len(raw) < 40_000


def test_lines_of_many_threads_are_whole(log):
    threads = [
        threading.Thread(target=lambda n=n: [log.write("query", ANNA, text=f"{n} " * 400) for _ in range(20)])
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(log.path)) == 160


def test_a_new_day_has_a_new_file_and_old_ones_go(log, clock, tmp_path):
    other = tmp_path / "audit-of-mine.jsonl"
    other.write_text("mine")
    for day in range(6):
        clock[0] = NOON + timedelta(days=day)
        log.write("query", ANNA, text=str(day))
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == [
        "audit-2026-05-06.jsonl",
        "audit-2026-05-07.jsonl",
        "audit-2026-05-08.jsonl",
        "audit-of-mine.jsonl",
        "audit.jsonl",
    ]
    assert [line["text"] for line in lines(log.path)] == ["5"]
    assert [line["text"] for line in lines(tmp_path / "audit-2026-05-08.jsonl")] == ["4"]


def test_a_log_of_a_former_day_is_put_aside_when_a_server_starts(tmp_path):
    path, before = tmp_path / "audit.jsonl", NOON.timestamp() - 24 * 3600
    path.write_text('{"old": 1}\n')
    path.chmod(0o600)
    os.utime(path, (before, before))
    (tmp_path / "audit-2026-05-03.jsonl").write_text("another one of that day")
    AuditLog(path, days=3, now=lambda: NOON).write("query", ANNA)
    assert (tmp_path / "audit-2026-05-03.2.jsonl").read_text() == '{"old": 1}\n' and len(lines(path)) == 1


def test_two_servers_may_write_to_one_file(log, clock, tmp_path):
    other = AuditLog(log.path, days=3, now=lambda: clock[0])
    for day in range(2):
        clock[0] = NOON + timedelta(days=day)
        for one in (log, other):
            one.write("query", ANNA, text=str(day))
    assert [line["text"] for line in lines(log.path)] == ["1", "1"]
    assert [line["text"] for line in lines(tmp_path / "audit-2026-05-04.jsonl")] == ["0", "0"]


def test_lines_are_added_to_those_that_are_there(log):
    log.write("query", ANNA)
    AuditLog(log.path, days=3, now=lambda: NOON).write("query", ANNA)
    assert len(lines(log.path)) == 2
    log.path.unlink()  # as another program that rotates logs
    log.write("query", ANNA)
    assert len(lines(log.path)) == 1 and log.path.stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_written_is_told(log, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(Unavailable, match="cannot be written: No space left"):
        log.write("query", ANNA)


def test_a_part_of_a_line_spoils_no_other(log, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: real(descriptor, line[:10]))
    with pytest.raises(Unavailable, match="the disk took 10 of"):
        log.write("query", ANNA)
    monkeypatch.setattr(os, "write", real)
    log.write("query", ANNA, text="after")
    part, whole, end = log.path.read_text().split("\n")
    assert len(part) == 10 and json.loads(whole)["text"] == "after" and end == ""


def test_a_part_of_a_line_of_a_server_that_is_gone_spoils_no_other(log):
    log.path.write_bytes(b'{"time": "2026-05-04T12:0')
    AuditLog(log.path, days=3, now=lambda: NOON).write("query", ANNA, text="after")
    part, whole, end = log.path.read_text().split("\n")
    assert part.startswith('{"time"') and json.loads(whole)["text"] == "after" and end == ""


def test_a_file_that_others_can_use_or_that_is_none_is_refused(tmp_path, log):
    log.path.chmod(0o644)
    with pytest.raises(Unavailable, match="can be used by others"):
        log.write("query", ANNA)
    with pytest.raises(UserError, match="can be used by others"):
        AuditLog(log.path, days=3)
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "pipe.jsonl", 0o600)
    (tmp_path / "folder.jsonl").mkdir()
    for name in ("link", "pipe", "folder"):
        with pytest.raises(UserError, match="--audit_log"):
            AuditLog(tmp_path / f"{name}.jsonl", days=3)
    assert not (tmp_path / "elsewhere").exists()
