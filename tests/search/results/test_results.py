"""Results as files: what stands in a table and in JSON, whatever the names of files and metadata are."""

import csv
import io
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient

from search.files.images import LocalImages
from search.results.formats import COLUMNS, hits_as_json, results_as_csv, search_result_as_json, still_there
from search.searcher import Hit
from search.serving.api import build_app

SENTENCE = "A woman in a red coat and grey jeans."


def gallery_of(*paths):
    return SimpleNamespace(
        records=SimpleNamespace(by_path={path: SimpleNamespace(id=f"id of {path}") for path in paths})
    )


def rows_of(table):
    return list(csv.DictReader(io.StringIO(table, newline="")))


def test_the_file_of_a_hit_is_told_when_another_process_has_erased_it_since(tmp_path):
    gallery = SimpleNamespace(records=SimpleNamespace(by_path={}), image_source=LocalImages(tmp_path))
    (found,) = hits_as_json([Hit("a.jpg#1,2,3,4", 0.5, None, {})], gallery, with_files=True)
    assert found["file"] == str(tmp_path / "a.jpg")


def test_a_table_has_a_row_for_each_hit_and_each_moment():
    moment = Hit("b.jpg#5,6,7,8", 0.25, None, {"camera": "c2"})
    hits = [
        Hit("a.jpg#-1,2,30,40", 0.5, 1.5, {"camera": "c1", "time": 830}, (moment,), 0.75),
        Hit("c.jpg", 0.125, None, {"person": 'anna, "the\nfirst"'}),
    ]
    table = results_as_csv(hits_as_json(hits, gallery_of("a.jpg#-1,2,30,40", "b.jpg#5,6,7,8", "c.jpg")))
    assert table.endswith("\r\n")
    first, second, third = rows_of(table)
    assert list(first) == [*COLUMNS, "camera", "time", "person"]
    assert [first[name] for name in COLUMNS] == [
        *("1", "0", "a.jpg#-1,2,30,40", "-1", "2", "30", "40", "0.75"),
        *("0.8175744761936437", "1.5", "0.5"),  # 1 / (1 + exp(-1.5))
    ]
    assert (first["camera"], first["time"], first["person"]) == ("c1", "830", "")
    assert (second["rank"], second["moment"], second["image"], second["left"]) == ("1", "1", "b.jpg#5,6,7,8", "5")
    assert (second["match"], second["score"], second["camera"]) == ("", "", "c2")
    assert (third["rank"], third["moment"], third["left"], third["probability"]) == ("2", "0", "", "")
    assert third["person"] == 'anna, "the\nfirst"'


def test_metadata_called_as_a_column_of_results_stand_beside_it():
    hit = Hit("a.jpg", 0.5, 2.0, {"score": 0.9, "metadata_score": 7, "rank": "x"})
    (row,) = rows_of(results_as_csv(hits_as_json([hit], gallery_of("a.jpg"))))
    assert (row["score"], row["rank"]) == ("2.0", "1")
    assert (row["metadata_metadata_score"], row["metadata_score"], row["metadata_rank"]) == ("0.9", "7", "x")


@pytest.mark.parametrize("name", ["=1+1.jpg", "+a.jpg", "-a.jpg", "@a.jpg", "\tx.jpg"])
def test_no_spreadsheet_computes_a_name(name):
    (row,) = rows_of(results_as_csv(hits_as_json([Hit(name, -0.5, None, {"x": "=cmd()", "y": -3})], gallery_of(name))))
    assert row["image"] == f"'{name}" and row["x"] == "'=cmd()"
    assert (row["y"], row["similarity"]) == ("-3", "-0.5")  # numbers are numbers


def test_bytes_of_names_that_are_no_text_can_be_written():
    (row,) = rows_of(results_as_csv(hits_as_json([Hit("a\udcff.jpg", 0, None, {})], gallery_of("a\udcff.jpg"))))
    assert row["image"] == "a\\udcff.jpg"


def test_what_was_erased_is_left_out():
    moments = (Hit("b.jpg", 0.2, None, {}), Hit("c.jpg", 0.1, None, {}))
    hits = [Hit("a.jpg", 0.3, None, {}, moments), Hit("d.jpg", 0.1, None, {}), Hit("e.jpg", 0.1, None, {})]
    found = hits_as_json(hits, gallery_of(*["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]))
    kept = still_there(found, gallery_of("b.jpg", "c.jpg", "e.jpg"))
    assert [(one["rank"], one["path"], [m["path"] for m in one["moments"]]) for one in kept] == [
        (1, "b.jpg", ["c.jpg"]),
        (3, "e.jpg", []),
    ]


def test_the_api_gives_a_table(searcher):
    client = TestClient(build_app(searcher))
    asked = {"text": SENTENCE, "top": 3, "where": "camera == 'c1'"}
    hits = client.post("/api/search", json=asked).json()["hits"]
    answer = client.post("/api/search", json={**asked, "format": "csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    assert "results.csv" in answer.headers["content-disposition"]
    rows = rows_of(answer.content.decode("utf-8"))
    assert [(row["rank"], row["image"], row["camera"]) for row in rows] == [
        (str(rank), hit["path"], "c1") for rank, hit in enumerate(hits, 1)
    ]
    assert [float(row["match"]) for row in rows] == pytest.approx([hit["match"] for hit in hits], abs=1e-4)
    wrong = client.post("/api/search", json={**asked, "format": "xml"})
    assert wrong.status_code == 400 and 'format must be "json" or "csv", not "xml"' in wrong.json()["error"]


def test_the_command_line_and_the_api_say_the_same(searcher):
    answer = searcher.search(SENTENCE, top=2)
    with_files = search_result_as_json(answer, searcher.gallery, with_files=True)
    for hit in with_files["hits"]:
        assert hit.pop("file") == searcher.gallery.image_source.named(hit["path"])
    assert with_files == search_result_as_json(answer, searcher.gallery)
