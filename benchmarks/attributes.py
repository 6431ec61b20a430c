"""Finding attributes: captions per second, against one call of spaCy per caption as inside the released step.

The plain way is what the released code does in its training step: the whole English pipeline
as `spacy.load(name)` gives it (lemmatizer and entity recogniser too) is called on one caption
after the other, and the nouns and adjectives of its noun chunks are kept. The product parses
each distinct caption once before training, in batches, on all cores, with the components that
noun chunks need, and keeps what it finds on disk. Its time here holds loading the model,
starting the processes and writing the cache; the plain way's model is loaded already.
"""

import contextlib
import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from benchmarks.measure import describe_machine, in_turn, parse_arguments, ratio_of, show
from dataset.annotations import Entry
from dataset.attribute_words import COLOURS
from dataset.attributes import Attribute, CaptionAttributes, cached_attributes, load_spacy
from dataset.batch_plan import BatchPlan
from dataset.captions import clean_caption, clean_caption_with_offsets
from dataset.synthetic.generate import person_of, picture_of
from dataset.synthetic.options import Options
from dataset.tokens import CaptionTokenizer
from dataset.train_set import TrainLoader, TrainSet
from utils.errors import run_command_line

if TYPE_CHECKING:
    from spacy.language import Language

MAX_WORDS = 75
SIZE = (64, 32)  # height and width of the images of the batches
NOUNS = ("NOUN", "PROPN")


def draw_entries(folder: Path, captions: int) -> list[Entry]:
    """Synthetic people, one image each, with at least so many distinct captions in all."""
    options = Options(height=SIZE[0], width=SIZE[1], captions_per_image=8)
    entries: list[Entry] = []
    distinct: set[str] = set()
    while len(distinct) < captions:
        number = len(entries)
        picture, written = picture_of(options, number, 0, person_of(options, number))
        picture.image.save(folder / f"{number}.jpg")
        entries.append(Entry(f"{number}.jpg", number, tuple(caption["text"] for caption in written)))
        distinct.update(entries[-1].captions)
    return entries


def captions_of(entries: Sequence[Entry], count: int) -> list[str]:
    """The first `count` distinct captions."""
    return list(dict.fromkeys(caption for entry in entries for caption in entry.captions))[:count]


# ---- the plain way ----


def load_whole_pipeline() -> "Language":
    """The English model with all its components."""
    import spacy  # slow to import

    _, identity = load_spacy()
    return spacy.load(identity.split()[0])


def plain_attributes(nlp: "Language", caption: str) -> list[str]:
    """The attributes of one caption as text, by one call of spaCy. The twin of `parse_attributes`."""
    text, _ = clean_caption_with_offsets(caption, None, keep_punctuation=True)
    found = []
    for chunk in nlp(text).noun_chunks:
        adjectives = [t for t in chunk if t.pos_ == "ADJ" or (t != chunk.root and t.lower_ in COLOURS)]
        words = [token for token in chunk if token in adjectives or token.pos_ in NOUNS]
        if adjectives and len(words) >= 2:
            found.append(clean_caption(" ".join(token.text for token in words), None))
    return found


def as_text(caption: str, attributes: Sequence[Attribute]) -> list[str]:
    """What the product's character spans say."""
    cleaned = clean_caption(caption, MAX_WORDS)
    return [" ".join(cleaned[start:end] for start, end in spans) for spans in attributes]


# ---- the product ----


def find(captions: Sequence[str]) -> CaptionAttributes:
    """The attributes of captions that no cache knows, as training finds them."""
    with tempfile.TemporaryDirectory() as folder:
        return cached_attributes(captions, Path(folder) / "train.json", Path(folder), MAX_WORDS)


@contextlib.contextmanager
def counted_parsing() -> Iterator["multiprocessing.sharedctypes.Synchronized"]:
    """Counts the texts that spaCy reads, in this process and in those it forks."""
    from spacy.language import Language

    count, make_doc = multiprocessing.Value("l", 0), Language.make_doc

    def counted(self: Language, text: str) -> object:
        with count.get_lock():
            count.value += 1
        return make_doc(self, text)

    with mock.patch.object(Language, "make_doc", counted):
        yield count


def count_parses(entries: Sequence[Entry], images: Path, batch: int) -> dict[str, int]:
    """How many captions spaCy reads in a first run, in a second one, and in the batches of an epoch."""
    captions = [caption for entry in entries for caption in entry.captions]
    counts, total = {}, 0
    with counted_parsing() as count, tempfile.TemporaryDirectory() as folder:

        def note(name: str) -> None:
            nonlocal total
            counts[name], total = count.value - total, count.value

        for name in ("first call", "second call"):
            found = cached_attributes(captions, Path(folder) / "train.json", Path(folder), MAX_WORDS)
            note(name)
        batches = sum(1 for _ in epoch(entries, images, found, batch))
        note(f"{batches} training batches")
    return counts


def epoch(entries: Sequence[Entry], images: Path, attributes: CaptionAttributes, batch: int) -> Iterator[object]:
    """The batches of one epoch, made by this process."""
    tokenizer = CaptionTokenizer.train(clean_caption(caption, MAX_WORDS) for caption in attributes)
    data = TrainSet(
        entries=entries,
        image_root=images,
        tokenizer=tokenizer,
        attributes=attributes,
        size=SIZE,
        max_words=MAX_WORDS,
        max_tokens=512,
        weak_probability=0.1,
        seed=0,
    )
    return TrainLoader(data, BatchPlan(len(data), batch, 0, 1, seed=0), workers=0, pin_memory=False).epoch(0)


# ---- the command ----


def count_equal(nlp: "Language", captions: Sequence[str]) -> int:
    """For how many captions both ways find the same attributes."""
    found = find(captions)
    return sum(plain_attributes(nlp, caption) == as_text(caption, found[caption]) for caption in captions)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options = parse_arguments(__doc__, arguments)
    many, few = (4_000, 400) if options.quick else (13_600, 1_500)
    print(describe_machine())
    nlp = load_whole_pipeline()
    with tempfile.TemporaryDirectory() as folder:
        entries = draw_entries(Path(folder), many)
        captions = captions_of(entries, many)
        sample = captions[:: many // few]
        times = in_turn(
            {
                "one by one": lambda: [plain_attributes(nlp, caption) for caption in sample],
                "product": lambda: find(captions),
            },
            options.repeats,
        )
        slow = [seconds / len(sample) for seconds in times["one by one"]]
        fast = [seconds / len(captions) for seconds in times["product"]]
        show(
            {f"one by one ({len(sample)} captions)": slow, f"product ({len(captions)} captions)": fast},
            "1,000 captions",
            per=1 / 1000,
        )
        print(f"captions per second: one by one {1 / min(slow):.0f}, product {1 / min(fast):.0f} (best of each)")
        print(f"same attributes: {count_equal(nlp, sample)} of {len(sample)} captions")
        counts = count_parses(entries[:60], Path(folder), batch=8)
    print("captions parsed: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
    print(f"ratio: {ratio_of(slow, fast):.2f}")


if __name__ == "__main__":
    run_command_line(main)
