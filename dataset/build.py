"""Opens the training data that a configuration names."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs.clip import DualEncoderConfig
from configs.schema import Config, MarsConfig, as_list, require_files
from dataset.annotations import Entry, check_disjoint, check_images, load_annotations, read_captions
from dataset.attributes import CaptionAttributes, cached_attributes, parse_attributes
from dataset.bad_images import find_bad_images, leave_out
from dataset.batch import PairBatch, TrainBatch
from dataset.batch_plan import BatchPlan, IdentityPlan, LookAlikePlan
from dataset.captions import clean_caption
from dataset.clip_tokens import ClipTokenizer
from dataset.cut_captions import CutCaptions
from dataset.digests import read_digests
from dataset.image_cache import ImageCache, Source, images_of, open_image_cache
from dataset.image_files import normal_path
from dataset.library_tokens import LibraryTokenizer
from dataset.noisy_pairs import NoisyPairs, exchange_captions, open_permutation
from dataset.pair_set import PairSet
from dataset.sample_set import SampleSet, Taken
from dataset.tokens import CaptionTokenizer, TextTokenizer
from dataset.train_set import NoiseSource, TrainLoader, TrainSet
from dataset.unknown_words import UnknownWords
from utils.errors import UserError
from utils.processes.distributed import on_main, rank, world_size
from utils.text import agreeing, counted

FROM_CAPTIONS = "from_captions"
ENOUGH_CAPTIONS = 2000  # to know the share of unknown words within a per cent, in a tenth of a second

logger = logging.getLogger(__name__)


def open_tokenizer(
    config: MarsConfig, checkpoint: Mapping[str, Any] | None = None, for_training: bool = False
) -> CaptionTokenizer:
    """The tokenizer of the checkpoint's run, else the configured one, which may learn from the captions.

    for_training: warn of a configured size that the checkpoint's vocabulary makes void.

    Raises UserError when there is none, or it has more words than the text encoder.
    """
    of_run = checkpoint or {}
    saved = of_run["config"] if isinstance(of_run.get("config"), Mapping) else {}
    if saved.get("text_encoder") == config.text_encoder and isinstance(of_run.get("tokenizer"), str):
        if for_training:
            warn_of_ignored_size(config, saved, of_run.get("path", ""))
        try:
            return CaptionTokenizer.from_json(of_run["tokenizer"])
        except UserError as error:
            raise UserError(f"checkpoint {of_run.get('path', '')}: its tokenizer is damaged: {error}") from None
    if config.text_encoder == FROM_CAPTIONS:
        require_files(config, ("train_file",))
        entries = [entry for of_file in read_files(config) for entry in of_file]
        captions = [clean_caption(caption, config.max_words) for entry in entries for caption in entry.captions]
        return CaptionTokenizer.train(captions, config.vocabulary_size)
    tokenizer = CaptionTokenizer.from_pretrained(config.text_encoder)
    if tokenizer.vocabulary_size > config.bert_config.vocab_size:
        raise UserError(
            f"text_encoder {config.text_encoder} has {tokenizer.vocabulary_size} word pieces, more than"
            f" bert_config.vocab_size ({config.bert_config.vocab_size})"
        )
    return tokenizer


def open_clip_tokenizer(
    config: DualEncoderConfig, checkpoint: Mapping[str, Any] | None = None, for_training: bool = False
) -> ClipTokenizer | LibraryTokenizer:
    """The tokenizer of the checkpoint's run, else CLIP's, or the one that lies beside a model of open_clip.

    Raises UserError when there is none, or it is not of the configured size.
    """
    saved, where = (checkpoint or {}).get("tokenizer"), (checkpoint or {}).get("path", "")
    of_library = config.open_clip is not None and config.open_clip.has_own_words
    if not isinstance(saved, str):
        tokenizer = library_tokenizer(config, where) if of_library else ClipTokenizer.from_package()
    else:
        try:
            tokenizer = LibraryTokenizer.from_json(saved) if of_library else ClipTokenizer.from_json(saved)
        except UserError:
            raise UserError(f"checkpoint {where} is of another system than {config.system}") from None
    require_vocabulary(config, tokenizer)
    return tokenizer


def library_tokenizer(config: DualEncoderConfig, checkpoint: str) -> LibraryTokenizer:
    """The tokenizer of transformers beside the weights of open_clip. Raises UserError when there is none."""
    assert config.open_clip is not None
    if not checkpoint:
        raise UserError("`open_clip`: this model has a tokenizer of its own; name the folder with it by --checkpoint")
    return LibraryTokenizer.from_folder(Path(checkpoint).parent, config.open_clip.tokenizer_options)


def require_vocabulary(config: DualEncoderConfig, tokenizer: ClipTokenizer | LibraryTokenizer) -> None:
    """Raises UserError when the text tower does not have the tokens of the tokenizer, or has others than CLIP's."""
    found = tokenizer.vocabulary_size
    if config.open_clip is None:
        key, size = "clip.vocabulary", config.clip.vocabulary
    else:
        key, size = "`open_clip.model`: text_cfg.vocab_size", config.open_clip.vocabulary
    if isinstance(tokenizer, ClipTokenizer) and found != size:
        raise UserError(f"the tokenizer has {found} tokens, {key} is {size}; they must be equal")
    if found > size:
        raise UserError(f"the tokenizer has {found} tokens, {key} is {size}: too few; copy the files of one model")


