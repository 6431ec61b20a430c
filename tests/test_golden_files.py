"""The numbers of published code that come with the repository are there, small, and read by the tests of parity."""

import pytest
import torch
from golden_numbers import IN_THE_REPOSITORY, family_of, golden_files


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("mars_tiny", "mars"),
        ("rasa_mini", "mars"),
        ("harder", "mars"),
        ("vim_tiny", "vim"),
        ("other-vim", "vim"),
        ("irra_mini", "clip"),
        ("other-rde", "clip"),
    ],
)
def test_a_file_belongs_to_the_family_in_its_name(name, family):
    assert family_of(name) == family


def test_the_repository_has_numbers_of_both_systems_and_of_vision_mamba():
    assert {path.stem for path in golden_files("mars", IN_THE_REPOSITORY)} >= {"mars_mini", "rasa_mini"}
    assert golden_files("vim", IN_THE_REPOSITORY)
    for path in golden_files("mars", IN_THE_REPOSITORY):
        assert {"bert_config", "losses", "draws"} <= torch.load(path, weights_only=True).keys()


def test_files_are_small_and_explained():
    explained = (IN_THE_REPOSITORY / "README.md").read_text(encoding="utf-8")
    for path in IN_THE_REPOSITORY.glob("*.pt"):
        assert path.stat().st_size < 400_000
        assert f"`{path.name}`" in explained
