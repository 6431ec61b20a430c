"""What became of the tensors of a checkpoint: taken, resized, left fresh, not used."""

from dataclasses import dataclass

from utils.text import counted

COUNTERS = ("idx_queue", "queue_ptr")  # mean nothing outside the run that made them


@dataclass(frozen=True)
class LoadReport:
    """Names of parameters and buffers: taken as they are, resized, left fresh, not used (with the reason)."""

    loaded: list[str]
    resized: list[str]
    fresh: list[str]
    unused: dict[str, str]

    def __str__(self) -> str:
        fresh = [name for name in self.fresh if name not in COUNTERS]
        unused = [f"{name} ({why})" for name, why in self.unused.items() if name not in COUNTERS]
        lines = [
            f"{counted(len(self.loaded), 'tensor')} loaded, {len(self.resized)} of them resized,"
            f" {len(fresh)} fresh, {len(unused)} unused"
        ]
        lines += [f"  resized: {name}" for name in self.resized]
        lines += [f"  fresh:   {line}" for line in shorten(fresh)]
        lines += [f"  unused:  {line}" for line in shorten(unused)]
        return "\n".join(lines)


def shorten(names: list[str], most: int = 12) -> list[str]:
    """The first names, and how many more there are."""
    return names[:most] + ([f"... and {len(names) - most} more"] if len(names) > most else [])
