"""Trains and evaluates text-based person search: the one driver.

python Retrieval.py --config configs/PS_cuhk_pedes.yaml --output_dir output/cuhk --checkpoint ALBEF.pth
python Retrieval.py --config ... --output_dir ... --checkpoint output/cuhk/checkpoint_best.pth --evaluate
torchrun --nproc_per_node 4 Retrieval.py ...
"""

import argparse
import json
import logging
import os
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from configs.schema import Config, load_config, require_files
from dataset.batch import TrainBatch
from dataset.build import FROM_CAPTIONS, fit_vocabulary, open_tokenizer, open_training_set, warn_of_shared_identities
from dataset.evaluation_split import EvaluationSplit
from dataset.tokens import CaptionTokenizer
from dataset.train_set import BatchPlan, TrainLoader
from evaluation.evaluate import Metrics, evaluate
from evaluation.trained import evaluation_setting, load_trained, open_split
from evaluation.verify import fingerprints, verify
from models.build import build_model, compile_layers, require_compiler
from models.inspection import count_parameters, estimate_memory
from models.person_search import PersonSearchModel
from models.randomness import RandomDraws, StepNoise
from models.released import (
    grid_of,
    load_image_encoder,
    load_language_model,
    load_weights,
    resume_model,
    saved_config,
)
from utils.checkpoints.files import read_checkpoint
from utils.checkpoints.run_folder import RunFolder, is_restart
from utils.config import save_yaml
from utils.epoch_log import Step
from utils.errors import CommandParser, UserError, run_command_line
from utils.files import require_folder
from utils.logs import set_up_logging
from utils.memory import keep_freed_memory
from utils.optimization import LearningRate, make_optimizer
from utils.precision import be_deterministic, set_precision
from utils.processes.distributed import (
    choose_device,
    end_with_parent,
    is_main,
    on_main,
    process_group,
    rank,
    read_launch,
    world_size,
)
from utils.processes.interruption import Interruption
from utils.run_loop import Job, RunLoop, RunPlan
from utils.stepper import Stepper, StepRules, Trained, wrap

logger = logging.getLogger("Retrieval")
interruption = Interruption()

