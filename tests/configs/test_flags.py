"""Flags of the driver that contradict each other, or that would be read by nobody, are refused."""

import pytest

from configs.command_line import build_parser, parse_arguments
from utils.errors import UserError

VERIFY = ["--verify", "--checkpoint", "best.pth"]


def test_a_run_goes_on_or_is_evaluated():
    with pytest.raises(UserError, match="--resume goes on with training, and --evaluate does not train"):
        parse_arguments(["--evaluate", "--resume", "--checkpoint", "best.pth"])


@pytest.mark.parametrize(
    "more",
    [
        ["--config", "a.yaml"],
        ["--set", "k_test=3"],
        ["--text_encoder", "bert"],
        ["--seed", "0"],
        ["--resume"],
        ["--evaluate"],
        ["--dry_run"],
    ],
    ids=lambda more: more[0],
)
def test_what_verifying_does_not_read_is_refused(more):
    with pytest.raises(UserError, match=f"against its own record; leave out {more[0]}$"):
        parse_arguments([*VERIFY, *more])


def test_where_a_checkpoint_is_verified_can_be_chosen():
    options = parse_arguments([*VERIFY, "--device", "cpu"])
    assert options.verify and options.device == "cpu"


def test_the_help_says_what_is_done_without_a_flag():
    printed = " ".join(build_parser().format_help().split())
    for default in ("output/cuhk-pedes", "auto", "env://"):
        assert f"(default: {default})" in printed
