"""The command line of `Retrieval.py`, and the configuration that it asks for."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.loading import load_config, resolve_config
from configs.schema import Config
from models.released import saved_config
from utils.checkpoints.run_folder import config_beside
from utils.errors import CommandParser, UserError

CONFIG, SEED = Path("configs/PS_cuhk_pedes.yaml"), 42  # of a new run, unless others are named
SEEDS = 2**32


@dataclass(frozen=True)
class Options:
    """What a command line asks for; a run is new unless `resume`, `evaluate` or `verify` is set.

    config, seed: None where the command line leaves them out.
    """

    config: list[Path] | None
    overrides: list[str]
    output_dir: Path
    checkpoint: Path | None
    vision_checkpoint: Path | None
    resume: bool
    evaluate: bool
    rerank: Path | None
    rerank_config: list[Path] | None
    eval_mAP: bool
    text_encoder: str | None
    verify: bool
    dry_run: bool
    device: str
    seed: int | None
    dist_url: str

    @property
    def is_new(self) -> bool:
        """Whether a run begins, from a checkpoint's weights or from nothing."""
        return not (self.resume or self.evaluate or self.verify)


def parse_arguments(arguments: list[str] | None = None) -> Options:
    """The command line. Raises UserError for wrong flags."""
    options = Options(**vars(build_parser().parse_args(arguments)))
    if options.seed is not None and not 0 <= options.seed < SEEDS:
        raise UserError(f"--seed must be from 0 to {SEEDS - 1}, not {options.seed}")
    if options.vision_checkpoint and not options.is_new:
        raise UserError("--vision_checkpoint is what a new run starts from; --checkpoint has the trained image encoder")
    if options.rerank_config and not options.rerank:
        raise UserError("--rerank_config is of the checkpoint of --rerank: which one is it?")
    if options.rerank and not options.evaluate:
        raise UserError("--rerank is for --evaluate: a second checkpoint, which re-ranks what --checkpoint finds")
    if options.resume and options.evaluate:
        raise UserError("--resume goes on with training, and --evaluate does not train; leave one of them out")
    if options.verify and options.checkpoint is None:
        raise UserError("--verify needs --checkpoint: which one shall be verified?")
    if options.verify and (unread := read_by_runs_alone(options)):
        raise UserError(f"--verify checks a checkpoint against its own record; leave out {unread[0]}")
    return options


def read_by_runs_alone(options: Options) -> list[str]:
    """The flags that were given and of which `--verify` reads nothing."""
    given = {
        "--config": options.config,
        "--set": options.overrides,
        "--text_encoder": options.text_encoder,
        "--seed": options.seed is not None,
        "--resume": options.resume,
        "--evaluate": options.evaluate,
        "--dry_run": options.dry_run,
    }
    return [flag for flag, value in given.items() if value]


def build_parser() -> CommandParser:
    parser = CommandParser(description="Train and evaluate text-based person search.")
    add = parser.add_argument
    config = f"YAML files, later ones on top of earlier ones (default: of a checkpoint's run its own, else {CONFIG})"
    add("--config", type=Path, nargs="+", help=config)
    settings = "settings on top of the YAML files, such as optimizer.lr=1e-4"
    add("--set", nargs="+", action="extend", default=[], metavar="KEY.PATH=VALUE", dest="overrides", help=settings)
    add("--output_dir", type=Path, default=Path("output/cuhk-pedes"), help="folder of the run (default: %(default)s)")
    add("--checkpoint", type=Path, help="weights to start from, to evaluate, or to resume")
    add(
        "--vision_checkpoint",
        type=Path,
        help="weights that the image encoder starts from, in place of those",
    )
    resume = "continue the run of --checkpoint (default: checkpoint_last.pth of --output_dir) with its settings"
    add("--resume", action="store_true", help=resume)
    add("--evaluate", action="store_true", help="only evaluate --checkpoint on the test split")
    rerank = "with --evaluate, a checkpoint that re-ranks what --checkpoint finds: the k_test best of its configuration"
    add("--rerank", type=Path, metavar="CHECKPOINT", help=rerank)
    config = "YAML files of that checkpoint (default: config.yaml beside it, else what it records)"
    add("--rerank_config", type=Path, nargs="+", metavar="CONFIG", help=config)
    add("--eval_mAP", action=argparse.BooleanOptionalAction, default=True, help="report mAP and mINP beside R@k")
    add("--text_encoder", help="tokenizer and BERT weights: folder, hub name, or from_captions")
    verify = "check that --checkpoint is whole, that its data are those of its run, and that it has its metrics"
    add("--verify", action="store_true", help=verify)
    dry_run = "check configuration, files and checkpoint, print sizes and shapes, and stop"
    add("--dry_run", action="store_true", help=dry_run)
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    add("--seed", type=int, help=f"of all that is random (default: {SEED}; that of a run that is resumed)")
    add("--dist_url", default="env://", help="where processes meet (default: %(default)s)")
    return parser


def read_config(options: Options, checkpoint: Mapping[str, Any] | None = None, *more: str) -> Config:
    """The configuration as the command line asks for it, with `more` settings on top.

    Without --config it is that of the run of a checkpoint (with its "path"): config.yaml beside it, else what the
    checkpoint records; without such a run, the default.
    """
    named: dict[str, Any] = {"text_encoder": options.text_encoder, "vision_checkpoint": options.vision_checkpoint}
    if options.is_new:
        named["checkpoint"] = options.checkpoint
    flags = [f"{key}={json.dumps(str(value))}" for key, value in named.items() if value]
    overrides = [*options.overrides, *flags, *more]
    if options.config is None and checkpoint is not None:
        if (own := config_beside(checkpoint["path"])) is not None:
            return load_config(own, overrides)
        if saved := saved_config(checkpoint):
            return resolve_config(saved, f"checkpoint {checkpoint['path']}: its configuration", overrides)
    return load_config(options.config or CONFIG, overrides)
