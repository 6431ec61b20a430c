"""Opens a run: its configuration and checkpoint, checked for what the command line asks."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from configs.command_line import SEED, SEEDS, Options, read_config
from configs.schema import Config, MarsConfig, require_files
from configs.systems import SYSTEMS
from configs.untold import UNTOLD, warn_of_other_settings
from models.build import require_compiler
from models.released import saved_config
from utils.checkpoints.exported import read_trained
from utils.checkpoints.named import checkpoint_path
from utils.checkpoints.run_folder import RunFolder, config_beside, is_restart
from utils.device import Autocast, prepare_precision
from utils.errors import UserError
from utils.files import require_writable_file, require_writable_folder
from utils.precision import choose_precision
from utils.processes.distributed import on_main, world_size
from utils.processes.sharing import shared_from_main
from utils.text import counted

logger = logging.getLogger(__name__)

OF_THE_START = ("checkpoint", "vision_checkpoint")  # settings that a resumed run does not read
RESULTS = ("metrics.json", "rankings.npz")  # what an evaluation leaves


@dataclass(frozen=True)
class Run:
    """What every part of a run needs. precision: makes an autocast context."""

    options: Options
    config: Config
    device: torch.device
    precision: Autocast
    checkpoint: dict[str, Any] | None
    seed: int


def open_run(options: Options, device: torch.device) -> Run:
    """Configuration and checkpoint, checked for what was asked."""
    folder = RunFolder(options.output_dir)
    options = resume_after_restart(options, folder)
    own = options.config is None and not options.is_new  # the settings of the checkpoint's run
    config = None if own else read_config(options)
    if options.is_new and config is not None:
        options = replace(options, checkpoint=checkpoint_path(config.checkpoint) if config.checkpoint else None)
    check_folder(options, folder)
    checkpoint = open_checkpoint(options, folder)
    config = config or read_config(options, checkpoint)
    if options.resume and checkpoint is not None:
        config = keep_precision(keep_samples_per_step(options, config, checkpoint), checkpoint)
    if checkpoint is not None:
        config = SYSTEMS[config.system].follow(config, saved_config(checkpoint))
    if checkpoint is not None and options.is_new:
        warn_of_other_settings(config, checkpoint, UNTOLD, "this run starts from it with")
    require_data(options, config, checkpoint)
    config = config.model_copy(update={"precision": choose_precision(config.precision, device)})
    if not options.evaluate:
        require_what_compiles(config, device)
    if options.is_new and config.epochs is not None and config.eval_epoch >= config.epochs:
        epochs = counted(config.epochs, "epoch")
        logger.warning("eval_epoch %d: of %s, only the last is evaluated", config.eval_epoch, epochs)
    unused, used = config.schedular.unread_rate, config.optimizer.lr
    if unused not in (None, used):
        logger.warning("schedular.lr %g is not used: the learning rate is optimizer.lr %g", unused, used)
    precision = prepare_precision(config.precision, device, config.deterministic)
    return Run(options, config, device, precision, checkpoint, seed_of(options, checkpoint))


def require_what_compiles(config: Config, device: torch.device) -> None:
    """Raises UserError where a training step cannot be compiled or made a CUDA graph as configured."""
    if config.compile:
        require_compiler()
    if config.cuda_graphs and device.type != "cuda":
        raise UserError(f"config: `cuda_graphs` needs a GPU, and the device is {device.type}; leave `cuda_graphs` out")
    if config.cuda_graphs and world_size() > 1:
        processes = counted(world_size(), "process", "processes")
        raise UserError(f"config: `cuda_graphs` is for one process, and there are {processes}; leave `cuda_graphs` out")


def check_folder(options: Options, folder: RunFolder) -> None:
    """Raises UserError when files of another run would be replaced, or the checkpoint that is needed is not named."""
    if not options.dry_run:
        require_writable_folder(options.output_dir, "--output_dir")
        results = () if options.evaluate else RESULTS
        folder.refuse_to_overwrite(options.checkpoint, options.resume, results, options.evaluate)
        if options.rerank and folder.holds_checkpoint():  # beside results of two models, its own would be lost
            raise UserError(f"--output_dir {options.output_dir} is that of a run; with --rerank, name another folder")
        for name in RESULTS:
            require_writable_file(options.output_dir / name, "result")
    if options.evaluate and options.checkpoint is None:
        raise UserError("--evaluate needs --checkpoint: which weights shall be evaluated?")
    if options.resume and options.checkpoint is None and not on_main(folder.holds_checkpoint)():
        raise UserError(f"--resume: {folder.last} does not exist; leave out --resume to begin a run there")


def open_checkpoint(options: Options, folder: RunFolder) -> dict[str, Any] | None:
    """What a run is resumed from, starts from or evaluates, with its "path"; None for one that starts from nothing.

    One process reads it for all.
    """
    if options.resume:
        return shared_from_main(folder.newest)(options.checkpoint)
    return None if options.checkpoint is None else shared_from_main(read_trained)(options.checkpoint)


def seed_of(options: Options, checkpoint: Mapping[str, Any] | None) -> int:
    """That of the command line, else that of the run to be resumed."""
    if options.seed is not None:
        return options.seed
    recorded = checkpoint.get("seed") if options.resume and checkpoint is not None else None
    return recorded if isinstance(recorded, int) and 0 <= recorded < SEEDS else SEED


def require_data(options: Options, config: Config, checkpoint: Mapping[str, Any] | None) -> None:
    """Raises UserError when data are not there; where --config is not that of the checkpoint's run, names that."""
    try:
        require_files(config, needed_files(options, config))
    except UserError as error:
        own = None if options.is_new or checkpoint is None else config_beside(checkpoint["path"])
        if options.config is None or own is None or own.resolve() in [path.resolve() for path in options.config]:
            raise
        raise UserError(f"{error}; without --config, the run's own settings are taken, from {own}") from None


