"""Opens the training data that a configuration names."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from configs.clip import DualEncoderConfig
from configs.schema import Config, MarsConfig, as_list, require_files
from dataset.annotations import Entry, check_disjoint, check_images, load_annotations, read_captions
from dataset.attributes import Attribute, cached_attributes, parse_attributes
from dataset.bad_images import find_bad_images, leave_out
from dataset.batch_plan import BatchPlan, LookAlikePlan
from dataset.captions import clean_caption
from dataset.clip_tokens import ClipTokenizer
from dataset.cut_captions import CutCaptions
from dataset.digests import read_digests
from dataset.image_cache import ImageCache, Source, images_of, open_image_cache
from dataset.tokens import CaptionTokenizer
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
        files = (read_captions(load_annotations(name, "train"), config.caption_rules) for name in config.train_file)
        entries = [entry for of_file in files for entry in of_file]
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
) -> ClipTokenizer:
    """The tokenizer of the checkpoint's run, else CLIP's. Raises UserError when it is not of the configured size."""
    saved = (checkpoint or {}).get("tokenizer")
    try:
        tokenizer = ClipTokenizer.from_json(saved) if isinstance(saved, str) else ClipTokenizer.from_package()
    except UserError:
        if not isinstance(saved, str):
            raise
        where = (checkpoint or {}).get("path", "")
        raise UserError(f"checkpoint {where} is of another system than {config.system}") from None
    if tokenizer.vocabulary_size != config.clip.vocabulary:
        raise UserError(
            f"the tokenizer has {tokenizer.vocabulary_size} tokens, clip.vocabulary is {config.clip.vocabulary}; they"
            " must be equal"
        )
    return tokenizer


def fit_vocabulary(config: MarsConfig, tokenizer: CaptionTokenizer) -> MarsConfig:
    """The configuration with a text encoder as large as a vocabulary learned from captions."""
    if config.text_encoder != FROM_CAPTIONS:
        return config
    bert = config.bert_config.model_copy(update={"vocab_size": tokenizer.vocabulary_size})
    return config.model_copy(update={"bert_config": bert})


def open_training_set(
    config: MarsConfig,
    tokenizer: CaptionTokenizer,
    seed: int,
    cache_folder: Path | None,
    skipped: Sequence[str] | None = None,
    noise: NoiseSource | None = None,
) -> TrainSet:
    """Training samples with the attributes of their captions.

    Attributes are parsed once, by the main process, and cached beside the annotations, or in
    `cache_folder` where that cannot be written; without one, the first captions are parsed
    and nothing is kept (for a look at the data), nor is an image cache made.

    With `bad_images: skip` the main process reads every image and leaves out the bad ones;
    `skipped`, those that an interrupted run left out (`TrainSet.skipped`), takes the place of looking.
    noise: as of a `TrainSet`.

    Raises UserError when an image is missing, or, with `skip`, more than 0.1% of them are bad.
    """
    root = config.train_image_root or "."
    files = [read_captions(load_annotations(name, "train"), config.caption_rules) for name in config.train_file]
    digests = {image: digest for name in config.train_file for image, digest in read_digests(name).items()}
    entries = [entry for of_file in files for entry in of_file]
    if skipped is None and config.bad_images == "skip":
        skipped = on_main(find_bad_images)(entries, root, digests)
    entries = leave_out(entries, skipped or ())
    check_images(entries, root)
    warn_of_merged_identities(config.train_file, files)
    data = TrainSet(
        entries=entries,
        image_root=root,
        tokenizer=tokenizer,
        attributes=find_attributes(config, files, cache_folder),
        size=config.image_size,
        max_words=config.max_words,
        max_tokens=config.bert_config.max_position_embeddings,
        weak_probability=config.weak_pos_pair_probability,
        seed=seed,
        digests=digests,
        skipped=skipped or (),
        augment=None if config.augmentation.only_flips else config.augmentation,
        noise=noise,
        cache=find_image_cache(config, entries, root, digests) if cache_folder is not None else None,
    )
    warn_of_unknown_words(data)
    cut = CutCaptions(tokenizer, config.max_words, config.bert_config.max_position_embeddings)
    for caption in (caption for entry in entries for caption in entry.captions):
        cut.add(caption)
    cut.warn("training captions")
    return data


def open_loader(
    config: MarsConfig,
    tokenizer: CaptionTokenizer,
    seed: int,
    device: torch.device,
    cache_folder: Path | None = None,
    skipped: Sequence[str] | None = None,
    noise: NoiseSource | None = None,
) -> TrainLoader:
    """This process's share of the training batches, on its device.

    `cache_folder`, `skipped` and `noise` are as in `open_training_set`.
    """
    batch = config.batch_size_train
    if batch * world_size() > config.queue_size:
        raise UserError(
            f"config: queue_size {config.queue_size} is smaller than the batch of all processes"
            f" ({batch} x {world_size()})"
        )
    data = open_training_set(config, tokenizer, seed, cache_folder, skipped, noise)
    plan = BatchPlan(samples=len(data), batch=batch, rank=rank(), world=world_size(), seed=seed)
    groups = as_list(config.look_alikes)
    if any(groups):
        plan = LookAlikePlan(data.identity, groups, batch, rank(), world_size(), seed)
    if len(plan) < config.accumulate_steps:
        raise UserError(
            f"an epoch has {counted(len(plan), 'batch', 'batches')}, fewer than accumulate_steps"
            f" {config.accumulate_steps}; lower accumulate_steps or batch_size_train"
        )
    return TrainLoader(data, plan, config.workers, pin_memory=device.type == "cuda", device=device)


def find_image_cache(
    config: MarsConfig, entries: Sequence[Entry], root: str, digests: Mapping[str, str]
) -> ImageCache | None:
    """The configured cache of the images, made by the main process, and by others where they do not find its file."""
    if not config.image_cache:
        return None
    source = Source(Path(root), images_of(entries), config.image_size, digests)
    cache = on_main(open_image_cache)(config.image_cache, source)
    return cache if cache.is_there() else open_image_cache(config.image_cache, source)


def find_attributes(
    config: MarsConfig, files: Sequence[Sequence[Entry]], cache_folder: Path | None
) -> dict[str, list[Attribute]]:
    """The attributes of the captions of every training file (`cache_folder` as in `open_training_set`)."""
    attributes: dict[str, list[Attribute]] = {}
    for name, entries in zip(config.train_file, files, strict=True):
        captions = [caption for entry in entries for caption in entry.captions]
        if config.weights["attribute"] == 0:
            continue
        if cache_folder is None:
            captions = captions[:64]
            found = parse_attributes(captions, config.max_words, rule=config.attributes)
            attributes |= dict(zip(captions, found, strict=True))
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


def warn_of_unknown_words(data: TrainSet) -> None:
    """Captions of another language or data set than the vocabulary's; some captions of all parts of the data tell."""
    captions = data.captions()
    unknown = UnknownWords(data.tokenizer)
    for caption in captions[:: max(1, len(captions) // ENOUGH_CAPTIONS)]:
        unknown.add(caption, data.encode(caption))
    unknown.warn("training captions")


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
