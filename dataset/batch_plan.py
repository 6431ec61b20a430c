"""Which samples make up each batch of an epoch, on any number of processes.

Letters: I identities, K look-alikes of each.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.errors import UserError
from utils.text import counted


@dataclass(frozen=True)
class BatchRequest:
    """One micro-batch: indices of the samples of all processes, and the rows of them that are this process's."""

    epoch: int
    everyone: tuple[int, ...]
    rows: slice

    @property
    def own(self) -> tuple[int, ...]:
        return self.everyone[self.rows]


class Plan(ABC):
    """What a sampler must offer, whichever way it chooses samples (`TrainSet.identity` knows who is on each).

    All epochs have as many micro-batches, and those of an epoch are the same whenever it is asked for: a resumed run
    skips those that it has had. All processes agree on `everyone`; their `rows` share it out in rank order.
    """

    @abstractmethod
    def __len__(self) -> int:
        """The micro-batches of an epoch."""

    @abstractmethod
    def requests(self, epoch: int, skip: int = 0) -> Iterator[BatchRequest]:
        """The micro-batches of an epoch but for the first `skip`."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold for the rest of the epoch, beside what the plan was made from."""
        return {}

    def restore(self, checkpoint: Mapping[str, Any]) -> None:  # noqa: B027  (most plans have no state)
        """Take what `state` gave from a checkpoint (with its "path"). Raises UserError when it does not fit."""


