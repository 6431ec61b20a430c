"""No source of the project runs what it reads: no unsafe loading, no evaluation of text, no shell."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.promise("Hostile checkpoints")

REPOSITORY = Path(__file__).resolve().parents[2]
ELSEWHERE = {".venv", "output", "data", "__pycache__"}

# never to be named at all
FORBIDDEN = {
    *(f"builtins.{name}" for name in ("eval", "exec", "compile", "__import__")),
    *(
        f"{module}.{name}"
        for module in ("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal")
        for name in ("load", "loads", "Unpickler")
    ),
    "joblib.load",
    "shelve.open",
    "pandas.read_pickle",
    "torch.hub.load",
    "torch.jit.load",
    "torch.package.PackageImporter",
    "torch.serialization.add_safe_globals",
    "torch.storage._load_from_bytes",
    *(
        f"{module}.{name}"
        for module in ("yaml", "ruamel.yaml")
        for name in (
            "load",
            "load_all",
            "full_load",
            "full_load_all",
            "unsafe_load",
            "unsafe_load_all",
            "Loader",
            "UnsafeLoader",
            "FullLoader",
            "CLoader",
            "round_trip_load",
        )
    ),
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "pty.spawn",
    "asyncio.create_subprocess_shell",
}

# to be called with this one argument alone
EXACT = {"torch.serialization.safe_globals": "[argparse.Namespace]"}

# to be called with these arguments alone: function -> (argument, the values it may have, whether it may be left out)
RESTRICTED = {
    "torch.load": ("weights_only", (True,), False),
    "torch.serialization.load": ("weights_only", (True,), False),
    "numpy.load": ("allow_pickle", (False,), True),
    "numpy.lib.format.read_array": ("allow_pickle", (False,), True),
    "ruamel.yaml.YAML": ("typ", ("safe", "rt", "base"), True),
    **{
        f"subprocess.{name}": ("shell", (False,), True)
        for name in ("run", "call", "check_call", "check_output", "Popen")
    },
}

MODULES = {name.rpartition(".")[0] for name in {*FORBIDDEN, *EXACT, *RESTRICTED}}  # not to be imported from with a star

ALLOWED = {  # (file, what): why; tests alone
    ("tests/utils/checkpoints/test_checkpoint_files.py", "os.system"): "written into a hostile file",
    ("tests/utils/checkpoints/test_checkpoint_files.py", "torch.load"): "shows that the hostile file is one",
    ("tests/utils/checkpoints/test_torchscript.py", "torch.jit.load"): "of archives that were just written, to compare",
    ("tests/preloading_server.py", "builtins.compile"): "runs a command, as Python does",
    ("tests/preloading_server.py", "builtins.exec"): "runs a command, as Python does",
    ("tests/bad_input/test_refused_checkpoints.py", "os.system"): "written into a hostile file",
    ("tests/dataset/test_tokens.py", "pickle.loads"): "of bytes that were pickled in the same line",
    ("tests/dataset/clip/test_clip_tokens.py", "pickle.loads"): "of bytes that were pickled in the same line",
    ("tests/dataset/test_augmentation.py", "pickle.loads"): "of bytes that were pickled in the same line",
    ("tests/faults/hostile_files.py", "os.system"): "written into a hostile file",
    ("tests/faults/limited_reading.py", "torch.load"): "shows that hostile files are such",
    ("tests/faults/limited_reading.py", "pickle.loads"): "shows that hostile files are such",
    ("tests/faults/limited_reading.py", "numpy.load"): "shows that hostile files are such",
}


def sources() -> list[Path]:
    """Every Python file of the project."""
    inside = (path.relative_to(REPOSITORY) for path in REPOSITORY.rglob("*.py"))
    return sorted(path for path in inside if not ELSEWHERE & set(path.parts) and not path.parts[0].startswith("."))


def imported_names(tree: ast.AST) -> dict[str, str]:
    """Name in a file -> what it is, such as np -> numpy, run -> subprocess.run."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


def full_name(node: ast.AST, names: dict[str, str]) -> str | None:
    """The dotted name of an expression, None for those that have none; a name of Python's own is one of builtins."""
    if isinstance(node, ast.Name):
        return names.get(node.id, f"builtins.{node.id}")
    if isinstance(node, ast.Attribute):
        holder = full_name(node.value, names)
        return holder and f"{holder}.{node.attr}"
    return None


def has_right_arguments(call: ast.Call, argument: str, values: tuple, may_be_left_out: bool) -> bool:
    """Whether a call has the argument that it must have, written out, and no hidden ones."""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if argument not in given:
        return may_be_left_out and None not in given
    value = given[argument]
    return isinstance(value, ast.Constant) and any(value.value is right or value.value == right for right in values)


def unsafe_parts(source: str) -> Iterator[tuple[int, str]]:
    """(line, name) of everything in a source that may run what it reads."""
    tree = ast.parse(source)
    names = imported_names(tree)
    is_called_well = {}  # functions of calls; what is passed on is called who knows how
    for node in ast.walk(tree):  # comes to a call before its function
        if isinstance(node, ast.ImportFrom):
            imported = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((node.lineno, name) for name in imported if name in FORBIDDEN | {f"{m}.*" for m in MODULES})
        if isinstance(node, ast.Call) and full_name(node.func, names) in RESTRICTED:
            is_called_well[node.func] = has_right_arguments(node, *RESTRICTED[full_name(node.func, names)])
        if isinstance(node, ast.Call) and full_name(node.func, names) in EXACT:
            arguments = ", ".join(map(ast.unparse, [*node.args, *node.keywords]))
            is_called_well[node.func] = arguments == EXACT[full_name(node.func, names)]
        name = full_name(node, names)
        if name is None or not isinstance(node.ctx, ast.Load):
            continue
        may_be_passed_on = name in RESTRICTED and RESTRICTED[name][2]
        is_watched = name in RESTRICTED or name in EXACT
        if name in FORBIDDEN or (is_watched and not is_called_well.get(node, may_be_passed_on)):
            yield node.lineno, name


