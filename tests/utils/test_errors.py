"""How a command ends that cannot do what it is asked for."""

import importlib

import pytest

from utils.errors import run_command_line


def test_a_package_that_is_not_installed_is_named_in_a_line(capsys):
    with pytest.raises(SystemExit) as end:
        run_command_line(lambda: importlib.import_module("no_such_package.part") and 0)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the package no_such_package is not installed: requirements.txt has")


def test_a_module_of_a_package_that_is_there_is_missed_aloud():
    with pytest.raises(ModuleNotFoundError, match=r"utils\.no_such_module"):
        run_command_line(lambda: importlib.import_module("utils.no_such_module") and 0)
