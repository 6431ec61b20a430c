"""The training loader: images per second of one core, where the time goes, and whether a step waits.

Drawn people in JPEG files of CUHK-PEDES's sizes (300x120 to 800x300 pixels), read at 384x384, with
two captions of 25 words per image. First, samples per second of one loader process as batches were made
at first, as they are made, and from an image cache; from files of about 160x64 pixels too, and with
captions of 4096 samples on all processes. Then where the time goes. Decoding alone is the yardstick:
the same files to RGB by Pillow, on one core. Each further part is what the time grows by when it is
added. Then the loader runs beside a stand-in for the training step: one that leaves the processor
alone, as long as a step on a GPU takes, and one that multiplies matrices on all cores, as a step on a
CPU does, but shorter than any step at full size. A batch that is ready still has to be taken over from
its worker's memory.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from benchmarks.loading_ways import BATCH as COMPARED
from benchmarks.loading_ways import EVERYONE, compare, run_through, show_ways, ways
from benchmarks.measure import describe_machine, in_turn, parse_arguments
from dataset.annotations import Entry
from dataset.batch import TrainBatch
from dataset.batch_plan import BatchPlan
from dataset.captions import clean_caption
from dataset.decoding import as_rgb
from dataset.images import load_image
from dataset.synthetic.generate import person_of, picture_of
from dataset.synthetic.options import Options
from dataset.tokens import CaptionTokenizer
from dataset.train_set import TrainLoader, TrainSet
from utils.errors import run_command_line

SIZE = (384, 384)
BATCH = 8
WORKERS = 2
MAX_WORDS, MAX_TOKENS = 75, 512
LATE = 0.05  # of a step: waiting that shows
SHAPES = [(300, 120), (400, 160), (500, 190), (650, 240), (800, 300)]  # height and width of files
SMALL_SHAPES = [(128, 64), (144, 60), (160, 64), (176, 72), (192, 80)]
SPANS = [[(0, 5), (6, 9)], [(12, 16), (18, 24)]]  # of the attributes of every caption
GPU_STEP = 0.15  # seconds of a full-size step of batch 8
CPU_STEP = 1.0  # seconds; a full-size step of batch 4 takes 3 and more on two cores


def draw_training_set(
    folder: Path, images: int, size: tuple[int, int] = SIZE, shapes: Sequence[tuple[int, int]] = SHAPES
) -> TrainSet:
    """Drawn people in JPEG files, with captions and made-up attributes (their first words)."""
    entries = []
    for number in range(images):
        height, width = shapes[number % len(shapes)]
        options = Options(height=height, width=width)
        picture, written = picture_of(options, number // 3, number, person_of(options, number // 3))
        picture.image.save(folder / f"{number}.jpg", quality=90)
        entries.append(Entry(f"{number}.jpg", number // 3, tuple(caption["text"] for caption in written)))
    captions = [caption for entry in entries for caption in entry.captions]
    tokenizer = CaptionTokenizer.train(clean_caption(caption, MAX_WORDS) for caption in captions)
    attributes = dict.fromkeys(captions, SPANS)
    return TrainSet(
        entries=entries,
        image_root=folder,
        tokenizer=tokenizer,
        attributes=attributes,
        size=size,
        max_words=MAX_WORDS,
        max_tokens=MAX_TOKENS,
        weak_probability=0.1,
        seed=0,
    )


# ---- where the time goes ----


def decode(paths: Sequence[Path]) -> None:
    """Files to RGB, as large as they are."""
    for path in paths:
        with Image.open(path) as image:
            as_rgb(image)


def decode_and_resize(paths: Sequence[Path], size: tuple[int, int]) -> None:
    """Files to RGB of one size."""
    for path in paths:
        with Image.open(path) as image:
            as_rgb(image).resize((size[1], size[0]), Image.Resampling.BICUBIC)


def load(paths: Sequence[Path], size: tuple[int, int]) -> None:
    """Files to tensors of one size."""
    for path in paths:
        load_image(path, size)


def read_captions(data: TrainSet) -> None:
    """The captions of all samples as word pieces with their attributes."""
    for caption in data.caption:
        data.table.ids(caption), data.table.attributes(caption)


@dataclass(frozen=True)
class Parts:
    """Milliseconds per sample: of decoding, of what comes on top, and of a whole loader with one worker."""

    decoding: float
    resizing: float
    to_tensor: float
    captions: float
    batching: float
    handing_over: float

    @property
    def whole(self) -> float:
        return sum(vars(self).values())


def measure_parts(data: TrainSet, repeats: int, batch: int = BATCH) -> Parts:
    """Takes the parts in turn, on one thread."""
    paths = [data.image_root / sample.image for sample in data.samples]
    here, beside = (make_loader(data, workers, batch) for workers in (0, 1))
    run_through(beside)  # starts its worker
    samples = len(here) * batch
    functions: dict[str, Callable[[], None]] = {
        "decode": lambda: decode(paths[:samples]),
        "resize": lambda: decode_and_resize(paths[:samples], data.size),
        "load": lambda: load(paths[:samples], data.size),
        "captions": lambda: read_captions(data),
        "here": lambda: run_through(here),
        "beside": lambda: run_through(beside),
    }
    times = in_turn(functions, repeats)
    each = {name: 1000 * statistics.median(seconds) / samples for name, seconds in times.items()}
    return Parts(
        decoding=each["decode"],
        resizing=each["resize"] - each["decode"],
        to_tensor=each["load"] - each["resize"],
        captions=each["captions"],
        batching=each["here"] - each["load"] - each["captions"],
        handing_over=each["beside"] - each["here"],
    )


def make_loader(data: TrainSet, workers: int, batch: int = BATCH) -> TrainLoader:
    """The product's loader."""
    return TrainLoader(data, BatchPlan(len(data), batch, 0, 1, seed=0), workers, pin_memory=False)


