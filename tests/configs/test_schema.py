"""What a configuration may hold, and that the published files are read unchanged."""

import re

import pytest
from benchmark_data import REPOSITORY

from configs.loading import load_config, resolve_config
from configs.schema import Config, require_files
from configs.systems.clip import fit as fit_clip
from models.fusion_size import FusionSize as Bert
from models.objectives import LOSSES, name_weights
from utils.config import save_yaml
from utils.errors import UserError

YAML_FILES = sorted(path.name for path in (REPOSITORY / "configs").glob("*.yaml"))

# every key of the published files, in their spelling
MARS = """
train_image_root: 'CUHK-PEDES'
val_image_root: 'CUHK-PEDES'
test_image_root: 'CUHK-PEDES'
train_file: ['CUHK-PEDES/processed_data/train.json']
val_file: 'CUHK-PEDES/processed_data/val.json'
test_file: 'CUHK-PEDES/processed_data/test.json'
bert_config: 'configs/config_bert.json'
image_res: 384
batch_size_train: 8
batch_size_test: 64
queue_size: 65536
momentum: 0.995
vision_width: 768
embed_dim: 256
temp: 0.07
k_test: 128
alpha: 0.4
warm_up: True
max_words: 75
eval_epoch: 20
mask_ratio: 0.75
mlm_probability: 0.15
mrtd_mask_probability: 0.3
weak_pos_pair_probability: 0.1
weights: [0.5, 1, 1, 0.5, 0.5, 1, 2]
optimizer: {opt: adamW, lr: 1e-5, lr_custm: 1e-4, weight_decay: 0.02}
schedular: {sched: cosine, lr: 1e-5, epochs: 30, min_lr: 1e-6, decay_rate: 1, warmup_lr: 1e-5, warmup_epochs: 1,
            cooldown_epochs: 0}
"""


def changed(**values: str) -> str:
    """MARS's file with keys replaced; None leaves a key out."""
    kept = [entry for entry in re.split(r"\n(?=\w)", MARS.strip()) if entry.split(":")[0] not in values]
    return "\n".join([*kept, *(f"{key}: {value}" for key, value in values.items() if value is not None)])


@pytest.fixture
def load(tmp_path):
    def load(text: str, *settings: str) -> Config:
        (tmp_path / "config.yaml").write_text(text)
        return load_config(tmp_path / "config.yaml", list(settings))

    return load


@pytest.mark.parametrize("name", YAML_FILES)
def test_every_yaml_file_of_the_repository_is_valid(name):
    config = load_config(REPOSITORY / "configs" / name)
    assert config.train_file and config.train_image_root
    assert getattr(config, f"{config.model_selection}_file")


@pytest.mark.parametrize("benchmark", ["cuhk_pedes", "icfg_pedes", "rstp_reid"])
def test_the_benchmark_files_hold_the_published_recipes(benchmark):
    data, recipes = REPOSITORY / "configs" / f"PS_{benchmark}.yaml", REPOSITORY / "configs" / "recipes"
    mars = load_config(data)
    rasa, albef = (load_config([data, recipes / f"{name}.yaml"]) for name in ("rasa", "albef"))
    assert [config.bert_config.full_ca for config in (mars, rasa, albef)] == [True, False, False]
    assert mars.weights == name_weights(
        {"cl": 0.5, "pitm": 1, "mlm": 1, "prd": 0.5, "mrtd": 0.5, "mae": 1, "attribute": 2}
    )
    assert rasa.weights == name_weights(
        {"cl": 0.5, "pitm": 1, "mlm": 1, "prd": 0.5, "mrtd": 0.5, "mae": 0, "attribute": 0}
    )
    assert [albef.weights["cl"] > 0, albef.weights["pitm"] > 0, albef.weights["mlm"] > 0] == [True] * 3
    assert albef.weights["prd"] == albef.weights["mrtd"] == albef.weights["mae"] == albef.weights["attribute"] == 0
    assert (mars.max_words, mars.batch_size_train) == (75, 8)
    assert (rasa.max_words, rasa.batch_size_train) == (50, 13)
    assert mars.mlm_distill_axis == rasa.mlm_distill_axis == "positions"
    assert {(config.caption_rules, config.attributes) for config in (mars, rasa, albef)} == {("published", "published")}


