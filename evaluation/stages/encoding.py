"""How an evaluation goes through a split: the images and captions of each process, encoded block by block.

Letters: C captions, G gallery images, B images of a block, N image tokens, E embedding, D width.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from dataset.evaluation_split import Captions, EvaluationSplit, blocks_of, load_blocks
from models.search_model import SearchModel
from utils.memory import spare_memory
from utils.precision import product_type
from utils.processes.distributed import is_main, rank, sum_over_processes, world_size

T = TypeVar("T")

PATIENCE = 1.0  # seconds, until a progress bar is shown


@dataclass(frozen=True)
class Setting:
    """How to evaluate: where, in which precision, in what portions."""

    device: torch.device
    precision: Callable[[], AbstractContextManager]
    image_size: tuple[int, int]
    batch_size: int
    candidates: int
    workers: int = 0
    memory: int | None = None  # bytes, for what re-ranking would else compute again; None = `spare_memory`

    def room(self) -> int:
        """Bytes for what re-ranking would else compute again."""
        return spare_memory(self.device) if self.memory is None else self.memory


def progress(items: Sequence[T], title: str) -> Iterable[T]:
    """A progress bar on the main process, of what takes longer than a moment."""
    return tqdm(items, desc=title, disable=not is_main(), leave=False, delay=PATIENCE)


def own_blocks(blocks: Sequence[range]) -> list[range]:
    """The blocks that this process works on."""
    return list(blocks[rank() :: world_size()])


def assemble(parts: list[tuple[range, Tensor]], count: int, like: Tensor) -> Tensor:
    """Rows computed by all processes, each for its own blocks, as one tensor [count, ...] on all."""
    whole = like.new_zeros(count, *like.shape[1:])
    for block, rows in parts:
        whole[block.start : block.stop] = rows
    return sum_over_processes(whole)


class KeptTokens:
    """Image tokens [B, N, D] of the blocks that this process encoded, as many as fit into `room` bytes."""

    def __init__(self, room: int):
        self.room = room
        self.blocks: dict[range, Tensor] = {}

    def offer(self, block: range, tokens: Tensor) -> None:
        """Keep a block when there is room for it."""
        if tokens.nbytes <= self.room:
            self.blocks[block] = tokens
            self.room -= tokens.nbytes

    def part(self, block: range, images: range) -> Tensor:
        """Tokens of some images of a block that is kept."""
        return self.blocks[block][images.start - block.start : images.stop - block.start]


def encode_images(model: SearchModel, images: Tensor, setting: Setting) -> tuple[Tensor | None, Tensor]:
    """Tokens [B, N, D], if any, in the dtype of the products that read them, and embeddings [B, E], float32."""
    with setting.precision():
        tokens, embeddings = model.encode_image(images)
    return None if tokens is None else tokens.to(kept_dtype(setting)), embeddings.float()


def embed_images(model: SearchModel, split: EvaluationSplit, setting: Setting, kept: KeptTokens) -> Tensor:
    """Embeddings of the gallery [G, E], float32; image tokens are offered to `kept`."""
    own = own_blocks(blocks_of(len(split.images), setting.batch_size))
    loaded = load_blocks(split, own, setting.image_size, setting.device, setting.workers)
    parts = []
    for block, images in zip(progress(own, "gallery"), loaded, strict=True):
        tokens, embeddings = encode_images(model, images, setting)
        if tokens is not None:
            kept.offer(block, tokens)
        parts.append((block, embeddings))
    return assemble(parts, len(split.images), torch.empty(0, model.embedding_width, device=setting.device))


def embed_captions(model: SearchModel, captions: Captions, setting: Setting) -> Tensor:
    """Embeddings of all captions [C, E], float32."""
    parts = []
    own = own_blocks(blocks_of(len(captions), setting.batch_size))
    for block in progress(own, "captions"):
        with setting.precision():
            embeddings = model.embed_text(captions.tokens(block).to(setting.device))
        parts.append((block, embeddings.float()))
    return assemble(parts, len(captions), torch.empty(0, model.embedding_width, device=setting.device))


def kept_dtype(setting: Setting) -> torch.dtype:
    """Dtype of tokens and prefixes that are kept: products turn their operands into it anyway."""
    with setting.precision():
        return product_type(setting.device)
