"""Which packages the scripts install, and when: with a Python that only notes what it is asked for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from benchmark_data import REPOSITORY, environment
from PIL import Image

FAKE = """#!/bin/sh
log="{log}"
case "$*" in
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; echo venv >> "$log" ;;
    "-m pip "*) for last; do :; done; echo "$last" >> "$log" ;;
    "-c "*) exit 0 ;;
    *) echo "ran $*" >> "$log" ;;
esac
"""


class Checkout:
    """The scripts and lists of packages, with a Python that installs nothing."""

    def __init__(self, root: Path):
        self.root, self.log = root / "checkout", root / "log"
        for folder in ("shell", "requirements"):
            shutil.copytree(REPOSITORY / folder, self.root / folder)
        shutil.copy(REPOSITORY / "requirements.txt", self.root)
        self.python = root / "python"
        self.python.write_text(FAKE.format(log=self.log))
        self.python.chmod(0o755)

    def call(self, command: str, **variables: str) -> tuple[subprocess.CompletedProcess, list[str]]:
        """Run a script; also what was installed from, by name."""
        self.log.write_text("")
        variables = {"PYTHON": str(self.python), "MARS_ENV": "", **variables}
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.root,
            env=environment(**variables),
            capture_output=True,
            text=True,
            timeout=60,
        )
        noted = self.log.read_text().splitlines()
        return done, [Path(line).name for line in noted if line.endswith(".txt")]


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    return Checkout(tmp_path)


def runs_of(checkout: Checkout) -> list[str]:
    return [line for line in checkout.log.read_text().splitlines() if line.startswith("ran Retrieval.py")]


def ensure(group: str) -> str:
    return f"source shell/common.sh && ensure_environment {group}"


def test_each_group_is_installed_on_its_first_use_and_then_no_more(checkout):
    files = {"base": "requirements.txt", "clip": "clip.txt", "search": "search.txt", "dev": "dev.txt"}
    for group, file in files.items():
        done, installed = checkout.call(ensure(group))
        assert done.returncode == 0 and installed == [file], done.stderr
        assert checkout.call(ensure(group))[1] == []


def test_a_group_holds_those_that_it_includes(checkout):
    assert checkout.call(ensure("clip"))[1] == ["clip.txt"]
    assert checkout.call(ensure("base"))[1] == []
    assert checkout.call(ensure("search"))[1] == ["search.txt"]
    assert checkout.call(ensure("dev"))[1] == ["dev.txt"]
    for group in ("base", "clip", "search"):
        assert checkout.call(ensure(group))[1] == []


def test_search_is_installed_with_what_every_model_needs(checkout):
    assert checkout.call("bash shell/search.sh --help")[1] == ["search.txt"]
    for group in ("clip", "base"):
        assert checkout.call(ensure(group))[1] == []


def test_what_has_changed_is_installed_again(checkout):
    checkout.call(ensure("search"))
    with open(checkout.root / "requirements" / "search.txt", "a") as file:
        file.write("another==1\n")
    assert checkout.call(ensure("base"))[1] == []
    assert checkout.call(ensure("search"))[1] == ["search.txt"]
    with open(checkout.root / "requirements.txt", "a") as file:
        file.write("one-more==1\n")
    assert checkout.call(ensure("search"))[1] == ["search.txt"]
    assert checkout.call(ensure("base"))[1] == []


@pytest.mark.parametrize(
    ("script", "file"),
    [
        ("data_process.sh", "requirements.txt"),
        ("cuhk_train.sh", "requirements.txt"),
        ("search.sh", "search.txt"),
        ("test.sh", "dev.txt"),
        ("lint.sh", "dev.txt"),
        ("torture.sh", "dev.txt"),
    ],
)
def test_a_script_installs_what_it_needs_alone(checkout, script, file):
    assert checkout.call(f"bash shell/{script}", GPUS="1")[1] == [file]


def plant_demo(checkout: Checkout) -> None:
    """The configurations and the start that the demo looks for."""
    files = ["configs/demo.yaml", "configs/demo_from_nothing.yaml", "configs/demo_from_nothing_pretrain.yaml"]
    for name in [*files, "checkpoints/demo_start.safetensors"]:
        (checkout.root / name).parent.mkdir(exist_ok=True)
        (checkout.root / name).touch()


def test_the_demo_installs_no_more_than_training_needs(checkout):
    plant_demo(checkout)
    assert checkout.call("bash shell/demo.sh")[1] == ["requirements.txt"]


def test_the_demo_trains_from_the_start_and_compares_with_it(checkout, tmp_path):
    plant_demo(checkout)
    output, root = tmp_path / "my output", checkout.root
    done, _ = checkout.call("bash shell/demo.sh vision_depth=2", OUTPUT=str(output))
    assert done.returncode == 0, done.stderr
    start, trained = runs_of(checkout)
    kept = f"--checkpoint {root}/checkpoints/demo_start.safetensors "
    assert f"--config {root}/configs/demo.yaml --output_dir {output}/start {kept}--evaluate " in start
    assert f"--config {root}/configs/demo.yaml --output_dir {output} {kept}" in trained and "--evaluate" not in trained
    for line in (start, trained):
        assert f"test_file={output}/data/processed_data/test.json" in line and line.endswith(" vision_depth=2")
    ran = checkout.log.read_text().splitlines()
    assert f"ran -m dataset.synthetic {output}/data --preset lookalikes" in ran
    assert ran[-1] == f"ran -m evaluation report {output} --start {output}/start"


def test_the_demo_starts_from_another_checkpoint(checkout):
    plant_demo(checkout)
    other = checkout.root / "other.pth"
    other.touch()
    done, _ = checkout.call("bash shell/demo.sh", START="other.pth")
    assert done.returncode == 0, done.stderr
    assert all(f" --checkpoint {other} " in line for line in runs_of(checkout))


@pytest.mark.parametrize(
    ("variable", "name", "what"),
    [("START", "other.pth", "checkpoint"), ("CONFIG", "other.yaml", "file")],
)
def test_the_demo_misses_what_is_not_there_before_it_draws_people(checkout, variable, name, what):
    plant_demo(checkout)
    done, _ = checkout.call("bash shell/demo.sh", **{variable: name})
    assert done.returncode == 2
    assert done.stderr == f"error: {variable}={name}: there is no {what} {checkout.root}/{name}\n"
    assert "ran" not in checkout.log.read_text()


@pytest.mark.parametrize(
    ("command", "variables", "config"),
    [
        ("demo.sh", {"CONFIG": "configs/demo.yaml"}, "{root}/configs/demo.yaml"),
        ("demo.sh alpha=x", {}, "{root}/configs/demo.yaml"),
        ("demo_start.sh alpha=x", {}, "configs/demo_start_details.yaml"),
    ],
)
def test_wrong_settings_end_a_script_before_it_draws_people(checkout, command, variables, config):
    plant_demo(checkout)
    refusing = '*load_config*) echo "refused $3" >> "$log"; exit 2 ;;'
    fake = checkout.python.read_text().replace('"-c "*)', f'{refusing}\n    "-c "*)')
    checkout.python.write_text(fake)
    done, _ = checkout.call(f"bash shell/{command}", **variables)
    assert done.returncode == 2
    assert checkout.log.read_text().splitlines()[-1] == f"refused {config.format(root=checkout.root)}"


def test_the_demo_knows_its_flag_at_any_position_and_names_its_help(checkout):
    plant_demo(checkout)
    done, _ = checkout.call("bash shell/demo.sh vision_depth=2 --from-nothing")
    assert done.returncode == 0, done.stderr
    assert runs_of(checkout)[-1].endswith(" vision_depth=2")
    assert "ran -m dataset.synthetic" in checkout.log.read_text() and "--preset demo\n" in checkout.log.read_text()
    done, _ = checkout.call("bash shell/demo.sh --from-nothin")
    assert done.returncode == 2 and done.stderr.endswith("; see bash shell/demo.sh --help\n")


def test_the_demo_from_nothing_has_two_stages_and_decodes_images_once(checkout, tmp_path):
    plant_demo(checkout)
    output, configs = tmp_path / "my output", checkout.root / "configs"
    done, _ = checkout.call("bash shell/demo.sh --from-nothing image_cache=null", OUTPUT=str(output))
    assert done.returncode == 0, done.stderr
    first, second = runs_of(checkout)
    assert f"--config {configs}/demo_from_nothing_pretrain.yaml" in first and "--checkpoint" not in first
    assert f" image_cache={output}/data/image_cache" in first and "image_cache=null" not in first
    assert f"--config {configs}/demo_from_nothing.yaml" in second
    assert f" --checkpoint {output}/pretraining/checkpoint_best.pth " in second
    assert f" image_cache={output}/data/image_cache " in second
    assert second.endswith(" image_cache=null")  # the last one counts
    ran = checkout.log.read_text().splitlines()
    assert f"ran -m dataset.synthetic {output}/data --preset demo" in ran
    assert ran[-1] == f"ran -m evaluation report {output}"


def test_the_start_is_trained_in_three_stages_and_evaluated_on_other_people(checkout, tmp_path):
    output = tmp_path / "my output"
    done, _ = checkout.call("bash shell/demo_start.sh vision_depth=2", OUTPUT=str(output))
    assert done.returncode == 0, done.stderr
    first, second, third, *evaluated = runs_of(checkout)
    assert "--config configs/demo_start_pretrain.yaml" in first and f"--output_dir {output}/embeddings " in first
    assert "test_file" not in first and first.endswith(" vision_depth=2")
    assert f"--config configs/demo_start.yaml --output_dir {output}/matching " in second
    assert f" --checkpoint {output}/embeddings/" in second and "test_file" not in second
    assert second.endswith(" vision_depth=2")
    assert f"--config configs/demo_start_details.yaml --output_dir {output} --checkpoint {output}/matching/" in third
    assert f"test_file={output}/data/processed_data/test.json" in third and third.endswith(" vision_depth=2")
    for name, line in zip(("demo", "hard", "lookalikes"), evaluated, strict=True):
        assert f"--config {output}/config.yaml --output_dir {output}/{name} " in line
        assert f" --checkpoint {output}/demo_start.safetensors --evaluate " in line
        assert f"test_file={output}/{name}/data/processed_data/test.json" in line


def test_the_comparison_trains_a_start_of_each_branch_and_studies_its_people(checkout):
    done, installed = checkout.call("bash shell/comparison.sh alpha=0.4")
    assert done.returncode == 0, done.stderr
    assert installed == ["clip.txt"]
    ran, folder = checkout.log.read_text().splitlines(), "output/comparison"
    drawn = [line for line in ran if "dataset.synthetic" in line]
    assert drawn[0].startswith(f"ran -m dataset.synthetic {folder}/starts/data --preset demo") and len(drawn) == 3
    for name, line in zip(("normal", "hard"), drawn[1:], strict=True):
        assert f" {folder}/{name}/data --preset demo --difficulty {name} " in line and " --seed 1" in line
    clip, embeddings, albef = runs_of(checkout)
    for line in (clip, embeddings, albef):
        assert f"train_file=[{folder}/starts/data/processed_data/train.json]" in line and "alpha" not in line
        assert f"test_file={folder}" not in line
    assert "--checkpoint" not in clip + embeddings
    assert f" --checkpoint {folder}/starts/albef_embeddings/checkpoint_best.pth " in albef
    for name, line in zip(("normal", "hard"), ran[-2:], strict=True):
        assert line.startswith("ran -m evaluation ablation --config configs/ablations/comparison.yaml --processes 2 ")
        assert f"--output_dir {folder}/{name} --set " in line and line.endswith(" alpha=0.4")
        assert f"test_file={folder}/{name}/data/processed_data/test.json" in line


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("PEOPLE", "normal odd", "PEOPLE=normal odd: odd is neither normal nor hard"),
        ("PROCESSES", "0", "PROCESSES=0: give how many runs are trained side by side, 1 or more"),
    ],
)
def test_the_comparison_refuses_what_it_does_not_know(checkout, variable, value, words):
    done, installed = checkout.call("bash shell/comparison.sh", **{variable: value})
    assert (done.returncode, done.stderr, installed) == (2, f"error: {words}\n", [])


@pytest.mark.parametrize(
    ("command", "there", "meant"),
    [
        ("cuhk-eval.sh kept", "", "{root}/checkpoints/kept.safetensors"),
        ("cuhk_train.sh kept", "", "{root}/checkpoints/kept.safetensors"),
        ("cuhk-eval.sh other", "", "{here}/other"),
        ("cuhk-eval.sh ./kept", "", "{here}/./kept"),
        ("cuhk_train.sh kept", "kept", "{here}/kept"),
    ],
)
def test_scripts_know_the_checkpoints_of_the_repository_by_name(checkout, tmp_path, command, there, meant):
    (checkout.root / "checkpoints").mkdir()
    (checkout.root / "checkpoints" / "kept.safetensors").touch()
    here = tmp_path / "here"
    here.mkdir()
    if there:
        (here / there).touch()
    done, _ = checkout.call(f"cd {here} && bash {checkout.root}/shell/{command}", GPUS="1")
    assert done.returncode == 0, done.stderr
    assert f" --checkpoint {meant.format(here=here, root=checkout.root)} " in runs_of(checkout)[0] + " "


@pytest.mark.parametrize("folders", [".", ".:..", "{root}:/tmp"])
@pytest.mark.parametrize(
    ("command", "ran"),
    [
        ("bash shell/lint.sh style", "-m ruff check ."),
        ("bash shell/data_process.sh CSV mine", "-m dataset.prepare --directory"),
        ("cd shell && bash data_process.sh CSV mine", "-m dataset.prepare --directory"),
        ("bash shell/demo.sh", "-m dataset.synthetic"),
    ],
)
def test_scripts_work_where_cd_prints_folders(checkout, folders, command, ran):
    plant_demo(checkout)
    done, _ = checkout.call(command, CDPATH=folders.format(root=checkout.root))
    assert done.returncode == 0, done.stderr
    assert f"ran {ran}" in checkout.log.read_text()


def test_an_environment_of_ones_own_is_used_as_it_is(checkout, tmp_path):
    own = tmp_path / "own" / "bin"
    own.mkdir(parents=True)
    shutil.copy(checkout.python, own / "python")
    done, installed = checkout.call("bash shell/lint.sh style", MARS_ENV=str(own.parent))
    assert done.returncode == 0 and installed == [], done.stderr
    assert not (checkout.root / ".venv").exists()
    assert sorted(path.name for path in own.parent.rglob("*")) == ["bin", "python"]


def test_an_environment_that_lacks_packages_is_refused_in_a_line(checkout, tmp_path):
    own = tmp_path / "own" / "bin"
    own.mkdir(parents=True)
    (own / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # -S: without its packages
    (own / "python").chmod(0o755)
    done, installed = checkout.call("bash shell/search.sh query", MARS_ENV=str(own.parent))
    assert done.returncode == 2 and installed == []
    (line,) = done.stderr.splitlines()
    assert "lacks torch, " in line and "pymilvus" in line and line.endswith("requirements/search.txt into it")


def test_a_check_of_code_that_does_not_exist_is_refused(checkout):
    done, installed = checkout.call("bash shell/lint.sh spelling")
    assert done.returncode == 2 and installed == []
    assert done.stderr == "error: there is no check spelling; name format, style or types\n"


def test_the_search_script_sees_paths_from_where_it_is_called(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (16, 32)).save(tmp_path / "photos" / "one.png")
    # named as a room of the repository, and not to be taken for it
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "__init__.py").write_text("raise SystemExit('the wrong utils')")
    done = subprocess.run(
        ["bash", REPOSITORY / "shell" / "search.sh", "index", "photos", "--checkpoint", "none.pth", "--gallery", "g"],
        cwd=tmp_path,
        env=environment(MARS_ENV=sys.prefix),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "none.pth" in line and "photos" not in line


def test_a_script_resumes_a_run_with_the_settings_in_its_folder(checkout):
    def started(command: str, **variables: str) -> str:
        assert checkout.call(f"bash shell/icfg_train.sh {command}", GPUS="1", **variables)[0].returncode == 0
        return checkout.log.read_text().splitlines()[-1]

    named = f"--config {checkout.root}/configs/PS_icfg_pedes.yaml"
    assert named in started("--resume")
    run = checkout.root / "output" / "icfg-pedes"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    assert started("--resume --set workers=1").endswith(f"ran Retrieval.py --output_dir {run} --resume --set workers=1")
    assert named in started("")
    assert f"--config {checkout.root}/mine.yaml --output_dir {run} --resume" in started("--resume", CONFIG="mine.yaml")


def test_what_mars_env_names_is_told_as_it_is(checkout, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name in ("dangling", "plain"):
        (tmp_path / name / "bin").mkdir(parents=True)
    (tmp_path / "dangling" / "bin" / "python").symlink_to(tmp_path / "gone")
    (tmp_path / "plain" / "bin" / "python").touch()
    for name, words in (
        ("nowhere", "does not exist"),
        ("nowhere/at/all", "does not exist"),
        ("file", f"cannot be: {tmp_path / 'file'} is not a folder"),
        ("file/below", "is not a folder"),
        ("empty", "is not a virtual environment (no bin/python in it)"),
        ("dangling", f"leads to {tmp_path / 'gone'}, which is gone"),
        ("plain", f"no permission to run {tmp_path / 'plain' / 'bin' / 'python'}"),
    ):
        done, installed = checkout.call("bash shell/lint.sh", MARS_ENV=str(tmp_path / name))
        assert (done.returncode, installed) == (2, []), name
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"error: MARS_ENV={tmp_path / name} ") and words in line, line


@pytest.mark.skipif(os.geteuid() == 0, reason="needs a user without all permissions")
def test_an_environment_without_permission_is_told(checkout, tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0)
    done, _ = checkout.call("bash shell/lint.sh", MARS_ENV=str(folder))
    folder.chmod(0o700)
    assert f"cannot be opened: no permission for {folder}" in done.stderr


def test_the_first_installation_says_what_it_does(checkout):
    done, _ = checkout.call(ensure("base"))
    assert "installing requirements.txt into" in done.stderr and "several gigabytes; this takes minutes" in done.stderr
    assert not done.stdout and checkout.call(ensure("base"))[0].stderr == ""
