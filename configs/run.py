"""Opens a run: its configuration and checkpoint, checked for what the command line asks."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from configs.command_line import Options, read_config
from configs.schema import Config, require_files
from models.build import require_compiler
from utils.checkpoints.exported import read_trained
from utils.checkpoints.run_folder import RunFolder, is_restart
from utils.device import Autocast, prepare_precision
from utils.errors import UserError
from utils.files import require_folder
from utils.processes.distributed import on_main, world_size
from utils.processes.sharing import shared_from_main

logger = logging.getLogger(__name__)

RESULTS = ("metrics.json", "rankings.npz")  # what an evaluation leaves


@dataclass(frozen=True)
class Run:
    """What every part of a run needs. precision: makes an autocast context."""

    options: Options
    config: Config
    device: torch.device
    precision: Autocast
    checkpoint: dict[str, Any] | None


def open_run(options: Options, device: torch.device) -> Run:
    """Configuration and checkpoint, checked for what was asked. One process reads the checkpoint for all."""
    folder = RunFolder(options.output_dir)
    options = resume_after_restart(options, folder)
    config = read_config(options)
    options = complete(options, config, folder)
    checkpoint = None
    if options.resume:
        checkpoint = shared_from_main(folder.newest)(options.checkpoint)
        config = keep_samples_per_step(options, config, checkpoint)
    elif options.checkpoint is not None:
        checkpoint = shared_from_main(read_trained)(options.checkpoint)
    require_files(config, needed_files(options, config))
    if config.compile and not options.evaluate:
        require_compiler()
    if options.is_new and config.eval_epoch >= config.epochs:
        logger.warning("eval_epoch %d: of %d epochs, only the last is evaluated", config.eval_epoch, config.epochs)
    if config.schedular.lr not in (None, config.optimizer.lr):
        unused, used = config.schedular.lr, config.optimizer.lr
        logger.warning("schedular.lr %g is not used: the learning rate is optimizer.lr %g", unused, used)
    precision = prepare_precision(config.precision, device, config.deterministic)
    return Run(options, config, device, precision, checkpoint)


def complete(options: Options, config: Config, folder: RunFolder) -> Options:
    """The options with the checkpoint that configuration and folder imply.

    Raises UserError when files of another run would be replaced, or the checkpoint that is needed is not named.
    """
    if options.is_new and config.checkpoint:
        options = replace(options, checkpoint=Path(config.checkpoint))
    if not options.dry_run:
        require_folder(options.output_dir, "--output_dir")
        results = () if options.evaluate else RESULTS
        folder.refuse_to_overwrite(options.checkpoint, options.resume, results, options.evaluate)
    if options.evaluate and options.checkpoint is None:
        raise UserError("--evaluate needs --checkpoint: which weights shall be evaluated?")
    if options.resume and options.checkpoint is None and not on_main(folder.holds_checkpoint)():
        raise UserError(f"--resume: {folder.last} does not exist; leave out --resume to begin a run there")
    return options


def resume_after_restart(options: Options, folder: RunFolder) -> Options:
    """A run that torchrun or SLURM has started again resumes by itself."""
    if is_restart() and not options.evaluate and on_main(folder.holds_checkpoint)():
        return replace(options, resume=True, checkpoint=None)
    return options


def samples_per_step(config: Config) -> int:
    """Samples of one optimizer step, on all processes."""
    return config.batch_size_train * config.accumulate_steps * world_size()


def keep_samples_per_step(options: Options, config: Config, checkpoint: Mapping[str, Any]) -> Config:
    """The configuration with a batch per process that makes the steps of the run to be resumed as large as before.

    Raises UserError when that is not possible with so many processes.
    """
    of_run, saved = checkpoint.get("samples_per_step"), checkpoint.get("config")
    if not isinstance(of_run, int) or not isinstance(saved, dict) or samples_per_step(config) == of_run:
        return config
    if config.batch_size_train not in (saved.get("batch_size_train"), checkpoint.get("negatives_pool")):
        return config  # neither the last nor the first one, so changed on purpose; whether it fits is seen later
    batch, left = divmod(of_run, config.accumulate_steps * world_size())
    if left or batch == 0:
        raise UserError(
            f"checkpoint {checkpoint['path']} is of a run with {of_run} samples per step, which {world_size()}"
            f" processes with accumulate_steps {config.accumulate_steps} cannot share; start another number of them"
        )
    logger.info("batch_size_train is now %d: %d processes share the %d samples of a step", batch, world_size(), of_run)
    return read_config(options, f"batch_size_train={batch}")


def warn_of_other_negatives(config: Config, checkpoint: Mapping[str, Any]) -> None:
    """Hard negatives are drawn within a process's batch, unless configured: of another size, they are others."""
    pool, batch = checkpoint.get("negatives_pool"), config.batch_size_train
    if isinstance(pool, int) and pool > 0 and batch % pool and config.hard_negatives_within is None:
        logger.warning("hard negatives are now drawn among %d samples, no longer among %d", batch, pool)


def needed_files(options: Options, config: Config) -> tuple[str, ...]:
    """Configuration keys that must name something there."""
    test = ("test_file", "test_image_root")
    if options.evaluate:
        return test
    chosen = config.model_selection
    used = ("train_file", "train_image_root", f"{chosen}_file", f"{chosen}_image_root")
    return used + test if config.test_file else used
