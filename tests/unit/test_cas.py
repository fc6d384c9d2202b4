"""Classifiers of the classification accuracy score, and their scores, against what is known of them."""

from itertools import islice

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from elucid.dnnlib.errors import UserError
from elucid.evaluation.cas.cells import Cells
from elucid.evaluation.cas.names import NETS
from elucid.evaluation.cas.networks import make_classifier
from elucid.evaluation.cas.scores import score, summarise
from elucid.evaluation.cas.tables import difference_line
from elucid.evaluation.cas.training import Recipe, augmented, batches, classify, train_classifier
from elucid.metrics.wilson import interval as wilson

CPU = torch.device("cpu")


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("net", "published"), [("resnet50", 25_557_032), ("resnet18", 11_689_512)])
def test_the_networks_are_the_published_ones(net, published):
    """The numbers of weights for 1000 classes of RGB images."""
    network = make_classifier(net, 3, 1000, 224, 0).eval()
    assert sum(weights.numel() for weights in network.parameters()) == published
    assert network[0](torch.zeros(1, 3, 64, 64)).shape[2:] == (2, 2)
    if net == "resnet18":  # the stem of small images keeps their size
        assert make_classifier(net, 3, 5, 32, 0).eval()[0](torch.zeros(1, 3, 32, 32)).shape[2:] == (4, 4)


def test_weights_are_those_of_the_seed():
    first = make_classifier("small", 1, 3, 8, 4).state_dict()
    torch.rand(5)
    again, other = (make_classifier("small", 1, 3, 8, seed).state_dict() for seed in (4, 5))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.0.0.weight"], other["0.0.0.weight"])


def test_crops_are_shifts_with_black_behind():
    images = torch.randint(1, 256, (200, 2, 5, 6), dtype=torch.uint8, generator=random())
    assert torch.equal(augmented(images, 0, False, random()), images)
    for xflip in (False, True):
        found, mirrored = augmented(images, 1, xflip, random()), 0
        for image, seen in zip(images, found, strict=True):
            padded = torch.nn.functional.pad(image, (1, 1, 1, 1))
            windows = [padded[:, y : y + 5, x : x + 6] for y in range(3) for x in range(3)]
            straight = any(torch.equal(seen, window) for window in windows)
            turned = any(torch.equal(seen, window.flip(2)) for window in windows)
            assert straight or turned
            mirrored += not straight
        assert 70 < mirrored < 130 if xflip else mirrored == 0
        assert len({tuple((seen > 0)[0].flatten().tolist()) for seen in found}) == 9


def test_batches_are_full_and_each_pass_has_all_images():
    found = torch.cat(list(islice(batches(10, 4, random()), 15))).tolist()
    assert len(found) == 60 and all(sorted(found[start : start + 10]) == list(range(10)) for start in range(0, 60, 10))
    assert found[:10] != found[10:20]
    assert all(len(batch) == 7 for batch in islice(batches(3, 7, random()), 3))


