"""What an ablation trains: variants of a configuration, each with several seeds, as a YAML file describes them."""

import itertools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from configs.loading import load_config
from utils.checkpoints.named import checkpoint_path
from utils.checkpoints.run_folder import BEST, RunFolder
from utils.config import read_mapping, validate
from utils.errors import UserError
from utils.files import read_json
from utils.paths import PathText, not_a_file

MADE_WITH = "made_with.json"  # in the folder of a run: what it was started with
RESULTS = ("metrics.json", "rankings.npz")
Scalar = int | float | bool | str | None


class Variant(BaseModel):
    """What a variant has of its own: settings (KEY.PATH=VALUE), or another configuration, start or first stage."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    overrides: list[str] = Field(default=[], alias="set")
    config: PathText | None = None
    checkpoint: PathText | None = None
    first_stage: PathText | None = None


class Plan(Variant):
    """A study. `first_stage`: a configuration that is trained before, once for each seed, in place of `checkpoint`.

    `grid`: KEY.PATH -> values; every combination is a variant beside `variants`. `base`: the variant that the others
    are compared to, by default the first one. `lengths`: every variant is trained once for each of these multiples of
    its `schedular.steps`, and compared to the base of the same length. `along`: one KEY.PATH -> values; every variant
    is trained with each, and compared to the base with the same one. `along` and `set` hold for all variants, and not
    for first stages; `everywhere` (the command line's --set) for both.
    """

    config: PathText
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)]
    variants: dict[str, Annotated[Variant, BeforeValidator(lambda value: {} if value is None else value)]] = {}
    grid: dict[str, Annotated[list[Scalar], Field(min_length=1)]] = {}
    lengths: list[Annotated[float, Field(gt=0, le=1000)]] = []
    along: Annotated[dict[str, Annotated[list[Scalar], Field(min_length=2)]], Field(max_length=1)] = {}
    base: str | None = None
    everywhere: list[str] = []

    def conditions(self) -> list[str]:
        """What a variant's name is followed by, for each length or value that it is trained with; else nothing."""
        if self.lengths:
            return [f" x {length:g}" for length in self.lengths]
        return [f", {key}={json.dumps(value)}" for key, values in self.along.items() for value in values] or [""]

    def compared(self) -> dict[str, str]:
        """What each trained variant is compared to, by name; the base is compared to itself."""
        base = self.base or next(iter(self.variants))
        return {name + condition: base + condition for condition in self.conditions() for name in self.variants}

    def before(self) -> dict[str, str]:
        """Where there are values `along`: each trained variant with the first value, by its name with another one."""
        first, *others = self.conditions()
        return {name + other: name + first for other in others for name in self.variants} if self.along else {}

    def trained(self) -> dict[str, Variant]:
        """The variants that are trained, by name: each in each condition. Raises UserError when one has no steps."""
        trained = {}
        for number, condition in enumerate(self.conditions()):
            for name, variant in self.variants.items():
                own = [*variant.overrides, *self.settings(name, number)]
                trained[name + condition] = variant.model_copy(update={"overrides": own})
        return trained

    def settings(self, name: str, number: int) -> list[str]:
        """What a variant is trained with in a condition, beside its own settings."""
        if self.lengths:
            return [f"schedular.steps={max(1, round(self.lengths[number] * self.steps(name)))}"]
        return [f"{key}={json.dumps(values[number])}" for key, values in self.along.items()]

    def steps(self, name: str) -> int:
        """The steps of a variant at length 1."""
        variant = self.variants[name]
        config = load_config(variant.config or self.config, [*self.everywhere, *self.overrides, *variant.overrides])
        if config.schedular.steps is None:
            raise UserError(f"ablation: variant {name} has no schedular.steps that `lengths` could multiply; set them")
        return config.schedular.steps


@dataclass(frozen=True)
class Training:
    """One run of Retrieval.py. start: a checkpoint, or the run whose best checkpoint it starts from."""

    name: str
    folder: Path
    config: str
    overrides: tuple[str, ...]
    seed: int
    start: "str | Training | None" = None

    @property
    def checkpoint(self) -> Path | None:
        """What it starts from."""
        if isinstance(self.start, Training):
            return self.start.folder / BEST
        return Path(self.start) if self.start else None

    @property
    def after(self) -> str | None:
        """The name of the run that must end before."""
        return self.start.name if isinstance(self.start, Training) else None

    def finished(self) -> bool:
        return all((self.folder / name).exists() for name in RESULTS)

    def made_with(self) -> dict[str, Any]:
        """What its result depends on, beside the data."""
        settings = load_config(self.config, list(self.overrides)).model_dump(mode="json")
        return {"seed": self.seed, "start": str(self.checkpoint) if self.start else None, "settings": settings}

    def command(self, device: str) -> list[str]:
        """Starts the run, or resumes it."""
        command = [sys.executable, "Retrieval.py", "--config", self.config, "--output_dir", str(self.folder)]
        command += ["--seed", str(self.seed), "--device", device]
        if RunFolder(self.folder).holds_checkpoint():
            command.append("--resume")
        elif self.start:
            command += ["--checkpoint", str(self.checkpoint)]
        return command + (["--set", *self.overrides] if self.overrides else [])


def read_plan(path: Path, overrides: Sequence[str], checkpoint: Path | None) -> Plan:
    """The study that a YAML file describes; `overrides` hold for all runs, `checkpoint` takes the place of its own.

    Raises UserError naming what is wrong in it.
    """
    where = f"ablation {path}"
    plan = validate(Plan, read_mapping(path, "ablation"), where)
    variants = {**plan.variants, **combinations(plan.grid)}
    if not variants:
        raise UserError(f"{where}: it has neither `variants` nor a `grid`, so there is nothing to compare")
    if len({folder_name(name) for name in variants}) < len(variants):
        raise UserError(f"{where}: two variants have the same name but for signs and capitals; rename one")
    if len(set(plan.seeds)) < len(plan.seeds):
        raise UserError(f"{where}: a seed is named twice")
    base = plan.base or next(iter(variants))
    if plan.lengths and plan.along:
        raise UserError(f"{where}: it has `lengths` and values `along` {next(iter(plan.along))}; leave one of them out")
    if len(set(plan.conditions())) < len(plan.conditions()):
        raise UserError(f"{where}: a {'length' if plan.lengths else 'value `along`'} is named twice")
    if base not in variants:
        raise UserError(f"{where}: base '{base}' is none of the variants: {', '.join(variants)}")
    variants = {base: variants[base], **variants}
    changed: dict[str, Any] = {"base": base, "everywhere": list(overrides)}
    if checkpoint is not None:
        nothing = {"checkpoint": None, "first_stage": None}
        variants = {name: variant.model_copy(update=nothing) for name, variant in variants.items()}
        changed |= {"checkpoint": str(checkpoint_path(checkpoint).absolute()), "first_stage": None}
    return plan.model_copy(update={**changed, "variants": variants})


def combinations(grid: Mapping[str, Sequence[Scalar]]) -> dict[str, Variant]:
    """Every combination of the values of a grid, named by its settings."""
    if not grid:
        return {}
    settings = [[f"{key}={json.dumps(value)}" for value in values] for key, values in grid.items()]
    return {", ".join(chosen): Variant(overrides=list(chosen)) for chosen in itertools.product(*settings)}


def folder_name(name: str) -> str:
    """A variant's name as that of a folder: lower-case letters, digits, points and hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "variant"


def trainings(plan: Plan, output: Path) -> dict[str, list[Training]]:
    """The runs of each variant, one for each seed."""
    return {
        name: [training(plan, name, variant, seed, output) for seed in plan.seeds]
        for name, variant in plan.trained().items()
    }


def training(plan: Plan, name: str, variant: Variant, seed: int, output: Path) -> Training:
    """One run of a variant, below the folder of all results."""
    named = variant.checkpoint or (None if variant.first_stage else plan.checkpoint)
    start: str | Training | None = named if not named or Path(named).exists() else str(checkpoint_path(named))
    first = None if variant.checkpoint else variant.first_stage or (None if start else plan.first_stage)
    if first:
        label = f"first stage {Path(first).stem}"
        folder = output / "first_stages" / folder_name(Path(first).stem) / f"seed-{seed}"
        start = Training(f"{label}, seed {seed}", folder, first, tuple(plan.everywhere), seed)
    return Training(
        f"{name}, seed {seed}",
        output / "runs" / folder_name(name) / f"seed-{seed}",
        variant.config or plan.config,
        (*plan.everywhere, *plan.overrides, *variant.overrides),
        seed,
        start,
    )


def all_runs(by_variant: Mapping[str, Sequence[Training]]) -> list[Training]:
    """Every run once, first stages before what starts from them, seed by seed."""
    runs: dict[Path, Training] = {}
    for of_seed in zip(*by_variant.values(), strict=True):
        for run in of_seed:
            if isinstance(run.start, Training):
                runs.setdefault(run.start.folder, run.start)
            runs[run.folder] = run
    return list(runs.values())


def check(run: Training) -> None:
    """Raises UserError when a run cannot start, or its folder holds one that was started differently."""
    wanted = run.made_with()
    if isinstance(run.start, str) and not Path(run.start).is_file():
        raise UserError(f"ablation: checkpoint {run.start} {not_a_file(run.start)}")
    path = run.folder / MADE_WITH
    if not path.exists():
        if run.folder.is_dir() and any(entry.name != ".lock" for entry in run.folder.iterdir()):
            raise UserError(f"{run.folder} holds something else; name another --output_dir")
        return
    before = read_json(path, "record of a run")
    change = first_change(before, wanted)
    if change:
        raise UserError(f"{run.folder} was started with {change}; remove that folder, or name another --output_dir")


def first_change(before: Any, now: Any, where: str = "") -> str | None:
    """The first value that differs, as "KEY.PATH OLD, now NEW"; None when all are the same."""
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return None if before == now else f"{where} {before}, now {now}"
    for key in dict.fromkeys([*before, *now]):
        found = first_change(before.get(key), now.get(key), f"{where}.{key}" if where else str(key))
        if found:
            return found
    return None
