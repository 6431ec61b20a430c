"""A gallery follows its folder, by content, and survives being killed."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from benchmark_data import REPOSITORY, environment, run
from harness import FULL
from in_process import call
from PIL import Image
from preloaded import Popen

from search.__main__ import main
from search.files.metadata import read_metadata
from search.gallery import indexing
from search.gallery.address import Address
from search.gallery.gallery import open_gallery
from search.gallery.indexing import index
from utils.errors import UserError

pytest.importorskip("pymilvus")

KILLS, MAX_BATCHES = (20 if FULL else 4), 4


def in_index(gallery):
    return gallery.store.ids(), {record.id for record in gallery.records}


def indexed(place, encoder, photos, metadata=None):
    with open_gallery(str(place), encoder, photos) as gallery:
        report = index(gallery, encoder, metadata)
        there, kept = in_index(gallery)
        assert there == kept
        return report, set(gallery.records.by_path)


def test_it_follows_its_folder(encoder, photos, tmp_path, monkeypatch):
    place, names = tmp_path / "gallery", sorted(p.relative_to(photos).as_posix() for p in photos.rglob("*.jpg"))
    report, paths = indexed(place, encoder, photos)
    assert (report.added, report.updated, report.removed) == (len(names), 0, 0) and paths == set(names)
    report, _ = indexed(place, encoder, photos)
    assert (report.added, report.unchanged) == (0, len(names))

    encoded = []
    monkeypatch.setattr(
        encoder,
        "encode_images",
        lambda images, real=encoder.encode_images: (encoded.append(len(images)), real(images))[1],
    )
    (photos / names[0]).rename(photos / "moved.jpg")  # the same content elsewhere
    Image.new("RGB", (20, 40), "red").save(photos / names[1])  # other content, same name
    os.utime(photos / names[2], (1, 1))  # another date alone
    (photos / names[3]).unlink()
    shutil.copy(photos / names[4], photos / "copy.PNG")  # a JPEG by another name, twice
    (photos / "broken.webp").write_text("no image")
    (photos / names[5]).write_bytes(b"")  # was readable before
    (photos / "notes.txt").write_text("not an image file")
    report, paths = indexed(place, encoder, photos)
    assert (report.added, report.updated, report.removed) == (2, 1, 3)
    assert paths == set(names[1:3]) | set(names[4:]) - {names[5]} | {"moved.jpg", "copy.PNG"}
    assert set(report.unreadable) == {"broken.webp", names[5]} and encoded == [1]
    assert str(report) == f"2 added, 1 updated, 3 forgotten, {len(names) - 4} unchanged, 2 unreadable"


def test_metadata_are_filters(encoder, photos, tmp_path):
    names = sorted(p.relative_to(photos).as_posix() for p in photos.rglob("*.jpg"))
    table = tmp_path / "meta.csv"
    table.write_text("image,camera,time\n" + "".join(f"{name},c{n % 2},{n}\n" for n, name in enumerate(names)))
    with open_gallery(str(tmp_path / "gallery"), encoder, photos) as gallery:
        index(gallery, encoder, read_metadata(table))
        vector = next(iter(gallery.records)).embedding
        found = gallery.store.search(vector, 1000, "camera == 'c1' and time < 5")
        assert {path for _, path, _ in found} == {names[1], names[3]}
        assert gallery.columns() == {"camera": ["c0", "c1"], "time": list(range(len(names)))}
        assert index(gallery, encoder, None).unchanged == len(names)  # without a table what is known stays
        report = index(gallery, encoder, {names[0]: {"camera": "c9"}})
        assert report.updated == len(names)
        assert [path for _, path, _ in gallery.store.search(vector, 9, "camera == 'c9'")] == [names[0]]
        with pytest.raises(UserError, match="the search with the filter 'camera = c1' failed"):
            gallery.store.search(vector, 9, "camera = c1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,camera\na,b\n", "row 1: the header has no column 'image'"),
        ("image,camera\na\n", "row 2: has 1 cell, the header has 2"),
        ("image,id\na,b\n", "column 'id'"),
        ("image,In\na,b\n", "column 'In'"),
        ("image,the camera\na,b\n", "column 'the camera'"),
        ("", "is empty; its first row must be image,..."),
        ("image,camera\n", "a header and no rows"),
        ("image,camera\na,b\nb,c\na,d\n", "row 4: a is in row 2 already"),
        ("image,camera,camera\na,b,c\n", "two columns are called 'camera'"),
        ("image,,camera\na,b,c\n", "column 2 has no name"),
        ("camera,image\nb,./x//a\nb,y\nb,x/a\n", "row 4: x/a is in row 2 already"),
        ("image,camera\n..\\a,b\n", "has \\ between folders; write /"),
        ("image,camera\n,b\n", "row 2: the image path '' is empty"),
    ],
)
def test_wrong_metadata_are_told(tmp_path, text, words):
    (tmp_path / "meta.csv").write_text(text)
    with pytest.raises(UserError) as told:
        read_metadata(tmp_path / "meta.csv")
    assert words in str(told.value) and "meta.csv" in str(told.value)


def test_a_gallery_is_indexed_again_with_the_model_that_made_it(encoder, trained, photos, tmp_path):
    indexed(tmp_path / "gallery", encoder, photos)
    next(photos.rglob("*.jpg")).unlink()
    ending = call(main, "index", photos, "--gallery", tmp_path / "gallery", "--device", "cpu")
    assert ending.code == 0 and "the gallery holds 7 images" in ending.output, ending.errors
    ending = call(main, "index", photos, "--gallery", tmp_path / "new")
    assert ending.code == 2 and "--checkpoint is missing: which model shall make the gallery" in ending.errors
    assert not (tmp_path / "new").exists()


def test_metadata_of_other_images_change_nothing(encoder, photos, tmp_path, caplog):
    with open_gallery(str(tmp_path / "gallery"), encoder, photos) as gallery:
        one = sorted(p.relative_to(photos).as_posix() for p in photos.rglob("*.jpg"))[0]
        index(gallery, encoder, {one: {"camera": "c1"}})
        with pytest.raises(UserError, match=r"of no image below the folder, such as photos/a\.jpg"):
            index(gallery, encoder, {"photos/a.jpg": {"camera": "c2"}})
        assert gallery.records.by_path[one].metadata == {"camera": "c1"}
        index(gallery, encoder, {one: {"camera": "c3"}, "gone.jpg": {"camera": "c2"}})
        assert "1 row of the metadata is of no image that is there, such as gone.jpg" in caplog.text
        assert gallery.columns() == {"camera": ["c3"]}


def test_more_metadata_than_an_index_keeps_are_told_before_anything_is_changed(encoder, photos, tmp_path):
    with open_gallery(str(tmp_path / "gallery"), encoder, photos) as gallery:
        one = sorted(p.relative_to(photos).as_posix() for p in photos.rglob("*.jpg"))[0]
        index(gallery, encoder, {one: {"note": "ö" * 31_900}})
        with pytest.raises(UserError, match=rf"metadata of {one} take 64,0\d\d bytes, most of them in 'note'"):
            index(gallery, encoder, {one: {"camera": "c1", "note": "ö" * 32_000}})
        assert gallery.records.by_path[one].metadata == {"note": "ö" * 31_900}


def all_content(place):
    """Everything that the files of a gallery say, unpacked."""
    parquet = pytest.importorskip("pyarrow.parquet")
    said = []
    for path in place.rglob("*"):
        if path.suffix == ".parquet":
            said.append(str(parquet.read_table(path).to_pylist()))
        elif path.suffix == ".npz":
            with np.load(path) as file:
                said.append(str(file["head"]))
        elif path.is_file():
            said.append(path.read_bytes().decode("latin-1"))
    return "\n".join(said)


@pytest.mark.parametrize("way", ["forgotten", "deleted", "changed, killed"])
def test_what_is_erased_is_in_no_file(encoder, photos, tmp_path, way):
    place = tmp_path / "gallery"
    secret = photos / "secret-person.png"
    Image.new("RGB", (30, 60), "red").save(secret)
    with open_gallery(str(place), encoder, photos) as gallery:
        index(gallery, encoder, {secret.name: {"person": "anna-secret"}})
        digest = gallery.records.by_path[secret.name].digest
    assert all(word in all_content(place) for word in (secret.name, "anna-secret", digest))
    with open_gallery(str(place), encoder) as gallery:
        if way == "forgotten":
            gallery.forget([secret.name])
        elif way == "deleted":
            secret.unlink()
            assert index(gallery, encoder).removed == 1
        else:  # the process ended before it erased what was dropped
            gallery.drop([secret.name])
            gallery.finish()
    with open_gallery(str(place), encoder) as gallery:
        assert secret.name not in gallery.records.by_path and gallery.store.count() == len(gallery.records) > 0
    found = all_content(place)
    assert not [word for word in (secret.name, "anna-secret", digest) if word in found]


def test_a_killed_erasure_is_finished(encoder, photos, tmp_path, monkeypatch):
    place = tmp_path / "gallery"
    indexed(place, encoder, photos)
    one = None
    with open_gallery(str(place), encoder) as gallery:
        one = next(iter(gallery.records)).path
        monkeypatch.setattr(type(gallery), "rebuild", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            gallery.forget([one])
    monkeypatch.undo()
    with open_gallery(str(place), encoder):
        pass
    assert one not in all_content(place)


def test_odd_names_of_files_are_left_out(encoder, photos, tmp_path):
    odd = os.fsencode(photos) + b"/bad\xff\xfe.jpg"
    shutil.copy(next(photos.rglob("*.jpg")), odd)
    report, paths = indexed(tmp_path / "gallery", encoder, photos)
    assert report.unreadable == {"bad\\udcff\\udcfe.jpg": "has a name that is not UTF-8; rename it"}
    assert paths and not [path for path in paths if "bad" in path]


def test_an_empty_folder_forgets_nothing(encoder, photos, tmp_path):
    indexed(tmp_path / "gallery", encoder, photos)
    shutil.move(photos, tmp_path / "away")
    photos.mkdir()
    with open_gallery(str(tmp_path / "gallery"), encoder) as gallery:
        with pytest.raises(UserError, match=r"no image below .* any more; nothing was changed"):
            index(gallery, encoder)
        assert len(gallery.records)


def test_a_damaged_index_is_told_and_built_again(encoder, photos, tmp_path):
    place = tmp_path / "gallery"
    indexed(place, encoder, photos)
    for path in (place / "index.db").rglob("*.parquet"):
        path.write_bytes(b"junk" * 50)
    with pytest.raises(UserError, match="search rebuild") as told, open_gallery(str(place), encoder) as gallery:
        gallery.store.search(next(iter(gallery.records)).embedding, 5)
    assert "\n" not in str(told.value)
    with open_gallery(str(place), encoder, anew=True) as gallery:
        assert gallery.store.count() == len(gallery.records) > 0
        assert gallery.store.search(next(iter(gallery.records)).embedding, 5)


def test_it_refuses_what_is_not_its_own(encoder, photos, tmp_path):
    place = str(tmp_path / "gallery")
    with pytest.raises(UserError, match="there is no gallery"), open_gallery(place, encoder):
        pass
    indexed(place, encoder, photos)
    other = tmp_path / "others"
    other.mkdir()
    with pytest.raises(UserError, match="is of the images in"), open_gallery(place, encoder, other):
        pass
    about = json.loads((tmp_path / "gallery" / "gallery.json").read_text())
    for name, value, words in (("model", "0", "by another model"), ("image_size", [8, 8], r"with image_size \[8, 8\]")):
        changed = {**about, "made_with": {**about["made_with"], name: value}}
        (tmp_path / "gallery" / "gallery.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=f"was made {words}"), open_gallery(place, encoder):
            pass
    damaged = {key: value for key, value in about.items() if key != "images"}
    (tmp_path / "gallery" / "gallery.json").write_text(json.dumps(damaged))
    with pytest.raises(UserError, match="is not a gallery file of this version"), open_gallery(place, encoder):
        pass
    with pytest.raises(UserError, match="holds something else"), open_gallery(str(photos), encoder, photos):
        pass
    assert not (photos / ".lock").exists()  # what is refused is left as it was


def test_a_gallery_that_cannot_be_written_is_told_in_one_line(encoder, photos, tmp_path, monkeypatch):
    indexed(tmp_path / "gallery", encoder, photos)
    monkeypatch.setattr("search.gallery.address.os.access", lambda *asked: False)
    for folder in (None, photos):
        refused = pytest.raises(UserError, match=r"cannot be written \(a read-only disk.*copy it")
        with refused, open_gallery(str(tmp_path / "gallery"), encoder, folder):
            pass


def test_a_model_is_known_by_what_earlier_galleries_recorded_of_it(encoder):
    """Another digest of the same model would close every gallery that there is."""
    digest, state = hashlib.sha256(), encoder.model.state_dict()
    parts = ("visual_encoder.", "text_encoder.", "vision_proj.", "text_proj.", "itm_head.")
    for name in sorted(name for name in state if name.startswith(parts)):
        digest.update(name.encode() + state[name].contiguous().numpy().tobytes())
    digest.update(encoder.trained.tokenizer.to_json().encode())
    assert encoder.fingerprint() == {
        "model": digest.hexdigest(),
        "image_size": [32, 16],
        "max_words": 40,
        "precision": "fp32",
    }


def test_a_gallery_that_another_process_is_making_is_not_something_else(encoder, photos, tmp_path):
    for name in (".lock", ".gallery.json.00000000-1.tmp"):
        (tmp_path / "gallery").mkdir(exist_ok=True)
        (tmp_path / "gallery" / name).touch()
    with open_gallery(str(tmp_path / "gallery"), encoder, photos) as gallery:
        assert gallery.image_source.path == photos


def test_one_process_holds_it(encoder, photos, tmp_path, trained):
    place = tmp_path / "gallery"
    with open_gallery(str(place), encoder, photos):
        done = run(sys.executable, "-m", "search", "query", "a man", "--gallery", place, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"is in use by process {os.getpid()} on " in done.stderr


def test_the_index_is_built_again_from_the_records(encoder, photos, tmp_path):
    place = tmp_path / "gallery"
    _, paths = indexed(place, encoder, photos)
    for lost in ("index.db", "synchronised.json"):
        target = place / lost
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    with open_gallery(str(place), encoder) as gallery:
        there, kept = in_index(gallery)
        assert there == kept and len(there) == len(paths)
        gallery.store.remove(sorted(there)[:3])  # behind its back
    with open_gallery(str(place), encoder) as gallery:
        assert in_index(gallery)[0] == there
        gallery.rebuild()
        assert in_index(gallery)[0] == there


def test_what_is_forgotten_is_gone(encoder, photos, tmp_path):
    place = tmp_path / "gallery"
    _, paths = indexed(place, encoder, photos)
    gone = sorted(paths)[:2]
    with open_gallery(str(place), encoder) as gallery:
        gallery.forget(gone)
        assert not set(gone) & set(gallery.records.by_path) and in_index(gallery)[0] == in_index(gallery)[1]
        vector = next(iter(gallery.records)).embedding
        assert not set(gone) & {path for _, path, _ in gallery.store.search(vector, 1000)}
        with pytest.raises(UserError, match="holds no image"):
            gallery.image_at(gone[0])
    assert all((photos / path).exists() for path in gone)


def test_servers_and_folders_are_told_apart(tmp_path):
    server = Address.parse("http://milvus.lan:19530")
    assert (server.uri, server.collection) == ("http://milvus.lan:19530", "gallery")
    assert str(server.folder) == "milvus.lan-19530-gallery"
    named = Address.parse("https://milvus.lan/mine")
    assert (named.uri, named.collection) == ("https://milvus.lan", "mine")
    assert Address.parse(str(tmp_path)).uri == str(tmp_path / "index.db")
    with pytest.raises(UserError, match="http://host:port"):
        Address.parse("http://host:1/a/b")


@pytest.mark.parametrize(("name", "words"), [("", "is empty"), (" ", "is empty"), ("caf\udce9", "is not UTF-8")])
def test_a_name_that_no_gallery_can_have_is_refused(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^--gallery.*{words}"):
        Address.parse(name)
    assert not list(tmp_path.iterdir())


def test_images_of_another_gallery_are_left_alone(encoder, photos, tmp_path):
    """A server may hold a collection of that name already."""
    place = tmp_path / "gallery"
    indexed(place, encoder, photos)
    shutil.rmtree(place / "records")
    (place / "gallery.json").unlink()
    for path in place.glob("synchronised.json"):
        path.unlink()
    shutil.move(place / "index.db", tmp_path / "index.db")
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    with open_gallery(str(fresh), encoder, photos):
        pass
    shutil.rmtree(fresh / "index.db")
    shutil.move(tmp_path / "index.db", fresh / "index.db")
    with pytest.raises(UserError, match="images of another gallery"), open_gallery(str(fresh), encoder, photos):
        pass


def batches(place):
    """Names of what a process has counted."""
    return {path.name for path in (place / "records").glob("0*.npz")}


def test_killed_at_any_moment_it_loses_nothing(encoder, photos, tmp_path, trained, monkeypatch):
    """Every image that the process had counted is there, none twice, and the next run finishes."""
    place, rng, killed = tmp_path / "gallery", random.Random(0), 0
    command = [
        sys.executable,
        "tests/search/small_batches.py",
        "index",
        str(photos),
        "--gallery",
        str(place),
        "--checkpoint",
        str(trained),
    ]
    for number in range(3 * KILLS):
        for name in range(16 * MAX_BATCHES):
            noise = np.random.default_rng((number, name)).integers(0, 255, (40, 20, 3), dtype=np.uint8)
            Image.fromarray(noise).save(photos / f"noise{number:02d}-{name:03d}.png")
        process = Popen(command, cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wanted = len(batches(place)) + rng.randint(0, MAX_BATCHES)
        while len(batches(place)) < wanted and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.03))
        counted = batches(place)
        process.kill()
        said = process.communicate()[0].decode(errors="replace")
        assert process.returncode in (0, -signal.SIGKILL), said
        killed += process.returncode != 0
        if (place / "gallery.json").exists():
            with open_gallery(str(place), encoder) as gallery:
                assert counted <= {Path(name).name for name in gallery.records.files}
                there, kept = in_index(gallery)
                assert there == kept and len(there) == gallery.store.count() == len(gallery.records)
        if killed == KILLS:
            break
    assert killed == KILLS
    monkeypatch.setattr(indexing, "BATCH", 8)
    _, paths = indexed(place, encoder, photos)
    assert paths == {p.relative_to(photos).as_posix() for p in photos.rglob("*") if p.is_file()}
