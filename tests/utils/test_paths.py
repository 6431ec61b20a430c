"""`~` is a home folder wherever a user gives a path, and `./~` is a folder of that name."""

import argparse
import os
import pwd
from pathlib import Path

import pytest
from in_process import call

from benchmarks.measure import make_parser
from configs.command_line import build_parser
from configs.loading import load_config, resolve_config
from dataset import prepare
from dataset.synthetic.__main__ import build_parser as synthetic_parser
from search.__main__ import build_parser as search_parser
from search.arguments import path_or_url
from search.gallery.address import Address
from utils.config import read_layers
from utils.errors import CommandParser, UserError
from utils.paths import expand_home, path_argument

FILES = ("val_file", "test_file", "train_image_root", "val_image_root", "test_image_root", "image_cache", "checkpoint")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_home_folders_are_expanded_at_the_start_alone(home):
    me = pwd.getpwuid(os.getuid())
    expected = {
        "~": str(home),
        "~/a b/c": f"{home}/a b/c",
        f"~{me.pw_name}/x": f"{me.pw_dir}/x",
        "./~": "./~",
        "./~/x": "./~/x",
        "a/~/x": "a/~/x",
        "a~": "a~",
        "/~": "/~",
        "": "",
    }
    assert {path: expand_home(path) for path in expected} == expected


@pytest.mark.parametrize("path", ["~nobody-of-this-name/x", "~$report.csv"])
def test_an_unknown_user_gets_one_line(path, home, tmp_path):
    words = f"no home folder of {path.partition('/')[0]} is known; write ./{path} for"
    with pytest.raises(argparse.ArgumentTypeError) as told:
        path_argument(path)
    assert words in str(told.value)
    for settings in ({"val_file": path}, {"train_file": ["a.json", path]}, {"bert_config": path}):
        with pytest.raises(UserError) as refused:
            resolve_config(settings, "config x")
        assert words in str(refused.value) and next(iter(settings)) in str(refused.value)
    with pytest.raises(UserError) as refused:
        Address.parse(path)
    assert words in str(refused.value) and "--gallery" in str(refused.value)
    ending = call(lambda: search_parser().parse_args(), "index", path, "--gallery", "g", "--checkpoint", "c")
    assert ending.code == 2 and words in ending.errors and ending.errors.count("\n") == 1


def test_without_a_home_folder_it_is_told(monkeypatch):
    monkeypatch.setenv("HOME", "")
    with pytest.raises(ValueError, match="no home folder of ~ is known"):
        expand_home("~/x")


def test_paths_of_a_configuration_are_expanded(home, tmp_path):
    values = {name: f"~/{name}" for name in FILES}
    config = resolve_config({**values, "train_file": "~/a.json", "text_encoder": "~/bert"}, "config x")
    assert {name: getattr(config, name) for name in FILES} == {name: f"{home}/{name}" for name in FILES}
    assert (config.train_file, config.text_encoder) == ([f"{home}/a.json"], f"{home}/bert")
    assert resolve_config({"val_file": "./~/x", "text_encoder": "bert-base-uncased"}, "x").val_file == "./~/x"
    (home / "bert.json").write_bytes(Path("configs/config_bert.json").read_bytes())
    (home / "base.yaml").write_text("batch_size_test: 7\nval_file: ~/val.json\n")
    (home / "below").mkdir()
    (home / "below" / "top.yaml").write_text("base: ~/base.yaml\nbert_config: ~/bert.json\n")
    config = load_config(home / "below" / "top.yaml", ["test_file=~/t.json", "train_file=[~/1.json, ~/2.json]"])
    assert (config.batch_size_test, config.val_file, config.test_file) == (7, f"{home}/val.json", f"{home}/t.json")
    assert config.train_file == [f"{home}/1.json", f"{home}/2.json"]
    assert read_layers(home / "below" / "top.yaml", lambda values, where: dict(values))["batch_size_test"] == 7


def test_paths_of_commands_are_expanded(home, tmp_path, monkeypatch):
    options = build_parser().parse_args(
        ["--config=~/c.yaml", "--output_dir=~/out", "--checkpoint=~/c.pth", "--vision_checkpoint=~/v.pth"]
    )
    assert (options.config, options.output_dir) == ([home / "c.yaml"], home / "out")
    assert (options.checkpoint, options.vision_checkpoint) == (home / "c.pth", home / "v.pth")
    index = search_parser().parse_args(["index", "~/p", "--metadata=~/m.csv", "--gallery=~/g", "--checkpoint=~/c.pth"])
    assert (index.folder, index.metadata, index.checkpoint) == (home / "p", home / "m.csv", home / "c.pth")
    assert Address.parse(index.gallery).folder == home / "g" and Address.parse("~/g").uri == f"{home}/g/index.db"
    assert search_parser().parse_args(["export", "~/e", "--checkpoint", "c"]).output == home / "e"
    prepared = prepare._parse_arguments(["CSV", "~/d", "--report=~/r.txt", "--directory=~/here"])
    assert (prepared.root, prepared.report, prepared.directory) == (home / "d", home / "r.txt", home / "here")
    assert synthetic_parser().parse_args(["~/syn"]).root == home / "syn"
    benchmark = make_parser("")
    benchmark.add_argument("--plot", type=Path)
    assert benchmark.parse_args(["--plot=~/p.png"]).plot == home / "p.png"
    query = search_parser().parse_args(["query", "~ a man", "--gallery", "g"])
    assert query.text == "~ a man"  # a sentence is no path


def test_a_folder_that_is_called_so_stays_reachable(home, tmp_path, monkeypatch):
    """A path that is written down and read again is not expanded the second time."""
    monkeypatch.chdir(tmp_path)
    assert path_argument("./~/x") == tmp_path / "~" / "x"
    assert Address.parse("./~/g").folder == Path("./~/g")
    options = build_parser().parse_args(["--config", "c.yaml", "--checkpoint", "./~/c.pth"])
    assert expand_home(str(options.checkpoint)) == str(tmp_path / "~" / "c.pth")
    parser = CommandParser()
    parser.add_argument("--file", type=Path)
    with pytest.raises(UserError, match="--file: the path is empty"):
        parser.parse_args(["--file", ""])


def test_no_command_takes_a_path_as_plain_text():
    """Arguments that name files or folders are of type Path, and so expanded, unless they may be a URL."""
    words = ("file", "folder", "checkpoint", "config", "root", "output_dir", "report", "directory", "sheet", "metadata")
    parsers = [build_parser(), synthetic_parser(), *search_parser()._subparsers._group_actions[0].choices.values()]
    for parser in parsers:
        for action in parser._actions:
            if action.dest in words and not action.const:
                assert action.type in (Path, path_or_url), (parser.prog, action.dest)


def test_a_path_back_and_forth_is_told_plainly(tmp_path):
    (tmp_path / "repository").mkdir()
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    assert path_argument(f"{tmp_path}/repository/../mine") == tmp_path / "mine"
    assert path_argument("a/../../b") == Path("../b")
    assert path_argument(f"{tmp_path}/link/../mine") == tmp_path / "link" / ".." / "mine"  # that is far/mine
    assert path_argument("../mine") == Path("../mine")
