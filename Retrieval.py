"""Trains and evaluates text-based person search: the one driver.

python Retrieval.py --config configs/PS_cuhk_pedes.yaml --output_dir output/cuhk --checkpoint ALBEF.pth
python Retrieval.py --config ... --output_dir ... --checkpoint output/cuhk/checkpoint_best.pth --evaluate
python Retrieval.py --config ... --output_dir ... --checkpoint RDE.pth --evaluate --rerank MARS.pth
torchrun --nproc_per_node 4 Retrieval.py ...
"""

import logging
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from configs.command_line import Options, parse_arguments
from configs.run import Run, open_run, samples_per_step, warn_of_changes
from configs.systems import SYSTEMS
from configs.systems.system import Training, TrainingSetting
from dataset.build import warn_of_shared_identities
from dataset.evaluation_split import EvaluationSplit
from dataset.tokens import TextTokenizer
from evaluation.evaluate import Metrics, evaluate, final_stage
from evaluation.stages.reranking import Reranker
from evaluation.trained import evaluation_setting, load_trained, open_reranker, open_splits
from evaluation.verify import fingerprints, require_same_data, verify
from models.inspection import describe_parameters
from models.released import resume_model
from models.search_model import SearchModel
from utils.checkpoints.run_folder import CONFIG, RunFolder
from utils.config import save_yaml
from utils.device import joined
from utils.errors import run_command_line
from utils.interruption import Interruption, Stopped
from utils.logs import RunLog
from utils.processes.distributed import barrier, is_main, on_main, world_size
from utils.processes.sharing import shared_from_main
from utils.training.run_state import CheckpointClock, RunState
from utils.training.stepper import Stepper, StepRules, agree, wrap

logger = logging.getLogger("Retrieval")
interruption = Interruption()

SHOW_EVERY = 20  # steps between updates of the loss in the progress bar


