"""The search for the best setting: on a score whose minimum and noise are known, with fewer samples than the grid."""

import itertools
import math

import numpy as np
import pytest

from elucid.dnnlib.errors import UserError
from elucid.evaluation.sweep import POINTS, Axis, Range, round_sizes, search, survivors


class Noisy:
    """(x - 2.3)^2 + penalty of the other values, plus noise of n images: a part common to all settings, as of the same
    seeds, and a smaller one of each setting."""

    def __init__(self, repeat: int = 0, common: float = 2.0, own: float = 0.5):
        self.repeat, self.common, self.own, self.asked = repeat, common, own, []

    def __call__(self, setting, num):
        self.asked.append((setting, num))
        seeds = (self.repeat, *(round(1000 * value) for value in setting))
        shared = np.random.default_rng(self.repeat).standard_normal(num).mean()
        alone = np.random.default_rng(seeds).standard_normal(num).mean()
        return self.truth(setting) + self.common * shared + self.own * alone

    @staticmethod
    def truth(setting):
        return (setting[0] - 2.3) ** 2 + sum(0.3 * abs(value - 12) for value in setting[1:])


def test_the_minimum_over_a_range_is_found_with_fewer_samples_than_the_grid():
    """In 50 repeats: close to the best of all settings tried, each of which the grid would score with all images."""
    regrets = []
    for repeat in range(50):
        score = Noisy(repeat)
        found = search([Axis.of("x", Range(1.0, 4.0))], 1000, 4, score)
        assert found.samples < 0.65 * found.of_grid
        assert found.best.num == 1000 and found.best.score == score(found.best.setting, 1000)
        regrets.append(Noisy.truth(found.best.setting))
    assert np.mean(regrets) < 0.03 and np.mean(np.array(regrets) < 0.1) >= 0.9, regrets


def test_several_axes():
    found = search([Axis.of("x", Range(1.0, 4.0)), Axis.of("steps", [8, 12, 18])], 1000, 4, Noisy())
    x, steps = found.best.setting
    assert steps == 12 and x == pytest.approx(2.3, abs=0.2) and found.samples < 0.5 * found.of_grid


def test_a_range_of_whole_numbers_and_the_sharpest_one():
    found = search([Axis.of("n", Range(4, 32))], 64, 3, lambda setting, num: abs(setting[0] - 13))
    assert all(isinstance(trial.setting[0], int) for trial in found.trials)
    assert abs(found.best.setting[0] - 13) <= 2
    few = search([Axis.of("n", Range(1, 3))], 64, 3, lambda setting, num: abs(setting[0] - 2))
    assert {trial.setting for trial in few.trials} == {(1,), (2,), (3,)}  # nothing lies between


def test_one_round_is_the_grid():
    axes = [Axis.of("x", [1.0, 2.0]), Axis.of("y", [8, 12])]
    found = search(axes, 100, 1, Noisy())
    assert [trial.setting for trial in found.trials] == list(itertools.product([1.0, 2.0], [8, 12]))
    assert found.samples == found.of_grid == 400


def test_what_cannot_be_scored_is_last_and_what_is_not_valid_is_not_tried():
    axes = [Axis.of("x", [1.0, 2.0, 3.0, 4.0])]
    found = search(axes, 64, 3, lambda setting, num: math.nan if setting[0] < 3 else setting[0])
    assert found.best.setting == (3.0,)
    score = Noisy()
    search(axes, 64, 3, score, valid=lambda setting: setting[0] > 1.5)
    assert min(setting[0] for setting, _ in score.asked) == 2.0
    with pytest.raises(UserError, match="no setting is valid"):
        search(axes, 64, 3, score, valid=lambda setting: False)


def test_rounds_double_and_two_settings_reach_the_last():
    assert round_sizes(1000, 4) == [125, 250, 500, 1000] and round_sizes(50, 4) == [25, 50] and round_sizes(5, 4) == [5]
    assert survivors(48, 4) == [17, 6, 2] and survivors(2, 3) == [2, 2] and survivors(7, 1) == []


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Range(4.0, 1.0), "4:1 is no range"),
        (lambda: Range(1.0, math.nan), "no range"),
        (lambda: Axis.of("steps", []), "steps"),
        (lambda: Axis.of("steps", [8, 8]), "different values"),
        (lambda: search([Axis.of("x", range(2000))], 10, 1, Noisy()), "2000 settings"),
    ],
)
def test_bad_axes(make, reason):
    with pytest.raises(UserError, match=reason):
        make()


def test_a_range_begins_with_its_ends_and_even_steps():
    assert Axis.of("x", Range(1.0, 4.0)).values == (1.0, 1.75, 2.5, 3.25, 4.0) and POINTS == 5
    assert Axis.of("x", Range(0.1, 0.3)).values == (0.1, 0.15, 0.2, 0.25, 0.3)