def resume_after_restart(options: Options, folder: RunFolder) -> Options:
    """A run that torchrun or SLURM has started again resumes by itself."""
    if is_restart() and not options.evaluate and on_main(folder.holds_checkpoint)():
        return replace(options, resume=True, checkpoint=None)
    return options


def keep_precision(config: Config, checkpoint: Mapping[str, Any]) -> Config:
    """The configuration in which `precision: auto` is what the run to be resumed has had."""
    saved = saved_config(checkpoint)
    if config.precision != "auto" or "precision" not in saved:
        return config
    return config.model_copy(update={"precision": saved["precision"]})


def samples_per_step(config: Config) -> int:
    """Samples of one optimizer step, on all processes."""
    return config.batch_size_train * config.accumulate_steps * world_size()


def keep_samples_per_step(options: Options, config: Config, checkpoint: Mapping[str, Any]) -> Config:
    """The configuration with a batch per process that makes the steps of the run to be resumed as large as before.

    Raises UserError when that is not possible with so many processes.
    """
    of_run, saved = checkpoint.get("samples_per_step"), saved_config(checkpoint)
    if not isinstance(of_run, int) or not saved or samples_per_step(config) == of_run:
        return config
    if config.batch_size_train not in (saved.get("batch_size_train"), checkpoint.get("negatives_pool")):
        return config  # neither the last nor the first one, so changed on purpose; whether it fits is seen later
    batch, left = divmod(of_run, config.accumulate_steps * world_size())
    processes = counted(world_size(), "process", "processes")
    if left or batch == 0:
        raise UserError(
            f"checkpoint {checkpoint['path']} is of a run with {counted(of_run, 'sample')} per step, which"
            f" {processes} with accumulate_steps {config.accumulate_steps} cannot share; start another number of them"
        )
    logger.info("batch_size_train is now %d: %s, %s of a step", batch, processes, counted(of_run, "sample"))
    return read_config(options, checkpoint, f"batch_size_train={batch}")


def warn_of_changes(config: Config, checkpoint: Mapping[str, Any]) -> None:
    """Say which settings are no longer those that a run was saved with, and when hard negatives are others by it.

    They are drawn within a process's batch, unless configured.
    """
    pool, batch = checkpoint.get("negatives_pool"), config.batch_size_train
    drawn_among_all = isinstance(config, MarsConfig) and config.hard_negatives_within is None
    if isinstance(pool, int) and pool > 0 and batch % pool and drawn_among_all:
        logger.warning("hard negatives are now drawn among %d samples, no longer among %d", batch, pool)
    saved, here = flat(saved_config(checkpoint)), flat(config.model_dump(mode="json"))
    changed = [key for key, value in saved.items() if key in here and here[key] != value and key not in OF_THE_START]
    if changed:
        logger.warning("settings are changed: %s", ", ".join(f"{key} {saved[key]} -> {here[key]}" for key in changed))


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Settings in sections as one mapping of key.path -> value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found


def needed_files(options: Options, config: Config) -> tuple[str, ...]:
    """Configuration keys that must name something there."""
    test = ("test_file", "test_image_root")
    if options.evaluate:
        return test
    chosen = config.model_selection
    used = ("train_file", "train_image_root", f"{chosen}_file", f"{chosen}_image_root")
    return used + test if config.test_file else used