class Trainer:
    """A run in training: its system, and where it stands."""

    def __init__(self, run: Run, model: SearchModel, tokenizer: TextTokenizer, selection: EvaluationSplit):
        self.run, self.model, self.tokenizer, self.selection = run, model, tokenizer, selection
        config, self.seed, self.folder = run.config, run.seed, RunFolder(run.options.output_dir)
        skipped = run.checkpoint.get("skipped_images") if run.checkpoint and run.options.resume else None
        self.training = open_training(run, model, tokenizer, run.options.output_dir, skipped)
        self.loader = self.training.loader
        self.data = fingerprints(config, self.loader.data.skipped)
        self.stepper = Stepper(
            wrap(model, run.device, world_size(), self.training.some_unused),
            self.training.optimizer,
            self.training.schedule,
            StepRules(config.weights, run.precision, config.clip_grad_norm, self.seed, config.cuda_graphs),
        )
        self.state = RunState.at_start(len(self.loader) // config.accumulate_steps)
        self.clock = CheckpointClock(config.checkpoint_minutes, config.checkpoint_steps)
        if run.options.resume and run.checkpoint:
            self.resume(run.checkpoint)
        else:
            self.training.begin()

    # ---- epochs, steps, evaluation, checkpoints, in the order in which they happen -----

    @property
    def finished(self) -> bool:
        """Whether all steps of the run are taken."""
        return self.state.finished(self.run.config.epochs, self.run.config.last_step)

    def train(self) -> None:
        """All that is left of the run."""
        log = RunLog(self.folder.path, self.state.first_logged, self.state.step.number) if is_main() else None
        try:
            while not (self.finished and self.state.evaluated):
                if not self.finished and not self.state.epoch_done:
                    self.train_epoch()
                self.close_epoch(log)
            self.settle()
        except Stopped as stopped:  # by a signal that met no step
            raise Stopped(stopped.number, stopped.kept or self.state.kept) from None
        if log:
            log.close()

    def train_epoch(self) -> None:
        """The steps that are left of the epoch, and a checkpoint, which is written while evaluation goes on.

        A signal waits for the step under way.
        """
        state, step, config = self.state, self.state.step, self.run.config
        with state.log.running():
            self.training.open_epoch(step)
        batches = self.loader.epoch(step.epoch, skip=step.iteration * config.accumulate_steps)
        bar = tqdm(desc=f"epoch {step.epoch}", total=step.iterations, initial=step.iteration, disable=not is_main())
        self.model.train()
        with interruption.deferred():
            with state.log.running(), bar:
                while not self.finished and not state.epoch_done:
                    self.folder.check()
                    self.train_step([next(batches) for _ in range(config.accumulate_steps)])
                    bar.update()
                    if state.step.iteration % SHOW_EVERY == 0 or state.epoch_done:
                        bar.set_postfix(loss=state.log.mean_loss())
                self.stepper.settle(state.log)
            self.save()

    def train_step(self, batches: list[Any]) -> None:
        """One optimizer step over its micro-batches, or none on any process when a value of one is not finite.

        Raises Stopped when a process has received a signal: what was trained so far is kept.
        """
        step, state, size = self.state.step, self.state, sum(batch.size for batch in batches)
        self.stepper.schedule.move_to(step.epoch, step.iteration, step.iterations)
        inputs = [self.training.inputs(batch, step) for batch in batches]
        names = partial(self.loader.data.describe, batches)
        kept, taken = self.stepper.take_step(inputs, step, size, names, state.log)
        self.training.advance(kept, taken)
        signal, save = agree(interruption.received, self.clock.is_due(step))
        state.step, state.evaluated = step.next, False
        if save or signal:
            self.save()
        if signal:
            self.settle()
            raise Stopped(signal, self.state.kept)

    def close_epoch(self, log: RunLog | None) -> None:
        """Evaluate what was trained, log it, and stand at the beginning of the next epoch.

        A run that is killed before its next checkpoint evaluates again, to the same end; the last epoch is kept.
        """
        state = self.state
        record = {**state.log.record(state.step, self.stepper.lr), **self.training.record()}
        state.metrics = self.select() if state.step.epoch >= self.run.config.eval_epoch or self.finished else None
        with interruption.deferred():
            if log:
                log.add({**record, **(state.metrics or {})})
            state.close_epoch()
            if self.finished:
                self.save()

    def select(self) -> dict[str, Metrics]:
        """Evaluate on the selection split; keep the model when its R@1 is the best so far."""
        setting = evaluation_setting(self.run.config, self.run.device, self.run.precision)
        metrics = evaluate(self.model, self.selection, setting, None, self.run.options.eval_mAP)
        found: dict[str, Metrics] = {self.run.config.model_selection: metrics}
        score = final_stage(metrics)["r1"]
        if score > self.state.best:
            self.state.best, self.state.best_epoch = score, self.state.step.epoch
            if is_main():
                self.folder.save_best({**self.content(), "metrics": found})
        return found

    def save(self) -> None:
        """Begin to write all that the run is resumed from."""
        self.stepper.settle(self.state.log)
        state = self.state.content(self.stepper, self.seed)  # of all processes
        if is_main():
            own = {**self.training.state(), **self.loader.plan.state()}
            self.folder.save_last({**self.content(), **state, **own})
        self.clock.start()

    def settle(self) -> None:
        """Wait, on all processes, until what was saved is on the disk."""
        self.folder.finish()
        barrier()

    # ---- what these rest on ------------------------------------------------------------

    def content(self) -> dict[str, Any]:
        """The model under the released names, what another program needs to use and check it, and when it was."""
        return {
            "model": self.model.state_dict(),
            "config": self.run.config.model_dump(mode="json"),
            "tokenizer": self.tokenizer.to_json(),
            "data": self.data,
            "skipped_images": list(self.loader.data.skipped),
            "samples_per_step": samples_per_step(self.run.config),
            "epoch": self.state.trained_epoch,
            "step": self.state.step.number,
        }

    def resume(self, checkpoint: dict[str, Any]) -> None:
        """Stand where a checkpoint stopped. Raises UserError when it is of another run, or of other data."""
        self.state.restore(checkpoint, self.stepper, self.seed)
        self.loader.plan.restore(checkpoint)
        self.training.restore(checkpoint)
        if not on_main(self.folder.holds_best)():
            if self.finished and self.state.evaluated:
                self.folder.refuse_finished(checkpoint["path"])
            self.state.forget_best()
        require_same_data(checkpoint, self.data)
        warn_of_changes(self.run.config, checkpoint)


def open_training(
    run: Run, model: SearchModel, tokenizer: TextTokenizer, folder: Path | None, skipped: list[str] | None = None
) -> Training:
    """See `Training`; folder and skipped as of a `TrainingSetting`."""
    setting = TrainingSetting(run.config, run.device, run.precision, run.seed, folder, skipped)
    return SYSTEMS[run.config.system].open_training(setting, model, tokenizer)


def train(run: Run, model: SearchModel, tokenizer: TextTokenizer, splits: dict[str, EvaluationSplit]) -> None:
    """Train, then evaluate the best checkpoint on the last of `splits`.

    Everything that is read is checked before anything is written.
    """
    trainer = Trainer(run, model, tokenizer, splits[run.config.model_selection])
    if run.checkpoint:
        run.checkpoint.clear()  # all of it is in place: a second copy would fill the memory of every process
    output, folder = run.options.output_dir, trainer.folder
    with folder.claimed() if is_main() else nullcontext():
        if is_main():
            if trainer.loader.data.noisy_pairs:
                trainer.loader.data.noisy_pairs.keep(output, run.options.resume)
            warn_of_shared_identities(run.config)
            save_yaml(output / CONFIG, run.config)
            trainer.training.prepare_folder(output)
        try:
            trainer.train()
        finally:
            trainer.loader.close()
        best, (name, split) = shared_from_main(folder.best)(), list(splits.items())[-1]
        model.load_state_dict(best["model"])
        logger.info("best epoch %d, on the %s split:", best["epoch"], name)
        finish(run, model, split)


def finish(run: Run, model: SearchModel, split: EvaluationSplit, reranker: Reranker | None = None) -> None:
    """Evaluate and leave metrics.json and rankings.npz in the output folder."""
    setting = evaluation_setting(run.config, run.device, run.precision)
    evaluate(model, split, setting, run.options.output_dir, run.options.eval_mAP, reranker)
    logger.info("metrics and rankings: %s", run.options.output_dir)


def dry_run(run: Run, model: SearchModel, training: Training | None, splits: dict[str, EvaluationSplit]) -> None:
    """Print what a run would be, once."""
    rows = [describe_parameters(model), *(f"{name} split: {split.sizes}" for name, split in splits.items())]
    if training is not None and is_main():
        rows += training.describe()
    if is_main():
        print("\n".join(rows))


def run_retrieval(options: Options, device: torch.device) -> None:
    """What was asked for, on a process that has joined the others."""
    if options.verify and options.checkpoint:
        return verify(options.checkpoint, device)
    run = open_run(options, device)
    system = SYSTEMS[run.config.system]
    tokenizer = on_main(system.open_tokenizer)(run.config, run.checkpoint, not options.evaluate)
    run = replace(run, config=system.fit(run.config, tokenizer, not options.evaluate))
    splits = open_splits(run.config, options.evaluate, tokenizer)
    torch.manual_seed(run.seed)
    model = system.build(run.config, tokenizer.special).to(device)
    if options.evaluate and run.checkpoint:
        load_trained(model, run.checkpoint, run.config)
    elif run.options.resume and run.checkpoint:
        resume_model(model, run.checkpoint, run.config.model_dump(mode="json"))
    else:
        system.start(model, run.checkpoint, run.config)
    reranker = open_reranker(options.rerank, options.rerank_config, run.config, device) if options.rerank else None
    if options.dry_run:
        dry_run(run, model, None if options.evaluate else open_training(run, model, tokenizer, None), splits)
    elif options.evaluate:
        finish(run, model, splits["test"], reranker)
    else:
        train(run, model, tokenizer, splits)


def main() -> None:
    options = parse_arguments()
    interruption.listen()
    with joined(options.device, options.dist_url) as device:
        run_retrieval(options, device)


def command_line() -> None:
    """What `python Retrieval.py` and the installed command `person-search-train` run."""
    run_command_line(main)


if __name__ == "__main__":
    command_line()
