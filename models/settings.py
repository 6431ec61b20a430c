"""The keys of a configuration that describe the networks and what they learn; sizes are declared by their modules."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import field_validator, model_validator

from models.decoder import DecoderSize
from models.encoders import family_of, usual_sizes
from models.fusion_size import FusionSize
from models.image_encoder import VisionSize
from models.objectives import Objective
from utils.config import Count, Part
from utils.errors import UserError


class ModelSettings(Objective):
    """Images, encoders, decoder and embedding; the objective's keys lie beside them."""

    image_res: int | list[int] = 384
    bert_config: FusionSize = FusionSize()
    image_encoder: str = "vit"
    vision_size: Literal["tiny", "small", "base"] | None = None
    vision_width: Count = VisionSize.width
    vision_depth: Count = VisionSize.depth
    vision_heads: Count = VisionSize.heads
    vision_states: Count = VisionSize.states
    drop_path: Part = VisionSize.drop_path
    patch_size: Count = VisionSize.patch_size
    decoder_depth: Count = DecoderSize.depth
    decoder_heads: Count = DecoderSize.heads
    embed_dim: Count = 256
    gradient_checkpointing: bool = False

    @model_validator(mode="before")
    @classmethod
    def size_of_vision(cls, values: Any) -> Any:
        """Fill in what follows from `image_encoder` and `vision_size`."""
        values = dict(values)
        try:
            sizes = usual_sizes(values.get("image_encoder", "vit"), values.get("vision_size"))
        except UserError as error:
            raise ValueError(str(error)) from None
        for key, value in sizes.decided.items():
            if values.get(key, value) != value:
                raise ValueError(f"`{key}`: {values[key]} is not {value}, as {sizes.by} has; leave one out")
        width, bert = sizes.decided.get("vision_width"), values.get("bert_config")
        if width is not None and isinstance(bert, Mapping):
            given = bert.get("encoder_width", width)
            if given not in (width, FusionSize.model_fields["encoder_width"].default):
                raise ValueError(f"`bert_config.encoder_width`: {given} is not {width}, as {sizes.by} has")
            values["bert_config"] = {**bert, "encoder_width": width}
        return {**sizes.usual, **sizes.decided, **values}

    @field_validator("image_res", mode="before")
    @classmethod
    def side_or_sides(cls, value: Any) -> Any:
        sides = value if isinstance(value, list) and len(value) == 2 else [value]
        if not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides):
            raise ValueError(f"a side in pixels or [height, width] is expected, not {value!r}")
        return value

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width = self.image_res if isinstance(self.image_res, list) else [self.image_res] * 2
        return height, width

    @property
    def vision(self) -> VisionSize:
        """The sizes of the image encoder."""
        return VisionSize(
            image_size=self.image_size,
            patch_size=self.patch_size,
            width=self.vision_width,
            depth=self.vision_depth,
            heads=self.vision_heads,
            drop_path=self.drop_path,
            states=self.vision_states,
        )

    @property
    def decoder(self) -> DecoderSize:
        """The sizes of the masked autoencoder's decoder."""
        return DecoderSize(depth=self.decoder_depth, heads=self.decoder_heads)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Pairs (key, what is wrong) for values that do not fit each other."""
        patch, bert = self.patch_size, self.bert_config
        if any(side % patch or not side for side in self.image_size):
            yield "image_res", f"{self.image_res} is not divisible by patch_size {patch}"
        for name, heads in (("vision_heads", self.vision_heads), ("decoder_heads", self.decoder_heads)):
            if name == "vision_heads" and not family_of(self.image_encoder).heads:
                continue
            if self.vision_width % heads:
                yield name, f"vision_width {self.vision_width} is not divisible by {heads} heads"
        if bert.encoder_width != self.vision_width:
            yield "bert_config.encoder_width", f"is {bert.encoder_width}, but vision_width is {self.vision_width}"
        if self.weights["mae"] and int(self.image_size[0] * self.image_size[1] / patch**2 * (1 - self.mask_ratio)) < 1:
            yield "mask_ratio", "leaves no patch of an image"
        if not self.used:
            yield "weights", "every weight is 0, so there is nothing to learn"