def fit_vocabulary(config: MarsConfig, tokenizer: CaptionTokenizer) -> MarsConfig:
    """The configuration with a text encoder as large as a vocabulary learned from captions."""
    if config.text_encoder != FROM_CAPTIONS:
        return config
    bert = config.bert_config.model_copy(update={"vocab_size": tokenizer.vocabulary_size})
    return config.model_copy(update={"bert_config": bert})


@dataclass(frozen=True)
class TrainingEntries:
    """What is trained on: images with captions, their files, without those of `skipped` images; cache: of the rest.

    noisy_pairs: None = no captions are exchanged.
    """

    entries: Sequence[Entry]
    files: Source
    skipped: Sequence[str]
    cache: ImageCache | None
    noisy_pairs: NoisyPairs | None


def read_files(config: Config) -> list[list[Entry]]:
    """The entries of every training file, with captions as they are to be read."""
    return [read_captions(load_annotations(name, "train"), config.caption_rules) for name in config.train_file]


def count_identities(config: Config) -> int:
    """How many people the training files have, those included whose images are all left out."""
    require_files(config, ("train_file",))
    return len({entry.identity for entries in read_files(config) for entry in entries})


def open_entries(
    config: Config,
    files: Sequence[Sequence[Entry]],
    seed: int,
    cache_folder: Path | None,
    skipped: Sequence[str] | None,
) -> TrainingEntries:
    """The entries of all training files (`read_files`) whose images can be used, and an image cache.

    Captions are exchanged as a noise file says, or by chance (`dataset.noisy_pairs`), before images are left out.

    With `bad_images: skip` the main process reads every image and leaves out the bad ones; `skipped`, those that an
    interrupted run left out (`SampleSet.skipped`), takes the place of looking. Without a `cache_folder`, the folder of
    a run, nothing is kept there, nor is an image cache made.

    Raises UserError when an image is missing, or, with `skip`, more than 0.1% of them are bad, or a noise file does not
    fit.
    """
    root = config.train_image_root or "."
    digests = {image: digest for name in config.train_file for image, digest in read_digests(name).items()}
    entries = [entry for of_file in files for entry in of_file]
    pairs = sum(len(entry.captions) for entry in entries)
    permutation = on_main(open_permutation)(pairs, config.noisy_file, config.noisy_rate, seed)
    if permutation is not None:
        entries = exchange_captions(entries, permutation)
    if skipped is None and config.bad_images == "skip":
        skipped = on_main(find_bad_images)(entries, root, digests)
    left_out = set(skipped or ())
    noisy_pairs = None
    if permutation is not None:
        trained = [normal_path(entry.image) not in left_out for entry in entries for _ in entry.captions]
        noisy_pairs = NoisyPairs(permutation, np.array(trained), drawn=not config.noisy_file)
    entries = leave_out(entries, skipped or ())
    check_images(entries, root)
    warn_of_merged_identities(config.train_file, files)
    source = Source(Path(root), images_of(entries), config.image_size, digests, config.resampling)
    cache = find_image_cache(config.image_cache, source) if config.image_cache and cache_folder is not None else None
    return TrainingEntries(entries, source, skipped or (), cache, noisy_pairs)