RESULTS = ("metrics.json", "rankings.npz")  # what an evaluation leaves


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line. Raises UserError for wrong flags."""
    parser = CommandParser(description="Train and evaluate text-based person search.")
    parser.add_argument("--config", default="configs/PS_cuhk_pedes.yaml", help="YAML file")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY.PATH=VALUE",
        dest="overrides",
        help="settings on top of the YAML file, such as optimizer.lr=1e-4",
    )
    parser.add_argument("--output_dir", type=Path, default=Path("output/cuhk-pedes"), help="folder of the run")
    parser.add_argument("--checkpoint", type=Path, help="weights to start from, to evaluate, or to resume")
    parser.add_argument("--vision_checkpoint", help="weights that the image encoder starts from, in place of those")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run of --checkpoint (default: checkpoint_last.pth of --output_dir)",
    )
    parser.add_argument("--evaluate", action="store_true", help="only evaluate --checkpoint on the test split")
    parser.add_argument(
        "--eval_mAP", action=argparse.BooleanOptionalAction, default=True, help="report mAP and mINP beside R@k"
    )
    parser.add_argument("--text_encoder", help="tokenizer and BERT weights: folder, hub name, or from_captions")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="check that --checkpoint is whole, that its data are there, and that it has its metrics",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="check configuration, files and checkpoint, print sizes and shapes, and stop",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--dist_url", default="env://", help="where processes meet")
    parsed = parser.parse_args(arguments)
    if not 0 <= parsed.seed < 2**32:
        raise UserError(f"--seed must be from 0 to {2**32 - 1}, not {parsed.seed}")
    if parsed.vision_checkpoint and (parsed.evaluate or parsed.resume or parsed.verify):
        raise UserError("--vision_checkpoint is what a new run starts from; --checkpoint has the trained image encoder")
    if parsed.verify and parsed.checkpoint is None:
        raise UserError("--verify needs --checkpoint: which one shall be verified?")
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
    folder = RunFolder(arguments.output_dir)
    if is_restart() and not arguments.evaluate and folder.holds_checkpoint():
        arguments.resume, arguments.checkpoint = True, None
    config = read_config(arguments)
    if config.checkpoint and not (arguments.evaluate or arguments.resume):
        arguments.checkpoint = Path(config.checkpoint)
    if not arguments.dry_run:
        require_folder(arguments.output_dir, "--output_dir")
        folder.refuse_to_overwrite(
            arguments.checkpoint, arguments.resume, () if arguments.evaluate else RESULTS, arguments.evaluate
        )
    path = arguments.checkpoint
    if arguments.evaluate and path is None:
        raise UserError("--evaluate needs --checkpoint: which weights shall be evaluated?")
    if arguments.resume and path is None and not folder.holds_checkpoint():
        raise UserError(f"--resume: {folder.last} does not exist; leave out --resume to begin a run there")
    checkpoint = None
    if arguments.resume:
        checkpoint = folder.newest(path)
        config = keep_samples_per_step(arguments, config, checkpoint)
    elif path is not None:
        checkpoint = {**read_checkpoint(path), "path": str(path)}
    require_files(config, needed_files(arguments, config))
    if config.compile and not arguments.evaluate:
        require_compiler()
    if config.schedular.lr not in (None, config.optimizer.lr):
        logger.warning(
            "schedular.lr %g is not used: the learning rate is optimizer.lr %g",
            config.schedular.lr,
            config.optimizer.lr,
        )
    if config.deterministic or device.type == "cpu":
        be_deterministic()
    return Run(arguments, config, device, set_precision(config.precision, device), checkpoint)


def read_config(arguments: argparse.Namespace, *more: str) -> Config:
    """The configuration as the command line asks for it, with `more` settings on top."""
    named = {"text_encoder": arguments.text_encoder, "vision_checkpoint": arguments.vision_checkpoint}
    if not (arguments.evaluate or arguments.resume):
        named["checkpoint"] = arguments.checkpoint
    flags = [f"{key}={json.dumps(str(value))}" for key, value in named.items() if value]
    return load_config(arguments.config, [*arguments.overrides, *flags, *more])


def samples_per_step(config: Config) -> int:
    """Samples of one optimizer step, on all processes."""
    return config.batch_size_train * config.accumulate_steps * world_size()


def keep_samples_per_step(arguments: argparse.Namespace, config: Config, checkpoint: dict[str, Any]) -> Config:
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
    return read_config(arguments, f"batch_size_train={batch}")


def needed_files(arguments: argparse.Namespace, config: Config) -> tuple[str, ...]:
    """Configuration keys that must name something there."""
    test = ("test_file", "test_image_root")
    if arguments.evaluate:
        return test
    chosen = config.model_selection
    used = ("train_file", "train_image_root", f"{chosen}_file", f"{chosen}_image_root")
    return used + test if config.test_file else used


def open_weights(run: Run, model: PersonSearchModel) -> None:
    """Start the model from its checkpoint, or its text encoder from BERT; a new run may have one for its images."""
    arguments, checkpoint = run.arguments, run.checkpoint
    if arguments.resume:
        resume_model(model, checkpoint, run.config.model_dump(mode="json"))
        return
    if arguments.evaluate:
        load_trained(model, checkpoint, run.config)
        return
    own = run.config.vision_checkpoint
    if checkpoint is not None:
        grid = grid_of(saved_config(checkpoint))
        report = load_weights(model, checkpoint["model"], checkpoint["path"], grid, image_encoder=not own)
        logger.info("checkpoint %s: %s", checkpoint["path"], report)
    elif run.config.text_encoder != FROM_CAPTIONS:
        load_language_model(model, run.config.text_encoder)
    if own:
        found = read_checkpoint(own, "vision_checkpoint")
        report = load_image_encoder(model, found["model"], own, grid_of(saved_config(found)))
        logger.info("vision_checkpoint %s: %s", own, report)


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
    skipped = run.checkpoint.get("skipped_images") if run.arguments.resume else None
    data = open_training_set(run.config, tokenizer, seed, cache_folder, skipped)
    plan = BatchPlan(len(data), batch, rank(), world_size(), seed)
    return TrainLoader(data, plan, run.config.workers, run.device.type == "cuda")


class Training:
    """A model in training: how its losses are asked for, its evaluation, what a checkpoint of it holds.

    pool: samples among which hard negatives are drawn when the configuration does not say.
    """

    def __init__(self, run: Run, model: PersonSearchModel, tokenizer: CaptionTokenizer, selection: EvaluationSplit):
        config = run.config
        self.run, self.model, self.tokenizer, self.selection = run, model, tokenizer, selection
        self.loader = open_loader(run, tokenizer, run.output)
        self.data = fingerprints(config, self.loader.data.skipped)
        self.setting, self.pool = evaluation_setting(config, run.device, run.precision), config.batch_size_train
        if config.compile:
            compile_layers(model)
        self.wrapped = wrap(model, run.device, world_size(), min(config.weights.model_dump().values()) == 0)
        job = Job(self.loader.epoch, self.evaluate, self.content)
        self.loop = RunLoop(RunFolder(run.output), self.build_stepper(), self.plan(), job, interruption)
        if run.arguments.resume:
            self.take_up(run.checkpoint)
        else:
            model.follow(config.momentum)  # as published, where every step begins with it

    def build_stepper(self) -> Stepper:
        config = self.run.config
        optimizer, schedule = config.optimizer, config.schedular
        adam = make_optimizer(
            self.model.named_parameters(),
            optimizer.lr,
            optimizer.lr_custm,
            ("prd", "mrtd"),
            optimizer.weight_decay,
            tuple(optimizer.betas),
            optimizer.eps,
            self.model.undecayed(),
        )
        rate = LearningRate(
            adam,
            schedule.epochs,
            schedule.min_lr,
            schedule.warmup_lr,
            schedule.warmup_epochs,
            schedule.decay_rate,
            schedule.sched == "cosine_step",
        )
        rules = StepRules(
            config.weights.model_dump(),
            self.run.precision,
            config.accumulate_steps,
            config.clip_grad_norm,
            self.run.arguments.seed,
        )
        return Stepper(Trained(self.wrapped, self.forward, self.model.advance, self.describe), adam, rate, rules)

    def plan(self) -> RunPlan:
        """Raises UserError when an epoch has no step."""
        config, batches = self.run.config, len(self.loader)
        if batches < config.accumulate_steps:
            raise UserError(
                f"an epoch has {batches} batches, fewer than accumulate_steps {config.accumulate_steps}; lower"
                " accumulate_steps or batch_size_train"
            )
        epochs = config.schedular.epochs + config.schedular.cooldown_epochs
        if config.eval_epoch >= epochs:
            logger.warning("eval_epoch %d: of %d epochs, only the last is evaluated", config.eval_epoch, epochs)
        return RunPlan(
            epochs=epochs,
            iterations=batches // config.accumulate_steps,
            accumulate=config.accumulate_steps,
            max_steps=config.max_steps,
            eval_epoch=config.eval_epoch,
            checkpoint_minutes=config.checkpoint_minutes,
            checkpoint_steps=config.checkpoint_steps,
            seed=self.run.arguments.seed,
        )

    def take_up(self, checkpoint: dict[str, Any]) -> None:
        """Raises UserError when the checkpoint is of another run, or of other data."""
        self.loop.take_up(checkpoint)
        where, recorded = checkpoint["path"], checkpoint.get("data")
        if not isinstance(recorded, dict) or recorded.get("train") != self.data["train"]:
            raise UserError(
                f"checkpoint {where} was trained on other data than train_file and train_image_root now hold; restore"
                " them, or leave out --resume to start from its weights"
            )
        pool, batch = checkpoint.get("negatives_pool"), self.run.config.batch_size_train
        self.pool = pool if isinstance(pool, int) and pool > 0 else batch
        if batch % self.pool and self.run.config.hard_negatives_within is None:
            logger.warning("hard negatives are now drawn among %d samples, no more among %d", batch, self.pool)

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
        return self.wrapped(batch.to(self.run.device), draws, alpha, first, self.negatives_within(step.epoch))

    def negatives_within(self, epoch: int) -> int | None:
        """Samples among which negatives are drawn: as configured, else as many as a process had when the run began."""
        configured = self.run.config.negatives_within(epoch)
        return self.pool if configured is None and self.run.config.batch_size_train % self.pool == 0 else configured

    def describe(self, batch: TrainBatch) -> str:
        """The images of a batch, for messages."""
        return ", ".join(self.loader.data.samples[place].image for place in batch.index.tolist())

    def evaluate(self) -> tuple[dict[str, Metrics], float]:
        """Metrics on the selection split, and their R@1."""
        metrics = evaluate(self.model, self.selection, self.setting, None, self.run.arguments.eval_mAP)
        return {self.run.config.model_selection: metrics}, list(metrics.values())[-1]["r1"]

    def content(self) -> dict[str, Any]:
        """The model, under the released names, and what another program needs to use and check it."""
        return {
            "model": self.model.state_dict(),
            "config": self.run.config.model_dump(mode="json"),
            "tokenizer": self.tokenizer.to_json(),
            "data": self.data,
            "skipped_images": list(self.loader.data.skipped),
            "samples_per_step": samples_per_step(self.run.config),
            "negatives_pool": self.pool,
        }


def train(run: Run, model: PersonSearchModel, tokenizer: CaptionTokenizer, splits: dict[str, EvaluationSplit]) -> None:
    """Train, then evaluate the best checkpoint on the last of `splits`.

    Everything that is read is checked before anything is written.
    """
    training = Training(run, model, tokenizer, splits[run.config.model_selection])
    if run.checkpoint:
        run.checkpoint.clear()  # all of it is in place: a second copy would fill the memory of every process
    folder = training.loop.folder
    with folder.claimed() if is_main() else nullcontext():
        if is_main():
            warn_of_shared_identities(run.config)
            save_yaml(run.output / "config.yaml", run.config)
            if run.config.text_encoder == FROM_CAPTIONS:
                tokenizer.save(run.output / "tokenizer")
        try:
            training.loop.run()
        finally:
            training.loader.close()
        best = folder.best()
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
    if arguments.verify:
        verify(arguments.checkpoint, device)
        return
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
    interruption.listen()
    if launch.world > 1 and not launch.by_slurm:
        end_with_parent()
    device = choose_device(arguments.device, launch)
    if device.type == "cpu":
        keep_freed_memory()
    with process_group(launch, device, arguments.dist_url):
        run_retrieval(arguments, device)


def command_line() -> None:
    """What `python Retrieval.py` and the installed command `person-search-train` run."""
    run_command_line(main)


if __name__ == "__main__":
    command_line()
