"""Plain files of a gallery in storage that machines share: one writer at a time, also where there are no locks."""

import time

import numpy as np
import pytest

from search.access.refusals import status_of
from search.files import lease
from search.files.images import LocalImages
from search.files.records import IndexedImage, Records
from search.files.storage import LocalStorage, SharedStorage, open_storage
from utils.errors import UserError


def record(path):
    return IndexedImage(path, "d", np.ones(4, np.float32), {})


@pytest.fixture
def url(request):
    """A storage in memory that no other test has; all that name it see the same."""
    return f"memory://{request.node.name}"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lease, "RENEWED_EVERY", 0.05)
    monkeypatch.setattr(lease, "ENDED_AFTER", 0.5)


def opened(url):
    found = open_storage(url, "--files")
    assert isinstance(found, SharedStorage)
    return found


def test_records_are_kept_by_url_as_in_a_folder(url, tmp_path):
    for storage in (opened(url), LocalStorage(tmp_path)):
        kept = Records(storage)
        kept.add([record("a.jpg"), record("b.jpg")])
        kept.drop(["a.jpg"])
        assert set(Records(storage).by_path) == {"b.jpg"} and len(storage.names("records")) == 2
        kept.rewrite()
        assert set(Records(storage).by_path) == {"b.jpg"} and len(storage.names("records")) == 1


def test_two_who_write_the_same_file_are_told(url, tmp_path):
    for storage in (opened(url), LocalStorage(tmp_path)):
        first, second = Records(storage), Records(storage)
        first.add([record("a.jpg")])
        with pytest.raises(UserError, match="another process writes to"):
            second.add([record("b.jpg")])
        assert set(Records(storage).by_path) == {"a.jpg"}


def test_a_second_writer_is_refused_while_the_first_renews(url, quick):
    refused = pytest.raises(UserError, match=r"gallery g is in use by process \d+ on .*; end that one")
    with opened(url).lock("gallery g", "end that one"), refused:
        opened(url).lock("gallery g", "end that one").__enter__()
    with opened(url).lock("gallery g", "end that one"):
        pass


def test_a_lock_of_a_killed_writer_is_taken_over(url, quick):
    killed = lease.Lease(opened(url), ".lock", "{}")
    assert killed.create()  # and never renews
    started = time.monotonic()
    with opened(url).lock("gallery g", "end that one"):
        assert time.monotonic() - started >= lease.ENDED_AFTER


def test_of_two_that_take_over_one_is_refused_and_removes_nothing(url, quick):
    assert lease.Lease(opened(url), ".lock", "{}").create()  # by a process that was killed
    first, second = opened(url), lease.Lease(opened(url), ".lock", "held by {}")
    real, outcomes = first.remove, []

    def remove(name):  # the second tries when the first is about to take over
        if name == ".lock":
            with pytest.raises(UserError, match="held by") as error:
                second.acquire()
            outcomes.append(str(error.value))
        real(name)

    first.remove = remove
    holder = lease.Lease(first, ".lock", "{}")
    holder.acquire()
    assert outcomes == ["held by another process, which takes it over now"]
    assert holder.read()["token"] == holder.token
    assert [name for name in first.names("") if ".lock" in name] == ["/.lock"]


def test_a_claim_of_a_killed_process_is_in_the_way_once(url, quick):
    storage = opened(url)
    killed, holder = (lease.Lease(storage, ".lock", "held by {}") for _ in range(2))
    assert killed.create()
    with pytest.raises(KeyboardInterrupt), killed.claimed(killed.read()):
        storage.remove = lambda name: None  # as if it was killed here
        raise KeyboardInterrupt
    del storage.remove
    with pytest.raises(UserError, match="takes it over now"):
        holder.acquire()
    holder.acquire()
    assert holder.read()["token"] == holder.token


def test_a_writer_that_was_out_of_reach_writes_nothing_any_more(url, quick):
    storage = opened(url)
    with storage.lock("gallery g", "end that one"):
        storage.write_json("a.json", 1)
        opened(url).put_unheld(".lock", b'{"token": "other"}')  # as one that took over
        time.sleep(10 * lease.RENEWED_EVERY)
        with pytest.raises(UserError, match="was out of reach"):
            storage.write_json("a.json", 2)
    assert opened(url).read_json("a.json", "number") == 1 and opened(url).exists(".lock")


def test_a_change_that_failed_holds_up_none_after_it(url, quick):
    storage = opened(url)
    with pytest.raises(ZeroDivisionError), storage.lock("gallery g", "end that one"):
        raise ZeroDivisionError
    storage.write_json("a.json", 1)
    with opened(url).lock("gallery g", "end that one"), pytest.raises(UserError, match="is in use by"):
        storage.lock("gallery g", "end that one").__enter__()
    storage.write_json("a.json", 2)
    assert opened(url).read_json("a.json", "number") == 2


def test_what_cannot_be_written_or_read_now_is_no_wrong_input(url, tmp_path, monkeypatch):
    """A camera whose upload meets a full disk sends it again later: not status 400."""

    def out_of_reach(*of, **more):
        raise OSError("out of reach")

    storage = opened(url)
    monkeypatch.setattr(storage.system, "pipe_file", out_of_reach)
    with pytest.raises(UserError, match="out of reach") as shared:
        storage.put("a.jpg", b"content")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write") as local:
        LocalImages(tmp_path).write("file/a.jpg", b"content")
    with pytest.raises(UserError, match="cannot write") as record:
        LocalStorage(tmp_path / "file").write_json("gallery.json", {})
    assert [status_of(told.value) for told in (shared, local, record)] == [503] * 3


def test_what_is_no_json_or_absent_is_told_in_a_line(url):
    storage = opened(url)
    storage.put("gallery.json", b"{")
    with pytest.raises(UserError, match=r"gallery file memory://.*/gallery.json is not JSON"):
        storage.read_json("gallery.json", "gallery file")
    with pytest.raises(UserError, match=r"cannot be read \(other.json\)"):
        storage.read_json("other.json", "gallery file")
    with pytest.raises(UserError, match="three slashes"):
        open_storage("file://host/folder", "--files")
    for name in ("s3://[bucket/folder", "sftp://host:secret/folder"):
        with pytest.raises(UserError, match=r"^--files: the host or the port of this URL cannot be read") as told:
            open_storage(name, "--files")
        assert "secret" not in str(told.value)


def test_storage_that_does_not_answer_is_not_taken_for_empty(url, monkeypatch):
    storage = opened(url)
    storage.put("gallery.json", b"{}")
    kept = Records(storage)
    kept.add([record("a.jpg")])

    def fails(*_, **__):
        raise TimeoutError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(storage.system, "info", fails)  # by which fsspec asks whether there is a file
        with pytest.raises(UserError, match=r"cannot be read \(gallery.json\): no answer"):
            storage.exists("gallery.json")
    assert storage.exists("gallery.json") and not storage.exists("other.json") and not storage.exists("records")
    with monkeypatch.context() as patch:
        patch.setattr(storage.system, "cat_file", fails)
        with pytest.raises(UserError, match=r"cannot be read .*no answer") as error:
            Records(storage)
        assert "damaged" not in str(error.value)  # which would be advice to remove it