def open_training_set(
    config: MarsConfig,
    tokenizer: CaptionTokenizer,
    seed: int,
    cache_folder: Path | None,
    skipped: Sequence[str] | None = None,
    noise: NoiseSource | None = None,
) -> TrainSet:
    """Training samples of MARS with the attributes of their captions.

    Attributes are parsed once, by the main process, and cached beside the annotations, or in
    `cache_folder` where that cannot be written; without one, the first captions are parsed
    and nothing is kept (for a look at the data), nor is an image cache made.

    skipped: as in `open_entries`, noise: as of a `TrainSet`. Raises UserError as `open_entries` does.
    """
    files = read_files(config)
    found = open_entries(config, files, seed, cache_folder, skipped)
    data = TrainSet(
        entries=found.entries,
        image_root=found.files.root,
        tokenizer=tokenizer,
        attributes=find_attributes(config, files, cache_folder),
        size=config.image_size,
        max_words=config.max_words,
        max_tokens=config.bert_config.max_position_embeddings,
        weak_probability=config.weak_pos_pair_probability,
        seed=seed,
        digests=found.files.digests,
        skipped=found.skipped,
        augment=None if config.augmentation.only_flips else config.augmentation,
        augment_words=config.augment_words,
        noise=noise,
        cache=found.cache,
        noisy_pairs=found.noisy_pairs,
    )
    warn_of_captions(data, found.entries, config.max_words)
    return data


def open_loader(
    config: MarsConfig,
    tokenizer: CaptionTokenizer,
    seed: int,
    device: torch.device,
    cache_folder: Path | None = None,
    skipped: Sequence[str] | None = None,
    noise: NoiseSource | None = None,
) -> TrainLoader[TrainBatch]:
    """This process's share of MARS's training batches, on its device.

    `cache_folder`, `skipped` and `noise` are as in `open_training_set`.
    """
    batch = config.batch_size_train
    if batch * world_size() > config.queue_size:
        raise UserError(
            f"config: queue_size {config.queue_size} is smaller than the batch of all processes"
            f" ({batch} x {world_size()})"
        )
    return make_loader(config, open_training_set(config, tokenizer, seed, cache_folder, skipped, noise), device)


def open_pair_loader(
    config: DualEncoderConfig,
    tokenizer: TextTokenizer,
    seed: int,
    device: torch.device,
    cache_folder: Path | None = None,
    skipped: Sequence[str] | None = None,
    full_rows: bool = True,
    mask_words: float = 0.0,
) -> TrainLoader[PairBatch]:
    """This process's share of the training batches of a system on CLIP, on its device.

    `cache_folder` and `skipped` are as in `open_entries`, `full_rows` and `mask_words` as of a `PairSet`.
    Raises UserError as `open_entries` does.
    """
    found = open_entries(config, read_files(config), seed, cache_folder, skipped)
    data = PairSet(
        entries=found.entries,
        files=found.files,
        tokenizer=tokenizer,
        length=config.max_words,
        seed=seed,
        full_rows=full_rows,
        mask_words=mask_words,
        skipped=found.skipped,
        augment=None if config.augmentation.only_flips else config.augmentation,
        augment_words=config.augment_words,
        cache=found.cache,
        noisy_pairs=found.noisy_pairs,
    )
    warn_of_captions(data, found.entries, config.max_words)
    return make_loader(config, data, device)


def make_loader(config: Config, data: SampleSet[Taken], device: torch.device) -> TrainLoader[Taken]:
    """This process's share of the batches. Raises UserError when an epoch has fewer than a step takes."""
    plan = plan_of(config, data)
    if len(plan) < config.accumulate_steps:
        raise UserError(
            f"an epoch has {counted(len(plan), 'batch', 'batches')}, fewer than accumulate_steps"
            f" {config.accumulate_steps}; lower accumulate_steps or batch_size_train"
        )
    return TrainLoader(data, plan, config.workers, pin_memory=device.type == "cuda", device=device)


