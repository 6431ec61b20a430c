"""What `auto` means on a device, and what is compiled where it is asked for, or refused where it cannot work."""

import pytest
import torch
from torch import nn

from configs import run
from configs.command_line import parse_arguments, read_config
from configs.loading import load_config
from configs.schema import MarsConfig
from evaluation.trained import settings_of
from models import build
from utils.errors import UserError
from utils.precision import choose_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_the_defaults_are_those_of_published_files_too():
    assert (MarsConfig().precision, MarsConfig().compile, MarsConfig().cuda_graphs) == ("auto", False, False)
    for name in ("PS_cuhk_pedes", "PS_icfg_pedes", "PS_rstp_reid", "mamba_cuhk_pedes"):
        config = load_config(f"configs/{name}.yaml")
        assert (config.precision, config.compile) == ("auto", False)


def test_precision_by_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or True)
    assert choose_precision("auto", CPU) == "fp32"
    assert choose_precision("auto", GPU) == "bf16"
    for precision in ("fp32", "tf32", "bf16"):
        assert choose_precision(precision, GPU) == precision
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert choose_precision("auto", GPU) == "fp32"


class Successor(nn.Module):
    def forward(self, number):
        return number + 1


def test_a_step_that_cannot_be_compiled_ends_in_one_line(monkeypatch):
    def fail(module, **how):
        def call(*given, **named):
            raise torch._dynamo.exc.TorchDynamoException("no\n kernel")

        module._compiled_call_impl = call

    monkeypatch.setattr(nn.Module, "compile", fail)
    model = Successor()
    build.compile_model(model, "step")
    with pytest.raises(UserError, match=r"^config: `compile: step` fails here: no kernel; set `compile` to false$"):
        model(1)


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
        (["cuda_graphs=true"], "`cuda_graphs`: needs `compile: step`, not false; set that too, or leave"),
        (["cuda_graphs=true", "compile=layers"], "`cuda_graphs`: needs `compile: step`, not layers"),
        (["cuda_graphs=true", "compile=step", "accumulate_steps=2"], "`cuda_graphs`: cannot hold gradients of several"),
    ],
)
def test_cuda_graphs_are_refused_beside_what_they_cannot_do(settings, message):
    with pytest.raises(UserError) as refused:
        load_config("configs/PS_cuhk_pedes.yaml", settings)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_cuda_graphs_are_refused_where_they_cannot_work(monkeypatch):
    config = load_config(None, ["cuda_graphs=true", "compile=step"])
    monkeypatch.setattr(run, "require_compiler", lambda: None)
    with pytest.raises(UserError, match="`cuda_graphs` needs a GPU, and the device is cpu"):
        run.require_what_compiles(config, CPU)
    run.require_what_compiles(config, GPU)
    monkeypatch.setattr(run, "world_size", lambda: 2)
    with pytest.raises(UserError, match="`cuda_graphs` is for one process, and there are 2 processes"):
        run.require_what_compiles(config, GPU)


def test_a_resumed_run_keeps_what_auto_meant():
    checkpoint = {"config": {"precision": "fp32", "compile": False}}
    assert run.keep_precision(MarsConfig(), checkpoint).precision == "fp32"
    assert run.keep_precision(MarsConfig(precision="bf16"), checkpoint).precision == "bf16"
    assert run.keep_precision(MarsConfig(), {}).precision == "auto"


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_a_model_that_was_exported_with_the_former_default_is_not_compiled(cuda_graphs, tmp_path):
    settings = {**MarsConfig().model_dump(mode="json"), "compile": "auto", "cuda_graphs": cuda_graphs}
    content = {"path": str(tmp_path / "model.safetensors"), "config": settings}
    options = parse_arguments(["--evaluate", "--checkpoint", content["path"]])
    for config in (settings_of(content, None, []), read_config(options, content)):
        assert (config.compile, config.cuda_graphs) == (False, False)
