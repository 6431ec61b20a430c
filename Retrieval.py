"""Trains and evaluates text-based person search: the one driver.

    python Retrieval.py --config configs/PS_cuhk_pedes.yaml --output_dir output/cuhk --checkpoint ALBEF.pth
    python Retrieval.py --config ... --output_dir ... --checkpoint output/cuhk/checkpoint_best.pth --evaluate
    torchrun --nproc_per_node 4 Retrieval.py ...
"""

import argparse
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from configs.schema import Config, load_config, require_files
from dataset.batch import TrainBatch
from dataset.gallery import EvaluationSplit
from dataset.opening import FROM_CAPTIONS, fit_vocabulary, open_tokenizer, open_training_set, warn_of_shared_identities
from dataset.tokens import CaptionTokenizer
from dataset.training import BatchPlan, TrainLoader
from evaluation.evaluate import Metrics, evaluate
from evaluation.loading import evaluation_setting, open_split
from models.build import build_model, compile_layers, require_compiler
from models.draws import RandomDraws, StepNoise
from models.inspection import count_parameters, estimate_memory
from models.person_search import PersonSearchModel
from models.released import load_language_model, load_weights, require_trained
from utils.checkpoint import read_checkpoint, save_checkpoint
from utils.config import save_yaml
from utils.distributed import barrier, choose_device, is_main, on_main, process_group, rank, read_launch, world_size
from utils.errors import CommandParser, UserError, run_command_line
from utils.files import require_folder
from utils.logs import RunLog, set_up_logging
from utils.memory import keep_freed_memory
from utils.optimization import LearningRate, load_moments, make_optimizer
from utils.precision import set_precision
from utils.training import Step, StepRules, run_epoch, wrap

logger = logging.getLogger("Retrieval")

RESULTS = ("metrics.json", "rankings.npz")  # what an evaluation leaves


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line. Raises UserError for wrong flags."""
    parser = CommandParser(description="Train and evaluate text-based person search.")
    parser.add_argument("--config", default="configs/PS_cuhk_pedes.yaml", help="YAML file")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY.PATH=VALUE", dest="overrides",
                        help="settings on top of the YAML file, such as optimizer.lr=1e-4")
    parser.add_argument("--output_dir", type=Path, default=Path("output/cuhk-pedes"), help="folder of the run")
    parser.add_argument("--checkpoint", type=Path, help="weights to start from, to evaluate, or to resume")
    parser.add_argument("--resume", action="store_true",
                        help="go on with the run of --checkpoint (default: checkpoint_last.pth of --output_dir)")
    parser.add_argument("--evaluate", action="store_true", help="only evaluate --checkpoint on the test split")
    parser.add_argument("--eval_mAP", action=argparse.BooleanOptionalAction, default=True,
                        help="report mAP and mINP beside R@k")
    parser.add_argument("--text_encoder", help="tokenizer and BERT weights: folder, hub name, or from_captions")
    parser.add_argument("--dry_run", action="store_true",
                        help="check configuration, files and checkpoint, print sizes and shapes, and stop")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--dist_url", default="env://", help="where processes meet")
    parsed = parser.parse_args(arguments)
    if not 0 <= parsed.seed < 2**32:
        raise UserError(f"--seed must be from 0 to {2**32 - 1}, not {parsed.seed}")
    return parsed


@dataclass(frozen=True)
class Run:
    """What every part of a run needs."""

    arguments: argparse.Namespace
    config: Config
    device: torch.device
    precision: Any
    checkpoint: dict[str, Any] | None

    @property
    def output(self) -> Path:
        return self.arguments.output_dir


# ---- opening ---------------------------------------------------------------------------


def open_run(arguments: argparse.Namespace, device: torch.device) -> Run:
    """Configuration and checkpoint, checked for what was asked."""
    encoder = [f"text_encoder={arguments.text_encoder}"] if arguments.text_encoder else []
    config = load_config(arguments.config, [*arguments.overrides, *encoder])
    if not arguments.dry_run:
        require_folder(arguments.output_dir, "--output_dir")
    refuse_to_overwrite(arguments)
    path = arguments.checkpoint
    if arguments.resume and path is None:
        path = arguments.output_dir / "checkpoint_last.pth"
        if not path.exists():
            raise UserError(f"--resume: {path} does not exist; leave out --resume to begin a run there")
    if arguments.evaluate and path is None:
        raise UserError("--evaluate needs --checkpoint: which weights shall be evaluated?")
    require_files(config, needed_files(arguments, config))
    if config.compile and not arguments.evaluate:
        require_compiler()
    if config.schedular.lr not in (None, config.optimizer.lr):
        logger.warning("schedular.lr %g is not used: the learning rate is optimizer.lr %g", config.schedular.lr,
                       config.optimizer.lr)  # fmt: skip
    checkpoint = None if path is None else {**read_checkpoint(path), "path": str(path)}
    return Run(arguments, config, device, set_precision(config.precision, device), checkpoint)


def refuse_to_overwrite(arguments: argparse.Namespace) -> None:
    """Raises UserError when another run's files would be replaced."""
    own, path = arguments.output_dir, arguments.checkpoint
    inside = path is None or path.resolve().parent == own.resolve()
    if arguments.dry_run or (inside and (arguments.evaluate or arguments.resume)):
        return
    # an evaluation may replace an earlier one, but not the results of a training
    files = ("checkpoint_last.pth", "checkpoint_best.pth", "log.txt", *(() if arguments.evaluate else RESULTS))
    kept = [name for name in files if (own / name).exists()]
    if not kept:
        return
    advice = "name another folder"
    if (own / "checkpoint_last.pth").exists() and not arguments.evaluate:
        leave_or_add = "leave out --checkpoint" if arguments.resume else "add --resume"
        advice = f"{leave_or_add} to go on with it, or {advice}"
    raise UserError(f"--output_dir {own} holds {kept[0]} of another run; {advice}")