def plan_of(config: Config, data: SampleSet) -> BatchPlan:
    """Which samples make up each batch of this process, as configured."""
    batch, seed = config.batch_size_train, data.seed
    groups = as_list(config.look_alikes) if isinstance(config, MarsConfig) else []
    if any(groups):
        return LookAlikePlan(data.identity, groups, batch, rank(), world_size(), seed)
    if config.sampler == "identity":
        return IdentityPlan(data.identity, config.samples_per_identity, batch, rank(), world_size(), seed)
    return BatchPlan(len(data), batch, rank(), world_size(), seed)


def find_image_cache(folder: str, source: Source) -> ImageCache:
    """The cache of these images, made by the main process, and by others where they do not find its file."""
    cache = on_main(open_image_cache)(folder, source)
    return cache if cache.is_there() else open_image_cache(folder, source)


def find_attributes(
    config: MarsConfig, files: Sequence[Sequence[Entry]], cache_folder: Path | None
) -> CaptionAttributes:
    """The attributes of the captions of every training file (`cache_folder` as in `open_training_set`)."""
    attributes = CaptionAttributes({})
    for name, entries in zip(config.train_file, files, strict=True):
        captions = [caption for entry in entries for caption in entry.captions]
        if config.weights["attribute"] == 0:
            continue
        if cache_folder is None:
            captions = captions[:64]
            found = parse_attributes(captions, config.max_words, rule=config.attributes)
            attributes |= CaptionAttributes.of(captions, found)
        else:
            prepare = on_main(cached_attributes)
            attributes |= prepare(captions, Path(name), cache_folder, config.max_words, config.attributes)
    return attributes


def warn_of_ignored_size(config: MarsConfig, saved: Mapping[str, Any], checkpoint: str) -> None:
    """A vocabulary that was learned comes with its checkpoint, whatever size another one should have."""
    was, wanted = saved.get("vocabulary_size"), config.vocabulary_size
    if config.text_encoder == FROM_CAPTIONS and was is not None and was != wanted:
        logger.warning(
            "vocabulary_size %d is ignored: the vocabulary is that of checkpoint %s (vocabulary_size %s)",
            wanted,
            checkpoint,
            was,
        )


def warn_of_captions(data: SampleSet, entries: Sequence[Entry], max_words: int) -> None:
    """Captions of another language or data set than the vocabulary's, and those that are longer than a model reads."""
    captions = data.captions()  # of which some, of all parts of the data, tell
    unknown = UnknownWords(data.tokenizer)
    for caption in captions[:: max(1, len(captions) // ENOUGH_CAPTIONS)]:
        unknown.add(caption, data.encode(caption))
    unknown.warn("training captions")
    cut = CutCaptions(data.tokenizer, max_words, data.max_tokens)
    for caption in (caption for entry in entries for caption in entry.captions):
        cut.add(caption)
    cut.warn("training captions")


def warn_of_merged_identities(names: Sequence[str], files: Sequence[Sequence[Entry]]) -> None:
    """Equal identities of two training files are one person, which files of different origin do not mean."""
    known: dict[int | str, str] = {}
    for name, entries in zip(names, files, strict=True):
        identities = {entry.identity for entry in entries}
        merged = [identity for identity in identities if identity in known]
        if merged:
            logger.warning(
                "train_file: %s of %s %s in %s too, such as %r: equal ones count as the same people",
                counted(len(merged), "identity", "identities"),
                name,
                agreeing(len(merged), "is", "are"),
                known[merged[0]],
                merged[0],
            )
        known |= dict.fromkeys(identities, name)


def warn_of_shared_identities(config: Config) -> None:
    """People who are in the training and in an evaluation split make results too good."""
    training = [entry for name in config.train_file for entry in load_annotations(name, "train")]
    for name in ("val", "test"):
        if getattr(config, f"{name}_file"):
            other = load_annotations(getattr(config, f"{name}_file"), name, may_be_empty=True)
            for warning in check_disjoint(training, other, ("train_file", f"{name}_file")):
                logger.warning("%s", warning)
