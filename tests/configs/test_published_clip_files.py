"""What is wrong in a `configs.yaml` of the published IRRA and RDE is one line, and where it lies among other files."""

import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_data import REPOSITORY
from published_options import IRRA, irra, rde

from configs import loading
from configs.loading import load_config
from configs.published_clip import DATA_FILES, translate
from configs.run import flat
from utils.config import merge, parse_yaml
from utils.errors import UserError

WHERE = "config c.yaml (options of the published IRRA or RDE): "


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lrr": 1}, "unknown key `lrr` (did you mean 'lr'?)"),
        ({"train_file": "x.json"}, "unknown key `train_file` (did you mean 'training'?)"),
        ({"outputdir": "x"}, "unknown key `outputdir` (did you mean 'output_dir'?)"),
        ({3: 4}, "key 3 must be a name"),
        ({"lr": "1e-5"}, "`lr` must be a valid number, not '1e-5'"),
        ({"lr": None}, "`lr` must be a valid number, not None"),
        ({"lr": 0}, "`lr` must be greater than 0, not 0"),
        ({"lr": float("nan")}, "`lr` must be a finite number, not nan"),
        ({"lr": float("inf"), "gamma": float("inf")}, "`lr` must be a finite number, not inf (and 1 more problem)"),
        ({"lr": {"a": {"b": [1]}}}, "`lr` must be a valid number, not {'a': {'b': [1]}}"),
        ({"batch_size": True}, "`batch_size` must be a valid integer, not True"),
        ({"batch_size": 64.0}, "`batch_size` must be a valid integer, not 64.0"),
        ({"batch_size": 0}, "`batch_size` must be greater than or equal to 1, not 0"),
        ({"img_aug": "yes"}, "`img_aug` must be a valid boolean, not 'yes'"),
        ({"img_size": "384,128"}, "`img_size` must be a list, such as [1, 2], not '384,128'"),
        ({"img_size": [384]}, "`img_size` must be a list of at least 2 values, not [384]"),
        (parse_yaml("milestones: &a !!python/tuple [*a]", ""), "`milestones.0` must be a valid integer, not [[...]]"),
        ({"milestones": [20, "x"]}, "`milestones.1` must be a valid integer, not 'x'"),
        ({"text_length": 78}, "`text_length` must be less than or equal to 77, not 78"),
        ({"vocab_size": 49409}, "`vocab_size` must be 49408, not 49409"),
        ({"optimizer": "Adamw"}, "`optimizer` must be 'Adam', 'SGD' or 'AdamW', not 'Adamw'"),
        ({"lrscheduler": "poly"}, "`lrscheduler` must be 'cosine' or 'step', not 'poly'"),
        ({"warmup_method": "constant"}, "`warmup_method` must be 'linear', not 'constant'"),
        ({"sampler": "idtentity"}, "`sampler` must be 'random' or 'identity', not 'idtentity'"),
        ({"val_dataset": "train"}, "`val_dataset` must be 'test' or 'val', not 'train'"),
        ({"eval_period": 0}, "`eval_period` must be greater than or equal to 1, not 0"),
        (
            {"dataset_name": "CUHK"},
            "`dataset_name`: must be CUHK-PEDES, ICFG-PEDES or RSTPReid, not 'CUHK' (did you mean 'CUHK-PEDES'?)",
        ),
        (
            {"dataset_name": "../../etc"},
            "`dataset_name`: must be CUHK-PEDES, ICFG-PEDES or RSTPReid, not '../../etc'",
        ),
        (
            {"pretrain_choice": "RN50x4"},
            "`pretrain_choice`: RN50x4 encodes images by a ResNet, which there is not here; name ViT-B/16, ViT-B/32,"
            " ViT-L/14 or ViT-L/14@336px, or the path of a file",
        ),
        (
            {"pretrain_choice": "ViT-B/61"},
            "`pretrain_choice`: must be ViT-B/16, ViT-B/32, ViT-L/14 or ViT-L/14@336px, or the path of a file, not"
            " 'ViT-B/61' (did you mean 'ViT-B/16'?)",
        ),
        (
            {"pretrain_choice": ""},
            "`pretrain_choice`: must be ViT-B/16, ViT-B/32, ViT-L/14 or ViT-L/14@336px, or the path of a file, not ''",
        ),
        ({"MLM": False}, "`MLM`: must be true where `loss_names` has mlm, as no word is masked without it"),
        (
            {"loss_names": "sdm+ids"},
            "`loss_names`: there is no loss 'ids' (did you mean 'id'?); join some of sdm+mlm+id+itc+cmpm by +",
        ),
        ({"loss_names": ""}, "`loss_names`: there is no loss ''; join some of sdm+mlm+id+itc+cmpm by +"),
        ({"loss_names": ["sdm", "id"]}, "`loss_names` must be a valid string, not ['sdm', 'id']"),
    ],
    ids=lambda value: "+".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_what_is_wrong_is_one_line(options, message):
    with pytest.raises(UserError) as raised:
        translate(irra() | options, "config c.yaml")
    assert str(raised.value) == WHERE + message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"loss_names": "sdm+id+mlm"},  # the default of RDE's command line
            "`loss_names` must name TAL, TRL, InfoNCE or SDM among its parts, such as TAL+sr0.3 (it has options of"
            " RDE), not 'sdm+id+mlm'",
        ),
        ({"noisy_rate": 1.5}, "`noisy_rate` must be less than or equal to 1, not 1.5"),
        ({"noisy_file": None}, "`noisy_file` must be a valid string, not None"),
        ({"select_ratio": 0}, "`select_ratio` must be greater than 0, not 0"),
        ({"tau": 0.0}, "`tau` must be greater than 0, not 0.0"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_what_is_wrong_in_rde_is_one_line(options, message):
    with pytest.raises(UserError) as raised:
        translate(rde(**options), "config c.yaml")
    assert str(raised.value) == WHERE + message


# ---- files -----------------------------------------------------------------------------


@pytest.fixture
def layers(tmp_path, monkeypatch):
    """Reads texts as files on top of each other, and says what they hold together."""
    monkeypatch.setattr(loading, "resolve_config", lambda values, where, overrides: values)

    def layers(*texts: str) -> dict[str, Any]:
        paths = [tmp_path / f"{number}.yaml" for number, _ in enumerate(texts)]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
        return load_config(paths)

    return layers


DATA = {name: parse_yaml((REPOSITORY / "configs/data" / file).read_text(), file) for name, file in DATA_FILES.items()}
READ = {key: value for key, value in translate(irra(), "here").items() if key != "data"}
OWN = "train_file: [own.json]\ntrain_image_root: own"


def test_a_file_lies_on_our_data_set(layers):
    assert layers(IRRA) == merge(DATA["CUHK-PEDES"], READ)


def test_data_of_any_other_layer_take_the_place_of_those_that_options_name(layers):
    own = parse_yaml(OWN, "own")
    assert layers(OWN, IRRA) == {**own, **READ}
    assert layers(IRRA, OWN) == {**own, **READ}
    assert layers(IRRA, "train_file: []\nmodel_selection: val") == {**READ, "train_file": [], "model_selection": "val"}


def test_a_file_may_be_the_base_of_others(layers):
    above = "optimizer: {lr: 3e-6}\nbatch_size_train: 8"
    expected = merge(merge(DATA["CUHK-PEDES"], READ), parse_yaml(above, "above"))
    assert layers(IRRA, f"base: 0.yaml\n{above}") == layers(IRRA, above) == expected


def test_a_data_file_may_lie_below(tmp_path, layers):
    (tmp_path / "data.yaml").write_text(f"base: {REPOSITORY}/configs/data/icfg_pedes.yaml")
    assert layers("base: data.yaml", IRRA) == merge(DATA["ICFG-PEDES"], READ)


@pytest.mark.parametrize(("system", "options"), [("irra", irra()), ("rde", rde())])
def test_our_recipe_is_the_published_one(system, options, tmp_path):
    (tmp_path / "configs.yaml").write_text(json.dumps(options))  # which is YAML
    read, ours = (
        flat(load_config(path).model_dump(mode="json"))
        for path in (tmp_path / "configs.yaml", REPOSITORY / f"configs/{system}_cuhk_pedes.yaml")
    )
    own = {"model_selection": "val", "batch_size_test": 64, "workers": 4, "stride_size": None}
    own["noisy_file"] = None
    if system == "rde":
        own["mixture"] = None  # by the rate of noise, not by a file
    assert {**read, **own} == ours


def test_an_error_names_the_file(tmp_path):
    (tmp_path / "configs.yaml").write_text(f"{IRRA}\nepochs: 3")
    with pytest.raises(UserError) as raised:
        load_config(tmp_path / "configs.yaml")
    place = f"config {tmp_path}/configs.yaml (options of the published IRRA or RDE)"
    assert str(raised.value).startswith(f"{place}: unknown key `epochs`")


@pytest.mark.parametrize("text", ["data: {}", "data: /etc/passwd", f"data: {REPOSITORY}/configs/data/cuhk_pedes.yaml"])
def test_the_key_of_the_data_set_is_none_of_a_file(text, tmp_path):
    (tmp_path / "config.yaml").write_text(f"system: rde\n{text}")
    with pytest.raises(UserError, match="unknown key `data`"):
        load_config(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch hit']",
        "!!python/name:os.system ''",
        "!!python/module:os ''",
        "!!python/tuple 5",
        "!!python/tuple {a: 1}",
        "!!python/tuple [!!python/object/new:os.system ['touch hit']]",
    ],
)
def test_no_object_is_made(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("configs.yaml").write_text(f"{IRRA}\nname2: {text}")
    with pytest.raises(UserError, match=r"^config configs.yaml.*: not valid YAML: "):
        load_config("configs.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["configs.yaml"]