def test_the_defaults_are_the_published_recipe(load):
    paths = {name: None for name in Config.model_fields if name.endswith(("_file", "_root"))} | {"train_file": []}
    published = load(MARS, "eval_epoch=0", "schedular.lr=")  # the optimizer's rate is the one in use
    assert published.model_copy(update=paths) == load_config(None)


def test_a_file_of_mars_is_read_unchanged(load):
    config = load(MARS)
    assert config.optimizer.model_dump() == {
        "opt": "adamW",
        "lr": 1e-5,
        "lr_custm": 1e-4,
        "weight_decay": 0.02,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
    }
    assert config.schedular.model_dump() == {
        "sched": "cosine",
        "lr": 1e-5,
        "epochs": 30,
        "steps": None,
        "min_lr": 1e-6,
        "decay_rate": 1,
        "warmup_lr": 1e-5,
        "warmup_epochs": 1,
        "cooldown_epochs": 0,
    }
    assert config.train_file == ["CUHK-PEDES/processed_data/train.json"]
    assert config.test_image_root == "CUHK-PEDES"
    assert (config.image_size, config.queue_size, config.k_test, config.eval_epoch) == ((384, 384), 65536, 128, 20)
    assert (config.momentum, config.temp, config.alpha, config.warm_up) == (0.995, 0.07, 0.4, True)
    assert (config.bert_config.full_ca, config.bert_config.fusion_layer, config.mask_ratio) == (True, 6, 0.75)


def test_every_loss_of_the_model_has_a_weight():
    assert list(load_config(None).weights) == list(LOSSES)


def test_a_file_of_rasa_has_five_weights_and_no_mask_ratio(load):
    text = changed(
        weights="[0.5, 1, 1, 0.5, 0.5]",
        mask_ratio=None,
        max_words="50",
        batch_size_train="13",
        bert_config="'configs/config_bert_partial.json'",
    )
    config = load(text)
    assert config.weights == dict(zip(LOSSES, [0.5, 1, 1, 0.5, 0.5, 0, 0], strict=True))
    assert (config.max_words, config.batch_size_train, config.bert_config.full_ca) == (50, 13, False)


def test_a_file_of_mamba_tbps_has_its_own_numbers(load):
    text = changed(
        mask_ratio="0.5",
        max_words="90",
        temp="0.05",
        batch_size_train="12",
        image_res="[384, 128]",
        schedular="{sched: cosine, lr: 2e-5, epochs: 60, min_lr: 1E-6, decay_rate: 1, warmup_lr: 1e-5, "
        "warmup_epochs: 1, cooldown_epochs: 0}",
    )
    config = load(text)
    assert (config.mask_ratio, config.max_words, config.temp, config.image_size) == (0.5, 90, 0.05, (384, 128))
    assert (config.schedular.epochs, config.schedular.lr, config.schedular.min_lr) == (60, 2e-5, 1e-6)


@pytest.mark.parametrize("text", ["1e-5", "1E-5", "1.0e-5", "0.00001", "1e-05"])
def test_every_spelling_of_a_small_number_is_a_number(load, text):
    assert load(changed(optimizer=f"{{lr: {text}}}")).optimizer.lr == 1e-5
    assert load(MARS, f"optimizer.lr={text}").optimizer.lr == 1e-5


def test_settings_win_over_the_file_which_wins_over_the_defaults(load):
    assert load_config(None).alpha == 0.4
    assert load("alpha: 0.3").alpha == 0.3
    assert load("alpha: 0.3", "alpha=0.2").alpha == 0.2
    assert load("alpha: 0.3", "alpha=0.2", "alpha=0.1").alpha == 0.1


def test_a_setting_of_one_loss_leaves_the_others(load):
    assert load("weights: {mae: 3}", "weights.cl=9").weights == name_weights({"mae": 3, "cl": 9})


