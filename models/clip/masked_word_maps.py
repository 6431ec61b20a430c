"""Where IRRA looks for a word that is masked: Grad-CAM on the cross-attention of its cross-modal encoder.

That encoder learns to tell masked words from the image (IRRA section 3.2). Here each word is masked by itself, all its
pieces at once; its map is the cross-attention of these pieces to the patches times the gradient, by that attention, of
the logits of the pieces that are hidden.

Letters: B pairs of caption and image, N image tokens (1 + L), L patches, T text tokens, E embedding, W words of a
caption, R words of all captions, K pieces of these.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from models.clip.cross_modal import CrossModal
from models.clip.similarity_maps import gradient_map, spread
from models.clip.towers import DualEncoder
from models.word_maps import MarkedText

MASK_FROM_END = 3  # the mask is the third last id of the vocabulary
AT_ONCE = 64  # words


def masked_word_maps(
    encoder: DualEncoder, cross_modal: CrossModal, image: Tensor, marked: MarkedText
) -> tuple[Tensor, Tensor]:
    """Maps [B, T, L] of the word of each token, and the probability that it is predicted [B, T]; 0 outside of words.

    image [B, N, E]: tokens of the images.
    """
    length, words = encoder.size.text_length, marked.words
    row = torch.arange(len(words), device=words.device)[:, None].expand_as(words)
    chosen = torch.stack([row, words], -1)[words > 0].unique(dim=0)  # [R, 2]
    # padding takes part in the cross-modal encoder: rows are as long as in its training
    ids, words = (pad(part, (0, length - part.shape[1])) for part in (marked.text.ids, words))
    maps = image.new_zeros(len(words), int(words.max()) if len(chosen) else 0, image.shape[1] - 1, dtype=torch.float32)
    probability = maps.new_zeros(maps.shape[:2])
    for row, number in (part.unbind(1) for part in chosen.split(AT_ONCE)):
        hidden = words[row] == number[:, None]
        maps[row, number - 1], probability[row, number - 1] = maps_of_hidden(
            encoder, cross_modal, image[row], ids[row], hidden
        )
    return spread(maps, marked.words), spread(probability[..., None], marked.words)[..., 0]


def maps_of_hidden(
    encoder: DualEncoder, cross_modal: CrossModal, image: Tensor, ids: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor]:
    """The map [R, L] of a hidden word of each of R captions, and the probability that it is predicted [R].

    image [R, N, E], ids [R, T]; hidden [R, T], True = a piece of the word. Both are means over its pieces.
    """
    with torch.no_grad():
        text = encoder.encode_text(ids.masked_fill(hidden, encoder.size.vocabulary - MASK_FROM_END)).tokens()
    with torch.enable_grad():
        states, weights = cross_modal.with_attention(text, image)
        logits = cross_modal.mlm_head(states[hidden]).float()  # [K, V]
        true = ids[hidden][:, None]
        maps = gradient_map(logits.gather(1, true).sum(), weights)  # [R, T, L]
    pieces = hidden.float()
    probability = pieces.masked_scatter(hidden, logits.detach().softmax(-1).gather(1, true))
    share = pieces / pieces.sum(1, keepdim=True)
    return (share[:, None] @ maps)[:, 0], (share * probability).sum(1)
