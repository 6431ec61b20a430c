"""`python -m search benchmark`: what the index of one's own gallery finds and costs, and what others would."""

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from search.encoder import Encoder
from search.gallery.address import Address
from search.gallery.gallery import Gallery
from search.gallery.sample_sentences import sample_sentences
from search.milvus.index_measure import (
    Embeddings,
    Measured,
    as_table,
    build_and_measure,
    measure_in_use,
    require_measurable,
)
from search.milvus.index_types import INDEX_TYPES
from utils.errors import UserError, one_line
from utils.files import as_json
from utils.text import counted


def sentences_of(options: argparse.Namespace) -> list[str]:
    """The lines of --sentences, or as many drawn ones as --queries says."""
    if options.queries < 1:
        raise UserError(f"--queries must be 1 or more, not {options.queries}")
    if options.sentences is None:
        return sample_sentences(options.queries)
    try:
        lines = options.sentences.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"--sentences {options.sentences} cannot be read ({error.strerror}); name another") from None
    except UnicodeDecodeError:
        raise UserError(f"--sentences {options.sentences} is not UTF-8 text; write one sentence a line") from None
    if not (found := [line for line in lines if line.strip()]):
        raise UserError(f"--sentences {options.sentences} holds no sentence; write one a line")
    return found[: options.queries]


def embeddings_of(gallery: Gallery, encoder: Encoder, texts: list[str], folder: Path) -> Embeddings:
    """What the gallery keeps of its images, and the sentences as its model encodes them."""
    images = list(gallery.records)
    queries = np.stack([encoder.encode_query(text).embedding for text in texts])
    embeddings = np.stack([image.embedding for image in images]).astype(np.float32)
    return Embeddings.write(folder, embeddings, queries, [image.path for image in images])


def measure_gallery(options: argparse.Namespace, gallery: Gallery, encoder: Encoder, texts: list[str]) -> None:
    """Print what the index in use finds and costs, and with --every_type every type that this Milvus builds."""
    require_measurable(len(gallery.records), options.candidates)
    address = Address.parse(options.gallery, options.files)
    with tempfile.TemporaryDirectory(prefix="person-search-") as folder:
        embeddings = embeddings_of(gallery, encoder, texts, Path(folder))
        where = address.uri, address.collection
        in_use = measure_in_use(*where, embeddings, options.candidates)
        others: list[Measured] = []
        for name in INDEX_TYPES if options.every_type else ():
            try:
                others.append(build_and_measure(*where, name, embeddings, options.candidates))
            except UserError as error:
                print(f"left out: {name}: {one_line(str(error))}", file=sys.stderr)
    if options.json:
        print(as_json({"in_use": asdict(in_use), "built": [asdict(one) for one in others]}))
        return
    asked = counted(len(texts), "query", "queries")
    print(
        f"{counted(in_use.images, 'image')}, embeddings of {in_use.dimensions} numbers, {asked};"
        f" recall of the {in_use.k} exact neighbours"
    )
    print(as_table([in_use]))
    if others:
        print("built anew, without metadata:")
        print(as_table(others))
