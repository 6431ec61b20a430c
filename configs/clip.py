"""Keys of the CLIP systems, beside those of every run (`configs.schema.Config`)."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from configs.schema import Config
from dataset.images import Resampling
from models.clip.rde import RdeSettings
from models.clip.towers import HEAD_WIDTH, ClipSize
from utils.config import Count, Section


def both_sides(value: Any) -> Any:
    """One side in pixels -> [height, width]."""
    return [value, value] if isinstance(value, int) and not isinstance(value, bool) else value


Sides = Annotated[list[Count], Field(min_length=2, max_length=2), BeforeValidator(both_sides)]


class ClipSizes(Section):
    """Sizes of both towers, by default those of OpenAI's ViT-B/16; those of a file must be the same.

    vision_heads, text_heads: null = one for 64 numbers of the width, as in all published models.
    """

    patch_size: Count = ClipSize.patch_size
    vision_width: Count = ClipSize.vision_width
    vision_depth: Count = ClipSize.vision_depth
    vision_heads: Count | None = None
    text_width: Count = ClipSize.text_width
    text_depth: Count = ClipSize.text_depth
    text_heads: Count | None = None
    text_length: Annotated[int, Field(ge=3)] = ClipSize.text_length
    vocabulary: Annotated[int, Field(ge=4)] = ClipSize.vocabulary
    embedding: Count = ClipSize.embedding


class DualEncoderConfig(Config):
    """What all systems on CLIP's dual encoder have.

    image_res: [height, width] in pixels, or one side of squares.
    stride_size: pixels from one patch to the next; null = they lie side by side.
    max_words: tokens of a caption that are read, start and end included.
    """

    image_res: Sides = [384, 128]
    stride_size: Count | None = None
    clip: ClipSizes = ClipSizes()
    max_words: Annotated[int, Field(ge=3)] = ClipSize.text_length

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width = self.image_res
        return height, width

    @property
    def resampling(self) -> Resampling:
        """As IRRA and RDE resize; OpenAI's own evaluation is bicubic."""
        return "bilinear"

    @property
    def size(self) -> ClipSize:
        """What the towers are built by."""
        stride = self.stride_size or self.clip.patch_size
        return ClipSize(image_size=self.image_size, stride=stride, **{**self.clip.model_dump(), **self.heads})

    @property
    def heads(self) -> dict[str, int]:
        """Of both towers, which the shapes of a file do not tell."""
        sizes = self.clip
        return {
            "vision_heads": sizes.vision_heads or max(1, sizes.vision_width // HEAD_WIDTH),
            "text_heads": sizes.text_heads or max(1, sizes.text_width // HEAD_WIDTH),
        }

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Pairs (key, what is wrong) for values that do not fit each other."""
        yield from Config.conflicts(self)
        sizes = self.clip
        if min(self.image_res) < sizes.patch_size:
            yield "image_res", f"{self.image_res} is smaller than a patch of {sizes.patch_size} pixels"
        for tower, width, heads in (
            ("vision", sizes.vision_width, self.heads["vision_heads"]),
            ("text", sizes.text_width, self.heads["text_heads"]),
        ):
            if width % heads:
                yield f"clip.{tower}_heads", f"clip.{tower}_width {width} is not divisible by {heads} heads"
        if self.max_words > sizes.text_length:
            yield "max_words", f"is beyond clip.text_length ({sizes.text_length})"
        if self.k_test:
            yield "k_test", f"a model of the system {self.system} does not re-rank; leave it out, or set it to 0"


class ClipConfig(DualEncoderConfig):
    """The dual encoder alone: CLIP as it is, or fine-tuned; of IRRA, all that evaluation reads."""

    system: Literal["clip"] = "clip"


class RdeConfig(DualEncoderConfig):
    """RDE: beside the embedding of CLS and end, one of the tokens that these attend to.

    select_ratio: share of patches and tokens that are selected; selection_width: of their embedding.
    """

    system: Literal["rde"] = "rde"
    select_ratio: Annotated[float, Field(gt=0, le=1)] = RdeSettings.select_ratio
    selection_width: Count = RdeSettings.width
