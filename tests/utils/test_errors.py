"""How a command ends that cannot do what it is asked for."""

import importlib
import io
import logging
import os
import subprocess
import sys

import pytest
from benchmark_data import REPOSITORY

from utils.errors import CommandParser, UserError, one_line, run_command_line
from utils.logs import TqdmHandler


def test_a_package_that_is_not_installed_is_named_in_a_line(capsys):
    with pytest.raises(SystemExit) as end:
        run_command_line(lambda: importlib.import_module("no_such_package.part") and 0)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the package no_such_package is not installed: requirements.txt has")


def test_a_module_of_a_package_that_is_there_is_missed_aloud():
    with pytest.raises(ModuleNotFoundError, match=r"utils\.no_such_module"):
        run_command_line(lambda: importlib.import_module("utils.no_such_module") and 0)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("name", ["日本語.jpg", "größe.jpg", "Ω😀.jpg", "caf\udce9.jpg"])
def test_a_name_that_the_terminal_has_no_letters_for_is_escaped(monkeypatch, encoding, stream, name):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, stream, terminal)
    with pytest.raises(SystemExit) as end:
        run_command_line(lambda: print(name, file=getattr(sys, stream)))
    terminal.flush()
    assert end.value.code == 0
    assert terminal.buffer.getvalue() == f"{name}\n".encode(encoding, "backslashreplace")


def test_a_name_that_the_system_cannot_use_is_a_line(capsys):
    with pytest.raises(SystemExit) as end:
        run_command_line(lambda: "日本".encode("latin-1") and 0)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: latin-1 has no letters for '\\u65e5\\u672c'; set PYTHONUTF8=1")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb.jpg", "a\\x1b[31mb.jpg"),
        ("a\nb\r\nc", "a b c"),
        ("a\x07\u202eb\udce9", "a\\x07\\u202eb\\udce9"),
        ("größe 日本語\u00a0😀", "größe 日本語\u00a0😀"),
    ],
)
def test_a_terminal_obeys_no_name_of_a_file(capsys, text, shown):
    def main():
        raise UserError(text)

    with pytest.raises(SystemExit):
        run_command_line(main)
    assert capsys.readouterr().err == f"error: {shown}\n" and one_line(text) == shown
    TqdmHandler().emit(logging.LogRecord("", logging.WARNING, "", 0, text, (), None))
    assert "\x1b" not in capsys.readouterr().err


def test_a_home_folder_that_cannot_be_written_is_not_spoken_of(tmp_path):
    """As in a container that runs as another user."""
    script = "from utils.logs import set_up_logging; set_up_logging(True); import matplotlib; matplotlib.get_cachedir()"
    (tmp_path / "file").touch()
    there = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "file" / "home"), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=there, cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def parse(monkeypatch, *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["command", *words])
    parser = CommandParser(prog="command")
    commands = parser.add_subparsers(required=True)
    forget = commands.add_parser("forget")
    forget.add_argument("images", nargs="*")
    forget.add_argument("--gallery")
    query = commands.add_parser("query")
    query.add_argument("text")
    query.add_argument("--gallery")
    with pytest.raises(UserError) as told:
        parser.parse_args(list(words))
    return str(told.value)


def test_a_sentence_without_quotes_is_told_to_have_some(monkeypatch):
    said = parse(monkeypatch, "query", "a", "man", "in", "red", "--gallery", "g")
    assert said == "too many arguments: man in red; put a sentence or a name with spaces in quotes"


def test_a_name_that_begins_with_a_dash_is_told_where_to_go(monkeypatch):
    assert "comes last, after --, such as: -- -a.jpg)" in parse(monkeypatch, "forget", "--gallery", "g", "-a.jpg")
    assert "such as: -- -man)" in parse(monkeypatch, "query", "-man", "--gallery", "g")
    assert "after --" not in parse(monkeypatch, "query", "--gallery=g")
