"""Statistics, Fréchet distance and reference files against what they must be, worked out another way."""

import numpy as np
import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.metrics.detectors import make_detector
from elucid.metrics.frechet import frechet_distance
from elucid.metrics.images import feature_statistics, read_batches
from elucid.metrics.reference import load_reference, require_same_detector, save_reference
from elucid.metrics.statistics import FeatureStatistics

CPU = torch.device("cpu")


def gathered(features: np.ndarray, parts: int = 1) -> FeatureStatistics:
    statistics = FeatureStatistics(features.shape[1])
    for part in np.array_split(features, parts):
        statistics.update(torch.from_numpy(part))
    return statistics


def distance_of(a: np.ndarray, b: np.ndarray) -> float:
    first, second = gathered(a), gathered(b)
    return frechet_distance(first.mean, first.covariance, second.mean, second.covariance)


@pytest.mark.parametrize("parts", [1, 3, 50])
@pytest.mark.parametrize("offset", [0.0, 1e7])
def test_statistics_are_mean_and_unbiased_covariance_however_cut(parts, offset):
    """Also far from zero, where raw moments would lose all digits of the variance."""
    features = np.random.RandomState(0).randn(50, 6) + offset
    statistics = gathered(features, parts)
    assert statistics.num == 50
    np.testing.assert_allclose(statistics.mean, features.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(features.T), rtol=1e-6, atol=1e-9)


def test_merged_statistics_are_those_of_all():
    features = np.random.RandomState(0).randn(60, 5)
    merged = FeatureStatistics(5)
    for part in (features[:1], features[1:40], features[40:40], features[40:]):
        merged.merge(gathered(part))
    np.testing.assert_allclose(merged.covariance, np.cov(features.T), rtol=1e-12, atol=1e-15)


def test_distance_of_commuting_gaussians():
    """For diagonal covariances it is |m_a - m_b|^2 + sum (sqrt a - sqrt b)^2."""
    a, b = torch.tensor([1.0, 4.0, 0.0, 0.0]), torch.tensor([9.0, 1.0, 2.0, 0.0])
    mean_a, mean_b = torch.zeros(4), torch.tensor([1.0, 0.0, 0.0, 2.0])
    expected = 5 + (a.double().sqrt() - b.double().sqrt()).square().sum()
    assert frechet_distance(mean_a, a.diag(), mean_b, b.diag()) == pytest.approx(float(expected), rel=1e-14)


@pytest.mark.parametrize("counts", [(30, 200), (200, 30), (30, 20), (100, 80)])
def test_distance_of_singular_covariances_is_exact(counts):
    """tr (A B)^(1/2) is the sum of singular values of the thin factors' product, which needs no covariance at all."""
    random, dim = np.random.RandomState(0), 100
    a, b = (random.randn(num, dim) * np.geomspace(3, 1e-3, dim) for num in counts)
    thin_a, thin_b = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
    root = np.linalg.svd(thin_a @ thin_b.T, compute_uv=False).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + (thin_a**2).sum() + (thin_b**2).sum() - 2 * root
    assert distance_of(a, b) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("num", [2, 20, 300])
def test_distance_to_itself_is_zero_and_a_shift_adds_its_square(num):
    features = np.random.RandomState(0).randn(num, 40)
    assert 0 <= distance_of(features, features) < 1e-9
    assert distance_of(features, features + 0.5) == pytest.approx(40 * 0.25, rel=1e-9)


def test_constant_images_have_a_distance():
    """All covariances zero: nothing is left to factor."""
    assert distance_of(np.zeros((5, 3)), np.ones((4, 3))) == pytest.approx(3)


class Pictures:
    def __init__(self, num: int, broken: int | None = None):
        self.array = np.random.RandomState(0).randint(0, 256, (num, 3, 8, 8), dtype=np.uint8)
        self.broken = broken

    def __len__(self):
        return len(self.array)

    def image(self, index):
        if index == self.broken:
            raise UserError("picture 7 is broken")
        return self.array[index]


def test_batches_hold_every_image_once_in_order():
    pictures = Pictures(23)
    batches = list(read_batches(pictures, 5, workers=3))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
    np.testing.assert_array_equal(torch.cat(batches), pictures.array)


def test_a_broken_image_ends_the_reading():
    with pytest.raises(UserError, match="picture 7 is broken"):
        list(read_batches(Pictures(23, broken=7), 5, workers=3))


