"""Opens what an evaluation needs: tokenizer, model and split, from a configuration and a checkpoint."""

from collections.abc import Callable

import torch

from configs.schema import Config, require_files
from dataset.annotations import check_images, load_annotations
from dataset.digests import read_digests
from dataset.gallery import EvaluationSplit, make_split
from dataset.tokens import CaptionTokenizer
from evaluation.ranking import Setting

GIB = 2**30


def open_split(config: Config, name: str, tokenizer: CaptionTokenizer) -> EvaluationSplit:
    """The `val` or `test` split as gallery and queries.

    Raises UserError when its file or an image is missing.
    """
    require_files(config, (f"{name}_file", f"{name}_image_root"))
    entries = load_annotations(getattr(config, f"{name}_file"), name)
    root = getattr(config, f"{name}_image_root")
    check_images(entries, root)
    return make_split(entries, root, tokenizer, config.max_words, read_digests(getattr(config, f"{name}_file")))


def evaluation_setting(config: Config, device: torch.device, precision: Callable) -> Setting:
    return Setting(
        device=device,
        precision=precision,
        image_size=config.image_size,
        batch_size=config.batch_size_test,
        candidates=config.k_test,
        workers=config.workers,
        memory=int(config.evaluation_memory * GIB),
    )
