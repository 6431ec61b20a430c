"""One code path for a CPU process, a GPU, or many under torchrun or SLURM."""

import ctypes
import gc
import os
import platform
import re
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn.functional
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from utils.errors import LostPeer, UserError, record_error

Parameters = ParamSpec("Parameters")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Launch:
    """This process among all: `rank` of `world`, `local_rank` on its node; `by_slurm` = started by srun."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    by_slurm: bool = False


def read_launch(environment: dict[str, str]) -> Launch:
    """Read the rank of this process from the variables of torchrun, else of SLURM; without them it is alone.

    A batch script itself has SLURM's variables too, but none of a step: it runs alone.
    """
    script = "SLURM_JOB_ID" in environment and "SLURM_STEP_ID" not in environment
    try:
        by_torchrun = "RANK" in environment and "WORLD_SIZE" in environment
        if by_torchrun:
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        elif int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in environment and not script:
            names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
        else:
            return Launch()
        rank, world, local_rank = (int(environment.get(name, "0")) for name in names)
    except ValueError as error:
        raise UserError(f"RANK, WORLD_SIZE, SLURM_PROCID and the like must be integers: {error}") from None
    if not 0 <= rank < world or local_rank < 0:
        found = ", ".join(f"{name}={environment.get(name, '0')}" for name in names)
        raise UserError(f"{found} is impossible: 0 <= {names[0]} < {names[1]} and 0 <= {names[2]} are expected")
    return Launch(rank, world, local_rank, by_slurm=not by_torchrun)


def end_with_parent() -> None:
    """Have this process asked to end (SIGTERM) when torchrun is gone, which else would leave it alone (Linux)."""
    if platform.system() == "Linux":
        set_parent_death_signal = 1  # its number in sys/prctl.h
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def first_slurm_host(node_list: str) -> str:
    """First host of a SLURM node list, by `scontrol` when it is there."""
    try:
        names = subprocess.run(
            ["scontrol", "show", "hostnames", node_list], capture_output=True, text=True, check=True
        ).stdout.split()
        return names[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        raise UserError(
            f"cannot resolve SLURM_NODELIST={node_list} with scontrol; set MASTER_ADDR to the first node"
        ) from None


def choose_device(name: str, launch: Launch) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` as a device of this process.

    Raises UserError for an unknown device or one that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    cuda = re.fullmatch(r"cuda(:\d+)?", name)
    if not cuda:
        raise UserError(f"--device '{name}' is unknown; use auto, cpu, cuda or cuda:0")
    if not torch.cuda.is_available():
        raise UserError(f"--device {name}: no CUDA device is visible; use --device cpu")
    index = int(cuda[1][1:]) if cuda[1] else launch.local_rank
    if launch.by_slurm and torch.cuda.device_count() == 1:
        index = 0  # each task sees its own device alone (srun --gpus-per-task=1)
    if index >= torch.cuda.device_count():
        raise UserError(f"--device {name}: this node has {torch.cuda.device_count()} CUDA devices")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


@contextmanager
def process_group(
    launch: Launch, device: torch.device, dist_url: str = "env://", timeout_minutes: float = 30
) -> Iterator[None]:
    """Join the other processes for the time of a `with` block; nothing to do when alone."""
    if launch.world == 1:
        yield
        return
    try:
        if dist_url == "env://" and "MASTER_ADDR" not in os.environ:
            os.environ["MASTER_ADDR"] = first_slurm_host(os.environ.get("SLURM_NODELIST", "localhost"))
            os.environ.setdefault("MASTER_PORT", str(10_000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20_000))
        timeout = timedelta(minutes=timeout_minutes)
        store, *_ = next(rendezvous(dist_url, launch.rank, launch.world, timeout=timeout))
        # torchrun keeps one store through its restarts: the addresses of processes that are gone stand in it
        store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=launch.rank,
            world_size=launch.world,
            timeout=timeout,
        )
    except (ValueError, RuntimeError) as error:
        message = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"process {launch.rank} cannot join the others at {dist_url}: {message}") from None
    try:
        yield
    except UserError as error:
        record_error(error)  # before the others find this process gone
        raise
    except RuntimeError as error:
        if not is_lost_peer(error):
            raise
        raise LostPeer(f"process {launch.rank} lost a process it works with; the run can go on with --resume") from None
    finally:
        processors.cache_clear()
        gc.collect()  # models in reference cycles hold the group
        dist.destroy_process_group()


@cache
def processors() -> dist.ProcessGroup | None:
    """The group in which processors talk to each other while their devices compute; None = the usual one.

    All processes ask for it for the first time together.
    """
    group = dist.new_group(backend="gloo") if dist.get_backend() == "nccl" else None
    return group if isinstance(group, dist.ProcessGroup) else None


def is_lost_peer(error: RuntimeError) -> bool:
    """Whether a collective operation failed because another process is gone or does not answer."""
    backends = ("gloo/", "gloo::", "NCCL", "Connection closed by peer", "Connection reset by peer", "ProcessGroup")
    return isinstance(error, dist.DistError) or any(name in str(error) for name in backends)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


@torch.no_grad()
def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate equally shaped [B, ...] of all processes in rank order, without gradient."""
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def gather_together(*rows: Tensor) -> list[Tensor]:
    """Like `gather_rows` for tensors [B, ...] of any types with the same B, by one exchange of their bytes."""
    if world_size() == 1:
        return list(rows)
    flat = [part.detach().reshape(len(part), -1).contiguous().view(torch.uint8) for part in rows]
    gathered = gather_rows(torch.cat(flat, dim=1)).split([part.shape[1] for part in flat], dim=1)
    return [
        found.contiguous().view(part.dtype).view(-1, *part.shape[1:])
        for part, found in zip(rows, gathered, strict=True)
    ]


