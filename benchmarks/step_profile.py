"""Where a training step goes: data, forward and backward of each stage, gradient norm, optimizer.

    python -m benchmarks.step_profile [--quick] [--precision bf16] [--batch 4]

Full size, without dropout. A stage's backward time runs from the moment its first output has a gradient to
that of the next stage: autograd goes back through the stages one after the other.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from benchmarks.full_size import configuration, make_batch, make_draws, make_model
from benchmarks.measure import at_least, describe_machine, make_parser, seconds_of
from configs.schema import MarsConfig
from dataset.annotations import Entry
from dataset.batch_plan import BatchRequest
from dataset.tokens import CaptionTokenizer
from dataset.train_set import TrainSet
from models.objectives import LOSSES
from models.person_search import PersonSearchModel
from utils.errors import run_command_line
from utils.memory import keep_freed_memory
from utils.precision import autocast
from utils.training.optimization import clip_gradients, make_optimizer

STAGES = (
    "encode_image",
    "encode_text",
    "encode_momentum",
    "draw_negatives",
    "prepare_words",
    "fuse_rows",
)
ALPHA = 0.4
CAPTION = "A woman with long black hair wears a red coat, grey jeans and white shoes and carries a black backpack."


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of a stage's result, however nested."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)
    elif is_dataclass(value):
        yield from tensors_in([getattr(value, field.name) for field in fields(value)])


class StageClock:
    """Forward seconds of each stage, and when gradients reach it on the way back."""

    def __init__(self, model: PersonSearchModel):
        self.forward: dict[str, float] = defaultdict(float)
        self.marks: list[tuple[str, float]] = []
        for stage in STAGES:
            setattr(model, stage, self.timed(stage, getattr(model, stage)))
        self.losses = {name: replace(LOSSES[name], compute=self.timed(name, LOSSES[name].compute)) for name in LOSSES}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within, losses are timed too, and what was timed before is forgotten."""
        self.forward.clear()
        self.marks.clear()
        before = dict(LOSSES)
        LOSSES.update(self.losses)
        try:
            yield
        finally:
            LOSSES.update(before)

    def timed(self, stage: str, method: Callable) -> Callable:
        @wraps(method)
        def wrapper(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            result = method(*arguments, **named)
            self.forward[stage] += time.perf_counter() - began
            for tensor in tensors_in(result):
                if tensor.requires_grad and tensor.grad_fn is not None:
                    tensor.register_hook(lambda _: self.marks.append((stage, time.perf_counter())))
            return result

        return wrapper

    def backward(self, end: float) -> dict[str, float]:
        """Seconds of each stage on the way back, which ended at `end`."""
        seconds: dict[str, float] = defaultdict(float)
        for (stage, began), (_, after) in zip(self.marks, [*self.marks[1:], ("", end)], strict=True):
            seconds[stage] += after - began
        return seconds


def time_data(config: MarsConfig, batch: int) -> float:
    """Seconds in which one loader process makes a batch, from JPEG files of usual size."""
    with tempfile.TemporaryDirectory(prefix="step_profile") as folder:
        for place in range(batch):
            Image.effect_noise((180, 500), 60).convert("RGB").save(Path(folder) / f"{place}.jpg", quality=90)
        entries = [Entry(f"{place}.jpg", place, (CAPTION,)) for place in range(batch)]
        tokenizer = CaptionTokenizer.train([CAPTION.lower()], 100, 1)
        settings = (config.image_size, config.max_words, config.bert_config.max_position_embeddings, 0.1, 42)
        data = TrainSet(entries, folder, tokenizer, {}, *settings)
        request = BatchRequest(0, tuple(range(batch)), slice(0, batch))
        data.make_batch(request)
        return seconds_of(lambda: data.make_batch(request))


def profile(config: MarsConfig, batch_size: int) -> dict[str, tuple[float, float]]:
    """Seconds (forward, backward) by stage; what has no gradient has 0 backward."""
    model = make_model(config).train()
    optimizer = make_optimizer(model.named_parameters(), config.optimizer, model.fast(), model.undecayed())
    batch = make_batch(config, batch_size)
    draws = make_draws(model, batch)
    clock = StageClock(model)

    def step() -> dict[str, tuple[float, float]]:
        with clock.running(), autocast(config.precision, "cpu"):
            found, queued = model(batch, draws, ALPHA)
        sum(config.weights[name] * value for name, value in found.items()).backward()
        back = clock.backward(time.perf_counter())
        parts = {stage: (clock.forward[stage], back[stage]) for stage in (*STAGES, *found)}
        parts["gradient norm"] = (seconds_of(lambda: clip_gradients(model, None)), 0.0)
        parts["optimizer"] = (seconds_of(optimizer.step), 0.0)
        parts["queues and momentum model"] = (seconds_of(lambda: model.advance([queued])), 0.0)
        optimizer.zero_grad(set_to_none=True)
        return parts

    step()  # to warm up
    return {"data (in a loader process)": (time_data(config, batch_size), 0.0), **step()}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--batch", type=at_least(2), default=4, help="samples of a step, of which negatives are others")
    arguments = parser.parse_args()
    print(describe_machine())
    keep_freed_memory()
    parts = profile(configuration(arguments.quick, f"precision={arguments.precision}"), arguments.batch)
    waited = {name: sum(seconds) for name, seconds in parts.items() if not name.startswith("data")}
    together = sum(waited.values())
    print(f"batch {arguments.batch}, {arguments.precision}: {together:.2f} s a step")
    print(f"{'':28} {'forward':>9} {'backward':>9} {'share':>6}")
    for name, (forward, backward) in parts.items():
        share = f"{100 * waited[name] / together:5.1f}%" if name in waited else "beside"
        print(f"{name:28} {forward:9.3f} {backward:9.3f} {share}")


if __name__ == "__main__":
    run_command_line(main)
