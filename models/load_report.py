"""What became of the tensors of a checkpoint: taken, resized, left fresh, not used."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from utils.text import counted

COUNTERS = ("idx_queue", "queue_ptr")  # mean nothing outside the run that made them


@dataclass(frozen=True)
class LoadReport:
    """Names of parameters and buffers: taken as they are, resized, left fresh, not used (with the reason).

    unneeded: how many fresh ones are of no use to what the model was loaded for, and are no more among them.
    """

    loaded: list[str]
    resized: list[str]
    fresh: list[str]
    unused: dict[str, str]
    unneeded: int = 0

    def without_unneeded(self, is_needed: Callable[[str], bool]) -> "LoadReport":
        """The same for whoever uses a model and does not train it: parts that are absent then should worry nobody."""
        needed = [name for name in self.fresh if is_needed(name)]
        others = [name for name in self.fresh if not is_needed(name) and name not in COUNTERS]
        return replace(self, fresh=needed, unneeded=len(others))

    def __str__(self) -> str:
        fresh = [name for name in self.fresh if name not in COUNTERS]
        unused = [f"{name} ({why})" for name, why in self.unused.items() if name not in COUNTERS]
        lines = [
            f"{counted(len(self.loaded), 'tensor')} loaded, {len(self.resized)} of them resized,"
            f" {len(fresh)} fresh, {len(unused)} unused"
        ]
        if self.unneeded:
            lines[0] += f"; it lacks {self.unneeded} that ranking does not use"
        lines += [f"  resized: {name}" for name in self.resized]
        lines += [f"  fresh:   {line}" for line in shorten(fresh)]
        lines += [f"  unused:  {line}" for line in shorten(unused)]
        return "\n".join(lines)


def shorten(names: list[str], most: int = 12) -> list[str]:
    """The first names, and how many more there are."""
    return names[:most] + ([f"... and {len(names) - most} more"] if len(names) > most else [])
