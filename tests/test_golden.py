"""Our model against numbers computed by the published code on tiny random models.

Takes the files of MARS and RaSa in tests/golden, or in the folder GOLDEN_DIR, whatever sizes they state.
GOLDEN_DEVICE=cuda compares what a GPU computes.
"""

from functools import cache
from pathlib import Path

import pytest
import torch
from golden_numbers import golden_device, golden_files, golden_folder

from dataset.batch import SpecialTokens, TextTokens, TrainBatch
from models.decoder import DecoderSize
from models.fusion import TextEncoder
from models.fusion_size import FusionSize
from models.image_encoder import PatchSubset, VisionSize
from models.objectives import Objective
from models.pairing import Pairing
from models.person_search import PersonSearchModel
from models.randomness import MaskedTokens
from models.vision_transformer import VisionTransformer

FILES = golden_files("mars")
pytestmark = [
    pytest.mark.skipif(not FILES, reason=f"GOLDEN_DIR {golden_folder()} has no numbers of MARS or RaSa"),
    pytest.mark.usefixtures("always_packed"),
    pytest.mark.parametrize("path", FILES or [None], ids=lambda p: p.stem if p else "absent"),
]
PADDED_OR_PACKED = pytest.mark.parametrize("counted", [False, True], ids=["padded", "packed"])


class RecordedDraws:
    """The published step's random draws, in place of ours."""

    def __init__(self, draws: dict[str, torch.Tensor]):
        self.draws = draws

    def hard_negatives(self, image_weights, text_weights):
        # what was drawn must be something that we could draw
        rows = torch.arange(len(image_weights), device=image_weights.device)
        assert (image_weights[rows, self.draws["image_neg_idx"]] > 0).all()
        assert (text_weights[rows, self.draws["text_neg_idx"]] > 0).all()
        return self.draws["image_neg_idx"], self.draws["text_neg_idx"]

    def masked_tokens(self, text, purpose, probability):
        if purpose == "mlm":
            return MaskedTokens(self.draws["mlm_input_ids"], self.draws["mlm_labels"], text.ids.numel())
        return MaskedTokens(self.draws["mrtd_generator_input_ids"], text.ids, text.ids.numel())

    def sampled_tokens(self, logits, packed=None):
        return self.draws["mrtd_sampled"]

    def patch_noise(self):
        return self.draws["mae_noise"]


@cache
def read(path: Path) -> dict:
    return torch.load(path, weights_only=True, map_location=golden_device())


def build(golden: dict) -> PersonSearchModel:
    """A model of the stated sizes, with the recorded parameters."""
    config, bert = golden["config"], golden["bert_config"]
    sides = config["image_res"]
    sides = tuple(sides) if isinstance(sides, list | tuple) else (sides, sides)
    vision = VisionSize(sides, config["patch_size"], config["vision_width"], config["vit_depth"], config["vit_heads"])
    fusion = FusionSize(**{name: bert[name] for name in FusionSize.model_fields if name in bert})
    objective = Objective(
        weights=golden["loss_weights"],
        temp=config["temp"],
        momentum=config["momentum"],
        queue_size=config["queue_size"],
        mask_ratio=config["mask_ratio"],
        mlm_probability=config["mlm_probability"],
        mrtd_mask_probability=config["mrtd_mask_probability"],
        mlm_distill_axis=config["mlm_distill_axis"],
    )
    decoder = DecoderSize(config["dec_depth"], config["dec_heads"])
    special = SpecialTokens(pad=0, cls=1, sep=2, mask=3)
    model = PersonSearchModel(
        VisionTransformer(vision), TextEncoder(fusion), decoder, objective, special, config["embed_dim"]
    )
    model.load_state_dict(golden["state_dict"], strict=True)
    return model.to(golden_device())


def batch_of(golden: dict, counted: bool = False) -> TrainBatch:
    """The recorded batch. counted: its words are, so that words alone are computed."""
    inputs = golden["inputs"]
    words = [int(inputs[f"text{number}_mask"].sum()) if counted else None for number in (1, 2)]
    attributes = inputs["attribute_masks"].long()
    if counted and (attributes * (1 - inputs["text2_mask"])).any():
        pytest.skip("its attributes number padding, as captions never do; packed captions have no state there")
    return TrainBatch(
        image1=inputs["image1"],
        image2=inputs["image2"],
        caption=TextTokens(inputs["text1_ids"], inputs["text1_mask"].bool(), words=words[0]),
        caption2=TextTokens(inputs["text2_ids"], inputs["text2_mask"].bool(), words=words[1]),
        attributes=attributes,
        attribute_count=int(attributes.max()),
        identity=inputs["idx"],
        replaced=inputs["replace"],
        index=torch.arange(len(inputs["idx"]), device=golden_device()),
    )


