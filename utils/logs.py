"""Messages on the terminal, one JSON line per epoch, TensorBoard."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.errors import visible
from utils.files import atomic_write


class TqdmHandler(logging.StreamHandler):
    """Messages that do not tear progress bars apart."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(visible(self.format(record)), file=sys.stderr)


def set_up_logging(is_main: bool) -> None:
    """Messages from the main process, errors from all: the others would repeat what it says."""
    handler = TqdmHandler()
    handler.setFormatter(logging.Formatter("%(message)s" if is_main else "[%(process)d] %(message)s"))
    logging.basicConfig(level=logging.INFO if is_main else logging.ERROR, handlers=[handler], force=True)
    for noisy in ("httpx", "urllib3", "filelock", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # without a home folder it tells of its cache
    # a cosine over one epoch has no effect by epoch, of which timm warns; by step it has
    logging.getLogger("timm.scheduler").setLevel(logging.ERROR)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # without a network it tells of every attempt


def flatten(record: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers of a nested record by path: {"val": {"r1": 3}} -> {"val/r1": 3}."""
    flat: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[prefix + key] = value
    return flat


class RunLog:
    """OUTPUT/log.txt (a JSON object per epoch) and OUTPUT/tensorboard (by epoch, and by step below it)."""

    def __init__(self, output: Path, first_epoch: int = 0, first_step: int = 0):
        """Records of `first_epoch` and later are dropped: a resumed run writes them again."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.path = output / "log.txt"
        if self.path.exists():
            kept = [line for line in self.path.read_text(encoding="utf-8").splitlines() if is_before(line, first_epoch)]
            with atomic_write(self.path) as temporary:
                temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self.by_epoch = SummaryWriter(str(output / "tensorboard"), purge_step=first_epoch)
        self.by_step = SummaryWriter(str(output / "tensorboard" / "steps"), purge_step=first_step + 1)

    def add(self, record: dict[str, Any]) -> None:
        """Write an epoch's numbers; its "curve" holds lists by name, "step" among them."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        for name, value in flatten(record).items():
            self.by_epoch.add_scalar(name, value, record["epoch"])
        steps = record["curve"]["step"]
        for name in record["curve"].keys() - {"step"}:
            for step, value in zip(steps, record["curve"][name], strict=True):
                self.by_step.add_scalar(f"curve/{name}", value, step)
        for writer in (self.by_epoch, self.by_step):
            writer.flush()

    def close(self) -> None:
        for writer in (self.by_epoch, self.by_step):
            writer.close()


def is_before(line: str, epoch: int) -> bool:
    """Whether a log line is a whole record of an earlier epoch."""
    try:
        return json.loads(line)["epoch"] < epoch
    except (ValueError, KeyError, TypeError):
        return False
