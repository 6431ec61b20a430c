"""Studies of an ablation, as their YAML files describe them."""

from evaluation.studies.ablation_plan import Plan, read_plan

PLAN = """
config: configs/demo_from_nothing.yaml
seeds: [1, 2]
variants:
  full:
  no MAE: {set: [weights.mae=0]}
"""
LENGTHS = """
config: configs/demo.yaml
seeds: [1]
lengths: [0.5, 2]
variants:
  full: {set: [schedular.steps=400]}
  ALBEF: {set: [weights.mae=0, schedular.steps=721]}
"""
ALONG = """
config: configs/demo.yaml
seeds: [1]
along: {noisy_rate: [0, 0.5]}
variants:
  full: {set: [schedular.steps=400]}
  ALBEF: {set: [weights.mae=0]}
"""


def plan_of(tmp_path, text, overrides=(), checkpoint=None) -> Plan:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return read_plan(path, overrides, checkpoint)
