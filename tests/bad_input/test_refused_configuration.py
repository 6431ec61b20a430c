"""Wrong YAML files, settings, flags and environments: one clear line, exit code 2, nothing changed."""

import pytest
import torch
from benchmark_data import REPOSITORY
from refusals import call, check_refusal, snapshot

import Retrieval
from utils.errors import UserError, run_command_line

# ---- the command line itself -----------------------------------------------------------


def test_a_message_of_several_lines_becomes_one(capsys):
    def main():
        raise UserError("first\nsecond")

    with pytest.raises(SystemExit) as end:
        run_command_line(main)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: first second\n"


def test_an_error_line_does_not_continue_a_progress_bar():
    def main():
        from tqdm import tqdm

        bar = tqdm(total=3)
        error = UserError("broken")  # keeps the bar: error -> traceback -> frame -> error and bar
        bar.update()
        raise error

    check_refusal(call(main), "broken", alone=False)


# ---- configuration: YAML files ---------------------------------------------------------

YAML_FILES = {
    "unknown key": ("batch_sise_train: 3", "unknown key `batch_sise_train` (did you mean 'batch_size_train'?)"),
    "unknown nested key": ("optimizer: {lrr: 3}", "unknown key `optimizer.lrr` (did you mean 'lr'?)"),
    "unknown key beside others": ("k_test: 1.5\nfoo: 1\nalpha: 4", "unknown key `foo`", "and 2 more problems"),
    "wrong type": ("embed_dim: many", "`embed_dim` must be a valid integer, not 'many'"),
    "text for a switch": ("warm_up: maybe", "`warm_up` must be a valid boolean, not 'maybe'"),
    "former default": ("compile: auto", "`compile` must be False, True, 'layers' or 'step', not 'auto'"),
    "switch for a number": ("k_test: true", "`k_test` must be a valid integer, not True"),
    "syntax error": ("k_test: 3\nalpha: [1\nmomentum: 1", "line 3", "not valid YAML"),
    "duplicate key": ("k_test: 3\nk_test: 4", "line 2", "duplicate key"),
    "empty file": ("", "is empty"),
    "only a comment": ("# nothing", "is empty"),
    "a list": ("- k_test", "not a list"),
    "a single value": ("hello", "not a single value"),
    "two documents": ("k_test: 3\n---\nk_test: 4", "line 2", "another document"),
    "a number as key": ("1: 2", "key 1 must be a name"),
    "program code": ("alpha: !!python/object/apply:os.system ['touch pwned']", "line 1", "not valid YAML"),
    "nested too deeply": ("[" * 5000, "nested too deeply"),
    "a number of 5000 digits": ("k_test: " + "9" * 5000, "not valid YAML"),
    "a long text for a number": ("k_test: " + "x" * 5000, "must be a valid integer", "..."),
    "binary": (bytes(range(256)), "cannot be read"),
    "NUL": (b"\0\1\2", "not valid YAML"),
    "missing loss list": ("weights: [1, 2, 3]", "`weights`", "a list of 5 or 7 numbers is expected", "not 3"),
    "null for a section": ("optimizer:", "`optimizer` must hold keys of its own, not be None"),
}


@pytest.mark.parametrize("case", YAML_FILES)
def test_a_wrong_yaml_file_is_refused(ground, case):
    content, *parts = YAML_FILES[case]
    path = ground.write("wrong.yaml", content)
    before = snapshot(ground.folder)
    check_refusal(call(Retrieval.main, "--config", path, "--output_dir", ground.output), "wrong.yaml", *parts)
    assert snapshot(ground.folder) == before


def test_a_missing_yaml_file_names_the_nearest_one(ground):
    ending = call(Retrieval.main, "--config", REPOSITORY / "configs" / "PS_cuhk_pede.yaml")
    check_refusal(ending, "does not exist", "did you mean 'PS_cuhk_pedes.yaml'?")


def test_a_folder_is_no_yaml_file(ground):
    check_refusal(call(Retrieval.main, "--config", REPOSITORY / "configs"), "cannot be read", "Is a directory")


# ---- configuration: settings -----------------------------------------------------------

