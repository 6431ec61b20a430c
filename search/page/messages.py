"""What the page says in words, none of which can be Markdown or HTML."""

import html

from search.searcher import Answer
from utils.errors import UserError
from utils.text import agreeing, counted


def summary(found: Answer) -> str:
    """How many and how long, as text that cannot be Markdown."""
    seconds = sum(found.milliseconds.values()) / 1000
    stages = ", ".join(f"{name} {value:.0f} ms" for name, value in found.milliseconds.items())
    lost = len(found.missing)
    left_out = f" {counted(lost, 'image')} could not be read and {agreeing(lost, 'is', 'are')} left out."
    missing = left_out if lost else ""
    missing += "".join(f" {escaped(line[0].upper() + line[1:])}." for line in found.told)
    if not found.hits:
        return f"Nothing found.{missing}"
    verdict = f"**{escaped(found.verdict[0].upper() + found.verdict[1:])}.** " if found.verdict else ""
    return f"{verdict}{counted(len(found.hits), 'image')} in {seconds:.2f} s ({stages}).{missing}"


def problem(error: UserError) -> str:
    """A message in bold."""
    return f"**{escaped(str(error))}**"


def escaped(text: str) -> str:
    """Text that cannot be Markdown or HTML."""
    return "".join(f"\\{sign}" if sign in "*_`[]()#\\~|" else sign for sign in html.escape(text))
