"""IRRA and RDE as their released code computes them, which the product's models are compared with and timed against.

torch's own layers under the released names, so that the parameters of a product model load as they are; losses are
those of `models.clip.losses`. What is done more than need be: captions of the full length; MLM encodes the masked
caption in a pass of its own, though it is the one that was encoded already, and tells words at all positions; the last
block's attention is that of all tokens, where RDE asks for one; words are selected caption by caption; and to encode a
gallery RDE runs the tower once for each embedding.

Letters: B batch, N image tokens, T text tokens, L either, W width, E embedding of CLIP, F embedding of selected tokens,
V vocabulary.
"""

from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, relu

from dataset.batch import PairBatch
from models.clip import losses
from models.clip.irra import IRRA, IrraSettings
from models.clip.losses import Pairs
from models.clip.parameter_groups import ClipOptimizer
from models.clip.rde import RDE, RdeSettings
from models.clip.towers import ClipSize

HALF = (nn.Conv2d, nn.Linear, nn.MultiheadAttention)  # modules whose parameters the released code keeps in float16


# ---- encoders --------------------------------------------------------------------------


class QuickGELU(nn.Module):
    def forward(self, states: Tensor) -> Tensor:
        return states * torch.sigmoid(1.702 * states)


class LayerNorm(nn.LayerNorm):
    """In float32, whatever it is given."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.float()).type(input.dtype)


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1 = LayerNorm(width)
        layers = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", QuickGELU()), ("c_proj", nn.Linear(4 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.ln_2 = LayerNorm(width)

    def forward(self, tokens: Tensor, mask: Tensor | None, weighs: bool) -> tuple[Tensor, Tensor | None]:
        """[L, B, W] -> [L, B, W], and what all tokens attend to, mean over heads [B, L, L], with `weighs`."""
        normed = self.ln_1(tokens)
        seen, weights = self.attn(normed, normed, normed, need_weights=weighs, attn_mask=mask)
        tokens = tokens + seen
        return tokens + self.mlp(self.ln_2(tokens)), weights


class Transformer(nn.Module):
    def __init__(self, width: int, depth: int, heads: int):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads) for _ in range(depth))

    def forward(self, tokens: Tensor, mask: Tensor | None = None, weighs: bool = False) -> tuple[Tensor, Tensor | None]:
        """[B, L, W] -> [B, L, W]; with `weighs` also what tokens attend to in the last block [B, L, L]."""
        tokens, weights = tokens.transpose(0, 1), None
        for block in self.resblocks:
            tokens, weights = block(tokens, mask, weighs and block is self.resblocks[-1])
        return tokens.transpose(0, 1), weights


class ImageTower(nn.Module):
    def __init__(self, size: ClipSize):
        super().__init__()
        width = size.vision_width
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + size.patches, width))
        self.proj = nn.Parameter(torch.empty(width, size.embedding))
        self.conv1 = nn.Conv2d(3, width, size.patch_size, stride=size.stride, bias=False)
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, size.vision_depth, size.vision_heads)
        self.ln_post = LayerNorm(width)

    def forward(self, image: Tensor, weighs: bool) -> tuple[Tensor, Tensor | None]:
        patches = self.conv1(image).flatten(2).transpose(1, 2)
        cls = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        tokens = torch.cat([cls, patches], dim=1) + self.positional_embedding.to(patches.dtype)
        tokens, weights = self.transformer(self.ln_pre(tokens), weighs=weighs)
        return self.ln_post(tokens) @ self.proj, weights


class DualEncoder(nn.Module):
    def __init__(self, size: ClipSize):
        super().__init__()
        width = size.text_width
        self.positional_embedding = nn.Parameter(torch.empty(size.text_length, width))
        self.text_projection = nn.Parameter(torch.empty(width, size.embedding))
        self.visual = ImageTower(size)
        self.transformer = Transformer(width, size.text_depth, size.text_heads)
        self.token_embedding = nn.Embedding(size.vocabulary, width)
        self.ln_final = LayerNorm(width)

    @property
    def dtype(self) -> torch.dtype:
        """Of products."""
        return self.visual.conv1.weight.dtype

    def encode_image(self, image: Tensor, weighs: bool = False) -> tuple[Tensor, Tensor | None]:
        """Images [B, 3, H, W], normalised -> tokens [B, N, E], and what they attend to [B, N, N] with `weighs`."""
        return self.visual(image.to(self.dtype), weighs)

    def encode_text(self, ids: Tensor, weighs: bool = False) -> tuple[Tensor, Tensor | None]:
        """Captions [B, T] -> tokens [B, T, E], and what they attend to [B, T, T] with `weighs`."""
        length = ids.shape[1]
        tokens = self.token_embedding(ids).to(self.dtype) + self.positional_embedding.to(self.dtype)
        later = torch.full((length, length), -torch.inf, dtype=self.dtype, device=ids.device).triu(1)
        tokens, weights = self.transformer(tokens, later, weighs)
        return self.ln_final(tokens) @ self.text_projection, weights


def at_end(tokens: Tensor, ids: Tensor) -> Tensor:
    """The row of each sample at EOT: [B, T, ...] -> [B, ...]."""
    return tokens[torch.arange(len(ids), device=ids.device), ids.argmax(dim=1)]


# ---- IRRA ------------------------------------------------------------------------------


class PlainIRRA(nn.Module):
    """With the losses sdm, mlm and id; all of them read the masked caption."""

    def __init__(self, size: ClipSize, settings: IrraSettings):
        super().__init__()
        width, heads = size.embedding, settings.heads(size.embedding)
        self.scale = 1 / settings.temperature
        self.base_model = DualEncoder(size)
        self.classifier = nn.Linear(width, settings.classes)
        self.cross_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.cross_modal_transformer = Transformer(width, settings.cross_depth, heads)
        self.ln_pre_t, self.ln_pre_i, self.ln_post = LayerNorm(width), LayerNorm(width), LayerNorm(width)
        layers = {"dense": nn.Linear(width, width), "gelu": QuickGELU(), "ln": LayerNorm(width)}
        self.mlm_head = nn.Sequential(OrderedDict(**layers, fc=nn.Linear(width, size.vocabulary)))

    def encode_image(self, image: Tensor) -> tuple[None, Tensor]:
        """Normalised images [B, 3, H, W] -> no tokens, and embeddings of length 1 [B, E]."""
        return None, normalize(self.base_model.encode_image(image)[0][:, 0].float(), dim=-1)

    def forward(self, batch: PairBatch) -> tuple[dict[str, Tensor], None]:
        """Unweighted losses by name."""
        assert batch.masked is not None
        ids, labels = batch.masked.ids, batch.masked.labels
        image_tokens, _ = self.base_model.encode_image(batch.image)
        text_tokens, _ = self.base_model.encode_text(ids)
        image, text = image_tokens[:, 0].float(), at_end(text_tokens, ids).float()
        similarity = self.scale * normalize(image, dim=-1) @ normalize(text, dim=-1).t()
        same = batch.identity[:, None] == batch.identity
        of_image, of_text = (self.classifier(part.to(self.base_model.dtype)).float() for part in (image, text))
        masked_tokens, _ = self.base_model.encode_text(ids)
        logits = self.mlm_head(self.fuse(masked_tokens, image_tokens)).float()  # [B, T, V]
        return {
            "sdm": losses.similarity_distribution(similarity, similarity.t(), same),
            "mlm": cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=losses.NOT_MASKED),
            "id": losses.identity(of_image, of_text, batch.identity),
        }, None

    def fuse(self, text: Tensor, image: Tensor) -> Tensor:
        """Tokens of captions [B, T, E] and of images [B, N, E] -> [B, T, E]."""
        image = self.ln_pre_i(image)
        states, _ = self.cross_attn(self.ln_pre_t(text), image, image, need_weights=False)
        return self.ln_post(self.cross_modal_transformer(states)[0])


# ---- RDE -------------------------------------------------------------------------------


class Mlp(nn.Module):
    """E -> F/2, batch norm with its running statistics, ReLU, F/2 -> F."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(inputs, width // 2), nn.Linear(width // 2, width)])
        self.bns = nn.ModuleList([nn.BatchNorm1d(width // 2), nn.BatchNorm1d(width)])

    def train(self, mode: bool = True) -> "Mlp":
        super().train(mode)
        self.bns.eval()
        return self

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, L, E] -> [B, L, F]."""
        hidden = self.layers[0](tokens).flatten(0, 1)
        return self.layers[1](relu(self.bns[0](hidden))).unflatten(0, tokens.shape[:2])


class Selection(nn.Module):
    """The embedding of the tokens that a row of attention is highest for. fc: of images alone, whose `linear` idles."""

    def __init__(self, inputs: int, settings: RdeSettings, of_images: bool):
        super().__init__()
        self.ratio = settings.select_ratio
        self.linear = nn.Linear(inputs, settings.width)
        if of_images:
            self.fc = nn.Linear(inputs, settings.width)
        self.mlp = Mlp(inputs, settings.width)

    def embed(self, tokens: Tensor, index: Tensor, beside: nn.Module) -> Tensor:
        """Tokens `index` [B, S] of [B, L, E] -> [B, S, F]."""
        chosen = tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))
        chosen = chosen / (chosen.norm(dim=-1, keepdim=True) + 1e-8)
        return (self.mlp(chosen) + beside(chosen)).float()

    def of_image(self, tokens: Tensor, weights: Tensor | None) -> Tensor:
        """Tokens [B, N, E] and what they attend to [B, N, N] -> [B, F]."""
        assert weights is not None
        attended = weights[:, 0].detach().clone()
        attended[:, 0] = -1
        index = attended.topk(int((tokens.shape[1] - 1) * self.ratio), dim=1).indices
        return self.embed(tokens, index, self.fc).max(dim=1).values

    def of_text(self, tokens: Tensor, weights: Tensor | None, ids: Tensor) -> Tensor:
        """Tokens [B, T, E] of captions with words and what they attend to [B, T, T] -> [B, F]."""
        assert weights is not None
        rows = torch.arange(len(ids), device=ids.device)
        attended = at_end(weights, ids).detach().clone()
        attended[:, 0] = attended[rows, ids.argmax(dim=1)] = -1
        attended = attended.masked_fill(ids == 0, -2)
        index = attended.topk(int((tokens.shape[1] - 2) * self.ratio), dim=1).indices
        words = ((ids != 0).sum(1) - 2).tolist()
        states = self.embed(tokens, index, self.linear)
        return torch.stack([one[:count].max(dim=0).values for one, count in zip(states, words, strict=True)])


class PlainRDE(nn.Module):
    """With batch norms that are frozen, as published."""

    def __init__(self, size: ClipSize, settings: RdeSettings):
        super().__init__()
        self.settings = settings
        self.base_model = DualEncoder(size)
        self.visul_emb_layer = Selection(size.embedding, settings, of_images=True)
        self.texual_emb_layer = Selection(size.embedding, settings, of_images=False)

    def encode_image(self, image: Tensor) -> tuple[None, Tensor]:
        """Normalised images [B, 3, H, W] -> no tokens, and both embeddings side by side, of length 1 [B, E + F]."""
        for_bge, for_tse = (self.base_model.encode_image(image, weighs=True) for _ in ("bge", "tse"))
        features = for_bge[0][:, 0], self.visul_emb_layer.of_image(*for_tse)
        parts = [normalize(part.float(), dim=-1) for part in features]
        return None, torch.cat(parts, dim=-1) / len(parts) ** 0.5

    def forward(self, batch: PairBatch) -> tuple[dict[str, Tensor], None]:
        """The loss of the clean pairs, by embedding."""
        assert batch.clean is not None
        ids = batch.ids
        image, of_image = self.base_model.encode_image(batch.image, weighs=True)
        text, of_text = self.base_model.encode_text(ids, weighs=True)
        features = {
            "bge": (image[:, 0].float(), at_end(text, ids).float()),
            "tse": (self.visul_emb_layer.of_image(image, of_image), self.texual_emb_layer.of_text(text, of_text, ids)),
        }
        found = {}
        pairs = Pairs(batch.identity[:, None] == batch.identity, torch.arange(len(ids), device=ids.device))
        for name, (of_images, of_texts) in features.items():
            similarity = normalize(of_texts, dim=-1) @ normalize(of_images, dim=-1).t()
            values = losses.loss_of_pairs(self.settings.loss, similarity, similarity.t(), pairs, self.settings.pairs)
            found[name] = (values * batch.clean).sum()
        return found, None


# ---- of both ---------------------------------------------------------------------------


def plain_twin(model: IRRA | RDE) -> PlainIRRA | PlainRDE:
    """The same parameters in the plain model."""
    size = model.base_model.size
    assert isinstance(size, ClipSize)
    twin = PlainIRRA(size, model.settings) if isinstance(model, IRRA) else PlainRDE(size, model.settings)
    twin.load_state_dict(model.state_dict())
    return twin


def plain_optimizer(parameters: Iterable[tuple[str, nn.Parameter]], settings: ClipOptimizer) -> torch.optim.Adam:
    """Adam with a group for each parameter, one after the other."""
    groups = []
    for name, parameter in parameters:
        if parameter.requires_grad:
            rate, decay = settings.rates_of(name)
            groups.append({"params": [parameter], "lr": rate, "weight_decay": decay})
    return torch.optim.Adam(groups, betas=(settings.betas[0], settings.betas[1]), eps=settings.eps)


@torch.no_grad()
def halve_weights(model: nn.Module) -> None:
    """The float16 parameters of the released code on a GPU; norms and embeddings of tokens and positions stay."""
    for module in model.modules():
        if isinstance(module, HALF):
            for parameter in module.parameters():
                parameter.data = parameter.half()
        for name in ("text_projection", "proj"):
            if isinstance(found := getattr(module, name, None), nn.Parameter):
                found.data = found.half()
