"""How often training and sampling wait for the device, counted on a simulated one."""

import json

import pytest

from tests import scripts


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    """What each case of `workers.py` gives."""
    folder = tmp_path_factory.mktemp("device")
    scripts.run("tests/device/workers.py", folder, folder / "counts.json")
    return json.loads((folder / "counts.json").read_text())


def test_the_simulated_device_refuses_and_counts(counts):
    """Waits, copies to the device, copies to the host and launches."""
    seen = dict(counts["itself"])
    assert "expected all tensors on one device" in seen.pop("sum of two devices")
    assert seen == {
        "product with a number": [0, 0, 0, 1],
        "product with a scalar of the host": [0, 0, 0, 1],
        "a number from the host": [1, 1, 0, 0],
        "item": [1, 0, 0, 2],
        "truth": [1, 0, 0, 2],
        "tolist": [1, 0, 0, 0],
        "copy to the host": [1, 0, 1, 0],
        "copy to the host, later": [0, 0, 1, 0],
        "copy to the device": [1, 1, 0, 0],
        "copy to the device, later": [0, 1, 0, 0],
        "mask": [1, 0, 0, 1],
        "index on the host": [1, 1, 0, 1],
        "nonzero": [1, 0, 0, 1],
        "view": [0, 0, 0, 0],
    }


STEPS = [
    "edm",
    "accumulated",
    "augmentation",
    "transforms",
    "discrete",
    "cdm",
    "patch",
    "edm2",
    "aligned",
    "jit",
    "ddt",
    "imm",
]
SAMPLERS = ["edm", "churn", "ablation", "sde", "ddpm", "noise of the host", "flow_map", "consistency", "distilled"]


@pytest.mark.parametrize("case", [*STEPS, "bf16"])
def test_a_steady_step_waits_for_nothing(counts, case):
    """For each pass one copy each of images and labels, and of the augmentation's parameters or the flips."""
    seen, passes = counts[case], 2 if case == "accumulated" else 1
    assert seen["waits"] == {}
    assert seen["to_device"] <= 3 * passes * seen["steps"] and seen["to_host"] == seen["steps"]


def test_images_on_the_device_are_chosen_there(counts):
    """Their positions are copied, perhaps those of two batches ahead as well, with labels and augmentation."""
    seen = counts["images on the device"]
    assert seen["waits"] == {} and seen["difference"] < 2e-5
    assert seen["to_device"] <= 3 * (seen["steps"] + 2) and seen["to_host"] == seen["steps"]


@pytest.mark.parametrize("case", STEPS)
def test_training_on_the_device_is_that_on_the_cpu(counts, case):
    """Up to rounding, as the fused optimizer rounds otherwise."""
    assert counts[case]["difference"] < 2e-5
    assert counts[case]["losses"][0] == pytest.approx(counts[case]["losses"][1], rel=1e-4)


def test_bf16_trains_as_on_the_cpu(counts):
    assert counts["bf16"]["losses"][0] == pytest.approx(counts["bf16"]["losses"][1], rel=1e-2)


def test_launches_do_not_grow(counts):
    """Kernel launches of a step; the network and its gradient have most. A loop over weights would add hundreds."""
    assert counts["edm"]["launches"] <= 760 * counts["edm"]["steps"]


def test_weights_are_cast_together(counts):
    """A bf16 step has hardly more launches than a float32 one: not two more for each weight, there and back."""
    bf16, steps, weights = (counts["bf16"][name] for name in ("launches", "steps", "weights"))
    assert (bf16 - counts["edm"]["launches"]) / steps < 0.5 * weights


def test_a_bad_step_is_left_out_on_the_device(counts):
    """Nothing changes, the host does not wait, and counts it a step later."""
    seen = counts["bad step"]
    assert seen["changed 0"] > 0.9 and seen["changed 1"] == 0 and seen["changed 2"] > 0.9
    assert seen["left_out"] == [0, 0, 1] and seen["waits"] == {}
    assert len(seen["said"]) == 1 and "not finite in step 2" in seen["said"][0]


def test_a_state_of_the_device_goes_on_on_the_cpu(counts):
    assert counts["resumed"]["difference"] < 2e-5


def test_scoring_waits_for_rows_and_pixels_only(counts):
    """600 images in 38 chunks, whose rows are moved by 512; images of the device are hashed on the host."""
    seen = counts["scored"]
    assert seen["difference"] < 1e-5 and len(set(seen["digests"])) == 1
    for name, chunks in {"host": 0, "device": 38}.items():
        assert sum(seen[name]["waits"].values()) == chunks + 3  # two blocks of rows, and whether all is finite
        assert all("measures/collect.py" in place for place in seen[name]["waits"])
    assert seen["host"]["to_device"] == 38 and seen["device"]["to_device"] == 0


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_guided_sampling_waits_for_nothing(counts, sampler):
    """The images are those of the CPU, which computes other batches, up to a gray level."""
    seen = counts[f"sampling, {sampler}"]
    assert seen["waits"] == {} and seen["to_host"] == 0
    assert seen["difference"] <= 1
