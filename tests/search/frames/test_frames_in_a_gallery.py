"""A gallery of people in frames: found, grouped by track, cut out of what was indexed and nothing else."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from in_process import call_here
from PIL import Image

from dataset.decoding import Unusable
from dataset.synthetic.street.files import draw_street
from dataset.synthetic.street.scene import StreetOptions
from search.__main__ import main
from search.access.action_guard import ActionGuard
from search.files.crops import file_and_box
from search.files.images import LocalImages
from search.gallery.gallery import open_gallery
from search.gallery.grouping import MAX_PER_GROUP, group_items, limit_per_group, search_groups
from search.gallery.indexing import index
from search.gallery.moving import move_images
from search.gallery.selection import select_images
from search.searcher import Searcher
from utils.errors import UserError

pytest.importorskip("pymilvus")

SENTENCE = "a woman in a red coat"


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("street") / "street"
    draw_street(root, StreetOptions(people=5, cameras=2, frames=5, height=160, width=240, seconds=2.0))
    return root


@pytest.fixture
def street(drawn, tmp_path):
    """A street of one's own, to be changed."""
    shutil.copytree(drawn, tmp_path / "street")
    return tmp_path / "street"


@pytest.fixture
def gallery(encoder, street, tmp_path):
    with open_gallery(str(tmp_path / "gallery"), encoder, street / "frames") as opened:
        report = index(opened, encoder, boxes=[street / "boxes.csv"])
        assert report.added == len(opened.records) == len(rows_of(street)) and not report.unreadable
        yield opened


def rows_of(street):
    with open(street / "boxes.csv", newline="") as file:
        return list(csv.DictReader(file))


def in_index(gallery):
    return gallery.store.ids(), {record.id for record in gallery.records}


def test_everybody_is_embedded_as_the_part_of_the_frame_alone_would_be(gallery, encoder, street):
    for image in list(gallery.records)[:5]:
        file, (left, top, width, height) = file_and_box(image.path)
        with Image.open(street / "frames" / file) as frame:
            part = frame.convert("RGB").crop((left, top, left + width, top + height))
        cut = Image.open(io.BytesIO(gallery.content_of(image.path)))
        assert np.array_equal(np.asarray(cut), np.asarray(part))
        _, (expected,) = encoder.encode_images([encoder.decode_image(gallery.content_of(image.path))])
        np.testing.assert_allclose(image.embedding, expected, atol=1e-5)
    tracks = {int(row["track"]) for row in rows_of(street)}
    assert set(gallery.columns()["track"]) == tracks and set(gallery.columns()["camera"]) == {1, 2}


def test_it_follows_boxes_and_frames_and_encodes_no_one_twice(gallery, encoder, street, monkeypatch):
    encoded = []
    real = encoder.encode_images
    monkeypatch.setattr(encoder, "encode_images", lambda images: (encoded.append(len(images)), real(images))[1])
    rows = rows_of(street)
    report = index(gallery, encoder, boxes=[street / "boxes.csv"])
    assert (report.unchanged, report.added, encoded) == (len(rows), 0, [])
    rows[0]["track"] = "77"  # another track, the same pixels
    rows[1]["width"] = str(int(rows[1]["width"]) + 1)  # another box
    changed = rows[-1]["image"]
    Image.new("RGB", (240, 160), "red").save(street / "frames" / changed)
    of_frame = sum(row["image"] == changed for row in rows)
    write_rows(street, rows[:2] + rows[3:])  # the third is gone
    report = index(gallery, encoder, boxes=[street / "boxes.csv"])
    assert (report.added, report.removed) == (1, 2) and report.updated == 1 + of_frame
    assert sum(encoded) <= 1 + of_frame
    there, kept = in_index(gallery)
    assert there == kept


