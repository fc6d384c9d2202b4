"""Loggers: values reach all of them, and one that fails is left out."""

import json
import math

import pytest

from elucid.dnnlib.errors import UserError
from elucid.training.loggers.base import Logger, Loggers
from elucid.training.loggers.jsonl import JSONLines

VALUES = {"Loss/loss": {"num": 2, "mean": 1.5, "std": 0.5}, "Progress/kimg": {"num": 1, "mean": 1.0, "std": 0.0}}


class Lines(Logger):
    def __init__(self):
        super().__init__(None)
        self.said = []

    def line(self, text):
        self.said.append(text)

    def values(self, values, nimg):
        self.said.append((values, nimg))


class Fails(Logger):
    def __init__(self, error):
        super().__init__(None)
        self.error = error

    def values(self, values, nimg):
        raise self.error


@pytest.mark.parametrize("error", [ValueError("gone"), UserError("disk is full"), ConnectionError("no server")])
def test_a_failing_logger_is_left_out_and_the_others_go_on(error):
    lines = Lines()
    loggers = Loggers([Fails(error), lines])
    for nimg in (1000, 2000):
        loggers.values(VALUES, nimg)
    warning, *values = lines.said if isinstance(lines.said[0], str) else (lines.said[1], lines.said[0], lines.said[2])
    assert "Fails failed and is disabled" in warning and str(error) in warning
    assert values == [(VALUES, 1000), (VALUES, 2000)]


def test_the_last_one_to_fail_still_says_so():
    with pytest.warns(UserWarning, match="Fails failed and is disabled"):
        Loggers([Fails(ValueError("gone"))]).values(VALUES, 1)


def test_lines_of_json_are_cut_where_a_run_goes_on(tmp_path):
    logger = JSONLines(tmp_path)
    for kimg in (1.0, 2.0, 3.0):
        logger.values({**VALUES, "Progress/kimg": {"num": 1, "mean": kimg, "std": 0.0}}, int(kimg * 1000))
    with open(tmp_path / "stats.jsonl", "a") as file:
        file.write('{"half a li')
    JSONLines(tmp_path).start({}, 2000)
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [line["Progress/kimg"]["mean"] for line in lines] == [1.0, 2.0]


def test_every_line_is_strict_json(tmp_path):
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    norm = {"num": 2, "mean": math.inf, "std": math.nan}
    JSONLines(tmp_path).values({**VALUES, "Optimizer/grad_norm": norm}, 1000)
    (line,) = (tmp_path / "stats.jsonl").read_text().splitlines()
    parsed = json.loads(line, parse_constant=refuse)
    assert parsed["Optimizer/grad_norm"] == {"num": 2, "mean": None, "std": None}
    assert parsed["Loss/loss"] == VALUES["Loss/loss"]
