"""The measurement of a GPU, tried at tiny size on a CPU: its figures, their tables, and what documents say of them."""

import os
import warnings
from dataclasses import asdict, fields
from types import SimpleNamespace

import pytest
import torch
from documents import REPOSITORY, rows_of
from in_process import call

from benchmarks.full_size import MEAN_WORDS, drawn_lengths, make_batch
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import kernels, layers, machine, reranking, steps, tables
from benchmarks.gpu.bench import Bench, words_of
from benchmarks.gpu.items import items_of
from benchmarks.gpu.record import Record
from dataset.batch import LoadedBatch

CPU = torch.device("cpu")
# what an item's name begins with: its figures
FIGURES = {
    "peaks": machine.PeakFigures,
    "step/": steps.StepFigures,
    "published/": steps.StepFigures,
    "training/": steps.TrainingFigures,
    "kernels/": kernels.KernelFigures,
    "graph/": kernels.GraphFigures,
    "compiled/": kernels.CompiledFigures,
    "gallery/": reranking.GalleryFigures,
    "rerank/": reranking.RerankFigures,
    "rerank/published": reranking.PublishedRerankFigures,
    "attention/": layers.AttentionFigures,
    "new_lengths": layers.LengthFigures,
    "transfer": machine.TransferFigures,
    "scan": layers.ScanFigures,
}
CHOSEN = (
    *("peaks", "step/bf16/8", "step/tf32/8", "step/fp32/8", "published/fp32/8", "training/bf16/8", "kernels/bf16/8"),
    *("gallery/bf16", "rerank/bf16/own", "rerank/published", "attention/", "new_lengths", "transfer", "scan"),
    *("graph/", "compiled/"),
)
NEED_CUDA = {
    "transfer",
    *(f"graph/bf16/{size}" for size in (8, 13, 52)),
    *(f"compiled/bf16/{size}/{how}" for how in ("layers", "step") for size in (8, 52)),
    *(f"compiled/bf16/{size}/graphs" for size in (8, 13)),
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A file of all families of items."""
    path = tmp_path_factory.mktemp("gpu") / "new" / "tried.json"
    ending = call(command.main, "--out", path, "--device", "cpu", "--quick", "--only", *CHOSEN)
    assert ending.code == 0, ending.errors
    return path


def figures_of(name):
    prefix = max((one for one in FIGURES if name.startswith(one)), key=len)
    return FIGURES[prefix]


# ---- what is measured ------------------------------------------------------------------


def test_every_item_has_figures_and_none_is_dropped_silently(measured):
    found = Record.read(measured)
    assert found.failed == {} and found.finished is True
    assert found.left_out == dict.fromkeys(NEED_CUDA, "needs CUDA")
    assert [*found.items] == [name for name in found.planned if name not in NEED_CUDA]
    for name, figures in found.items.items():
        assert set(figures) == {field.name for field in fields(figures_of(name))}, name
    assert {"card", "date", "commit", "torch", "machine", "budget"} <= set(found.about)
    assert os.listdir(measured.parent) == [measured.name]


def test_the_order_is_that_of_value_and_names_are_unique():
    names = [item.name for item in items_of(Bench(CPU, quick=True))]
    assert len(set(names)) == len(names)
    order = ("step/bf16/8", "step/bf16/52", "published/fp32/8", "training/bf16/52", "kernels/bf16/52")
    order += ("rerank/bf16/own", "attention/image", "graph/bf16/8", "compiled/bf16/8/layers", "step/fp32/128")
    places = [names.index(name) for name in order]
    assert places == sorted(places)
    bf16 = {int(name.split("/")[2]) for name in names if name.startswith("step/bf16/")}
    assert bf16 == {8, 13, 32, 52, 64, 128}


def test_all_ways_of_a_step_start_from_the_same_parameters_and_find_the_same_losses(measured):
    items = Record.read(measured).items
    plain, own, tensor_cores, half = (
        items[f"{way}/8"] for way in ("published/fp32", "step/fp32", "step/tf32", "step/bf16")
    )
    assert set(own["losses"]) == set(Bench(CPU, quick=True).config.weights)
    for name, loss in plain["losses"].items():
        assert own["losses"][name] == pytest.approx(loss, rel=1e-4)
        assert tensor_cores["losses"][name] == own["losses"][name]  # on a CPU
        assert half["losses"][name] == pytest.approx(loss, rel=0.1)
    assert own["gradient_norm"] == pytest.approx(plain["gradient_norm"], rel=1e-3)
    assert own["total"] == pytest.approx(plain["total"], rel=0.05)  # other draws of dropout
    assert own["total"] != plain["total"]


def test_figures_fit_together(measured):
    items = Record.read(measured).items
    step = items["step/bf16/8"]
    assert step["samples_per_second"] == pytest.approx(1e3 * step["batch"] / step["ms"])
    assert step["peak_share"] == pytest.approx(step["tflop"] / (step["ms"] / 1e3) / items["peaks"]["square"]["bf16"])
    assert 0 < step["host_ms"] <= step["ms"] and step["peak_mib"] is None
    ranked = items["rerank/bf16/own"]
    pairs, captions, images = 6156 * 128, 6156, 3074
    seconds = (pairs * ranked["first_us"] + captions * ranked["prefix_us"]) / 1e6
    assert ranked["cuhk_s"] == pytest.approx(seconds + images / items["gallery/bf16"]["images_per_second"])
    assert 0 < ranked["difference"] < 0.2 * ranked["deviation"]
    found = items["kernels/bf16/8"]
    assert found["kernels"] > 1000 and any(name == "aten::mm" for name, *_ in found["busiest"])
    assert found["busy_ms"] >= sum(ms for *_, ms in found["busiest"]) > 0
    assert items["training/bf16/8"]["syncs"] is None
    assert len(set(items["training/bf16/8"]["words"])) > 1
    attention = items["attention/image"]["kernels"]
    assert "cudnn" in attention and isinstance(attention["cudnn"], str)  # refuses, on a CPU
    assert attention["math"]["difference"] < 0.05
    assert items["scan"]["difference"] < 1e-5


def test_evaluations_of_cuhk_are_not_computed_without_a_rate_of_its_gallery():
    assert reranking.cuhk_seconds(10.0, 1.0, None) is None
    assert reranking.cuhk_seconds(1.0, 0.0, 3074.0) == pytest.approx(0.787968 + 1)


def test_captions_have_the_published_mean_and_batches_other_longest_ones():
    lengths = drawn_lengths(20_000, torch.Generator().manual_seed(0))
    assert lengths.double().mean() - 2 == pytest.approx(MEAN_WORDS, rel=0.01)
    assert lengths.min() >= 5 and lengths.max() <= 77
    config = Bench(CPU, quick=True).config
    assert len({words_of(make_batch(config, 4, drawn_lengths, number)) for number in range(4)}) > 1


def test_a_program_that_is_not_there_or_fails_has_no_answer():
    assert machine.answer_of("git", "--version").startswith("git version")
    assert machine.answer_of("no-such-program-here") == ""
    assert machine.answer_of("git", "no-such-command") == ""


# ---- what needs CUDA, with stand-ins for it --------------------------------------------


@pytest.fixture(scope="module")
def bench():
    return Bench(CPU, quick=True)


def test_a_graph_is_captured_and_replayed(bench, monkeypatch):
    told = []

    class Context:
        def __init__(self, *_):
            pass

        def __enter__(self):
            told.append("enter")

        def __exit__(self, *_):
            pass

    stream = SimpleNamespace(wait_stream=lambda other: told.append("wait"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", Context)
    monkeypatch.setattr(torch.cuda, "graph", Context)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: told.append("replay")))
    graph = asdict(kernels.measure_graph(bench, 8, "bf16"))
    assert told[:4] == ["wait", "enter", "wait", "enter"] and told.count("replay") > 4
    assert graph["total"] == pytest.approx(steps.measure_step(bench, 8, "bf16").total, rel=0.1)
    assert all(parameter.grad is None for parameter in bench.model.parameters())


def test_layers_are_compiled_for_one_item_alone(bench, monkeypatch):
    calls = []

    def compile_model(model, how):
        assert how == "layers"
        for number, block in enumerate(model.visual_encoder.blocks):
            block._compiled_call_impl = lambda *given, n=number, b=block: calls.append(n) or b._call_impl(*given)

    monkeypatch.setattr(kernels, "compile_model", compile_model)
    found = kernels.measure_compiled(bench, "layers", 8, "fp32")
    assert set(calls) == {0, 1}
    assert all(part._compiled_call_impl is None for part in bench.model.modules())
    assert found.first_s > 0 and found.total == pytest.approx(steps.measure_step(bench, 8, "fp32").total)


@pytest.mark.parametrize("how", ["step", "graphs"])
def test_a_whole_step_is_compiled_for_a_batch_of_few_shapes(how, bench, monkeypatch):
    lengths, began = [], []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: began.append(1))

    def compile_model(model, what, cuda_graphs=False):
        assert (what, cuda_graphs) == ("step", how == "graphs")

        def compiled(batch, *others):
            lengths.append(batch.caption.ids.shape[1])
            return model._call_impl(batch, *others)

        model._compiled_call_impl = compiled

    monkeypatch.setattr(kernels, "compile_model", compile_model)
    found = kernels.measure_compiled(bench, how, 8, "fp32")
    assert set(lengths) == {found.words} and found.words % 8 == 0
    assert len(began) == (len(lengths) if how == "graphs" else 0)
    assert bench.model._compiled_call_impl is None


def test_a_batch_is_sent_as_loaders_make_it(bench, monkeypatch):
    sent = []
    monkeypatch.setattr(LoadedBatch, "pin_memory", lambda batch: batch)
    monkeypatch.setattr(LoadedBatch, "to", lambda batch, device: sent.append(batch))
    found = machine.measure_transfer(bench)
    assert found.mib == pytest.approx(found.batch * 3 * 32 * 16 / 2**20) and found.ms >= 0
    assert {batch.views.dtype for batch in sent} == {torch.uint8}


def test_waits_for_the_device_are_counted_by_line(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def step():
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    ((line, count),) = steps.count_syncs(step).items()
    assert line.startswith("tests/benchmarks/test_gpu_measurement.py:") and count == 3
    with pytest.raises(ZeroDivisionError):
        steps.count_syncs(lambda: 1 / 0)
    assert modes == ["warn", "default"] * 2


# ---- tables and documents --------------------------------------------------------------


def test_the_tables_have_every_item_once_measured(measured, capsys):
    command.main(["--show", str(measured), str(measured)])
    printed = capsys.readouterr().out
    assert printed.count(f"### none, {Record.read(measured).about['date']}, commit ") == 2
    assert "these figures mean nothing" in printed
    for name in Record.read(measured).planned:
        assert f"| {name} |" in printed
    for line in printed.splitlines():
        assert not line.startswith("|") or line.endswith("|")


def test_what_needs_cuda_has_tables_too():
    found = Record({"card": "A GPU", "date": "2026-01-02", "commit": "abc"}, [], finished=True)
    found.items = {
        "graph/bf16/8": asdict(kernels.GraphFigures(8, 40, 20.0, 25.0, 24.0, 320.0, 12.5)),
        "compiled/bf16/8": asdict(kernels.CompiledFigures(8, 40, 60.0, 100.0, 90.0, 80.0, 12.25)),
        "transfer": asdict(machine.TransferFigures(64, 54.0, 2.5)),
        "published/fp32/8": {**dict.fromkeys(field.name for field in fields(steps.StepFigures)), "batch": 8}
        | {"losses": {"cl": 2.0}, "samples_per_second": 40.0, "ms": 200.0},
        "training/bf16/8": asdict(steps.TrainingFigures(8, [40], 50.0, [60.0], 160.0, 12.0, {"utils/a.py:3": 2})),
    }
    drawn = tables.draw(found)
    assert "### A GPU, 2026-01-02, commit abc" in drawn
    for row in (
        "| graph/bf16/8 | 40 | 25.0 | 24.0 | 320 | 20.0 | 12.5 |",
        "| graph/bf16/8 | 8.00 |",
        "| transfer | 64 | 54.0 | 2.50 |",
        "| training/bf16/8 | 40 | 50.0 | 60.0 | 160 | 12.0 | utils/a.py:3: 2 |",
        "| published/fp32/8 | 8 | 2 | - | - |",
    ):
        assert row in drawn


def test_documents_name_the_figures_of_every_item():
    """docs/speed.md: | items | figures |, each between backticks."""
    rows = [row for row in rows_of(REPOSITORY / "docs" / "speed.md") if row[0].startswith("`") and len(row) == 3]
    named = {row[0].strip("`").split("PRECISION")[0].split("NAME")[0]: row[2] for row in rows}
    assert set(named) == set(FIGURES)
    for prefix, cell in named.items():
        known = {field.name for field in fields(FIGURES[prefix])}
        listed = {part.strip("` ") for part in cell.split(",")}
        assert listed <= known and len(listed) > 1, prefix