def needed_files(arguments: argparse.Namespace, config: Config) -> tuple[str, ...]:
    """Configuration keys that must name something there."""
    test = ("test_file", "test_image_root")
    if arguments.evaluate:
        return test
    chosen = config.model_selection
    used = ("train_file", "train_image_root", f"{chosen}_file", f"{chosen}_image_root")
    return used + test if config.test_file else used


def open_weights(run: Run, model: PersonSearchModel) -> None:
    """Start the model from its checkpoint, or its text encoder from BERT."""
    arguments, checkpoint = run.arguments, run.checkpoint
    if checkpoint is None:
        if run.config.text_encoder != FROM_CAPTIONS:
            load_language_model(model, run.config.text_encoder)
        return
    if arguments.resume:
        resume_model(model, checkpoint)
        return
    saved = checkpoint.get("config") if isinstance(checkpoint.get("config"), dict) else {}
    report = load_weights(model, checkpoint["model"], checkpoint["path"], grid_of(saved))
    logger.info("checkpoint %s: %s", checkpoint["path"], report)
    if arguments.evaluate:
        require_trained(report, checkpoint["path"])
        warn_of_other_input(run.config, saved, checkpoint["path"])


def grid_of(saved: dict[str, Any]) -> tuple[int, int] | None:
    """Patches along height and width of the model that a checkpoint's configuration describes."""
    sides, patch = saved.get("image_res"), saved.get("patch_size", 16)
    if isinstance(sides, int):
        sides = [sides, sides]
    fits = isinstance(sides, list) and len(sides) == 2 and all(isinstance(side, int) for side in [*sides, patch])
    return (sides[0] // patch, sides[1] // patch) if fits and patch > 0 else None


def warn_of_other_input(config: Config, saved: dict[str, Any], path: str) -> None:
    """Images and captions unlike those of training are at times wanted, and always worth knowing."""
    for key in ("image_res", "max_words"):
        trained, here = saved.get(key), getattr(config, key)
        if trained is not None and trained != here:
            logger.warning("checkpoint %s was trained with %s %s, and is evaluated with %s", path, key, trained, here)


def resume_model(model: PersonSearchModel, checkpoint: dict[str, Any]) -> None:
    """All parameters and queues of an interrupted run; raises UserError when it was another model."""
    if "optimizer" not in checkpoint or "step" not in checkpoint:
        raise UserError(
            f"checkpoint {checkpoint['path']} holds no interrupted run; resume from a checkpoint_last.pth, or leave"
            " out --resume to start from its weights"
        )
    try:
        model.load_state_dict(checkpoint["model"], strict=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise UserError(
            f"checkpoint {checkpoint['path']} was made with another configuration: {first[:160]}; resume with the"
            " config.yaml of its run"
        ) from None


# ---- training --------------------------------------------------------------------------


def open_splits(run: Run, tokenizer: CaptionTokenizer) -> dict[str, EvaluationSplit]:
    """The splits that a run evaluates on, the one for its final results last."""
    config, names = run.config, ["test"]
    if not run.arguments.evaluate:
        names = list(dict.fromkeys([config.model_selection, *(names if config.test_file else ())]))
    return {name: open_split(config, name, tokenizer) for name in names}


def open_loader(run: Run, tokenizer: CaptionTokenizer, cache_folder: Path | None) -> TrainLoader:
    """This process's share of the training batches (`cache_folder` as in `open_training_set`)."""
    batch, seed = run.config.batch_size_train, run.arguments.seed
    if batch * world_size() > run.config.queue_size:
        raise UserError(
            f"config: queue_size {run.config.queue_size} is smaller than the batch of all processes"
            f" ({batch} x {world_size()})"
        )
    data = open_training_set(run.config, tokenizer, seed, cache_folder)
    plan = BatchPlan(len(data), batch, rank(), world_size(), seed)
    return TrainLoader(data, plan, run.config.workers, run.device.type == "cuda")


class Training:
    """The epoch loop and what it carries from epoch to epoch."""

    def __init__(
        self, run: Run, model: PersonSearchModel, tokenizer: CaptionTokenizer, selection: EvaluationSplit
    ):
        config = run.config
        self.run, self.model, self.tokenizer, self.selection = run, model, tokenizer, selection
        self.loader = open_loader(run, tokenizer, run.output)
        self.setting = evaluation_setting(config, run.device, run.precision)
        self.iterations = len(self.loader) // config.accumulate_steps
        if self.iterations == 0:
            raise UserError(f"an epoch has {len(self.loader)} batches, fewer than accumulate_steps")
        self.epochs = config.schedular.epochs + config.schedular.cooldown_epochs
        if config.compile:
            compile_layers(model)
        self.wrapped = wrap(model, run.device, world_size(), min(config.weights.model_dump().values()) == 0)
        self.optimizer = make_optimizer(
            model.named_parameters(),
            config.optimizer.lr,
            config.optimizer.lr_custm,
            ("prd", "mrtd"),
            config.optimizer.weight_decay,
            tuple(config.optimizer.betas),
            config.optimizer.eps,
        )
        schedule = config.schedular
        self.schedule = LearningRate(
            self.optimizer,
            schedule.epochs,
            schedule.min_lr,
            schedule.warmup_lr,
            schedule.warmup_epochs,
            schedule.decay_rate,
            schedule.sched == "cosine_step",
        )
        self.rules = StepRules(
            config.weights.model_dump(),
            run.precision,
            config.accumulate_steps,
            config.clip_grad_norm,
            run.arguments.seed,
        )
        self.step, self.best, self.best_epoch = Step(0, 0, self.iterations, 0), -1.0, -1
        if run.arguments.resume:
            self.take_up(run.checkpoint)
        else:
            model.follow(config.momentum)  # as published, where every step begins with it

    def take_up(self, checkpoint: dict[str, Any]) -> None:
        """Continue where a checkpoint stopped; the best so far counts where its file is."""
        try:
            load_moments(self.optimizer, checkpoint["optimizer"])
            epoch, iteration, number = (int(checkpoint[key]) for key in ("next_epoch", "next_iteration", "step"))
            best, best_epoch = float(checkpoint["best"]), int(checkpoint["best_epoch"])
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(f"checkpoint {checkpoint['path']} does not hold this run's state: {error}") from None
        of_run = checkpoint.get("iterations", self.iterations)
        if (iteration and of_run != self.iterations) or not 0 <= iteration < self.iterations:
            raise UserError(
                f"checkpoint {checkpoint['path']} stopped after step {iteration} of {of_run} in an epoch, which here"
                f" has {self.iterations}; resume with batch_size_train, accumulate_steps and processes of its run"
            )
        self.step = Step(epoch, iteration, self.iterations, number)
        if on_main((self.run.output / "checkpoint_best.pth").exists)():
            self.best, self.best_epoch = best, best_epoch
        elif self.finished:
            raise UserError(
                f"the run of checkpoint {checkpoint['path']} is finished, and {self.run.output} does not hold its"
                " checkpoint_best.pth; name its own folder as --output_dir, or raise schedular.epochs or max_steps"
            )

    @property
    def finished(self) -> bool:
        steps = self.run.config.max_steps
        return self.step.epoch >= self.epochs or (steps is not None and self.step.number >= steps)

    def forward(self, batch: TrainBatch, step: Step, first: bool) -> dict[str, torch.Tensor]:
        """Losses of a micro-batch, the `first` of its step or not."""
        config, encoder = self.run.config, self.model.text_encoder
        noise = StepNoise.draw(
            self.run.arguments.seed,
            step.epoch,
            batch.index.tolist(),
            encoder.size.max_position_embeddings,
            self.model.grid[0] * self.model.grid[1],
        )
        draws = RandomDraws(noise, self.model.special, encoder.size.vocab_size).to(self.run.device)
        warming = config.warm_up and step.epoch == 0
        alpha = config.alpha * (step.iteration / step.iterations if warming else 1)
        within = config.negatives_within(step.epoch)
        return self.wrapped(batch.to(self.run.device), draws, alpha, first, within)

    def train(self) -> None:
        """All epochs; leaves checkpoints and the log in the output folder."""
        log = RunLog(self.run.output, self.step.epoch, self.step.number) if is_main() else None
        while not self.finished:
            epoch = self.step.epoch
            batches = self.loader.epoch(epoch, skip=self.step.iteration * self.rules.accumulate)
            self.step, record = run_epoch(
                self.wrapped, self.forward, batches, self.optimizer, self.schedule, self.rules, self.step,
                self.run.config.max_steps,
            )
            if self.step.iteration == self.iterations:
                self.step = Step(epoch + 1, 0, self.iterations, self.step.number)
            if epoch >= self.run.config.eval_epoch or self.finished:
                record[self.run.config.model_selection] = self.select(epoch)
            if log:
                log.add(record)
            self.save("checkpoint_last.pth", epoch, {"optimizer": self.optimizer.state_dict()})
        if log:
            log.close()

    def select(self, epoch: int) -> Metrics:
        """Evaluate on the selection split; keep the model when it is the best so far."""
        metrics = evaluate(self.model, self.selection, self.setting, None, self.run.arguments.eval_mAP)
        score = list(metrics.values())[-1]["r1"]
        if score > self.best:
            self.best, self.best_epoch = score, epoch
            self.save("checkpoint_best.pth", epoch, {"metrics": {self.run.config.model_selection: metrics}})
        return metrics

    def save(self, name: str, epoch: int, more: dict[str, Any]) -> None:
        """Write a checkpoint under the released names, with all that another program needs to use it."""
        if is_main():
            content = {
                "model": self.model.state_dict(),
                "config": self.run.config.model_dump(mode="json"),
                "tokenizer": self.tokenizer.to_json(),
                "epoch": epoch,
                "next_epoch": self.step.epoch,
                "next_iteration": self.step.iteration,
                "iterations": self.iterations,
                "step": self.step.number,
                "best": self.best,
                "best_epoch": self.best_epoch,
                "lr_scheduler": self.schedule.schedule.state_dict(),
                **more,
            }
            save_checkpoint(self.run.output / name, content)
        barrier()


def train(
    run: Run, model: PersonSearchModel, tokenizer: CaptionTokenizer, splits: dict[str, EvaluationSplit]
) -> None:
    """Train, then evaluate the best checkpoint on the last of `splits`.

    Everything that is read is checked before anything is written.
    """
    training = Training(run, model, tokenizer, splits[run.config.model_selection])
    if run.checkpoint:
        run.checkpoint.clear()  # all of it is in place: a second copy would fill the memory of every process
    if is_main():
        warn_of_shared_identities(run.config)
        save_yaml(run.output / "config.yaml", run.config)
        if run.config.text_encoder == FROM_CAPTIONS:
            tokenizer.save(run.output / "tokenizer")
    training.train()
    best = read_checkpoint(run.output / "checkpoint_best.pth")
    model.load_state_dict(best["model"])
    name, split = list(splits.items())[-1]
    logger.info("best epoch %d, on the %s split:", best["epoch"], name)
    finish(run, model, split)


# ---- evaluation and dry run ------------------------------------------------------------


def finish(run: Run, model: PersonSearchModel, split: EvaluationSplit) -> None:
    """Evaluate and leave metrics.json and rankings.npz in the output folder."""
    setting = evaluation_setting(run.config, run.device, run.precision)
    evaluate(model, split, setting, run.output, run.arguments.eval_mAP)
    if is_main():
        logger.info("metrics and rankings: %s", run.output)


def dry_run(
    run: Run, model: PersonSearchModel, tokenizer: CaptionTokenizer, splits: dict[str, EvaluationSplit]
) -> None:
    """Print what a run would be, once."""
    loader = None if run.arguments.evaluate else open_loader(run, tokenizer, None)
    if not is_main():
        return
    counts = count_parameters(model)
    for part, count in counts.items():
        print(f"{part:28} {count:>13,} parameters")
    print(f"{'together':28} {sum(counts.values()):>13,} parameters")
    for name, split in splits.items():
        print(f"{name} split: {len(split.texts)} captions, {len(split.images)} images")
    if loader is None:
        return
    batch = next(loader.epoch(0))
    for name in ("image1", "image2", "attributes", "identity", "replaced"):
        print(f"{name:28} {list(getattr(batch, name).shape)}")
    for name in ("caption", "caption2"):
        print(f"{name:28} {list(getattr(batch, name).ids.shape)}")
    tokens = loader.data.longest_caption()
    memory = estimate_memory(
        model, run.config.batch_size_train, tokens, run.config.image_size, run.config.precision == "bf16"
    )
    print(f"a training step with captions of {tokens} tokens, the longest there are, takes about {memory}")


def run_retrieval(arguments: argparse.Namespace, device: torch.device) -> None:
    """What was asked for, on a process that has joined the others."""
    run = open_run(arguments, device)
    tokenizer = on_main(open_tokenizer)(run.config, run.checkpoint)
    run = replace(run, config=fit_vocabulary(run.config, tokenizer))
    splits = open_splits(run, tokenizer)
    torch.manual_seed(arguments.seed)
    model = build_model(run.config, tokenizer.special).to(device)
    open_weights(run, model)
    if arguments.dry_run:
        dry_run(run, model, tokenizer, splits)
    elif arguments.evaluate:
        finish(run, model, splits["test"])
    else:
        train(run, model, tokenizer, splits)


def main() -> None:
    arguments = parse_arguments()
    launch = read_launch(dict(os.environ))
    set_up_logging(launch.rank == 0)
    device = choose_device(arguments.device, launch)
    if device.type == "cpu":
        keep_freed_memory()
    with process_group(launch, device, arguments.dist_url):
        run_retrieval(arguments, device)


if __name__ == "__main__":
    run_command_line(main)