def random_statistics() -> FeatureStatistics:
    return feature_statistics(make_detector("random", CPU), read_batches(Pictures(20), 8), 20)


def test_statistics_do_not_depend_on_the_batch():
    detector, pictures = make_detector("random", CPU), Pictures(20)
    one, all_at_once = (feature_statistics(detector, read_batches(pictures, size), 20) for size in (1, 20))
    torch.testing.assert_close(one.mean, all_at_once.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one.scatter, all_at_once.scatter, rtol=1e-4, atol=1e-3)


def test_features_that_are_not_finite_are_refused():
    detector = make_detector("random", CPU)
    detector.projection = detector.projection * float("nan")
    with pytest.raises(UserError, match="not finite"):
        feature_statistics(detector, read_batches(Pictures(4), 2), 4)


def test_one_image_has_no_covariance():
    with pytest.raises(UserError, match="at least two"):
        feature_statistics(make_detector("random", CPU), read_batches(Pictures(1), 2), 1)


def test_reference_returns_as_written_and_reads_as_edm_writes(tmp_path):
    statistics, detector = random_statistics(), make_detector("random", CPU)
    save_reference(tmp_path / "ref.npz", statistics, detector)
    reference = load_reference(str(tmp_path / "ref.npz"))
    torch.testing.assert_close(reference.mean, statistics.mean, rtol=0, atol=0)
    torch.testing.assert_close(reference.covariance, statistics.covariance, rtol=0, atol=0)
    assert (reference.detector, reference.detector_sha256) == ("random", detector.sha256)
    assert reference.num_images == 20
    require_same_detector(reference, detector)
    with np.load(tmp_path / "ref.npz", allow_pickle=False) as arrays:
        assert arrays["mu"].shape == (64,) and arrays["sigma"].shape == (64, 64)
        assert arrays["mu"].dtype == arrays["sigma"].dtype == np.float64
    assert [path.name for path in tmp_path.iterdir()] == ["ref.npz"]


def test_edm_reference_is_taken_for_inception(tmp_path, capsys):
    np.savez(tmp_path / "edm.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    reference = load_reference(str(tmp_path / "edm.npz"))
    assert (reference.detector, reference.num_images) == ("inception", None)
    assert "edm.npz" in capsys.readouterr().err
    with pytest.raises(UserError, match="detector inception.*random"):
        require_same_detector(reference, make_detector("random", CPU))


@pytest.mark.parametrize("change", ["detector_sha256", "resize"])
def test_other_weights_or_resize_are_refused(tmp_path, change):
    detector = make_detector("random", CPU)
    save_reference(tmp_path / "ref.npz", random_statistics(), detector)
    setattr(detector, change.removeprefix("detector_"), "other")
    with pytest.raises(UserError, match="other"):
        require_same_detector(load_reference(str(tmp_path / "ref.npz")), detector)


def bad_files():
    good = dict(mu=np.zeros(2048), sigma=np.eye(2048))
    yield "lacks", lambda path: np.savez(path, mu=good["mu"])
    yield "do not fit", lambda path: np.savez(path, mu=good["mu"], sigma=np.eye(3))
    yield "dimensions", lambda path: np.savez(path, mu=np.zeros(3), sigma=np.eye(3))
    yield "finite", lambda path: np.savez(path, mu=good["mu"] * np.nan, sigma=good["sigma"])
    yield "readable", lambda path: path.write_bytes(b"no archive")
    yield "readable", lambda path: path.write_bytes(b"")
    yield "readable", lambda path: np.savez(path, mu=np.array([object()], dtype=object), sigma=good["sigma"])
    yield "readable", lambda path: (np.savez(path, **good), path.write_bytes(path.read_bytes()[:100_000]))
    yield "readable", lambda path: (np.savez(path, **good), flip_byte(path))
    yield "readable", lambda path: path.write_bytes(b"\x93NUMPY")


def flip_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("reason, write", list(bad_files()))
def test_bad_reference_is_refused_by_name(tmp_path, reason, write):
    path = tmp_path / "bad.npz"
    write(path)
    with pytest.raises(UserError, match=f"bad.npz.*{reason}|{reason}.*bad.npz") as error:
        load_reference(str(path))
    assert "\n" not in str(error.value)
