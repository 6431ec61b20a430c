"""Results as programs and spreadsheets read them: the same for the command line, the HTTP API and the page."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from search.files.crops import file_and_box
from search.gallery.searchable_gallery import SearchableGallery
from search.results.search_result import Hit, SearchResult

BOX = ("left", "top", "width", "height")
SCORES = ("probability", "match", "score", "similarity")
COLUMNS = ("rank", "moment", "image", *BOX, *SCORES)
"""Of a table of results, before the metadata."""
FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # what spreadsheets take for the beginning of one

ResultRow = dict[str, Any]
"""A hit with its rank, as `hits_as_json` has it."""


def search_result_as_json(answer: SearchResult, gallery: SearchableGallery, with_files: bool = False) -> dict[str, Any]:
    """All of an answer. with_files: hits have the files too that they are, or are cut out of, on this machine."""
    return {
        "text": answer.query.text,
        **answer.reading(),
        "hits": hits_as_json(answer.hits, gallery, with_files),
        "nobody_fits": answer.nobody_fits,
        "missing": answer.missing,
        "milliseconds": answer.milliseconds,
    }


def hits_as_json(hits: Sequence[Hit], gallery: SearchableGallery, with_files: bool = False) -> list[ResultRow]:
    """Hits with ranks from 1, each with the moments of its group."""
    return [
        {
            "rank": rank,
            **hit_as_json(hit, gallery, with_files),
            "moments": [hit_as_json(moment, gallery, with_files) for moment in hit.moments],
        }
        for rank, hit in enumerate(hits, 1)
    ]


def hit_as_json(hit: Hit, gallery: SearchableGallery, with_files: bool = False) -> ResultRow:
    """A hit alone. box: left, top, width and height of a person in a frame, else None."""
    return {
        "id": hit.id,
        "path": hit.path,
        **({"file": gallery.image_source.named(file_and_box(hit.path)[0])} if with_files else {}),
        "box": file_and_box(hit.path)[1],
        **{name: getattr(hit, name) for name in SCORES},
        "metadata": hit.metadata,
    }


def results_as_csv(results: Sequence[ResultRow]) -> str:
    """A table with a row for each hit (moment 0) and each other moment of its group (1, 2, ...), lines ending in CRLF.

    Metadata that are called as a column of the results (`score`) stand in `metadata_score`.
    """
    rows = [
        (result["rank"], number, one)
        for result in results
        for number, one in enumerate([result, *result.get("moments", ())])
    ]
    names = list(dict.fromkeys(name for _, _, one in rows for name in one["metadata"]))
    file = io.StringIO(newline="")
    table = csv.writer(file)
    table.writerow([*COLUMNS, *(cell(name) for name in titles(names))])
    for rank, number, one in rows:
        box, metadata = one["box"] or (None,) * len(BOX), one["metadata"]
        values = [rank, number, one["path"], *box, *(one[name] for name in SCORES), *map(metadata.get, names)]
        table.writerow([cell(value) for value in values])
    return file.getvalue()


def titles(names: Sequence[str]) -> list[str]:
    """What columns of metadata are called, each otherwise than all others."""
    taken = {*COLUMNS, *names}
    found = []
    for name in names:
        title = name
        while title in COLUMNS or (title != name and title in taken):
            title = f"metadata_{title}"
        taken.add(title)
        found.append(title)
    return found


def cell(value: Any) -> Any:
    """A value as a cell; text that a spreadsheet would compute begins with a quote there, as names of files can."""
    if isinstance(value, str):
        value = value.encode("utf-8", "backslashreplace").decode("utf-8")  # bytes of a name that are not UTF-8
        return f"'{value}" if value.startswith(FORMULAS) else value
    return value


def still_there(results: Sequence[ResultRow], gallery: SearchableGallery) -> list[ResultRow]:
    """Results without the images that the gallery holds no more; the ranks stay as they were."""
    kept: list[ResultRow] = []
    for result in results:
        of_group: list[Mapping[str, Any]] = [result, *result["moments"]]
        there = [one for one in of_group if gallery.records.by_path.get(one["path"]) is not None]
        if there:
            kept.append({**there[0], "rank": result["rank"], "moments": there[1:]})
    return kept
