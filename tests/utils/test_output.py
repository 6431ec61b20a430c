"""How a command ends whose output cannot be written, is not read to its end, or is closed."""

import io
import os
import sys

import pytest

from utils.errors import run_command_line
from utils.files import as_json


def opened(number: int, buffered: bool) -> io.TextIOWrapper:
    """A stream as Python makes it of a file's number; not buffered with PYTHONUNBUFFERED=1."""
    raw = io.FileIO(number, "w")
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8") if buffered else io.TextIOWrapper(raw, write_through=True)


def ended(main) -> int:
    with pytest.raises(SystemExit) as end:
        run_command_line(main)
    return end.value.code


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize(
    "main",
    [lambda: print("a word"), lambda: print("many words " * 10_000), lambda: sys.exit(print("a help text"))],
    ids=["short", "long", "as --help"],
)
def test_a_reader_that_has_gone_is_no_error(monkeypatch, capsys, main, buffered):
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "stdout", opened(writer, buffered))
    assert ended(main) == 141
    sys.stdout.close()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("words", ["a word", "many words " * 10_000], ids=["short", "long"])
def test_a_full_disk_is_one_line(monkeypatch, capsys, words):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert ended(lambda: print(words)) == 2
    assert capsys.readouterr().err == "error: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_closed_output_is_no_error(monkeypatch, name):
    monkeypatch.setattr(sys, name, None)
    assert ended(lambda: print(as_json(["é"], encoding=sys.stdout.encoding), file=getattr(sys, name))) == 0
    getattr(sys, name).close()


def test_a_pipe_to_another_process_that_breaks_is_told_in_full(capsys):
    def main():
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        run_command_line(main)