def test_no_source_runs_what_it_reads():
    found = {
        (str(path), name): line
        for path in sources()
        for line, name in unsafe_parts((REPOSITORY / path).read_text(encoding="utf-8"))
    }
    wrong = [f"{path}:{line}: {name}" for (path, name), line in found.items() if (path, name) not in ALLOWED]
    assert wrong == []
    assert set(ALLOWED) - set(found) == set()  # what is no longer needed is no longer allowed
    assert all(path.startswith("tests/") for path, _ in ALLOWED)


def test_all_rooms_are_looked_at():
    rooms = {path.parts[0] for path in sources()}
    assert {"Retrieval.py", "utils", "models", "dataset", "evaluation", "configs", "benchmarks", "tests"} <= rooms
    assert len(sources()) > 80


UNSAFE = {
    "import torch\ntorch.load(p)": "torch.load",
    "import torch\ntorch.load(p, weights_only=False)": "torch.load",
    "import torch\ntorch.load(p, weights_only=flag)": "torch.load",
    "import torch\ntorch.load(p, weights_only=1 - 1)": "torch.load",
    "import torch\ntorch.load(p, **how)": "torch.load",
    "import torch as t\nt.load(p)": "torch.load",
    "from torch import load as read\nread(p)": "torch.load",
    "from torch import serialization\nserialization.load(p)": "torch.serialization.load",
    "import torch\nlist(map(torch.load, paths))": "torch.load",
    "import torch\ntorch.load(torch.load(p), weights_only=True)": "torch.load",
    "import torch\ntorch.hub.load('x', 'y')": "torch.hub.load",
    "import torch\ntorch.serialization.safe_globals([argparse.Namespace, Any])": "torch.serialization.safe_globals",
    "from torch.serialization import safe_globals as allow\nallow([os.system])": "torch.serialization.safe_globals",
    "import torch\nallow = torch.serialization.safe_globals": "torch.serialization.safe_globals",
    "eval('1')": "builtins.eval",
    "exec(text)": "builtins.exec",
    "def f():\n    return compile(text, '', 'exec')": "builtins.compile",
    "list(map(eval, texts))": "builtins.eval",
    "import builtins\nbuiltins.eval('1')": "builtins.eval",
    "__import__(name)": "builtins.__import__",
    "import pickle\npickle.load(f)": "pickle.load",
    "import pickle as p\np.loads(b)": "pickle.loads",
    "from pickle import loads": "pickle.loads",
    "from pickle import *": "pickle.*",
    "import pickle\nclass A(pickle.Unpickler): pass": "pickle.Unpickler",
    "import numpy as np\nnp.load(p, allow_pickle=True)": "numpy.load",
    "import numpy\nnumpy.load(p, None, flag, **more)": "numpy.load",
    "import yaml\nyaml.load(text)": "yaml.load",
    "import yaml\nyaml.load(text, Loader=yaml.Loader)": "yaml.Loader",
    "import yaml\nyaml.unsafe_load(text)": "yaml.unsafe_load",
    "from ruamel.yaml import YAML\nYAML(typ='unsafe')": "ruamel.yaml.YAML",
    "import ruamel.yaml\nruamel.yaml.YAML(typ=kind)": "ruamel.yaml.YAML",
    "import os\nos.system('ls')": "os.system",
    "from os import popen\npopen('ls')": "os.popen",
    "import subprocess\nsubprocess.run('ls', shell=True)": "subprocess.run",
    "import subprocess\nsubprocess.Popen('ls', shell=1)": "subprocess.Popen",
    "from subprocess import check_output as out\nout('ls', shell=flag)": "subprocess.check_output",
    "import subprocess\nsubprocess.getoutput('ls')": "subprocess.getoutput",
}


@pytest.mark.parametrize("source", UNSAFE)
def test_the_check_finds_what_is_unsafe(source):
    assert UNSAFE[source] in [name for _, name in unsafe_parts(source)]


SAFE = [
    "import torch\ntorch.load(p, map_location='cpu', weights_only=True)",
    "model.eval()\nmodel.compile()\nconfig.compile\nclass A:\n    compile: bool = False",
    "import re\nre.compile('x')",
    "import pickle\npickle.dumps(1)\npickle.STOP",
    "import numpy as np\nnp.load(p)\nnp.load(p, allow_pickle=False)",
    "import yaml\nyaml.safe_load(text)",
    "from ruamel.yaml import YAML\nYAML(typ='safe', pure=True).load(text)",
    "import subprocess\nsubprocess.run(['ls'])\nsubprocess.run(['ls'], shell=False)",
    "import json\njson.load(f)",
]


@pytest.mark.parametrize("source", SAFE)
def test_the_check_leaves_alone_what_is_safe(source):
    assert list(unsafe_parts(source)) == []