def test_a_list_of_weights_may_be_changed_by_name_afterwards(load):
    config = load("weights: [1, 2, 3, 4, 5]", "weights.mae=6")
    assert list(config.weights.values()) == [1, 2, 3, 4, 5, 6, 0]
    config = load(MARS, "weights=[1,2,3,4,5,6,7]", "weights.cl=0")
    assert list(config.weights.values()) == [0, 2, 3, 4, 5, 6, 7]


def test_a_list_of_weights_is_in_the_published_order(load):
    assert load("weights: [1, 2, 3, 4, 5, 6, 7]").weights == name_weights(
        {"cl": 1, "pitm": 2, "mlm": 3, "prd": 4, "mrtd": 5, "mae": 6, "attribute": 7}
    )


def test_a_bert_file_may_be_changed_key_by_key(load, tmp_path):
    (tmp_path / "bert.json").write_text('{"num_hidden_layers": 8,\n\t"hidden_act": "gelu", "architectures": ["x"]}')
    config = load(f"bert_config: {tmp_path}/bert.json", "bert_config.fusion_layer=3")
    assert config.bert_config == Bert(num_hidden_layers=8, fusion_layer=3, full_ca=False)


def test_a_bert_configuration_may_stand_in_the_file(load):
    assert load("bert_config: {num_hidden_layers: 8}", "bert_config.full_ca=true").bert_config == Bert(
        num_hidden_layers=8, full_ca=True
    )


@pytest.mark.parametrize("base", ["alpha: 0.4\n", f"base: {REPOSITORY}/configs/PS_cuhk_pedes.yaml\n"])
def test_a_key_of_the_bert_configuration_leaves_the_cross_attention_of_mars(load, base):
    text = f"{base}bert_config: {{hidden_dropout_prob: 0.2}}"
    config = load(text)
    assert config.bert_config == load(base, "bert_config.hidden_dropout_prob=0.2").bert_config
    assert config.bert_config == load(base, "bert_config={hidden_dropout_prob: 0.2}").bert_config
    assert config.bert_config.full_ca
    assert load(text, "bert_config=configs/config_bert.json").bert_config.hidden_dropout_prob == 0.1


def test_without_a_bert_configuration_settings_start_from_the_published_one(load):
    assert load("alpha: 0.4", "bert_config.fusion_layer=4").bert_config == Bert(full_ca=True, fusion_layer=4)