@cache
def after_step(path: Path, counted: bool = False) -> tuple[PersonSearchModel, dict[str, torch.Tensor]]:
    """The model after one forward and backward pass, and its losses; counted: as `batch_of`."""
    golden = read(path)
    model = build(golden).train()
    model.follow(model.objective.momentum)  # the published step begins with it, ours ends with it
    found, queued = model(batch_of(golden, counted), RecordedDraws(golden["draws"]), golden["inputs"]["alpha"])
    sum(golden["loss_weights"][name] * value for name, value in found.items()).backward()
    model.enqueue(queued)
    return model, found


@torch.no_grad()
def test_image_tokens(path):
    golden = read(path)
    model = build(golden).eval()
    model.follow(model.objective.momentum)  # the recorded momentum tokens come after its update
    inputs = golden["inputs"]
    keep = PatchSubset.from_noise(golden["draws"]["mae_noise"], model.objective.mask_ratio)
    recorded = golden["image_tokens_masked"]
    kept = golden["draws"]["mae_noise"].argsort(1)[:, : recorded.shape[1] - 1]
    in_image_order = kept.argsort(1)[..., None].expand_as(recorded[:, 1:])
    recorded = torch.cat([recorded[:, :1], recorded[:, 1:].gather(1, in_image_order)], dim=1)
    torch.testing.assert_close(model.visual_encoder(inputs["image1"]), golden["image_tokens"], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        model.visual_encoder_m(inputs["image2"]), golden["image_tokens_momentum"], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(model.visual_encoder(inputs["image1"], keep), recorded, atol=1e-5, rtol=0)


@PADDED_OR_PACKED
def test_losses(path, counted):
    expected, (_, found) = read(path)["losses"], after_step(path, counted)
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name].detach(), value, rtol=1e-5, atol=0, msg=lambda m, n=name: f"{n}: {m}")


@PADDED_OR_PACKED
def test_gradients(path, counted):
    expected, (model, _) = read(path)["gradients"], after_step(path, counted)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert set(gradients) == set(expected)
    for name, gradient in expected.items():
        error = (gradients[name] - gradient).norm()
        assert error <= 1e-4 * gradient.norm() + 1e-6, f"{name}: {error} of {gradient.norm()}"


@PADDED_OR_PACKED
def test_queues_and_momentum_after_the_step(path, counted):
    expected, (model, _) = read(path)["after_step_buffers"], after_step(path, counted)
    state = model.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, atol=1e-6, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


@torch.no_grad()
def test_evaluation(path):
    golden = read(path)
    model, recorded = build(golden).eval(), golden["evaluation"]
    tokens, images = model.encode_image(recorded["images"])
    reading = model.encode_text(TextTokens(recorded["text_ids"], recorded["text_mask"].bool()))
    for ours, name in (
        (images, "image_embed"),
        (reading.embedding, "text_embed"),
        (reading.states, "text_tokens"),
        (reading.embedding @ images.T, "similarity"),
    ):
        torch.testing.assert_close(ours, recorded[name], atol=1e-5, rtol=0)
    caption, image = (~recorded["itm_score"].isnan()).nonzero(as_tuple=True)
    memory = model.text_encoder.project_images(tokens)
    pairing = Pairing(aligned=0, crossed=image)
    scores = model.match_scores(reading.prefix.states[caption], reading.tokens.mask[caption], memory, pairing)
    torch.testing.assert_close(scores, recorded["itm_score"][caption, image], atol=1e-5, rtol=0)


@torch.no_grad()
def test_candidates_are_the_recorded_ones(path):
    """The product's own two stages score the same pairs with the same numbers."""
    from evaluation.stages.ranking import best

    recorded = read(path)["evaluation"]
    _, indices = best(recorded["similarity"], recorded["k"])
    scored = torch.zeros_like(recorded["similarity"], dtype=torch.bool).scatter(1, indices, True)
    assert torch.equal(scored, ~recorded["itm_score"].isnan())