def write_rows(street, rows):
    with open(street / "boxes.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_what_lies_outside_of_its_frame_or_has_no_frame_is_told(gallery, encoder, street):
    rows = rows_of(street)
    outside = [{**rows[0], "left": left} for left in ("1000", "-1000", str(-int(rows[0]["width"]) + 2))]
    write_rows(street, [*rows, *outside, {**rows[0], "image": "camera_9/000001.jpg"}])
    report = index(gallery, encoder, boxes=[street / "boxes.csv"])
    faults = " ".join(report.unreadable.values())
    assert faults.count("lies outside its frame of 240 x 160 pixels") == 2 and faults.count("has less than 50%") == 1
    assert len(report.unreadable) == 3 and report.unchanged == len(rows)
    write_rows(street, [{**rows[0], "image": "camera_9/000001.jpg"}])
    with pytest.raises(UserError, match="the boxes are of no image below the folder"):
        index(gallery, encoder, boxes=[street / "boxes.csv"])
    assert len(gallery.records) == len(rows)


def test_a_gallery_stays_one_of_people_or_one_of_images(gallery, encoder, street, tmp_path):
    with pytest.raises(UserError, match="is of people in frames; add --boxes"):
        index(gallery, encoder)
    with open_gallery(str(tmp_path / "whole"), encoder, street / "frames") as whole:
        index(whole, encoder)
        with pytest.raises(UserError, match="is of whole images; make a new one"):
            index(whole, encoder, boxes=[street / "boxes.csv"])


def test_another_frame_in_its_place_is_never_cut(gallery, street):
    path = next(iter(gallery.records)).path
    Image.new("RGB", (240, 160)).save(street / "frames" / file_and_box(path)[0])
    with pytest.raises(Unusable, match="has changed since it was indexed"):
        gallery.content_of(path)


def test_people_move_with_their_frames_and_are_forgotten_with_them(gallery, street, tmp_path):
    frames = sorted({file_and_box(path)[0] for path in gallery.records.by_path})
    before, count = {image.content_key for image in gallery.records}, len(gallery.records)
    (street / "frames" / "camera_1").rename(street / "frames" / "entrance")
    (street / "frames").rename(tmp_path / "elsewhere")
    found = move_images(gallery, LocalImages(tmp_path / "elsewhere"))
    assert not found.missing and not found.changed and len(found.paths) + len(found.in_place) == count
    assert {file_and_box(path)[0].split("/")[0] for path in gallery.records.by_path} == {"entrance", "camera_2"}
    assert {image.content_key for image in gallery.records} == before
    frame = frames[0].replace("camera_1", "entrance")
    of_frame = select_images(gallery, [frame], [])
    assert of_frame and all(path.startswith(f"{frame}#") for path in of_frame)
    gallery.forget(select_images(gallery, ["entrance"], []))
    there, kept = in_index(gallery)
    assert there == kept and all(path.startswith("camera_2/") for path in gallery.records.by_path)


def test_hits_of_a_track_are_one_with_its_best_moments(gallery, encoder):
    searcher = Searcher(encoder, gallery)
    grouped = searcher.search(SENTENCE, 3, 1000, group="track").hits
    assert [hit.score for hit in grouped] == sorted((hit.score for hit in grouped), reverse=True)
    for hit in grouped:
        others = [moment.metadata["track"] for moment in hit.moments]
        assert set(others) <= {hit.metadata["track"]} and len(others) < MAX_PER_GROUP
        assert all(moment.score <= hit.score for moment in hit.moments)
    tracks = [hit.metadata["track"] for hit in grouped]
    assert len(set(tracks)) == 3
    everyone = searcher.search(SENTENCE, 1000, 0, group="track").hits  # stage 1 alone
    assert len(everyone) == len(gallery.columns()["track"])
    with pytest.raises(UserError, match=r"group: no metadata are called trakc \(did you mean 'track'"):
        searcher.search(SENTENCE, group="trakc")


def test_images_that_look_the_same_are_one(gallery, encoder, street):
    searcher = Searcher(encoder, gallery)
    hits = searcher.search(SENTENCE, 1000, 0, group="alike").hits
    firsts = np.stack([gallery.records.by_path[hit.path].embedding for hit in hits])
    assert (firsts @ firsts.T - np.eye(len(hits))).max() < 0.97
    for hit in hits:
        own = gallery.records.by_path[hit.path].embedding
        assert all(gallery.records.by_path[one.path].embedding @ own >= 0.97 for one in hit.moments)


def test_groups_by_hand():
    assert limit_per_group("abcdef", [1, 1, 1, 2, 2, 3], 2, 4) == ["a", "b", "d", "e"]
    assert group_items("abcd", [1, 2, 1, 3]) == [["a", "c"], ["b"], ["d"]]
    asked = []

    def search(limit):
        asked.append(limit)
        return list(range(min(limit, 100)))

    found, groups = search_groups(search, lambda items: [item // 30 for item in items], 3, 1000)
    assert asked == [12, 48, 192] and len(found) == 100 and len(set(groups)) == 4
    asked.clear()
    search_groups(search, lambda items: [0 for _ in items], 3, 20)
    assert asked == [12, 20]


def test_the_commands(trained, street, tmp_path):
    given = street / "frames", "--gallery", tmp_path / "gallery", "--checkpoint", trained
    boxes = "--boxes", street / "mot" / "camera_1.txt", street / "mot" / "camera_2.txt"
    told = call_here(main, "index", *given, *boxes).output
    assert f"{len(rows_of(street))} added" in told
    asked = "query", SENTENCE, "--gallery", tmp_path / "gallery", "--group", "track", "--top", "2"
    printed = call_here(main, *asked, "--sheet", tmp_path / "hits.png").output
    assert "more moment" in printed and ".jpg#" in printed
    with Image.open(tmp_path / "hits.png") as sheet:
        assert len(sheet.getcolors(2**20)) > 500  # people, and no grey fields
    first, second = json.loads(call_here(main, *asked, "--json").output)["hits"]
    assert first["file"].endswith(".jpg") and first["path"].endswith("#" + ",".join(map(str, first["box"])))
    assert first["metadata"]["track"] != second["metadata"]["track"]
    assert all(moment["metadata"]["track"] == first["metadata"]["track"] for moment in first["moments"])


def test_the_api_has_groups_boxes_and_frames(gallery, encoder, street):
    testing = pytest.importorskip("fastapi.testclient")
    from search.serving.api import build_app

    watch = ActionGuard(login_required=False, audit=None)  # as it is served
    client = testing.TestClient(build_app(Searcher(encoder, gallery, authorize=watch)))
    asked = {"text": SENTENCE, "top": 2, "group": "track"}
    first, second = client.post("/api/search", json=asked).json()["hits"]
    assert first["metadata"]["track"] != second["metadata"]["track"]
    assert {moment["metadata"]["track"] for moment in first["moments"]} == {first["metadata"]["track"]}
    assert first["path"].endswith("#" + ",".join(map(str, first["box"]))) and first["box"] != first["moments"][0]["box"]
    left, top, width, height = first["box"]
    part = Image.open(io.BytesIO(client.get(f"/api/images/{first['id']}").content))
    assert part.size == (width, height) and part.format == "PNG"
    answer = client.get(f"/api/frames/{first['id']}")
    frame = Image.open(io.BytesIO(answer.content)).convert("RGB")
    assert frame.size == (240, 160) and answer.headers["content-type"] == "image/jpeg"
    red, green, _ = frame.getpixel((left + width // 2, max(0, top - 1)))
    assert top == 0 or red > green + 60  # the box is drawn
    wrong = client.post("/api/search", json={**asked, "group": "nothing"})
    assert wrong.status_code == 400 and "no metadata are called nothing" in wrong.json()["error"]
    assert client.get("/api/frames/nothing").status_code == 404
    (street / "frames" / file_and_box(first["path"])[0]).unlink()
    assert client.get(f"/api/frames/{first['id']}").status_code == 404


def test_a_whole_image_has_no_frame(searcher):
    testing = pytest.importorskip("fastapi.testclient")
    from search.serving.api import build_app

    client = testing.TestClient(build_app(searcher))
    image = next(iter(searcher.gallery.records)).id
    answer = client.get(f"/api/frames/{image}")
    assert answer.status_code == 404 and "not cut out of a frame" in answer.json()["error"]