class BatchPlan(Plan):
    """The published sampler: every sample once an epoch.

    The order is a permutation by (seed, epoch). The G = batch * world samples of a
    micro-batch are dealt out in contiguous runs, so that gathering rows in rank order gives
    the order a single process would see. What does not fill a micro-batch is left out.
    """

    def __init__(self, samples: int, batch: int, rank: int, world: int, seed: int):
        self.samples, self.together, self.seed = samples, batch * world, seed
        self.rows = slice(rank * batch, (rank + 1) * batch)
        if samples < self.together:
            raise UserError(
                f"the training set has {counted(samples, 'caption')}, fewer than one batch of {self.together}"
                f" ({batch} on each of {counted(world, 'process', 'processes')}); lower batch_size_train"
            )

    def __len__(self) -> int:
        return self.samples // self.together

    def order(self, epoch: int) -> np.ndarray:
        """All samples in the order of an epoch."""
        return np.random.default_rng((self.seed, epoch)).permutation(self.samples)

    def requests(self, epoch: int, skip: int = 0) -> Iterator[BatchRequest]:
        order = self.order(epoch)
        for start in range(skip * self.together, len(self) * self.together, self.together):
            yield BatchRequest(epoch, tuple(order[start : start + self.together].tolist()), self.rows)

    def every_sample(self, epoch: int) -> Iterator[BatchRequest]:
        """Every sample before an epoch, in another order than in it; the last micro-batch is filled up with the first.

        To look at them all, such as at their losses.
        """
        order = np.random.default_rng((self.seed, epoch, 2)).permutation(self.samples)
        filled = np.resize(order, -(-self.samples // self.together) * self.together)
        for everyone in filled.reshape(-1, self.together).tolist():
            yield BatchRequest(epoch, tuple(everyone), self.rows)


class IdentityPlan(BatchPlan):
    """Batches of different identities with equally many samples of each (IRRA's sampler `identity`).

    The shuffled samples of an identity make groups; what does not fill one is left out, and an identity with fewer
    samples has one group of its own, drawn with replacement. A batch has one group of each of its identities. Which
    ones is by chance, but such that as many batches are filled as can be: the published sampler stops somewhat
    earlier, after a number of batches that depends on its draws.

    identity: of every sample, from 0. each: samples of a group.
    """

    def __init__(self, identity: np.ndarray, each: int, batch: int, rank: int, world: int, seed: int):
        super().__init__(len(identity), batch, rank, world, seed)
        if batch % each:
            raise UserError(
                f"a batch of {batch} is not made of whole groups of {counted(each, 'sample')} of an identity: take a"
                f" batch_size_train that {each} divides"
            )
        self.each, self.people = each, self.together // each
        self.samples_of = by_identity(identity)
        groups = np.array([max(1, len(samples) // each) for samples in self.samples_of])
        self.batches = most_batches(groups, self.people)
        if not self.batches:
            raise UserError(
                f"the training set has {counted(len(groups), 'identity', 'identities')}, fewer than the {self.people}"
                " of one batch; lower batch_size_train"
            )

    def __len__(self) -> int:
        return self.batches

    def order(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        groups: list[np.ndarray] = []
        for person in rng.permutation(len(self.samples_of)):
            groups += self.groups_of(self.samples_of[person], rng)
        # one group after the other goes to the next batch, so that those of an identity, which are no more than
        # there are batches, go to different ones
        dealt = np.array(groups[: self.people * self.batches]).reshape(self.people, self.batches, self.each)
        return dealt.swapaxes(0, 1)[rng.permutation(self.batches)].ravel()

    def groups_of(self, samples: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """An identity's samples in groups, of which no more than one goes into each batch."""
        if len(samples) < self.each:
            return [rng.choice(samples, self.each)]
        count = len(samples) // self.each
        return list(rng.permutation(samples)[: count * self.each].reshape(count, self.each)[: self.batches])


class LookAlikePlan(BatchPlan):
    """Every sample once an epoch, in groups of consecutive ones whose people look alike to the model.

    People who look alike to one another find together first: with groups around people drawn at random, many would
    lose their nearest to others.

    identity: of every sample, from 0. groups: samples of a group by epoch, None = the published order; the last one
    stays. A batch of a process must hold whole groups. look_alikes: to be set before an epoch with groups, int [I, K],
    for each identity the others that resemble it, most alike first; without them the order is the published one.
    """

    def __init__(
        self, identity: np.ndarray, groups: Sequence[int | None], batch: int, rank: int, world: int, seed: int
    ):
        super().__init__(len(identity), batch, rank, world, seed)
        self.identities, self.groups = int(identity.max()) + 1, list(groups)
        self.look_alikes: Tensor | None = None
        self.samples_of = by_identity(identity)

    def group_in(self, epoch: int) -> int | None:
        """Samples of a group in an epoch."""
        return self.groups[min(epoch, len(self.groups) - 1)]

    @property
    def look_alikes_of_each(self) -> int:
        """How many it should be told of each identity: some are in other groups already when its turn comes."""
        return 4 * max(group for group in self.groups if group)

    def state(self) -> dict[str, Any]:
        return {"look_alikes": self.look_alikes}

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        found = checkpoint.get("look_alikes")
        if found is not None:
            shape = (self.identities, min(self.look_alikes_of_each, self.identities - 1))
            fits = isinstance(found, Tensor) and found.dtype == torch.int32 and found.shape == shape
            if not fits or bool(((found < 0) | (found >= self.identities)).any()):
                raise UserError(
                    f"checkpoint {checkpoint['path']}: its look-alikes are not of these training data, or of another"
                    " `look_alikes`; resume it with the settings of its run"
                )
        self.look_alikes = found

    def one_of_each(self, epoch: int) -> Iterator[BatchRequest]:
        """A chance sample of every identity, in batches as large as those of training; the last one is filled up."""
        rng = np.random.default_rng((self.seed, epoch, 1))
        chosen = [int(rng.choice(samples)) for samples in self.samples_of]
        for start in range(0, len(chosen), self.together):
            everyone = chosen[start : start + self.together]
            yield BatchRequest(epoch, tuple(np.resize(everyone, self.together).tolist()), self.rows)

    def order(self, epoch: int) -> np.ndarray:
        size = self.group_in(epoch)
        if size is None or self.look_alikes is None:
            return super().order(epoch)
        rng = np.random.default_rng((self.seed, epoch))
        left = [rng.permutation(samples).tolist() for samples in self.samples_of]
        near = tightness(self.look_alikes.numpy(), size)
        groups: list[list[int]] = []
        alone: list[int] = []
        while any(left):
            order = np.lexsort((rng.random(self.identities), -near))
            for people in self.groups_of(size, [person for person in order.tolist() if left[person]]):
                chosen = [left[person].pop() for person in people]
                if len(people) == size:
                    groups.append(chosen)
                else:
                    alone += chosen
        rng.shuffle(groups)
        return np.array([sample for group in groups for sample in group] + rng.permutation(alone).astype(int).tolist())

    def groups_of(self, size: int, people: Sequence[int]) -> Iterator[list[int]]:
        """Each of the people once, in groups around those who come first; alone where fewer are left.

        Whoever finds too few look-alikes free waits until all others have their groups, and takes what is left.
        """
        assert self.look_alikes is not None
        free = dict.fromkeys(people)
        # rows of these people alone: where one has far more samples than all others, most rounds are of few
        alike = dict(zip(people, self.look_alikes[list(people)].tolist(), strict=True))
        for enough in (True, False):
            for person in people:
                if person not in free:
                    continue
                others = [other for other in alike[person] if other in free][: size - 1]
                if len(others) < size - 1 and enough:
                    continue
                if len(others) < size - 1 < len(free):
                    more = (other for other in free if other != person and other not in others)
                    others += islice(more, size - 1 - len(others))
                group = [person, *others] if len(others) == size - 1 else [person]
                for member in group:
                    del free[member]
                yield group


def by_identity(identity: np.ndarray) -> list[np.ndarray]:
    """The samples of every identity, from 0, whose identities are given [N]."""
    order = np.argsort(identity, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(identity[order])) + 1)


def most_batches(groups: np.ndarray, people: int) -> int:
    """How many batches of so many different identities can be filled, with groups [I] of each of them.

    For b batches an identity gives no more than b groups: the most b for which that is enough.
    """
    most = int(groups.sum()) // people
    with_so_many = np.bincount(groups, minlength=most + 1)[::-1].cumsum()[::-1]  # at least 0, 1, 2, ... groups
    given = with_so_many[1 : most + 1].cumsum()
    return int((given >= people * np.arange(1, most + 1)).sum())


def tightness(alike: np.ndarray, size: int) -> np.ndarray:
    """How well each identity [I] and the `size` - 1 most like it go together: how many have one another for nearest.

    alike [I, K]: the others that resemble each identity, most alike first.
    """
    nearest = alike[:, : size - 1]
    groups = np.concatenate([np.arange(len(alike))[:, None], nearest], axis=1)
    total = np.zeros(len(alike), int)
    for other in nearest.T:
        total += (groups[other][:, :, None] == groups[:, None, :]).sum((1, 2))
    return total