SETTINGS = {
    "no equals sign": (["alpha"], "--set alpha: write it as key.path=value"),
    "no key": (["=3"], "--set =3: write it as key.path=value"),
    "into a scalar": (["k_test=3", "k_test.x=3"], "`k_test` is 3 and has no keys below it"),
    "into a list": (["train_file.0=a.json"], "`train_file` is", "has no keys below it"),
    "syntax": (["alpha=[1"], "--set alpha=[1", "not valid YAML"),
    "unknown key": (["optimizer.learning_rate=1"], "unknown key `optimizer.learning_rate`"),
    "misspelt loss": (["weights.attributes=1"], "`weights`: unknown loss 'attributes' (did you mean 'attribute'?)"),
    "nothing for a number": (["max_words="], "`max_words` must be a valid integer, not None"),
    "out of range": (["momentum=1.5"], "`momentum` must be less than or equal to 1, not 1.5"),
    "NaN": (["temp=.nan"], "`temp` must be a finite number"),
    "the text nan": (["temp=nan"], "`temp` must be a valid number, not 'nan'"),
    "infinity": (["optimizer.lr=.inf"], "`optimizer.lr` must be a finite number"),
    "side not divisible": (["image_res=[33,16]"], "`image_res`: [33, 16] is not divisible by patch_size 8"),
    "three sides": (["image_res=[32,16,3]"], "`image_res`", "[height, width] is expected, not [32, 16, 3]"),
    "negative side": (["image_res=-32"], "`image_res`", "not -32"),
    "unknown precision": (["precision=fp16"], "`precision` must be 'auto', 'fp32', 'tf32' or 'bf16', not 'fp16'"),
    "unknown way to compile": (["compile=auto"], "`compile` must be False, True, 'layers' or 'step', not 'auto'"),
    "negative weight": (["weights.cl=-1"], "`weights.cl` must be greater than or equal to 0, not -1"),
    "all weights 0": (["weights=[0,0,0,0,0]"], "every weight is 0"),
    "weight as text": (["weights=[a,0,0,0,0]"], "`weights.cl` must be a valid number, not 'a'"),
    "no text-only layer": (
        ["bert_config.fusion_layer=0", "bert_config.full_ca=true"],
        "fusion_layer must be at least 1 with full_ca",
    ),
    "fusion layer too large": (["bert_config.fusion_layer=2"], "fusion_layer must be below num_hidden_layers (2)"),
    "text heads": (["bert_config.num_attention_heads=3"], "hidden_size 32 is not divisible by 3 heads"),
    "vision heads": (["vision_heads=3"], "`vision_heads`: vision_width 32 is not divisible by 3 heads"),
    "decoder heads": (["decoder_heads=3"], "`decoder_heads`: vision_width 32 is not divisible by 3 heads"),
    "encoder width": (["bert_config.encoder_width=17"], "is 17, but vision_width is 32"),
    "more words than positions": (["max_words=81"], "`max_words`: is beyond", "(80)"),
    "queue below batch": (["queue_size=7"], "`queue_size`: must hold a batch of 8"),
    "later batch not in groups": (["hard_negatives_within=[4,3]"], "must divide batch_size_train (8)"),
    "no groups": (["hard_negatives_within=[]"], "hard_negatives_within"),
    "batch not in groups": (["hard_negatives_within=3"], "must divide batch_size_train (8)"),
    "nothing left of an image": (["mask_ratio=0.99"], "`mask_ratio`: leaves no patch"),
    "no step": (["max_steps=0"], "`max_steps` must be greater than or equal to 1, not 0"),
    "empty batches": (["batch_size_test=0"], "`batch_size_test` must be greater than or equal to 1"),
    "steps by epoch": (
        ["schedular={sched: cosine, steps: 5}"],
        "`schedular.steps`: rates must move with every step then",
    ),
    "steps and cooldown": (
        ["schedular={sched: cosine_step, steps: 5, cooldown_epochs: 1}"],
        "`schedular.steps`: the run ends with them",
    ),
    "unknown split": (["model_selection=train"], "`model_selection` must be 'val' or 'test', not 'train'"),
    "missing BERT file": (["bert_config=nothing.json"], "bert_config", "nothing.json does not exist"),
    "two problems": (
        ["bert_config=[1]", "k_test=-1"],
        "`k_test` must be greater than or equal to 0",
        "and 1 more problem",
    ),
    "no training file": (["train_file=[]"], "`train_file` is not set", "--set train_file="),
    "no validation file": (["val_file="], "`val_file` is not set"),
    "no validation images": (["val_image_root="], "`val_image_root` is not set"),
    "missing training file": (["train_file=nothing.json"], "train_file nothing.json does not exist"),
    "missing image folder": (["train_image_root=nowhere"], "train_image_root nowhere does not exist"),
    "missing test images": (["test_image_root=nowhere"], "test_image_root nowhere does not exist"),
    "batch beyond the training set": (
        ["batch_size_train=33", "queue_size=64"],
        "has 32 captions, fewer than one batch of 33",
        "lower batch_size_train",
    ),
    "more accumulation than batches": (["accumulate_steps=5"], "an epoch has 4 batches, fewer than accumulate_steps"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_wrong_setting_is_refused(ground, case):
    settings, *parts = SETTINGS[case]
    ground.refuses(*parts, settings=tuple(settings))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ('{"hidden_size": 32,,}', ("bert.json, line 1", "not valid YAML")),
        ('{"hidden_size": 32, "hidden_sise": 4}', ("`bert_config.hidden_sise` (did you mean 'hidden_size'?)",)),
        ("", ("bert.json", "is empty")),
    ],
    ids=["not JSON", "unknown key", "empty"],
)
def test_a_wrong_bert_file_is_refused(ground, content, parts):
    ground.refuses(*parts, settings=(f"bert_config={ground.write('bert.json', content)}",))


