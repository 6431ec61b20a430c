"""The folder of a run: who may write there, and the checkpoints in it.

checkpoint_last.pth       where the run stands: what it is resumed from
checkpoint_previous.pth   the one before, for when the last is damaged
checkpoint_best.pth       the best model so far
config.yaml               all its settings
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from utils.checkpoints.background import BackgroundWriter
from utils.checkpoints.files import read_checkpoint, read_newest, save_checkpoint
from utils.errors import UserError
from utils.files import remove_leftovers
from utils.locks import locked

LAST, PREVIOUS, BEST = "checkpoint_last.pth", "checkpoint_previous.pth", "checkpoint_best.pth"
CONFIG = "config.yaml"
CONFIG_OF_OTHERS = "configs.yaml"  # options of a run of the published IRRA or RDE
LOCK = ".lock"


class RunFolder:
    """The output folder of one run. Checkpoints are written in the background, one after the other."""

    def __init__(self, path: Path):
        self.path, self.writer = path, BackgroundWriter()

    def holds_checkpoint(self) -> bool:
        """Whether there is something to resume from."""
        return any((self.path / name).exists() for name in (LAST, PREVIOUS))

    def holds_best(self) -> bool:
        return (self.path / BEST).exists()

    @property
    def last(self) -> Path:
        return self.path / LAST

    def refuse_to_overwrite(
        self, checkpoint: Path | None, resume: bool, results: tuple[str, ...], evaluate: bool = False
    ) -> None:
        """Raises UserError when files of another run would be replaced.

        checkpoint: where weights come from; resume: the run there shall go on; evaluate: it shall be evaluated;
        results: files of a run beside checkpoints and log that would be replaced.
        """
        inside = checkpoint is None or checkpoint.resolve().parent == self.path.resolve()
        if inside and (resume or evaluate):
            return
        kept = [name for name in (LAST, PREVIOUS, BEST, "log.txt", *results) if (self.path / name).exists()]
        if not kept:
            return
        advice = "name another folder"
        if self.holds_checkpoint() and not evaluate:
            leave_or_add = "leave out --checkpoint" if resume else "add --resume"
            advice = f"{leave_or_add} to go on with it, or {advice}"
        raise UserError(f"--output_dir {self.path} holds {kept[0]} of another run; {advice}")

    def refuse_finished(self, checkpoint: str) -> NoReturn:
        """Raises UserError: the run of this checkpoint is finished, and its best model is in another folder."""
        raise UserError(
            f"the run of checkpoint {checkpoint} is finished, and {self.path} does not hold its checkpoint_best.pth;"
            " name its own folder as --output_dir, or raise schedular.epochs, schedular.steps or max_steps"
        )

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other runs out of the folder, and remove what a killed one left half written.

        However the block ends, that waits until the checkpoint under way is on the disk.
        Raises UserError when another process writes there, or that checkpoint cannot be written.
        """
        with locked(self.path / LOCK, f"--output_dir {self.path}", "wait for its end, or name another folder"):
            remove_leftovers(self.path)
            try:
                yield
            finally:
                self.finish()

    def newest(self, path: Path | None = None) -> dict[str, Any]:
        """What to resume from: `path`, by default the last checkpoint, or the previous one where that is damaged."""
        path = path or self.last
        if path.name == LAST:
            return read_newest(path, path.with_name(PREVIOUS))
        return {**read_checkpoint(path), "path": str(path)}

    def best(self) -> dict[str, Any]:
        self.finish()
        return read_checkpoint(self.path / BEST)

    def save_last(self, content: dict[str, Any]) -> None:
        """Write it while the caller goes on; waits for the checkpoint before. `check` and `finish` tell of failures.

        Raises UserError when that one could not be written.
        """
        self.writer.start(partial(save_checkpoint, self.last, previous=self.path / PREVIOUS), content)

    def save_best(self, content: dict[str, Any]) -> None:
        """As `save_last`."""
        self.writer.start(partial(save_checkpoint, self.path / BEST), content)

    def check(self) -> None:
        """Raises UserError when a checkpoint that was under way could not be written."""
        self.writer.check()

    def finish(self) -> None:
        """Wait until all checkpoints are on the disk. Raises UserError when one could not be written."""
        self.writer.wait()


def config_beside(checkpoint: str | Path) -> Path | None:
    """The configuration of the run of a checkpoint, where it is in its folder, under our name or IRRA's and RDE's."""
    paths = (Path(checkpoint).with_name(name) for name in (CONFIG, CONFIG_OF_OTHERS))
    return next((path for path in paths if path.is_file()), None)


def settings_of_run(checkpoint: str | Path) -> str:
    """For messages: where the settings of a checkpoint's run are, and how they are taken."""
    own = config_beside(checkpoint) or "the checkpoint itself"
    return f"the settings of its run, from {own}, are those of --resume without --config, --set and --seed"


def is_restart(environment: dict[str, str] | None = None) -> bool:
    """Whether torchrun or SLURM has started this command again after it failed or was taken off its machine."""
    environment = dict(os.environ) if environment is None else environment
    counts = (environment.get(name, "0") for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
    return any(count.isdigit() and int(count) > 0 for count in counts)
