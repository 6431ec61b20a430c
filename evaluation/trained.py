"""Opens a trained model: a checkpoint of a run, or the folder that `python -m search export` wrote."""

import functools
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from configs.loading import load_config, resolve_config
from configs.schema import Config, require_files
from configs.systems import SYSTEMS
from configs.untold import OF_EVALUATION, warn_of_other_settings
from dataset.annotations import check_images, load_annotations, read_captions
from dataset.digests import read_digests
from dataset.evaluation_split import EvaluationSplit, make_split
from dataset.synthetic.marker import read_ceiling
from dataset.tokens import TextTokenizer
from evaluation.calibration import Calibration, calibration_beside, choose_calibration, read_calibration
from evaluation.stages.encoding import Setting
from evaluation.stages.reranking import Reranker
from models.person_search import PersonSearchModel
from models.released import saved_config
from models.search_model import SearchModel
from models.word_maps import ExplainsWords
from utils.checkpoints.exported import read_trained
from utils.checkpoints.run_folder import config_beside
from utils.device import Autocast, prepare_precision
from utils.errors import UserError
from utils.memory import GIB
from utils.processes.distributed import on_main
from utils.processes.sharing import shared_from_main

logger = logging.getLogger(__name__)

Files = Path | Sequence[Path] | None  # of a configuration, later ones on top of earlier ones
CPU = torch.device("cpu")
# what a model that re-ranks takes over from the run it works for: its data, and how it computes
OF_THE_RUN = (
    "test_file",
    "test_image_root",
    "precision",
    "deterministic",
    "batch_size_test",
    "evaluation_memory",
    "workers",
)


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, its configuration, and how it reads captions.

    checkpoint: the file its weights came from; about_scores: what that file says of the meaning of scores.
    """

    checkpoint: Path
    config: Config
    model: SearchModel
    tokenizer: TextTokenizer
    setting: Setting
    about_scores: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def open(
        cls, source: Path, config: Path | None = None, overrides: Sequence[str] = (), device: torch.device = CPU
    ) -> "TrainedModel":
        """The model of a checkpoint or an exported folder, ready to be evaluated on a device that was prepared.

        Its settings are those of `config`, else of config.yaml beside the weights, else those recorded with them, with
        `overrides` (KEY.PATH=VALUE) on top. Raises UserError when there are none, or a file is missing or wrong.
        """
        content = read_trained(source)
        return cls.build(content, settings_of(content, config, overrides), device)

    @classmethod
    def build(cls, content: Mapping[str, Any], config: Config, device: torch.device) -> "TrainedModel":
        """The model of what `read_trained` has read. Raises UserError when `config` is not that of its weights."""
        system = SYSTEMS[config.system]
        tokenizer = on_main(system.open_tokenizer)(config, content)
        config = system.fit(config, tokenizer)
        model = system.build(config, tokenizer.special).to(device).eval()
        load_trained(model, content, config)
        setting = evaluation_setting(config, device, prepare_precision(config.precision, device, config.deterministic))
        return cls(Path(content["path"]), config, model, tokenizer, setting, content.get("calibration") or {})

    @property
    def matcher(self) -> PersonSearchModel:
        """The model, where it is one that fuses captions with images. Raises UserError for others."""
        if not isinstance(self.model, PersonSearchModel):
            raise UserError(
                f"checkpoint {self.checkpoint} is of the system {self.config.system}, which does not fuse captions with"
                " images; this needs ALBEF, RaSa or MARS"
            )
        return self.model

    @property
    def explainer(self) -> ExplainsWords:
        """The model, where it has maps of words. Raises UserError for others."""
        if not isinstance(self.model, ExplainsWords) or not self.model.map_targets:
            raise UserError(
                f"checkpoint {self.checkpoint} is of the system {self.config.system}, which has no maps of words where"
                " open_clip builds its towers (`open_clip`); a CLIP of OpenAI's architecture, or MARS, has them"
            )
        return self.model

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the weights that search and studies read, and of the word pieces."""
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            # all of the text encoder: its MLM head is part of the digest that galleries have recorded
            if name.startswith((*self.model.search_parts, "text_encoder.")):
                digest.update(name.encode())
                digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        digest.update(self.tokenizer.to_json().encode())
        return digest.hexdigest()

    @functools.cached_property
    def calibration(self) -> Calibration | None:
        """What scores mean: from the file beside the checkpoint, else from the checkpoint itself; None = not known.

        Raises UserError for a damaged one.
        """
        beside, found = calibration_beside(self.checkpoint), []
        if beside.is_file():
            found.append((read_calibration(beside, str(beside)), str(beside)))
        if self.about_scores:
            where = f"the calibration in {self.checkpoint}"
            found.append((read_calibration(self.about_scores, where), where))
        return choose_calibration(found, self.checkpoint, lambda: self.digest)

    def open_split(self, name: str) -> EvaluationSplit:
        """The `val` or `test` split. Raises UserError when its file or an image is missing."""
        return open_split(self.config, name, self.tokenizer)