# ---- flags and environment -------------------------------------------------------------

FLAGS = {
    "unknown device": (("--device", "tpu"), "--device 'tpu' is unknown; use auto, cpu, cuda or cuda:0"),
    "device of another kind": (("--device", "mps"), "--device 'mps' is unknown"),
    "no device": (("--device", ""), "--device '' is unknown"),
    "negative device": (("--device", "cuda:-1"), "--device 'cuda:-1' is unknown"),
    "negative seed": (("--seed", "-1"), "--seed must be from 0 to 4294967295, not -1"),
    "seed of 33 bits": (("--seed", str(2**32)), "--seed must be from 0 to 4294967295"),
    "endless seed": (("--seed", "9" * 40), "--seed must be from 0 to 4294967295"),
    "evaluate nothing": (("--evaluate",), "--evaluate needs --checkpoint"),
    "resume nothing": (("--resume",), "checkpoint_last.pth does not exist"),
    "empty tokenizer folder": (("--text_encoder", "."), "tokenizer folder", "no tokenizer.json and no vocab.txt"),
}


@pytest.mark.parametrize("case", FLAGS)
def test_a_wrong_flag_is_refused(ground, case):
    arguments, *parts = FLAGS[case]
    ground.refuses(*parts, arguments=arguments)


@pytest.mark.parametrize("more", [(), ("--dry_run",)])
def test_compiling_without_a_compiler_is_refused(ground, more, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    ground.refuses("`compile` needs a C++ compiler, and no-such-compiler", settings=("compile=true",), arguments=more)


@pytest.mark.parametrize(
    "arguments", [("--foo",), ("--seed", "1.5"), ("--eval",)], ids=["unknown", "wrong type", "ambiguous"]
)
def test_what_argparse_refuses_ends_with_2_and_names_the_flag(ground, arguments):
    ground.refuses(arguments[0], "--help", arguments=arguments)


@pytest.mark.parametrize("device", ["cuda", "cuda:7"])
def test_cuda_without_a_gpu_is_refused(ground, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ground.refuses(f"--device {device}: no CUDA device is visible; use --device cpu", arguments=("--device", device))


def test_a_gpu_beyond_the_last_one_is_refused(ground, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    ground.refuses("--device cuda:7: this node has 1 CUDA devices", arguments=("--device", "cuda:7"))


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        ({"RANK": "abc", "WORLD_SIZE": "2"}, "must be integers"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": ""}, "must be integers"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2, WORLD_SIZE=2"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK=-1"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE=0"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "-1"}, "LOCAL_RANK=-1"),
        ({"SLURM_NTASKS": "many"}, "must be integers"),
    ],
)
def test_a_wrong_place_among_processes_is_refused(ground, variables, part, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ground.refuses(part)


@pytest.mark.parametrize("url", ["nonsense", "foo://host", "tcp://localhost", "tcp://localhost:abc", "file://"])
def test_a_nonsense_meeting_place_is_refused(ground, url, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    ground.refuses(f"process 0 cannot join the others at {url}", arguments=("--dist_url", url))
