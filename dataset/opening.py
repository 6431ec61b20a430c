"""Opens the training data that a configuration names."""

import logging
from pathlib import Path

from configs.schema import Config
from dataset.annotations import Entry, check_disjoint, check_images, load_annotations
from dataset.attributes import cached_attributes, parse_attributes
from dataset.captions import clean_caption
from dataset.tokens import CaptionTokenizer
from dataset.training import TrainSet
from utils.distributed import on_main

logger = logging.getLogger(__name__)


def read_training_entries(config: Config) -> list[list[Entry]]:
    """The entries of every training file, their images checked to be there."""
    files = [load_annotations(name, "train") for name in config.train_file]
    check_images([entry for entries in files for entry in entries], config.train_image_root)
    return files


def training_captions(config: Config) -> list[str]:
    """Cleaned captions of the training files."""
    entries = [entry for name in config.train_file for entry in load_annotations(name, "train")]
    return [clean_caption(caption, config.max_words) for entry in entries for caption in entry.captions]


def open_training_set(
    config: Config, tokenizer: CaptionTokenizer, seed: int, cache_folder: Path | None
) -> TrainSet:
    """Training samples with the attributes of their captions.

    Attributes are parsed once, by the main process, and cached beside the annotations, or in
    `cache_folder` where that cannot be written; without one, the first captions are parsed
    and nothing is kept (for a look at the data).
    """
    attributes = {}
    files = read_training_entries(config)
    for name, entries in zip(config.train_file, files, strict=True):
        captions = [caption for entry in entries for caption in entry.captions]
        if config.weights.attribute == 0:
            continue
        if cache_folder is None:
            captions = captions[:64]
            attributes |= dict(zip(captions, parse_attributes(captions, config.max_words), strict=True))
        else:
            prepare = on_main(cached_attributes)
            attributes |= prepare(captions, Path(name), cache_folder, config.max_words)
    return TrainSet(
        [entry for entries in files for entry in entries],
        config.train_image_root,
        tokenizer,
        attributes,
        config.image_size,
        config.max_words,
        config.bert_config.max_position_embeddings,
        config.weak_pos_pair_probability,
        seed,
    )


def warn_of_shared_identities(config: Config) -> None:
    """People who are in the training and in an evaluation split make results too good."""
    training = [entry for name in config.train_file for entry in load_annotations(name, "train")]
    for name in ("val", "test"):
        if getattr(config, f"{name}_file"):
            other = load_annotations(getattr(config, f"{name}_file"), name)
            for warning in check_disjoint(training, other, ("train_file", f"{name}_file")):
                logger.warning("%s", warning)
