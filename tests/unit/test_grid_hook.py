"""The picture beside a snapshot: never more than its share of the time, and gone at once when the run is to stop."""

import time
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from elucid.torch_utils.signals import StopRequest
from elucid.training.encoders.rgb import RGB
from elucid.training.hooks import grid
from elucid.training.hooks.grid import SampleGrid
from elucid.training.noise.schedules import Karras
from elucid.training.samplers.edm import EDMSampler
from tests.oracles import GaussianDenoiser


class Slow(GaussianDenoiser):
    """Takes its time, and counts."""

    seconds, calls = 0.0, 0

    def forward(self, x, sigma, cond=None):
        self.calls += 1
        time.sleep(self.seconds)
        if self.calls == getattr(self, "stop_at", None):
            self.stop.requested = True
        return super().forward(x, sigma, cond)


@pytest.fixture
def run():
    denoiser, stop = Slow(), StopRequest()
    denoiser.stop = stop
    said = []
    return SimpleNamespace(
        averages={"ema": denoiser},
        gathered=lambda name, on_main: nullcontext(),
        loop=SimpleNamespace(grid_images=16),
        dataset=SimpleNamespace(vector_labels=False),
        stream=SimpleNamespace(transforms=[]),
        device=torch.device("cpu"),
        encoder=RGB(),
        sampler=EDMSampler(),
        schedule=Karras(),
        stop=stop,
        nimg=0,
        log=said.append,
        said=said,
    )


def draw(run, folder):
    SampleGrid().on_snapshot(run, folder / "network-snapshot-000001.pkl")
    return folder / "samples-000001.png"


def test_few_steps_and_all_images(run, tmp_path):
    picture = np.asarray(Image.open(draw(run, tmp_path)))
    assert picture.shape[0] > 900 and run.averages["ema"].calls == 2 * grid.STEPS - 1  # a block of 16


def test_a_run_that_names_its_steps_keeps_them(run, tmp_path):
    run.schedule = Karras(num_steps=3)
    draw(run, tmp_path)
    assert run.averages["ema"].calls == 5


def test_what_there_is_no_time_for_stays_black(run, tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "LEAST", 0.5)
    run.averages["ema"].seconds = 0.01  # 0.15 s for four images, of which two threads draw eight at once
    run.loop.grid_images = 64
    started = time.monotonic()
    picture = np.asarray(Image.open(draw(run, tmp_path)))
    assert time.monotonic() - started < 3
    assert picture[:50, :50].any() and not picture[-50:, -50:].any()


def test_no_time_at_all_is_said(run, tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "LEAST", 0.01)
    run.averages["ema"].seconds = 0.02
    assert not draw(run, tmp_path).exists() and "loop.grid_images" in run.said[0]


def test_a_request_to_stop_ends_it_at_once(run, tmp_path):
    denoiser = run.averages["ema"]
    denoiser.stop_at = 3
    assert not draw(run, tmp_path).exists() and denoiser.calls <= 6 and not run.said
