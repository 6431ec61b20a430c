"""The sizes of the text and fusion encoder."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from utils.config import Count, Part, Positive, Section, Whole

NOTES = ("architectures", "transformers_version", "use_cache", "gradient_checkpointing", "classifier_dropout")


class FusionSize(Section):
    """Sizes of the text and fusion encoder: the keys of a BERT JSON file, and three more.

    fusion_layer: text-only states come from the layers below; encoder_width: of image tokens; full_ca: cross-attention
    in all layers (MARS) instead of those from `fusion_layer` on (ALBEF, RaSa). The last three keys have one value here.
    By default it is that of MARS, whose JSON file names full_ca.
    """

    vocab_size: Count = 30522
    hidden_size: Count = 768
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    intermediate_size: Count = 3072
    max_position_embeddings: Count = 512
    type_vocab_size: Count = 2
    hidden_dropout_prob: Part = 0.1
    attention_probs_dropout_prob: Part = 0.1
    layer_norm_eps: Positive = 1e-12
    initializer_range: Positive = 0.02
    pad_token_id: Whole = 0
    fusion_layer: Whole = 6
    encoder_width: Count = 768
    full_ca: bool = True
    hidden_act: Literal["gelu"] = "gelu"
    model_type: Literal["bert"] = "bert"
    position_embedding_type: Literal["absolute"] = "absolute"

    @model_validator(mode="before")
    @classmethod
    def drop_notes(cls, values: Any) -> Any:
        """Keys of Hugging Face files that describe the file and not the network."""
        return {k: v for k, v in values.items() if k not in NOTES} if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def fits(self) -> "FusionSize":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by {self.num_attention_heads} heads")
        if self.fusion_layer >= self.num_hidden_layers:
            raise ValueError(f"fusion_layer must be below num_hidden_layers ({self.num_hidden_layers})")
        if self.full_ca and not self.fusion_layer:  # the first layer would be shared by both kinds of states
            raise ValueError("fusion_layer must be at least 1 with full_ca: text-only states come from layers below it")
        if self.pad_token_id >= self.vocab_size:
            raise ValueError(f"pad_token_id {self.pad_token_id} lies outside the vocabulary of {self.vocab_size}")
        return self

    def has_cross_attention(self, layer: int) -> bool:
        """Whether layer number `layer` has cross-attention."""
        return self.full_ca or layer >= self.fusion_layer

    @property
    def head_width(self) -> int:
        """Width of a head of attention."""
        return self.hidden_size // self.num_attention_heads

    @property
    def first_cross_layer(self) -> int:
        """The first layer with cross-attention; what lies below depends on the text alone."""
        return 0 if self.full_ca else self.fusion_layer
