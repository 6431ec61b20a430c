"""What a process that only searches keeps of images that it has asked the index for."""

import numpy as np

from search.files.records import IndexedImage
from search.milvus import index_records
from search.milvus.index_records import IndexRecords


class EveryImage:
    """An index that holds an image of any path."""

    def images_where(self, name, value):
        return [IndexedImage(value, "digest", np.zeros(4, np.float32))]


def test_images_that_are_asked_for_one_by_one_fill_no_memory(monkeypatch):
    monkeypatch.setattr(index_records, "MAX_KEPT", 10)
    records = IndexRecords(EveryImage())
    for number in range(30):
        assert records.by_path[f"{number}.jpg"].path == f"{number}.jpg"
    assert len(records.seen) == len(records.kept) == 10
