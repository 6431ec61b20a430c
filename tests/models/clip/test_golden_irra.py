"""IRRA against numbers computed by the published code; files as `tests/golden_numbers.py` says."""

import pytest
import torch
from golden_numbers import golden_folder
from recorded_clip import (
    IRRA_FILES,
    assert_gradients,
    assert_near,
    batch_of,
    build_irra,
    gradients_of,
    read,
    size_of,
)

from models.clip.parameter_groups import ClipOptimizer, make_clip_optimizer
from models.clip.released import load_dual_encoder
from models.clip.towers import DualEncoder, end_of_text, token_at
from utils.training.learning_rate import FactorSchedule

pytestmark = [
    pytest.mark.skipif(not IRRA_FILES, reason=f"GOLDEN_DIR {golden_folder()} has no numbers of IRRA"),
    pytest.mark.parametrize("path", IRRA_FILES or [None], ids=lambda p: p.stem if p else "absent"),
]
ALL = ("sdm", "mlm", "id", "itc", "cmpm")


def weights_of(golden: dict) -> dict[str, float]:
    """The recorded losses hold their weights already."""
    config = golden["config"]
    return {"id": config["id_loss_weight"], "mlm": config["mlm_loss_weight"]}


@torch.no_grad()
def test_tokens_features_and_logits(path):
    golden = read(path)
    model, inputs, expected = build_irra(golden), golden["inputs"], golden["outputs"]
    image = model.base_model.encode_image(inputs["images"]).tokens()
    text = model.base_model.encode_text(inputs["caption_ids"]).tokens()
    masked = model.base_model.encode_text(inputs["mlm_ids"]).tokens()
    features = token_at(text, end_of_text(inputs["caption_ids"]))
    fused = model.fuse(masked, image)
    found = {
        "image_tokens": image,
        "text_tokens": text,
        "mlm_text_tokens": masked,
        "cross_tokens": fused,
        "mlm_logits": model.mlm_head(fused),
        "image_features": image[:, 0],
        "text_features": features,
        "image_logits": model.classifier(image[:, 0]),
        "text_logits": model.classifier(features),
    }
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert_near(found[name], value)


@torch.no_grad()
def test_losses(path):
    golden = read(path)
    weights, found = weights_of(golden), build_irra(golden, ALL).compute_losses(batch_of(golden))
    assert set(found) == set(golden["losses"])
    for name, value in golden["losses"].items():
        assert_near(weights.get(name, 1) * found[name], value, atol=0, rtol=1e-5)


@torch.no_grad()
def test_losses_of_captions_that_are_masked_in_place(path):
    golden = read(path)
    weights, found = weights_of(golden), build_irra(golden, masked_captions=True).compute_losses(batch_of(golden))
    for name, value in golden["losses_masked_caption"].items():
        assert_near(weights.get(name, 1) * found[name], value, atol=0, rtol=1e-5)


def test_gradients(path):
    golden = read(path)
    model, weights = build_irra(golden).train(), weights_of(golden)
    total = sum(weights.get(name, 1) * value for name, value in model.compute_losses(batch_of(golden)).items())
    total.backward()
    assert_near(total, golden["total"], atol=0, rtol=1e-5)
    assert_gradients(gradients_of(model), golden["gradients"])


def test_rates_of_parameters(path):
    golden = read(path)
    learned = [name for name, value in build_irra(golden).named_parameters() if value.requires_grad]
    found = {name: list(ClipOptimizer().rates_of(name)) for name in learned}
    recorded = golden["optimizer_groups"]
    assert found == {name: pytest.approx(recorded[name]) for name in learned}
    assert list(found) == list(recorded)


def test_learning_rates_of_epochs(path):
    factors = read(path)["lr_factors"]
    schedule = FactorSchedule(epochs=len(factors))
    assert [schedule.factor(epoch) for epoch in range(len(factors))] == pytest.approx(factors)


def test_a_step_of_the_optimizer(path):
    golden = read(path)
    model, step = build_irra(golden), golden["one_step"]
    for name, parameter in model.named_parameters():
        parameter.grad = golden["gradients"][name].clone()
    make_clip_optimizer(model.named_parameters(), ClipOptimizer(lr=step["lr"])).step()
    own = dict(model.named_parameters())
    for name, value in step["parameters"].items():
        assert_near(own[name], value, atol=1e-6)


@torch.no_grad()
def test_similarities_of_evaluation(path):
    golden = read(path)
    model, recorded = build_irra(golden).eval(), golden["evaluation"]
    text, image = model.text_embeddings(recorded["caption_ids"]), model.image_embeddings(recorded["images"])
    assert_near(text["global"] @ image["global"].T, recorded["similarity"])


def test_a_file_of_clip_becomes_the_recorded_start(path):
    golden = read(path)
    model = DualEncoder(size_of(golden["config"]))
    report = load_dual_encoder(model, golden["clip_state_dict"], path.name)
    assert report.resized == ["visual.positional_embedding"]
    assert set(report.unused) == {"logit_scale", "input_resolution", "context_length", "vocab_size"}
    for name, value in model.state_dict().items():
        assert_near(value, golden["state_dict"][f"base_model.{name}"], atol=1e-6)