def patterns(num: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose class is the bright quarter."""
    labels = torch.arange(num) % 4
    images = torch.randint(0, 120, (num, 1, 8, 8), generator=random(seed))
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, 4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 100
    return images.to(torch.uint8), labels


def test_a_classifier_learns_what_it_is_shown():
    images, labels = patterns(128, 0)
    unseen, truth = patterns(100, 1)
    recipe = Recipe("small", steps=40, batch=32, crop=0, xflip=False, lr=0.1)
    accuracies: list[float] = []

    def keep(accuracy: float | None) -> None:
        if accuracy is not None:
            accuracies.append(accuracy)

    network = train_classifier(recipe, images, labels, 4, 0, CPU, keep)
    logits = classify(network, unseen, CPU, batch=64)
    assert (logits.argmax(1) == truth).double().mean() > 0.95 and accuracies[-1] > 0.9 and len(accuracies) == 3
    taught_wrong = train_classifier(recipe, images, (labels + 1) % 4, 4, 0, CPU)
    assert (classify(taught_wrong, unseen, CPU).argmax(1) == truth).double().mean() < 0.05
    again = train_classifier(recipe, images, labels, 4, 0, CPU)
    assert torch.equal(classify(again, unseen, CPU, batch=64), logits)


@pytest.mark.parametrize("net", NETS)
def test_every_network_takes_steps(net):
    images, labels = patterns(8, 0)
    recipe = Recipe(net, steps=2, batch=4, crop=1, xflip=True, lr=0.1)
    before, after = make_classifier(net, 1, 4, 8, 0), train_classifier(recipe, images, labels, 4, 0, CPU)
    assert torch.isfinite(classify(after, images, CPU)).all() and not after.training
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    assert all(not torch.equal(first, then) for first, then in pairs)


def test_scores_of_known_logits():
    logits, labels = np.full((6, 6), -1.0), np.arange(6)
    logits[np.arange(6), [0, 1, 2, 3, 4, 0]] = 3
    logits[5, 5] = -2  # the last is not even among the five best
    found = score(logits, labels)
    assert found.top1 == found.top5 == pytest.approx(100 * 5 / 6)
    assert found.per_class == (100, 100, 100, 100, 100, 0)
    confidence = np.exp(3) / (np.exp(3) + 5 * np.exp(-1))
    assert found.ece == pytest.approx(100 * abs(confidence - 5 / 6), abs=0.2)
    assert score(logits[:, :5], labels % 5).top5 is None


def test_auroc_is_that_of_one_against_the_rest_whatever_the_frequencies():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [300, 40, 10])
    logits = rng.standard_normal((350, 3)) + 1.5 * np.eye(3)[labels]
    probabilities = torch.from_numpy(logits).softmax(1).numpy()
    assert score(logits, labels).auroc == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr"))
    assert score(np.zeros((350, 3)), labels).auroc == 0.5
    assert score(10 * np.eye(3)[labels], labels).auroc == 1


def test_calibration_error_is_how_much_too_sure_a_classifier_is():
    """Labels drawn from the probabilities: almost none. Probabilities of 0.9, right in 60 %: 30 points."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((20000, 3))
    probabilities = torch.from_numpy(logits).softmax(1).numpy()
    labels = (probabilities.cumsum(1) < rng.random((20000, 1))).sum(1)
    assert score(logits, labels).ece < 1.5
    sure = np.log([[0.9, 0.1]]).repeat(1000, axis=0)
    assert score(sure, (np.arange(1000) % 10 < 4).astype(int)).ece == pytest.approx(30)


def test_the_interval_over_seeds_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [summarise(rng.normal(80, 2, 3).tolist()) for _ in range(1000)]
    assert 0.93 < np.mean([one.low <= 80 <= one.high for one in found]) < 0.97
    one = summarise([90.0], 200)
    assert one.deviation is None and one.interval == tuple(100 * x for x in wilson(0.9, 200))
    assert summarise([0.5]).interval is None
    assert summarise([99.0, 100.0], None, (0, 100)).high == 100


def test_synthetic_minus_real_is_of_pairs():
    """Seeds that are good for both do not make the difference uncertain."""
    scores = {name: [] for name in ("real", "synthetic")}
    for seed in range(3):
        for name, wrong in (("real", 5), ("synthetic", 15)):
            labels = np.tile([0, 1], 100)
            predicted = np.where(np.arange(200) < wrong + 4 * seed, 1 - labels, labels)
            scores[name].append(score(np.eye(2)[predicted], labels))
    assert difference_line(scores) == "top-1 % of synthetic minus real: -5.00 (95 % interval -5.00 to -5.00)"
    assert difference_line({"real": scores["real"]}) is None


def test_finished_trainings_belong_to_their_options(tmp_path):
    cells, labels = Cells(tmp_path), np.tile([0, 1], 4)
    options = {"set": "real", "seed": 0, "steps": 3}
    found = score(np.eye(2)[labels], labels)
    assert cells.load(options) is None
    cells.save(options, found)
    assert cells.load(options) == found and cells.load({**options, "steps": 4}) is None
    cells.path(options).write_text("{")
    with pytest.raises(UserError, match="real-0-.*remove it"):
        cells.load(options)
