"""`python -m evaluation` lists every command with a line, fast, and hands the others their options."""

import subprocess
import sys

import pytest
from benchmark_data import REPOSITORY, environment

from evaluation.__main__ import main
from evaluation.questions import find_studies
from utils.errors import UserError

ALL = ["ablation", "ask", "calibrate", "contradiction", "cost", "cross_domain", "curves", "density"]
ALL += ["gradcam", "grounding", "occlusion", "open_set", "rankings", "reconstruction", "words"]


def test_all_studies_are_found_and_their_parts_are_not():
    studies = find_studies()
    assert list(studies) == ALL
    assert all(line[0].isupper() and line[-1] in ".?" and len(line) <= 102 for line in studies.values())


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_list_has_a_line_for_each(arguments, capsys):
    main(arguments)
    printed = capsys.readouterr().out
    for name, about in find_studies().items():
        assert f"  {name:16}{about}\n" in printed
    assert "  report " in printed
    assert all(len(line) <= 120 for line in printed.splitlines())


def test_the_list_does_not_wait_for_torch():
    code = "import sys; from evaluation.__main__ import main; main([]); sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [*ALL, "report"])
def test_every_command_explains_itself_by_its_own_name(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: python -m evaluation {name} ")
    if name in ALL:
        assert "".join(find_studies()[name].split()) in "".join(printed.split())  # lines break anywhere
        assert "--output_dir" in printed and "--seed" in printed
        results = "output/ablations/NAME" if name == "ablation" else "studies/"
        assert f"(default:{results}" in "".join(printed.split())


@pytest.mark.parametrize(("name", "words"), [("grandcam", "did you mean 'gradcam'"), ("study", "there is no command")])
def test_unknown_names_are_refused(name, words):
    with pytest.raises(UserError, match=words):
        main([name])
