"""What processes that load data import, which is what they cost."""

import sys
from types import ModuleType

import pytest
from benchmark_data import REPOSITORY
from torch.utils.data import DataLoader, Dataset

from utils.processes.loader_processes import loaded, loader_processes, without_main_script


class Imported(Dataset):
    """The names of all modules of the process that loads."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> set[str]:
        return set(sys.modules)


@pytest.fixture
def main_script(monkeypatch):
    """`main_script(path)`: this process is one that was started as `python PATH`."""

    def pretend(path) -> ModuleType:
        module = ModuleType("__main__")
        module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, "__main__", module)
        return module

    return pretend


def test_they_import_what_loading_needs_and_nothing_of_the_model(main_script):
    main_script(REPOSITORY / "Retrieval.py")
    context = loader_processes("dataset.train_set")
    loader = DataLoader(Imported(), batch_size=None, num_workers=1, multiprocessing_context=context)
    (modules,) = loaded(loader)
    assert "torch" in modules and modules & {"dataset.train_set", "dataset.evaluation_split"}  # the first asked for
    assert not modules & {"Retrieval", "models", "configs", "timm", "torchvision", "torch._dynamo"}


@pytest.mark.parametrize("raised", [False, True])
def test_scripts_of_others_are_imported_as_python_does(main_script, tmp_path, raised):
    for path, there in ((REPOSITORY / "Retrieval.py", False), (tmp_path / "own.py", True)):
        module = main_script(path)
        try:
            with without_main_script():
                assert hasattr(module, "__file__") == there
                assert not raised, "whatever happens within"
        except AssertionError:
            assert raised
        assert module.__file__ == str(path)


def test_a_program_without_a_script_has_none_to_hide(main_script):
    module = main_script(REPOSITORY / "Retrieval.py")
    del module.__file__
    with without_main_script():
        pass
    assert not hasattr(module, "__file__")
