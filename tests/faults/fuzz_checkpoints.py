"""Reads checkpoint files that were changed at random.

    python fuzz_checkpoints.py COUNT FOLDER [FIRST]

Prints a JSON object: how many files of each kind were refused, loaded, not changed after all, or "other" (something
but a UserError of one line came up), the slowest reading in seconds, by how many bytes the memory of the process
grew, and descriptions of the others.
FOLDER/changed.pth is the file that is being read, also when this process is killed.
"""

import io
import json
import random
import signal
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from limited_reading import limit, memory, read

from utils.checkpoints.files import save_checkpoint
from utils.errors import UserError

SECONDS = 5
OPCODES = b"(.012FGIJKLMNPQRSTUVX]abcdeghijlopqrstu})" + bytes(range(0x80, 0x99))
GLOBALS = [
    b"cposix\nsystem\n",
    b"cbuiltins\neval\n",
    b"c__builtin__\nset\n",
    b"c__builtin__\nbytearray\n",
    b"ccollections\nOrderedDict\n",
    b"ccollections\nCounter\n",
    b"ctorch\nFloatStorage\n",
    b"ctorch\nTensor\n",
    b"ctorch.storage\nUntypedStorage\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_qtensor\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch._utils\n_rebuild_sparse_tensor\n",
    b"ctorch\nSize\n",
    b"c_codecs\nencode\n",
    b"ctorch.nn.parameter\nParameter\n",
    b"ctorch\nfloat32\n",
]
PIECES = [
    b"\xff" * 4,
    b"\xff" * 8,
    bytes(4),
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"K\xff",
    b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
    b"X\x07\0\0\0storage",
    b")R",
    b"Q",
    b"q\x01",
    b"h\x01",
    b"h\0",
    b"}",
    b"]",
    b"(",
    b"t",
    b"b",
    b"s",
    b"\x81",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"PK\x06\x07",
]


def contents() -> list[dict]:
    """Small checkpoints that use most of what checkpoints hold."""
    linear = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(linear.parameters())
    linear(torch.zeros(1, 2)).sum().backward()
    optimizer.step()
    return [
        {"model": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}, "config": {"lr": 1e-5, "on": [True]}},
        {"model": linear.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "best": -1.0, "x": 2**80},
        {
            "model": {"w": torch.nn.Parameter(torch.ones(3)), "half": torch.ones(2, dtype=torch.bfloat16)},
            "values": [b"xy", 1j, torch.Size([1]), {1, 2}, None, (1, "a"), Counter("ab"), torch.float16],
        },
    ]


def bases(folder: Path) -> dict[str, list[bytes]]:
    """Whole files of each format: of other programs, old ones of other programs, and of this one."""
    formats: dict[str, list[bytes]] = {"archive": [], "old": [], "own": []}
    for content in contents():
        for kind, is_archive in (("archive", True), ("old", False)):
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=is_archive)
            formats[kind].append(file.getvalue())
        save_checkpoint(folder / "own.pth", content)
        formats["own"].append((folder / "own.pth").read_bytes())
    return formats


# ---- changes ---------------------------------------------------------------------------


def flip(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        place = draw.randrange(8 * len(changed))
        changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def overwrite(data: bytes, draw: random.Random) -> bytes:
    start, length = draw.randrange(len(data)), draw.choice((1, 2, 4, 8, 64))
    more = draw.choice((draw.randbytes(length), bytes(length), b"\xff" * length, draw.choice(PIECES)))
    return data[:start] + more + data[start + len(more) :]


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def splice(data: bytes, draw: random.Random) -> bytes:
    """Moves, doubles or removes a range."""
    start, end = sorted(draw.choices(range(len(data)), k=2))
    place = draw.randrange(len(data))
    return draw.choice(
        (
            data[:start] + data[end:],
            data[:place] + data[start:end] + data[place:],
            data[:start] + data[start:end] * 2 + data[end:],
        )
    )


def insert(data: bytes, draw: random.Random) -> bytes:
    """Adds opcodes, names of functions and odd numbers, or puts them in the place of others."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        start = draw.randrange(len(data))
        more = b"".join(
            draw.choice((bytes([draw.choice(OPCODES)]), draw.choice(GLOBALS), draw.choice(PIECES)))
            for _ in range(draw.choice((1, 1, 2, 5)))
        )
        data = data[:start] + more + data[start + draw.choice((0, len(more), 1)) :]
    return data


CHANGES: list[Callable[[bytes, random.Random], bytes]] = [flip, overwrite, cut, splice, insert]


def within_a_record(data: bytes, draw: random.Random) -> bytes:
    """A sound archive, in one record of which, mostly the pickle, something has changed."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as before, zipfile.ZipFile(file, "w") as after:
        names = before.namelist()
        chosen = names[0] if draw.random() < 0.8 else draw.choice(names)
        for name in names:
            record = before.read(name)
            changed = draw.choice(CHANGES)(record, draw) if name == chosen and record else record
            after.writestr(name if draw.random() < 0.99 else name.upper(), changed)
    return file.getvalue()


def change(kind: str, data: bytes, draw: random.Random) -> bytes:
    if kind == "archive" and draw.random() < 0.6:
        return within_a_record(data, draw)
    if kind == "old" and draw.random() < 0.6:  # its pickles are but a part of it, as small as the file is
        start = draw.randrange(len(data) // 2)
        return data[:start] + draw.choice(CHANGES)(data[start:], draw)
    return draw.choice(CHANGES)(data, draw)


# ---- reading ---------------------------------------------------------------------------


def outcome(path: Path) -> tuple[str, str]:
    """("refused" | "loaded" | "other", what came up), within a time."""
    signal.alarm(SECONDS)  # ends this process, of which no exception handler can keep it
    try:
        read(str(path))
    except UserError as error:
        text = str(error)
        return ("refused" if text.startswith(f"checkpoint {path} ") and "\n" not in text else "other"), text
    except BaseException as error:
        return "other", f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return "loaded", ""


def main() -> None:
    count, folder, first = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0
    torch.set_num_threads(1)
    formats, found, others, slowest = bases(folder), Counter(), [], 0.0
    limit()
    before = memory()
    for seed in range(first, first + count):
        draw = random.Random(seed)
        kind = draw.choice(list(formats))
        original = draw.choice(formats[kind])
        changed = change(kind, original, draw)
        (folder / "changed.pth").write_bytes(changed)
        start = time.perf_counter()
        result, text = outcome(folder / "changed.pth")
        slowest = max(slowest, time.perf_counter() - start)
        if changed == original and result == "loaded":
            result = "unchanged"
        elif kind == "own" and result == "loaded":
            result, text = "other", "a changed file of this program was loaded"
        if result == "other":
            others.append(f"file {seed}: {text}")
        found[f"{kind} {result}"] += 1
    print(json.dumps({"found": found, "slowest": slowest, "bytes": memory() - before, "others": others[:10]}))


if __name__ == "__main__":
    main()