def show_parts(parts: Parts) -> None:
    """A line per part, and the loader against decoding alone."""
    for name, milliseconds in vars(parts).items():
        share = 100 * milliseconds / parts.whole
        print(f"{name.replace('_', ' '):16} {milliseconds:7.3f} ms per sample {share:5.1f} %")
    loader, decoding = 1000 / parts.whole, 1000 / parts.decoding
    print(
        f"loader with one worker: {loader:.0f} images per second; decoding alone: {decoding:.0f}; "
        f"the loader takes {parts.whole / parts.decoding:.2f} times as long"
    )


# ---- whether a step waits ----


def sleep(seconds: float) -> None:
    """A step on another device."""
    time.sleep(seconds)


def multiply(seconds: float) -> None:
    """A step on this machine's cores."""
    end, matrix = time.perf_counter() + seconds, torch.ones(1024, 1024)
    while time.perf_counter() < end:
        matrix @ matrix


def waits(data: TrainSet, workers: int, step: Callable[[], None], batch: int = BATCH) -> list[float]:
    """Seconds that each batch of an epoch was waited for, the first (start of the workers) among them."""
    batches = make_loader(data, workers, batch).epoch(0)
    waited: list[float] = []
    while True:
        began = time.perf_counter()
        found: TrainBatch | None = next(batches, None)
        if found is None:
            return waited
        waited.append(time.perf_counter() - began)
        step()


def show_waits(
    data: TrainSet, name: str, seconds: float, step: Callable[[float], None], made: float, batch: int = BATCH
) -> None:
    """The waiting per batch beside a step that takes so long; made: samples per second of one worker."""
    first, *others = waits(data, WORKERS, lambda: step(seconds), batch)
    middle, longest = statistics.median(others), max(others)
    late = sum(wait > LATE * seconds for wait in others)
    print(f"{name}: a step of {seconds} s needs {batch / seconds:.0f} samples per second, a worker makes {made:.0f}")
    print(
        f"    waited per batch: {1000 * middle:.1f} ms ({100 * middle / seconds:.1f} % of the step), "
        f"longest {1000 * longest:.1f} ms, for the first {1000 * first:.0f} ms"
    )
    print(f"    batches that took more than {LATE:.0%} of the step: {late} of {len(others)}")


def compare_ways(data: TrainSet, sizes: str, global_batches: Sequence[int], batches: int, repeats: int) -> None:
    """Samples per second of one loader process in each way, from files of these sizes."""
    spans = {sample.caption: SPANS for sample in data.samples}
    with tempfile.TemporaryDirectory() as folder:
        sets = ways(data, spans, Path(folder))
        for everyone in global_batches:
            show_ways(sizes, everyone, compare(sets, everyone, batches, repeats), batches * COMPARED)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options = parse_arguments(__doc__, arguments)
    images, waiting = (80, 40) if options.quick else (240, 120)
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        data = draw_training_set(Path(folder), images)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        batches = 1 if options.quick else 4
        compare_ways(data, "CUHK-PEDES", EVERYONE, batches, options.repeats)
        with tempfile.TemporaryDirectory() as other:
            small = draw_training_set(Path(other), images, shapes=SMALL_SHAPES)
            compare_ways(small, "160x64", EVERYONE[:1], batches, options.repeats)
        parts = measure_parts(data, options.repeats)
        torch.set_num_threads(threads)
        show_parts(parts)
        data.samples = data.samples[: 2 * waiting]
        for name, seconds, step in (("on a GPU", GPU_STEP, sleep), ("on all cores", CPU_STEP, multiply)):
            show_waits(data, name, seconds, step, 1000 / parts.whole)


if __name__ == "__main__":
    run_command_line(main)
