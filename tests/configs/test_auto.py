"""What `auto` means on a device, and what is refused where it cannot work."""

import logging

import pytest
import torch
from torch import nn

from configs import run
from configs.schema import Config, load_config
from models import build
from utils.errors import UserError
from utils.precision import choose_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MANY = build.WORTH_COMPILING


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of this kind, with all compilers beside it."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(build, "find_spec", lambda name: name)
    monkeypatch.setattr(build.shutil, "which", lambda name: name)


def test_auto_is_the_default_of_published_files_too():
    assert (Config().precision, Config().compile, Config().cuda_graphs) == ("auto", "auto", False)
    for name in ("PS_cuhk_pedes", "PS_icfg_pedes", "PS_rstp_reid", "mamba_cuhk_pedes"):
        config = load_config(f"configs/{name}.yaml")
        assert (config.precision, config.compile) == ("auto", "auto")


def test_precision_by_device(gpu, monkeypatch):
    assert choose_precision("auto", CPU) == "fp32"
    assert choose_precision("auto", GPU) == "bf16"
    for precision in ("fp32", "tf32", "bf16"):
        assert choose_precision(precision, GPU) == precision
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert choose_precision("auto", GPU) == "fp32"


def test_compiling_by_device_steps_and_compilers(gpu, monkeypatch, caplog):
    assert build.choose_compile("auto", GPU, MANY) == "step"
    assert build.choose_compile("auto", GPU, MANY - 1) is False
    assert build.choose_compile("auto", CPU, MANY) is False
    for how in (True, False, "layers", "step"):
        assert build.choose_compile(how, CPU, 1) == how
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    assert build.choose_compile("auto", GPU, MANY) is False
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert not caplog.records
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    monkeypatch.setenv("CXX", "other++ -O2")
    assert build.choose_compile("auto", GPU, MANY) is False
    assert "the package triton and a C++ compiler (other++)" in caplog.text


class Successor(nn.Module):
    def forward(self, number):
        return number + 1


def failing_model(monkeypatch, **options):
    """A model of which no step can be compiled."""
    model = Successor()

    def fail(module, **how):
        def call(*given, **named):
            raise build.TorchDynamoException("no\n kernel")

        module._compiled_call_impl = call

    monkeypatch.setattr(nn.Module, "compile", fail)
    build.compile_model(model, "step", **options)
    return model


def test_a_step_that_cannot_be_compiled_goes_on_without_where_nobody_asked_for_it(monkeypatch, caplog):
    model = failing_model(monkeypatch, optional=True)
    with caplog.at_level(logging.WARNING):
        assert [model(1), model(2)] == [2, 3]
    assert caplog.text.count("steps are not compiled: no kernel") == 1


def test_a_step_that_cannot_be_compiled_as_asked_ends_in_one_line(monkeypatch):
    with pytest.raises(UserError, match=r"^config: `compile: step` fails here: no kernel; set `compile` to false$"):
        failing_model(monkeypatch)(1)


def test_cuda_graphs_are_made_by_the_compiler(monkeypatch):
    asked = []

    def compiled(module, **how):
        asked.append(how)
        module._compiled_call_impl = module.forward

    monkeypatch.setattr(nn.Module, "compile", compiled)
    for cuda_graphs in (False, True):
        build.compile_model(Successor(), "step", cuda_graphs=cuda_graphs)
    assert [how.get("mode") for how in asked] == [None, "reduce-overhead"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["cuda_graphs=true", "compile=false"], "`cuda_graphs`: needs `compile: step`, of which they are made"),
        (["cuda_graphs=true", "compile=layers"], "and not 'layers'"),
        (["cuda_graphs=true", "accumulate_steps=2"], "`cuda_graphs`: cannot hold gradients of several micro-batches"),
    ],
)
def test_cuda_graphs_are_refused_beside_what_they_cannot_do(settings, message):
    with pytest.raises(UserError) as refused:
        load_config("configs/PS_cuhk_pedes.yaml", settings)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_cuda_graphs_are_refused_where_they_cannot_work(monkeypatch):
    config = load_config(None, ["cuda_graphs=true"])
    with pytest.raises(UserError, match="`cuda_graphs` needs a GPU, and the device is cpu"):
        run.require_what_compiles(config, CPU)
    run.require_what_compiles(config, GPU)
    monkeypatch.setattr(run, "world_size", lambda: 2)
    with pytest.raises(UserError, match="`cuda_graphs` is for one process, and there are 2 processes"):
        run.require_what_compiles(config, GPU)


def test_a_resumed_run_keeps_what_auto_meant():
    checkpoint = {"config": {"precision": "fp32", "compile": False}}
    kept = run.keep_choices(Config(), checkpoint)
    assert (kept.precision, kept.compile) == ("fp32", False)
    kept = run.keep_choices(Config(precision="bf16", compile="step"), checkpoint)
    assert (kept.precision, kept.compile) == ("bf16", "step")
    assert run.keep_choices(Config(), {}).precision == "auto"