def test_a_bert_file_is_found_from_any_folder(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not load("bert_config: configs/config_bert_partial.json").bert_config.full_ca


@pytest.mark.parametrize("name", YAML_FILES)
def test_a_saved_configuration_loads_as_it_was(name, tmp_path):
    config = load_config(REPOSITORY / "configs" / name, ["optimizer.lr=3.3e-7", "train_file=[a.json, b.csv]"])
    save_yaml(tmp_path / "config.yaml", config)
    assert load_config(tmp_path / "config.yaml") == config


def test_a_single_training_file_needs_no_list(load):
    assert load("train_file: a.json").train_file == ["a.json"]


@pytest.mark.parametrize(("value", "size"), [("384", (384, 384)), ("[384, 128]", (384, 128))])
def test_an_image_is_given_by_one_side_or_by_height_and_width(load, value, size):
    assert load(f"image_res: {value}").image_size == size


def test_a_group_of_negatives_is_checked_against_the_batch_only_when_it_is_set(load):
    assert load("batch_size_train: 9").hard_negatives_within is None
    assert load("batch_size_train: 9\nhard_negatives_within: 3").hard_negatives_within == 3


def test_groups_of_negatives_can_follow_the_epochs(load):
    one, many = load("hard_negatives_within: 4"), load("hard_negatives_within: [2, 4, null]")
    assert [one.negatives_within(epoch) for epoch in range(3)] == [4, 4, 4]
    assert [many.negatives_within(epoch) for epoch in range(5)] == [2, 4, None, None, None]
    assert load("max_words: 20").negatives_within(7) is None


def test_a_mask_ratio_matters_only_with_the_reconstruction_loss(load):
    assert load("mask_ratio: 0.999\nweights: {mae: 0}").mask_ratio == 0.999
    with pytest.raises(UserError, match="mask_ratio"):
        load("mask_ratio: 0.999")


def test_required_files_must_be_set_and_there(load, tmp_path):
    config = load(f"train_file: [{tmp_path}/config.yaml, {tmp_path}/nothing.json]")
    with pytest.raises(UserError, match=r"train_file .*nothing\.json does not exist"):
        require_files(config, ("train_file",))
    with pytest.raises(UserError, match="`val_file` is not set"):
        require_files(config, ("val_file",))
    require_files(load(f"train_file: {tmp_path}/config.yaml"), ("train_file",))


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load_config(None).alpha = 0.1


# ---- files that rest on others -----------------------------------------------------------


def test_a_file_changes_what_its_base_says(load, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "low.yaml").write_text("k_test: 3\nalpha: 0.1\noptimizer: {lr: 1e-3, eps: 1e-7}\n")
    (tmp_path / "middle.yaml").write_text(
        "base: folder/low.yaml\nalpha: 0.2\nweights: [1, 1, 1, 1, 1]\nbert_config: configs/config_bert.json\n"
    )
    (tmp_path / "top.yaml").write_text(
        "base: middle.yaml\noptimizer: {lr: 1e-4}\nweights: {mae: 0.5}\nbert_config: {fusion_layer: 3}\n"
    )
    config = load_config(tmp_path / "top.yaml", ["momentum=0.9"])
    assert (config.k_test, config.alpha, config.momentum) == (3, 0.2, 0.9)
    assert (config.optimizer.lr, config.optimizer.eps) == (1e-4, 1e-7)
    assert list(config.weights.values()) == [1, 1, 1, 1, 1, 0.5, 0]
    assert (config.bert_config.fusion_layer, config.bert_config.full_ca) == (3, True)


def test_later_bases_and_files_lie_on_top_of_earlier_ones(tmp_path):
    (tmp_path / "data.yaml").write_text("max_words: 60\nalpha: 0.1\nweights: {cl: 2}\n")
    (tmp_path / "recipe.yaml").write_text("alpha: 0.2\nweights: [1, 1, 1, 1, 1]\nk_test: 5\n")
    (tmp_path / "both.yaml").write_text("base: [data.yaml, recipe.yaml]\nk_test: 6\n")
    both = load_config(tmp_path / "both.yaml")
    assert (both.max_words, both.alpha, both.k_test) == (60, 0.2, 6)
    assert list(both.weights.values()) == [1, 1, 1, 1, 1, 0, 0]
    assert load_config([tmp_path / "data.yaml", tmp_path / "recipe.yaml"], ["k_test=6"]) == both


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("base: nothing.yaml", "nothing.yaml does not exist"),
        ("base: a.yaml", "leads back to this file"),
        ("base: [b.yaml]", "b.yaml does not exist"),
        ("base: {b: c}", "must be the name of a YAML file or a list of them"),
    ],
)
def test_a_base_that_cannot_be_is_refused(tmp_path, content, message):
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        load_config(tmp_path / "a.yaml")


def test_a_wrong_setting_is_blamed_and_not_the_file(tmp_path):
    (tmp_path / "a.yaml").write_text("k_test: 3\n")
    with pytest.raises(UserError, match=r"^--set optimizer\.l=1: unknown key"):
        load_config(tmp_path / "a.yaml", ["alpha=0.3", "optimizer.l=1", "momentum=0.9"])
    (tmp_path / "a.yaml").write_text("k_tset: 3\n")
    with pytest.raises(UserError, match=r"^config .*a\.yaml: unknown key"):
        load_config(tmp_path / "a.yaml", ["alpha=0.3"])


