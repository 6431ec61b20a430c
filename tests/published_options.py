"""Options of the published IRRA and RDE, as they save them."""

from typing import Any

from utils.config import parse_yaml

# as yaml.dump writes the options of run_irra.sh, and tuples as PyYAML does
IRRA = """
MLM: true
alpha: 0.9
batch_size: 64
beta: 0.999
bias_lr_factor: 2.0
cmt_depth: 4
dataset_name: CUHK-PEDES
distributed: false
eval_period: 1
gamma: 0.1
id_loss_weight: 1.0
img_aug: true
img_size: !!python/tuple
- 384
- 128
local_rank: 0
log_period: 100
loss_names: sdm+mlm+id
lr: 1.0e-05
lr_factor: 5.0
lrscheduler: cosine
masked_token_rate: 0.8
masked_token_unchanged_rate: 0.1
milestones: !!python/tuple
- 20
- 50
mlm_loss_weight: 1.0
momentum: 0.9
name: irra
num_epoch: 60
num_instance: 4
num_workers: 8
optimizer: Adam
output_dir: logs/CUHK-PEDES/20230101_000000_irra
power: 0.9
pretrain_choice: ViT-B/16
resume: false
resume_ckpt_file: ''
root_dir: ./data
sampler: random
stride_size: 16
target_lr: 0
temperature: 0.02
test_batch_size: 512
text_length: 77
training: true
val_dataset: test
vocab_size: 49408
warmup_epochs: 5
warmup_factor: 0.1
warmup_method: linear
weight_decay: 4.0e-05
weight_decay_bias: 0.0
"""
OF_IRRA = {"MLM", "id_loss_weight", "mlm_loss_weight"}
OF_RDE = {
    "loss_names": "TAL+sr0.3_tau0.015_margin0.1_n0.2",
    "noisy_rate": 0.2,
    "noisy_file": "./noiseindex/CUHK-PEDES_0.2.npy",
    "tau": 0.015,
    "margin": 0.1,
    "select_ratio": 0.3,
    "txt_aug": True,
}


def irra(**changes: Any) -> dict[str, Any]:
    """Options of the published IRRA, with changes."""
    return {**parse_yaml(IRRA, "IRRA"), **changes}


def rde(**changes: Any) -> dict[str, Any]:
    """Options of the published RDE, with changes."""
    return {name: value for name, value in irra().items() if name not in OF_IRRA} | OF_RDE | changes
