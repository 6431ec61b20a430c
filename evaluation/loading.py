"""Opens what an evaluation needs: tokenizer, model and split, from a configuration and a checkpoint."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from configs.schema import Config, require_files
from dataset.annotations import check_images, load_annotations
from dataset.gallery import EvaluationSplit, make_split
from dataset.tokens import CaptionTokenizer
from evaluation.ranking import Setting
from models.build import build_model
from models.person_search import PersonSearchModel
from utils.errors import UserError

FROM_CAPTIONS = "from_captions"


def open_tokenizer(
    config: Config, checkpoint: Mapping[str, Any] | None, captions: Callable[[], Iterable[str]]
) -> CaptionTokenizer:
    """The tokenizer of the checkpoint's run, else the configured one.

    captions: cleaned training captions, asked for only when a vocabulary must be learned.
    Raises UserError when there is none, or it has more words than the text encoder.
    """
    saved = (checkpoint or {}).get("config")
    same = isinstance(saved, Mapping) and saved.get("text_encoder") == config.text_encoder
    if same and isinstance(checkpoint.get("tokenizer"), str):
        try:
            return CaptionTokenizer.from_json(checkpoint["tokenizer"])
        except UserError as error:
            raise UserError(f"checkpoint {checkpoint.get('path', '')}: its tokenizer is damaged: {error}") from None
    if config.text_encoder == FROM_CAPTIONS:
        require_files(config, ("train_file",))
        return CaptionTokenizer.train(captions(), config.vocabulary_size)
    tokenizer = CaptionTokenizer.from_pretrained(config.text_encoder)
    if tokenizer.vocabulary_size > config.bert_config.vocab_size:
        raise UserError(
            f"text_encoder {config.text_encoder} has {tokenizer.vocabulary_size} word pieces, more than"
            f" bert_config.vocab_size ({config.bert_config.vocab_size})"
        )
    return tokenizer


def open_model(config: Config, tokenizer: CaptionTokenizer, device: torch.device) -> PersonSearchModel:
    """A fresh model whose vocabulary fits the tokenizer."""
    own = tokenizer.vocabulary_size if config.text_encoder == FROM_CAPTIONS else None
    return build_model(config, tokenizer.special, own).to(device)


def open_split(config: Config, name: str, tokenizer: CaptionTokenizer) -> EvaluationSplit:
    """The `val` or `test` split as gallery and queries.

    Raises UserError when its file or an image is missing.
    """
    require_files(config, (f"{name}_file", f"{name}_image_root"))
    entries = load_annotations(getattr(config, f"{name}_file"), name)
    root = getattr(config, f"{name}_image_root")
    check_images(entries, root)
    return make_split(entries, root, tokenizer, config.max_words)


def evaluation_setting(config: Config, device: torch.device, precision: Callable) -> Setting:
    return Setting(
        device=device,
        precision=precision,
        image_size=config.image_size,
        batch_size=config.batch_size_test,
        candidates=config.k_test,
        workers=config.workers,
    )