def settings_of(content: Mapping[str, Any], config: Files, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a trained model, as `TrainedModel.open` says. Raises UserError."""
    path = Path(content["path"])
    saved = saved_config(content)
    if (file := config or config_beside(path)) is not None:
        read = load_config(file, list(overrides))
        return SYSTEMS[read.system].follow(read, saved)
    if not saved:
        raise UserError(
            f"checkpoint {path} does not say how it was trained; give --config (of --rerank: --rerank_config)"
        )
    return resolve_config(saved, f"checkpoint {path}: its configuration", list(overrides))


def load_trained(model: SearchModel, content: Mapping[str, Any], config: Config) -> None:
    """Take all weights from a checkpoint (with its "path"). Raises UserError when some are missing."""
    SYSTEMS[config.system].load(model, content)
    warn_of_other_settings(config, content, OF_EVALUATION, "is evaluated with")


def open_reranker(source: Path, settings: Files, run: Config, device: torch.device) -> Reranker:
    """A second model, with its settings as of `TrainedModel.open`, re-ranks what a run's model finds in its test split.

    How it reads images and captions, and how many candidates, is as its own configuration says; all else as `run` does.

    Raises UserError when it cannot re-rank, or has no configuration.
    """
    content = shared_from_main(read_trained)(source)
    config = settings_of(content, settings)
    config = config.model_copy(update={key: getattr(run, key) for key in OF_THE_RUN})
    trained = TrainedModel.build(content, config, device)
    matcher, where = trained.matcher, content["path"]
    if not config.k_test:
        raise UserError(f"checkpoint {where} re-ranks nothing, as its k_test is 0; set that in a --rerank_config")
    logger.info("candidates of each caption: %d, re-ranked by %s", config.k_test, where)
    return Reranker(matcher, trained.open_split("test"), trained.setting)


def open_split(config: Config, name: str, tokenizer: TextTokenizer) -> EvaluationSplit:
    """The `val` or `test` split as gallery and queries.

    Raises UserError when its file or an image is missing.
    """
    require_files(config, (f"{name}_file", f"{name}_image_root"))
    file = Path(getattr(config, f"{name}_file")).absolute()
    written = load_annotations(getattr(config, f"{name}_file"), name)
    entries = read_captions(written, config.caption_rules)
    if without := sum(not entry.captions for entry in entries):
        logger.info("%s split: %d of %d gallery images have no captions", name, without, len(entries))
    root = getattr(config, f"{name}_image_root")
    check_images(entries, root)
    split = make_split(entries, root, tokenizer, config.max_words, read_digests(file), f"{name} split")
    images = [(entry.image, entry.identity, entry.captions) for entry in written]
    split = replace(split, resampling=config.resampling)
    return replace(split, ceiling=read_ceiling(images, (file.parent, file.parent.parent, Path(root).absolute().parent)))


def open_splits(config: Config, only_test: bool, tokenizer: TextTokenizer) -> dict[str, EvaluationSplit]:
    """The splits that a run evaluates on, the one for its final results last."""
    chosen = [] if only_test else [config.model_selection]
    names = dict.fromkeys([*chosen, *(["test"] if only_test or config.test_file else [])])
    return {name: open_split(config, name, tokenizer) for name in names}


def evaluation_setting(config: Config, device: torch.device, precision: Autocast) -> Setting:
    return Setting(
        device=device,
        precision=precision,
        image_size=config.image_size,
        batch_size=config.batch_size_test,
        candidates=config.k_test,
        workers=config.workers,
        memory=None if config.evaluation_memory is None else int(config.evaluation_memory * GIB),
    )
