"""What the blocks of all encoders are built of: torch's layers by name and meaning, in less time or memory.

Blocks read as they would with torch's own. What a processor, a precision or a memory limit asks for stands here:

    Linear, cast_once, prepare_weights, convert_weights     products by oneDNN on a CPU; conversions made once
    project                              the product of a Linear layer, of parameters that have no layer
    by_one_product                       several layers that read the same, as one
    LayerNorm, GELU, elementwise         outputs that the Linear layer that reads them computes again, not keeps
    checkpointed                         inner results computed again in the backward pass, where they are big
    attend, attend_indexed, in_order     scaled dot-product attention
    in_the_past                          which tokens a causal row attends to
    attend_segments, Segments, kernel_for   the same for rows of many lengths without padding
    Dropout, DropPath                    a mask that costs little on a CPU; whole branches left out
"""

from models.kernels.attention import attend, attend_indexed, in_order, in_the_past
from models.kernels.dropout import Dropout, DropPath
from models.kernels.linear import Linear, by_one_product, cast_once, convert_weights, prepare_weights, project
from models.kernels.recompute import GELU, LayerNorm, bytes_of, checkpointed, elementwise
from models.kernels.segments import Segments, attend_segments, kernel_for

__all__ = [
    "GELU",
    "DropPath",
    "Dropout",
    "LayerNorm",
    "Linear",
    "Segments",
    "attend",
    "attend_indexed",
    "attend_segments",
    "by_one_product",
    "bytes_of",
    "cast_once",
    "checkpointed",
    "convert_weights",
    "elementwise",
    "in_order",
    "in_the_past",
    "kernel_for",
    "prepare_weights",
    "project",
]