def gather_with_gradient(rows: Tensor) -> Tensor:
    """Like `gather_rows`; gradients flow back to the rows of every process."""
    if world_size() == 1:
        return rows
    return torch.cat(torch.distributed.nn.functional.all_gather(rows.contiguous()))


@torch.no_grad()
def sum_over_processes(value: Tensor) -> Tensor:
    """Sum over processes, in place when there are several."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


@torch.no_grad()
def mean_over_processes(value: Tensor) -> Tensor:
    """Mean over processes, in place when there are several."""
    return sum_over_processes(value).div_(world_size()) if world_size() > 1 else value


def exchange(sent: Iterable[tuple[int, Tensor]], received: Iterable[tuple[int, Tensor]]) -> None:
    """Send tensors to other processes, and fill others with what they send; each with the rank of the other process.

    What one process sends to another is in the same order in both their lists.
    """
    operations = [dist.P2POp(dist.isend, tensor.contiguous(), other) for other, tensor in sent]
    operations += [dist.P2POp(dist.irecv, tensor, other) for other, tensor in received]
    for work in dist.batch_isend_irecv(operations) if operations else []:
        work.wait()


def from_main(value: Value) -> Value:
    """The main process's picklable `value`, on all processes."""
    if world_size() == 1:
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]


def on_main(function: Callable[Parameters, Value]) -> Callable[Parameters, Value]:
    """Decorator: run `function` on the main process and return its result on all.

    An exception there is raised on all processes, so that none waits for the others for ever.
    """

    @wraps(function)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Value:
        results: list[Value] = []
        failures: list[Exception] = []
        if is_main():
            try:
                results.append(function(*args, **kwargs))
            except Exception as error:
                failures.append(error)
        results, failures = from_main((results, failures))
        if failures:
            raise failures[0]
        return results[0]

    return wrapper


@torch.no_grad()
def min_over_processes(value: Tensor) -> Tensor:
    """The least over processes, in place when there are several."""
    if world_size() > 1:
        dist.all_reduce(value, dist.ReduceOp.MIN)
    return value


def max_over_processes(values: Sequence[float]) -> list[float]:
    """The greatest of each number over all processes; exchanged in main memory, whatever their devices."""
    if world_size() == 1:
        return list(values)
    together = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(together, dist.ReduceOp.MAX, group=processors())
    return together.tolist()


def gather_objects(value: Value) -> list[Value]:
    """The values of all processes in rank order; plain values only."""
    gathered = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(gathered, value)
    return gathered
