"""What a model would cost, without running it: parameter counts and a memory estimate."""

import copy
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from dataset.batch import PairBatch, TextTokens, TrainBatch
from models.person_search import PersonSearchModel
from models.randomness import RandomDraws, StepNoise
from utils.memory import GIB
from utils.processes.handover import map_leaves

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Memory:
    """Bytes of a training step: parameters, gradients, optimizer states, activations."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer + self.activations

    def __str__(self) -> str:
        parts = ("parameters", "gradients", "optimizer", "activations")
        listed = ", ".join(f"{part} {getattr(self, part) / GIB:.2f}" for part in parts)
        return f"{self.total / GIB:.2f} GiB ({listed})"


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Parameters by part of the model; shared ones count once, momentum copies apart."""
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = "momentum copies" if not parameter.requires_grad else name.split(".")[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts


def describe_parameters(model: nn.Module) -> str:
    """A line for each part of the model, and their sum."""
    counts = count_parameters(model)
    return "\n".join(
        f"{part:28} {count:>13,} parameters" for part, count in {**counts, "together": sum(counts.values())}.items()
    )


def describe_batch(batch: TrainBatch) -> str:
    """The shapes of a batch, a line each."""
    shapes = {name: getattr(batch, name).shape for name in ("image1", "image2", "attributes", "identity", "replaced")}
    shapes |= {name: getattr(batch, name).ids.shape for name in ("caption", "caption2")}
    return "\n".join(f"{name:28} {list(shape)}" for name, shape in shapes.items())


class StepSettings(Protocol):
    """What of a configuration decides how much memory a training step takes."""

    @property
    def batch_size_train(self) -> int: ...

    @property
    def image_size(self) -> tuple[int, int]: ...

    @property
    def precision(self) -> str: ...


def describe_step(model: PersonSearchModel, settings: StepSettings, tokens: int) -> str:
    """A line on the memory of a training step with captions as long as they get."""
    bf16 = settings.precision == "bf16"
    memory = estimate_memory(model, settings.batch_size_train, tokens, settings.image_size, bf16)
    return f"a training step with captions of {tokens} tokens, the longest there are, takes about {memory}"


def describe_pairs(batch: PairBatch) -> str:
    """The shapes of a batch of pairs, a line each."""
    shapes = {name: getattr(batch, name).shape for name in ("image", "ids", "identity")}
    return "\n".join(f"{name:28} {list(shape)}" for name, shape in shapes.items())


def describe_pair_step(model: nn.Module, batch: PairBatch, precision: str) -> str:
    """A line on the memory of a training step with a batch like this one."""
    memory = memory_of_step(model, (map_leaves(batch, lambda part: part.to("meta")),), precision == "bf16")
    return f"a training step with captions of {batch.ids.shape[1]} tokens takes about {memory}"


def meta_batch(batch: int, tokens: int, attributes: int, image_size: tuple[int, int]) -> TrainBatch:
    """A training batch without content."""

    def integers(*shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.long, device="meta")

    text = TextTokens(integers(batch, tokens), torch.ones(batch, tokens, dtype=torch.bool, device="meta"))
    text = replace(text, words=batch * tokens)
    image = torch.empty(batch, 3, *image_size, device="meta")
    return TrainBatch(
        image1=image,
        image2=image,
        caption=text,
        caption2=text,
        attributes=integers(batch, tokens),
        attribute_count=attributes,
        identity=integers(batch),
        replaced=integers(batch),
        index=integers(batch),
    )


def without_content(model: Model) -> Model:
    """A copy on the meta device, whose tensors have shapes and no memory."""
    meta: dict[int, Any] = {}
    for parameter in model.parameters():
        meta[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    for buffer in model.buffers():
        meta[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, meta)


def estimate_memory(
    model: PersonSearchModel, batch: int, tokens: int, image_size: tuple[int, int], bf16: bool
) -> Memory:
    """Memory of a training step of MARS at these sizes; see `memory_of_step`."""
    noise = StepNoise.draw(0, 0, list(range(batch)), tokens, model.grid[0] * model.grid[1])
    draws = RandomDraws(noise, model.special, model.text_encoder.size.vocab_size).to(torch.device("meta"))
    return memory_of_step(model, (meta_batch(batch, tokens, 4, image_size), draws, 0.4), bf16)


def memory_of_step(model: nn.Module, inputs: tuple[Any, ...], bf16: bool) -> Memory:
    """Memory of a training step, from a forward pass without content: inputs are on the meta device.

    Activations are what autograd keeps for the backward pass, each storage once; autocast to
    bf16 is taken as half. Work space of kernels is not counted.
    """
    state = [*model.parameters(), *model.buffers()]
    trainable = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    fixed = sum(tensor.numel() * tensor.element_size() for tensor in state)
    model = without_content(model).train()
    # autograd keeps parameters too, at times as views: told apart by their storage
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            kept[storage] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found, _ = model(*inputs)
        sum(found.values())
    activations = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return Memory(fixed, trainable, 2 * trainable, activations // (2 if bf16 else 1))
