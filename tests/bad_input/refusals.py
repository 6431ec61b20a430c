"""Calls commands in this process and checks how they refuse bad input."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from benchmark_data import REPOSITORY, TINY, data_settings
from in_process import Ending, call

import Retrieval

# settings that train without spaCy, 4 batches an epoch
SMALL = [*TINY, "weights.attribute=0", "hard_negatives_within=", "max_steps=2"]
CUT = "longer than the model reads"  # said of all captions of the tiny benchmark, whose word pieces are letters
DEMO = REPOSITORY / "configs" / "demo_from_nothing.yaml"


def check_refusal(ending: Ending, *parts: str, alone: bool = True) -> None:
    """Exit code 2 and one error line, the last, with all `parts`; `alone` = nothing else was printed, but of `CUT`."""
    assert ending.code == 2, ending.errors
    lines = [line for line in ending.errors.splitlines() if line.strip() and CUT not in line]
    assert "Traceback" not in ending.errors
    assert [line.startswith("error: ") for line in lines].count(True) == 1, ending.errors
    assert lines[-1].startswith("error: ")
    assert len(lines[-1]) < 700
    for part in parts:
        assert part in lines[-1]
    assert len(lines) == 1 or not alone, ending.errors


def snapshot(*folders: Path) -> dict[str, str]:
    """Every file and folder below, with a digest of its content."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for folder in folders
        for path in sorted(folder.rglob("*"))
    }


@dataclass(frozen=True)
class Ground:
    """A benchmark and a place for outputs; every refusal must leave both as they were."""

    data: Path
    folder: Path

    @property
    def output(self) -> Path:
        return self.folder / "output"

    def arguments(self, *more: str | Path, settings: tuple = (), output: Path | None = None) -> list[str | Path]:
        """Those of Retrieval.py for a small run on this ground."""
        return [
            "--config",
            DEMO,
            "--device",
            "cpu",
            "--output_dir",
            output or self.output,
            *more,
            "--set",
            *SMALL,
            *data_settings(self.data),
            *settings,
        ]

    def retrieve(self, *arguments: str | Path, settings: tuple = (), output: Path | None = None) -> Ending:
        return call(Retrieval.main, *self.arguments(*arguments, settings=settings, output=output))

    def refuses(
        self, *parts: str, arguments: tuple = (), settings: tuple = (), output: Path | None = None, alone: bool = True
    ) -> None:
        before = snapshot(self.data, self.folder)
        check_refusal(self.retrieve(*arguments, settings=settings, output=output), *parts, alone=alone)
        assert snapshot(self.data, self.folder) == before

    def write(self, name: str, content: object) -> Path:
        """A file of bytes or text, or of JSON for anything else."""
        path = self.folder / name
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        path.write_bytes(content)
        return path


def entries_of(ground: Ground, split: str = "train") -> list[dict]:
    return json.loads((ground.data / "processed_data" / f"{split}.json").read_text())
