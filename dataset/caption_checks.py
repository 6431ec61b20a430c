"""Captions that cannot be right, or that no search could answer: warnings with examples, which forbid nothing."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache

from dataset.annotation_entries import Problem, RawEntry, quote
from dataset.captions import clean_caption

SHARED, SCRIPT = "same sentence, different identities", "caption in another script"
FRAGMENT, SHORT = "caption with fragments of code", "caption of fewer than three words"
CAPTION_WARNINGS = (SHARED, SCRIPT, FRAGMENT, SHORT)
FRAGMENTS = re.compile(
    r"""</?(?!person>)[a-z][a-z0-9]*(\s[^<>]*)?/?> | <!-- | <\|\w+\|>   # tags; <person> is of published captions
    | &(amp|lt|gt|quot|apos|nbsp|\#x?[0-9a-f]{2,6});                    # characters as HTML writes them
    | [{}] | \[\s*["'] | "\s*:\s*["\[0-9]                               # JSON, templates
    | \[(unk|pad|cls|sep|mask)\] | %\(?[a-z_]+\)s | ```
    | \\(u[0-9a-f]{4} | x[0-9a-f]{2} | [nrt"'])                         # escapes
    | https?:// | \bwww\.\w | \b[\w.]+@\w+\.\w
    | \ufffd | (?-i:Ã[\u0080-\u00bf] | Â[\u00a0-\u00bf] | â€)           # UTF-8 that was read as something else
    """,
    re.VERBOSE | re.IGNORECASE,
)
TOGETHER = dict.fromkeys(("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO"), "CJK")  # are mixed within a sentence
NO_SPACES = ("CJK", "THAI", "LAO", "KHMER", "MYANMAR")  # between words
NO_SCRIPT = ("MICRO", "FEMININE", "MASCULINE", "MODIFIER")  # signs that count as letters
MOST = 0.8  # of the captions of a file are in one script, if it is in one


def odd_captions(entries: Sequence[RawEntry]) -> list[Problem]:
    """Sentences of several people, and captions in another script, with fragments of code, or nearly without words."""
    script = _script_of_most(entries)
    return [
        *_shared_sentences(entries),
        *(
            Problem(category, entry.where, f"{quote(caption)}{what}")
            for entry in entries
            for caption in entry.captions
            for category, what in _oddities(caption, script)
        ),
    ]


def _shared_sentences(entries: Sequence[RawEntry]) -> list[Problem]:
    """Sentences that several people have, those of most people first; punctuation and case do not matter."""
    found: dict[str, dict[int | str, str]] = defaultdict(dict)
    written: dict[str, str] = {}
    for entry in entries:
        if entry.identity is None:
            continue
        for caption in entry.captions:
            sentence = clean_caption(caption, None)
            found[sentence].setdefault(entry.identity, entry.where)
            written.setdefault(sentence, caption)
    shared = [(sentence, people) for sentence, people in found.items() if len(people) > 1]
    return [
        Problem(SHARED, "", f"{quote(written[sentence])} stands for {len(people)} people: {_some(people)}")
        for sentence, people in sorted(shared, key=lambda pair: -len(pair[1]))
    ]


def _some(people: dict[int | str, str]) -> str:
    named = [f"identity {identity!r} in {where}" for identity, where in list(people.items())[:3]]
    return ", ".join(named) + (", ..." if len(people) > 3 else "")


def _oddities(caption: str, script: str | None) -> Iterator[tuple[str, str]]:
    """(category, end of a sentence that begins with the caption) of whatever is odd; script: of most captions."""
    if script is not None and (letters := _foreign_letters(caption, script)):
        yield SCRIPT, f" has letters that are not {script.capitalize()} as in most captions: {quote(letters[:20])}"
    if fragment := FRAGMENTS.search(caption):
        yield FRAGMENT, f" holds {quote(fragment[0])}"
    if _words(caption) < 3:
        yield SHORT, ""


def _words(caption: str) -> int:
    """How many words there are; in scripts without spaces between words, every letter is one."""
    letters = 0 if caption.isascii() else sum(script_of(character) in NO_SPACES for character in caption)
    return max(letters, len(clean_caption(caption, None).split()))


@lru_cache(maxsize=10_000)
def script_of(character: str) -> str | None:
    """The script of a letter by the first word of its Unicode name, such as LATIN; None of what is no letter."""
    if not character.isalpha():
        return None
    name = unicodedata.name(unicodedata.normalize("NFKC", character)[0], "").split(" ")[0].split("-")[0]
    return None if name in NO_SCRIPT or character in "µªº" else TOGETHER.get(name, name)


def _scripts(caption: str) -> Counter[str]:
    """How many letters of each script a caption holds."""
    if caption.isascii():
        return Counter({"LATIN": sum(map(str.isalpha, caption))})
    return Counter(script for script in map(script_of, caption) if script)


def _script_of_most(entries: Sequence[RawEntry]) -> str | None:
    """The script of nearly all captions; None where a file is in several."""
    found: Counter[str] = Counter()
    for entry in entries:
        for caption in entry.captions:
            found.update(script for script, letters in _scripts(caption).most_common(1) if letters)
    script, captions = found.most_common(1)[0] if found else (None, 0)
    return script if captions >= MOST * found.total() else None


def _foreign_letters(caption: str, script: str) -> str:
    """The letters of a caption that are of another script.

    Latin letters within others are words such as T-shirt and names: only a sentence of them counts.
    """
    scripts = _scripts(caption)
    if script != "LATIN" and scripts["LATIN"] <= scripts[script]:
        scripts.pop("LATIN", None)
    foreign = scripts.keys() - {script}
    if not any(scripts[other] for other in foreign):
        return ""
    return "".join(character for character in caption if script_of(character) in foreign)