@pytest.mark.parametrize(
    ("settings", "fits"),
    [([], True), (["cross_heads=3"], False), (["weights.mlm=1"], False), (["cross_heads=4"], True)],
)
def test_heads_of_a_cross_modal_encoder_matter_where_there_is_one(settings, fits):
    config = load_config(None, ["system=clip", "clip={embedding: 200}", *settings])
    if fits:
        assert fit_clip(config, None) == config
    else:
        with pytest.raises(UserError, match="`cross_heads` 3 does not divide the embedding of 200 numbers"):
            fit_clip(config, None)


# ---- image encoders --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], (768, 12, 12, 0.0)),
        (["image_encoder=vim"], (768, 24, 12, 0.1)),
        (["image_encoder=vim", "vision_size=tiny"], (192, 24, 3, 0.1)),
        (["vision_size=small"], (384, 12, 6, 0.0)),
        (["image_encoder=vim", "vision_depth=6", "drop_path=0"], (768, 6, 12, 0.0)),
        (["vision_size=tiny", "image_encoder=vim", "vision_width=192"], (192, 24, 3, 0.1)),
    ],
)
def test_sizes_follow_from_names(settings, expected):
    config = load_config(None, settings)
    assert (config.vision_width, config.vision_depth, config.vision_heads, config.drop_path) == expected
    assert config.bert_config.encoder_width == expected[0]
    assert resolve_config(config.model_dump(mode="json"), "again") == config


def test_an_encoder_without_attention_has_no_heads():
    narrow = ["vision_width=32", "bert_config.encoder_width=32", "decoder_heads=8"]
    assert load_config(None, ["image_encoder=vim", *narrow]).vision_width == 32
    with pytest.raises(UserError, match="`vision_heads`: vision_width 32 is not divisible by 12 heads"):
        load_config(None, narrow)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["image_encoder=vin"], "`image_encoder` must be 'vit', 'vim' or 'timm:NAME', not 'vin'"),
        (["image_encoder=[vim]"], "`image_encoder` must be 'vit', 'vim' or 'timm:NAME'"),
        (["vision_size=huge"], "`vision_size` must be 'tiny', 'small' or 'base', not 'huge'"),
        (["vision_size={}"], "`vision_size` must be 'tiny', 'small' or 'base'"),
        (["vision_size=tiny", "vision_width=200"], "`vision_width`: 200 is not 192, as vision_size tiny has"),
        (["image_encoder=vim", "vision_size=base", "vision_depth=12"], "`vision_depth`: 12 is not 24"),
        (["drop_path=1"], "`drop_path` must be less than 1"),
    ],
)
def test_wrong_image_encoders_are_refused(settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        load_config(None, settings)


MAMBA = {
    "cuhk_pedes": ((224, 224), 0.5, 90, 0.05, 0.01, 0.1, 0.995, 0.5, 0),
    "icfg_pedes": ((384, 384), 0.75, 75, 0.07, 0.02, 1.0, 0.995, 0.5, 0),
    "rstp_reid": ((224, 224), 0.5, 70, 0.07, 0.02, 1.0, 0.99, 2.0, 15),
}


@pytest.mark.parametrize("name", MAMBA)
def test_the_presets_of_mamba_tbps_are_those_of_mars_but_for_what_was_published(name):
    folder = REPOSITORY / "configs"
    own = folder / f"mamba_{name}.yaml"
    config = load_config(own if own.exists() else [folder / f"PS_{name}.yaml", folder / "recipes" / "mamba.yaml"])
    found = (
        config.image_size,
        config.mask_ratio,
        config.max_words,
        config.temp,
        config.optimizer.weight_decay,
        config.weights["mae"],
        config.momentum,
        config.weights["cl"],
        config.eval_epoch,
    )
    assert found == MAMBA[name]
    mars = load_config(REPOSITORY / "configs" / f"PS_{name}.yaml").model_dump()
    changed = {key for key, value in config.model_dump().items() if value != mars[key]}
    assert changed <= {
        "image_encoder",
        "vision_depth",
        "drop_path",
        "image_res",
        "mask_ratio",
        "max_words",
        "temp",
        "optimizer",
        "weights",
        "momentum",
        "eval_epoch",
    }
    assert (config.image_encoder, config.vision_width, config.vision_depth) == ("vim", 768, 24)
