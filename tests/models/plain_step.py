"""The plain twin of a training step: pair by pair, without padding."""

from dataclasses import dataclass

import torch
from tiny_model import (
    SPECIAL,
    VISION,
)
from torch import Tensor
from torch.nn.functional import cross_entropy

from dataset.batch import TextTokens, TrainBatch
from models.decoder import patchify
from models.image_encoder import PatchSubset
from models.losses import IGNORED, value_of
from models.objectives import LOSSES, PAIRS
from models.pairing import Pairing
from models.person_search import PersonSearchModel
from models.randomness import RandomDraws, pick
from models.training_step import Embeddings, Negatives, QueueEntry, TrainingStep


@dataclass(frozen=True)
class ChosenNegatives(RandomDraws):
    """Our draws, but for stated negatives: an image for each text, a text for each image."""

    image: tuple[int, ...] = (1, 2, 3, 0)
    text: tuple[int, ...] = (3, 0, 1, 2)

    def hard_negatives(self, image_weights: Tensor, text_weights: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.image), torch.tensor(self.text)


class PlainStep:
    """The losses of a batch with chosen negatives, from one caption and one image at a time."""

    def __init__(self, model: PersonSearchModel, batch: TrainBatch, draws: ChosenNegatives, alpha: float):
        self.model, self.batch, self.draws, self.alpha = model, batch, draws, alpha
        self.rows = range(batch.size)

    def loss(self, name: str) -> Tensor:
        """A loss of the table: pair by pair where a method here says how, else by its own function of plain parts."""
        method = getattr(self, name, None)
        return method() if method else value_of(LOSSES[name].compute(self.view(LOSSES[name].rows)))

    def view(self, rows: tuple[str, ...]) -> TrainingStep:
        """What losses read, each row fused on its own (rows of words aside)."""
        assert set(rows) <= set(PAIRS)
        (image, text), (image_m, text_m) = self.embeddings(""), self.embeddings("_m")
        pairs = self.pairs()
        parts = dict(
            zip(("positive", "negative_image", "negative_text"), (pairs[0:4], pairs[4:8], pairs[8:12]), strict=True)
        )
        fused = {}
        for name in rows:
            states = [self.fuse(self.words(self.batch.caption2, text), image) for text, image, _ in parts[name]]
            fused[name] = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
        tokens, reading = self.model.visual_encoder(self.batch.image1), self.model.encode_text(self.batch.caption2)
        negatives = Negatives(torch.tensor(self.draws.image), torch.tensor(self.draws.text), torch.ones(4).bool())
        return TrainingStep(
            model=self.model,
            batch=self.batch,
            draws=self.draws,
            alpha=self.alpha,
            tokens=tokens,
            caption=reading,
            embeddings=Embeddings(image, text, image_m, text_m),
            everyone=QueueEntry(image_m, text_m, self.batch.identity),
            negatives=negatives,
            fused=fused,
        )

    def words(self, text: TextTokens, row: int) -> Tensor:
        """[1, length] ids of real words."""
        return text.ids[row][text.mask[row]][None]

    def fuse(self, ids: Tensor, image: int, momentum: bool = False) -> Tensor:
        """States [length, D] of ids [1, length] with image number `image`."""
        suffix, images = ("_m", self.batch.image2) if momentum else ("", self.batch.image1)
        encoder = getattr(self.model, f"text_encoder{suffix}")
        tokens = getattr(self.model, f"visual_encoder{suffix}")(images[image : image + 1])
        mask = torch.ones_like(ids, dtype=torch.bool)
        return encoder.fuse(encoder.encode_prefix(ids, mask), mask, encoder.project_images(tokens), Pairing())[0]

    def embeddings(self, suffix: str) -> tuple[Tensor, Tensor]:
        """Image and text embeddings [B, E]."""
        images = self.batch.image2 if suffix else self.batch.image1
        vision, text = (getattr(self.model, f"{part}_encoder{suffix}") for part in ("visual", "text"))
        rows = []
        for row in self.rows:
            ids = self.words(self.batch.caption2, row)
            mask = torch.ones_like(ids, dtype=torch.bool)
            image = getattr(self.model, f"vision_proj{suffix}")(vision(images[row : row + 1])[0, 0])
            caption = getattr(self.model, f"text_proj{suffix}")(
                text.encode_text(text.encode_prefix(ids, mask), mask)[0, 0]
            )
            rows.append((image / image.norm(), caption / caption.norm()))
        return tuple(torch.stack(part) for part in zip(*rows, strict=True))

    def cl(self) -> Tensor:
        online, momentum = (dict(zip("it", self.embeddings(suffix), strict=True)) for suffix in ("", "_m"))
        known, alpha, answers = self.batch.identity.tolist(), 0.0, online
        if self.model.objective.contrastive_keys == "momentum":
            known, alpha = known + self.model.idx_queue[0].tolist(), self.alpha
            queues = {"i": self.model.image_queue.T, "t": self.model.text_queue.T}
            answers = {kind: torch.cat([momentum[kind], queues[kind]]) for kind in "it"}
        terms = []
        for query, _, key in self.model.objective.contrastive_terms:
            for row in self.rows:
                same = torch.tensor([float(other == int(self.batch.identity[row])) for other in known])
                soft = (momentum[query][row] @ answers[key].T / self.model.temp).softmax(0).detach()
                targets = alpha * soft + (1 - alpha) * same / same.sum()
                logits = online[query][row] @ answers[key].T / self.model.temp
                terms.append(-(logits.log_softmax(0) * targets).sum())
        return torch.stack(terms).mean()

    def pairs(self) -> list[tuple[int, int, int]]:
        """(text, image, match): positives, texts with a negative image, negative texts with an image."""
        positives = [(row, row, 1) for row in self.rows]
        with_image = [(row, self.draws.image[row], 0) for row in self.rows]
        return positives + with_image + [(self.draws.text[row], row, 0) for row in self.rows]

    def pitm(self) -> Tensor:
        values = []
        for text, image, match in self.pairs():
            states = self.fuse(self.words(self.batch.caption2, text), image)
            values.append(cross_entropy(self.model.itm_head(states[0]), torch.tensor(match)))
        return torch.stack(values).mean()

    def attribute(self) -> Tensor:
        per_caption = []
        for text, image, match in self.pairs():
            states = self.fuse(self.words(self.batch.caption2, text), image)
            numbers = self.batch.attributes[text]
            values = []
            for number in range(1, int(numbers.max()) + 1):
                places = (numbers == number).nonzero().flatten().tolist()
                if not match and self.model.objective.attribute_negatives == "unshared":
                    words = sorted(self.batch.caption2.ids[text][places].tolist())
                    if words in self.attributes_of(image):
                        continue
                vector = sum(states[place] for place in places) / len(places)
                values.append(cross_entropy(self.model.itm_head(vector), torch.tensor(match)))
            if values:
                per_caption.append(torch.stack(values).mean())
        return torch.stack(per_caption).mean()

    def attributes_of(self, row: int) -> list[list[int]]:
        """The word pieces of each attribute of a caption."""
        numbers, ids = self.batch.attributes[row], self.batch.caption2.ids[row]
        return [sorted(ids[numbers == number].tolist()) for number in range(1, int(numbers.max()) + 1)]

    def prd(self) -> Tensor:
        values = []
        for row in self.rows:
            states = self.fuse(self.words(self.batch.caption2, row), row)
            values.append(cross_entropy(self.model.prd_head(states[0]), self.batch.replaced[row]))
        return torch.stack(values).mean()

    def mlm(self) -> Tensor:
        drawn = self.draws.masked_tokens(self.batch.caption, "mlm", self.model.objective.mlm_probability)
        ids, labels = drawn.ids, drawn.labels
        values = []
        for row in self.rows:
            given = self.words(TextTokens(ids, self.batch.caption.mask), row)
            student = self.model.text_encoder.vocabulary_logits(self.fuse(given, row)).log_softmax(-1)
            teacher = self.model.text_encoder_m.vocabulary_logits(self.fuse(given, row, momentum=True)).softmax(-1)
            for place in range(given.shape[1]):
                label = int(labels[row, place])
                if label != IGNORED:
                    distilled = -(teacher[place] * student[place]).sum()
                    values.append((1 - self.alpha) * -student[place, label] + self.alpha * distilled)
        return torch.stack(values).mean()

    def mrtd(self) -> Tensor:
        caption, noise = self.batch.caption, self.draws.noise.sampled
        ids = self.draws.masked_tokens(caption, "mrtd", self.model.objective.mrtd_mask_probability).ids
        values = []
        for row in self.rows:
            original, given = (self.words(TextTokens(part, caption.mask), row) for part in (caption.ids, ids))
            states = self.fuse(given, row, momentum=True)
            chances = self.model.text_encoder_m.vocabulary_logits(states).softmax(-1)
            new = pick(chances, noise[row, : len(chances)])
            new[0] = SPECIAL.cls
            logits = self.model.mrtd_head(self.fuse(new[None], row))
            for place, (word, old) in enumerate(zip(new.tolist(), original[0].tolist(), strict=True)):
                if word not in (SPECIAL.cls, SPECIAL.pad):
                    values.append(cross_entropy(logits[place], torch.tensor(int(word != old))))
        return torch.stack(values).mean()

    def mae(self) -> Tensor:
        values = []
        for row in self.rows:
            image, text = self.batch.image1[row : row + 1], self.batch.caption2
            ids = self.words(text, row)
            reading = self.model.encode_text(TextTokens(ids, torch.ones_like(ids, dtype=torch.bool)))
            noise = self.draws.noise.patches[row : row + 1]
            keep = PatchSubset.from_noise(noise, self.model.objective.mask_ratio)
            pixels, wanted = self.model.predict_patches(image, keep, reading), patchify(image, VISION.patch_size)
            for place in keep.removed[0].nonzero().flatten().tolist():
                values.append((pixels[0, place] - wanted[0, place]).square().mean())
        return torch.stack(values).mean()
