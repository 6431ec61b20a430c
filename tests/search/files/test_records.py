"""Records are plain files that say the same whenever and however often they are read."""

import numpy as np
import pytest

from search.files.records import IndexedImage, Records
from search.files.storage import LocalStorage
from utils.errors import UserError


def record(path, digest="d", value=1.0, **metadata):
    return IndexedImage(path, digest, np.full(4, value, np.float32), metadata)


def read(folder):
    return {one.path: (one.digest, one.embedding.tolist(), dict(one.metadata)) for one in Records(folder)}


def test_what_was_written_is_read(tmp_path):
    kept = Records(tmp_path)
    kept.add([record("a.jpg", value=1, camera="c1", time=3), record("b/ü.jpg", value=2)])
    kept.add([record("a.jpg", "e", 3)])
    kept.drop(["b/ü.jpg"])
    assert read(tmp_path) == {"a.jpg": ("e", [3.0] * 4, {})} and len(kept) == 1
    kept.add([record("b/ü.jpg", value=5)])
    assert set(read(tmp_path)) == {"a.jpg", "b/ü.jpg"}
    assert kept.newest() == Records(tmp_path).newest() == "00000004.npz"


def test_what_is_forgotten_is_in_no_file(tmp_path):
    kept = Records(tmp_path)
    kept.add([record("secret-person.jpg", value=0.123), record("other.jpg")])
    kept.drop(["other.jpg"])
    kept.remove(["secret-person.jpg"])
    kept.rewrite()
    assert len(kept) == 0 and read(tmp_path) == {}
    for path in (tmp_path / "records").iterdir():
        content = path.read_bytes()
        assert b"secret" not in content and np.float32(0.123).tobytes() not in content


@pytest.mark.parametrize("name", ["00000001 (copy).npz", "00000001_old.npz", "backup.npz"])
def test_a_copy_of_a_file_is_refused(tmp_path, name):
    """It would bring back what was forgotten, and no next file could be numbered."""
    kept = Records(tmp_path)
    kept.add([record("a.jpg")])
    (tmp_path / "records" / name).write_bytes((tmp_path / "records" / "00000001.npz").read_bytes())
    with pytest.raises(UserError, match=r"is not called as files of records are .*; move it out of this folder"):
        Records(tmp_path)


def test_many_files_become_one(tmp_path):
    kept = Records(tmp_path)
    for number in range(12):
        kept.add([record("a.jpg", str(number))])
    kept.rewrite()
    assert len(kept.files) == 1 and read(tmp_path)["a.jpg"][0] == "11"


def test_a_rewrite_that_was_cut_off_changes_nothing(tmp_path):
    kept = Records(tmp_path)
    kept.add([record("a.jpg"), record("b.jpg")])
    kept.drop(["b.jpg"])
    older = {tmp_path / name: (tmp_path / name).read_bytes() for name in kept.files}
    assert len(older) == 2
    kept.rewrite()
    for path, content in older.items():  # as if killed before they were removed
        path.write_bytes(content)
    assert set(read(tmp_path)) == {"a.jpg"}


def test_ids_change_with_everything_but_the_embedding():
    ids = {record("a").id, record("b").id, record("a", "e").id, record("a", camera="c").id}
    assert len(ids) == 4 and record("a", value=7).id == record("a").id


def test_a_damaged_file_is_named(tmp_path):
    Records(tmp_path).add([record("a.jpg")])
    path = tmp_path / "records" / "00000001.npz"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"00000001.npz is damaged .*index again"):
        Records(tmp_path)


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    Records(tmp_path).add([record("a.jpg")])

    def refused(self, name):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(LocalStorage, "open", refused)
    with pytest.raises(UserError, match=r"00000001.npz cannot be read: Permission denied"):
        Records(tmp_path)
