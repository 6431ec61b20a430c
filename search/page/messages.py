"""What the page says in words, in which all that somebody wrote is text, never HTML."""

import html

from search.searcher import SearchResult
from utils.errors import UserError
from utils.paths import printable
from utils.text import agreeing, counted

STAGES = {"nearest embeddings": ("reading", "embedding search"), "re-ranking": ("image tokens", "re-ranking")}
"""The stages of a search, and the laps of its clock that belong to each."""


def summary(found: SearchResult) -> str:
    """How many and how long, as HTML."""
    lost = len(found.missing)
    left_out = f" {counted(lost, 'image')} could not be read and {agreeing(lost, 'is', 'are')} left out."
    missing = left_out if lost else ""
    missing += "".join(f" {escaped(line[0].upper() + line[1:])}." for line in found.warnings)
    if not found.hits:
        return f"Nothing found in {seconds_as_text(found)}.{missing}"
    verdict = f"<strong>{escaped(found.verdict[0].upper() + found.verdict[1:])}.</strong> " if found.verdict else ""
    number = counted(len(found.hits), "result")
    return f"{verdict}{number} in {seconds_as_text(found)} ({stages_of(found)}).{missing}"


def seconds_as_text(*found: SearchResult) -> str:
    """How long searches took together, such as 0.4 s."""
    seconds = sum(sum(one.milliseconds.values()) for one in found) / 1000
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds:.2f} s"


def stages_of(found: SearchResult) -> str:
    """How long each stage took, and of the second one the encoding of images that were not in memory."""
    times, parts = dict(found.milliseconds), []
    tokens = times.get("image tokens", 0)
    for name, laps in STAGES.items():
        spent = sum(times.pop(lap, 0) for lap in laps)
        parts.append(f"{name} {spent:.0f} ms" if spent else "")
        if name == "re-ranking" and tokens >= 1:
            parts[-1] += f", of which {tokens:.0f} ms to read images"
    return "; ".join(part for part in [*parts, *(f"{name} {value:.0f} ms" for name, value in times.items())] if part)


def problem(error: UserError) -> str:
    """A message in bold."""
    return f"<strong>{escaped(str(error))}</strong>"


def escaped(text: str) -> str:
    """Text that cannot be HTML, with escapes for what is no text, such as half of a surrogate pair that was typed."""
    return html.escape(printable(text))
