"""Flags of the published programs of few steps are answered with ours, whose options exist."""

import re
from importlib import import_module
from inspect import signature

import pytest

from elucid.commands.flags.foreign import FOREIGN_FLAGS
from elucid.training.registry.components import find

THEIRS = ["optim", "ema_beta", "double", "mapping", "mid_t"]
THEIRS += ["training_mode", "target_ema_mode", "start_ema", "scale_mode", "start_scales", "end_scales", "loss_norm"]
THEIRS += ["weight_schedule", "teacher_model_path", "ratio", "norm_p", "norm_eps", "tr_sampler", "warmup_epochs"]
OURS = {option for parameter in import_module("elucid.commands.train").main.params for option in parameter.opts}


@pytest.mark.parametrize("theirs", THEIRS)
def test_hints_name_what_exists(theirs):
    hint = FOREIGN_FLAGS[theirs]
    assert f"--{theirs}" not in OURS and f"--{theirs.replace('_', '-')}" not in OURS
    assert set(re.findall(r"--[a-zA-Z_]+", hint)) <= OURS
    option = re.search(r"loss\.(\w+)=.*?of the loss(?:es)? (.*?)(?::|$)", hint)
    assert option or "loss." not in hint
    for name in re.split(r", | and ", option[2]) if option else []:
        assert option[1] in signature(find("loss", name)).parameters
