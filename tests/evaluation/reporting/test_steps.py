"""What a report says can be done next: commands that a shell takes, of files that are there."""

import shlex
import subprocess
from collections.abc import Sequence
from html import unescape
from pathlib import Path

import pytest
from benchmark_data import REPOSITORY
from documents import anchors_of
from report_output import METRICS, epoch, write_evaluation, write_log

from evaluation.drawing.page import build_page, command_block
from evaluation.questions import find_studies
from evaluation.report import write_report
from evaluation.reporting import steps
from evaluation.reporting.steps import next_steps, shell_path, shell_word
from search.__main__ import build_parser


def commands_on(page: Path) -> list[str]:
    """The commands of a page, as a reader copies them."""
    text = page.read_text(encoding="utf-8")
    return [unescape(part.partition("</code>")[0]) for part in text.split("<code>")[1:]]


def as_bash_reads(command: str) -> list[str]:
    """The words of a command."""
    script = f"printf '%s\\0' {command}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    return [word.decode("utf-8", "surrogateescape") for word in done.stdout.split(b"\0")[:-1]]


@pytest.fixture
def make_run(tmp_path):
    """A run with a checkpoint in a folder of any name."""

    def make(name: str = "run", losses: Sequence[str] = ()) -> Path:
        folder = write_evaluation(tmp_path / name, tmp_path, stage1=[1] * 12, reranked=[1] * 12)
        if losses:
            write_log(folder, epoch(0, train=dict.fromkeys(losses, 1.0), val={"stage1": METRICS}))
        (folder / "checkpoint_best.pth").write_bytes(b"weights")
        return folder

    return make


def test_the_commands_name_this_very_run(make_run):
    run = make_run(losses=("cl", "mae"))
    checkpoint = run / "checkpoint_best.pth"
    index, query, serve, *studies = commands_on(write_report(run) / "index.html")
    assert index == f"bash shell/search.sh index PHOTOS --gallery gallery --checkpoint {checkpoint}"
    assert query.startswith('bash shell/search.sh query "') and query.endswith(" --gallery gallery")
    assert serve == "bash shell/search.sh serve --gallery gallery"
    assert studies == [
        "python -m evaluation",
        f"python -m evaluation gradcam --checkpoint {checkpoint}",
        f"python -m evaluation reconstruction --checkpoint {checkpoint}",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "with space",
        "it's",
        'a "quoted" $HOME `id` \\ name',
        "a;b&c|d<e>f*g?",
        "line\nbreak",
        "tab\tand\rreturn",
        "bytes\udcff\udce9abc",
        "no\xa0break",
        "-dash",
        "~",
        "红色",
    ],
)
def test_paths_are_words_of_a_shell(tmp_path, name):
    (tmp_path / name).mkdir()
    checkpoint = tmp_path / name / "checkpoint_best.pth"
    checkpoint.write_bytes(b"weights")
    search, study, _ = next_steps(tmp_path / name, tmp_path, [])
    (tmp_path / "page.html").write_text(build_page("page", [command_block([*search.commands, *study.commands])]))
    index, _, _, _, gradcam = commands_on(tmp_path / "page.html")
    for command in (index, gradcam):
        assert as_bash_reads(command)[-1] == str(checkpoint)


def test_a_run_whose_name_is_not_utf8_has_a_report(make_run):
    run = make_run("bytes\udcff")
    assert as_bash_reads(commands_on(write_report(run) / "index.html")[0])[-1] == f"{run}/checkpoint_best.pth"


def test_paths_in_the_repository_are_seen_from_there():
    assert shell_path(REPOSITORY / "output" / "demo" / "x.pth") == "output/demo/x.pth"
    assert shell_path(REPOSITORY / "-odd" / "x.pth") == "./-odd/x.pth"
    assert shell_path(REPOSITORY / "~me" / "x.pth") == shlex.quote("./~me/x.pth")
    assert shell_path(REPOSITORY.parent / "x.pth") == shell_word(str(REPOSITORY.parent / "x.pth"))


def test_the_search_and_the_studies_take_these_commands(make_run):
    commands = commands_on(write_report(make_run()) / "index.html")
    for command in commands[:3]:
        program, script, *options = shlex.split(command)
        assert program == "bash" and (REPOSITORY / script).is_file()
        build_parser().parse_args(options)
    for command in commands[4:]:
        assert shlex.split(command)[3] in find_studies()


def test_without_a_checkpoint_there_is_no_command(make_run):
    run = make_run()
    (run / "checkpoint_best.pth").unlink()
    page = write_report(run) / "index.html"
    assert commands_on(page) == [] and "Train on your own data" in page.read_text()


def test_only_studies_that_the_model_can_answer_are_named(make_run):
    run = make_run(losses=("cl",))
    page = write_report(run) / "index.html"
    assert [command.split()[3:4] for command in commands_on(page)[3:]] == [[], ["gradcam"]]
    (run / "log.txt").unlink()
    write_evaluation(run, run, stage1=[1] * 12)
    assert [command.split()[3:4] for command in commands_on(write_report(run) / "index.html")[3:]] == [[], ["gradcam"]]


def test_links_lead_to_sections_from_where_the_page_is(make_run, tmp_path):
    run = make_run()
    for folder in (run / "report", tmp_path / "else where" / "page"):
        [pages] = [step.pages for step in next_steps(run, folder, []) if step.pages]
        for address in pages.values():
            path, anchor = address.replace("%20", " ").split("#")
            target = (folder.resolve() / path).resolve()
            assert target.is_relative_to(REPOSITORY) and anchor in anchors_of(target)


def test_an_installation_without_scripts_has_the_installed_command(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "REPOSITORY", tmp_path / "site-packages")
    found = next_steps(make_run(), tmp_path, [])
    assert found[0].commands[0].startswith("person-search index PHOTOS ")
    assert not any(step.pages for step in found)
