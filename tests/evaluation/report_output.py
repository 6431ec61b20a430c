"""An output folder for tests of the report, and what they read of its page."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch

from evaluation.metrics import summarise

CAPTIONS = ["<script>alert(1)</script> & a red coat", "a man in black", "穿红色外套的女人", ""]
METRICS = {"r1": 77.625, "r5": 90.0, "r10": 94.27, "mAP": 71.41, "mINP": 50.0, "captions": 4, "images": 6}


def epoch(number, **more):
    train = {"cl": 7.0 - number, "pitm": 0.6, "total": 9.0}
    return {"epoch": number, "steps": 10, "train": train, "lr": 1e-5, "seconds": 90.0, **more}


def write_log(folder, *records):
    (folder / "log.txt").write_text("".join(json.dumps(record) + "\n" for record in records))


def rankings_arrays(image_root):
    """Four captions, six images of three identities; the first two captions are hits."""
    final = np.array([[0, 1, 2], [2, 4, 3], [0, 4, 1], [5, 2, 3]])
    return {
        "captions": np.array(CAPTIONS),
        "caption_identities": np.array(["a", "b", "c", "nobody"]),
        "image_paths": np.array([f"camera/{number}.png" for number in range(6)]),
        "image_identities": np.array(["a", "a", "b", "b", "c", "c"]),
        "stage1_indices": final[:, ::-1].copy(),
        "stage1_scores": np.full((4, 3), 0.25, dtype=np.float32),
        "reranked_indices": final,
        "reranked_scores": np.full((4, 3), 1.5, dtype=np.float32),
        "image_root": np.array(str(image_root)),
    }


PEOPLE = 6


def write_evaluation(folder, image_root, ceiling=None, people=PEOPLE, **ranks):
    """metrics.json and rankings.npz of two captions for each of some people with one image each.

    ranks: stage -> the rank of the right image of each caption.
    """
    identities = np.arange(people).repeat(2)
    arrays = {
        "captions": np.array([f"caption {number}" for number in range(len(identities))]),
        "caption_identities": identities.astype(str),
        "image_paths": np.array([f"{number}.png" for number in range(people)]),
        "image_identities": np.arange(people).astype(str),
        "image_root": np.array(str(image_root)),
    }
    metrics = {} if ceiling is None else {"ceiling": ceiling}
    for stage, found in ranks.items():
        others = [[image for image in range(people) if image != person] for person in identities]
        rows = [
            [*row[: rank - 1], person, *row[rank - 1 :]]
            for row, rank, person in zip(others, found, identities, strict=True)
        ]
        arrays[f"{stage}_indices"] = np.array(rows)
        arrays[f"{stage}_scores"] = np.linspace(1, 0, people)[None].repeat(len(identities), axis=0)
        arrays[f"{stage}_ranks"] = np.array(found)[:, None]
        metrics[stage] = {**summarise(torch.tensor(found)[:, None]), "images": people}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "rankings.npz", **arrays)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def change_arrays(folder, **change):
    """Write rankings.npz again with other arrays; None leaves one out."""
    with np.load(folder / "rankings.npz") as file:
        arrays = {**file, **change}
    np.savez(folder / "rankings.npz", **{name: array for name, array in arrays.items() if array is not None})


class Page(HTMLParser):
    """Tags, text and image sources of a page; fails on tags that do not nest."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.open, self.text, self.sources = [], [], "", []
        self.feed(Path(path).read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes).get("class")))
        if tag == "img":
            self.sources.append(dict(attributes)["src"])
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
