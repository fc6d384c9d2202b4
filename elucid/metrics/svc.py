"""Class agreement of samples, measured by a support vector classifier trained on real pixels.

It needs no network and no download, and is meant for small, simple images such as digits.
"""

import numpy as np

from elucid.dnnlib.errors import UserError

MAX_TRAIN = 5000  # fitting time is quadratic in this number


class PixelClassifier:
    """RBF support vector classifier on pixels in [0, 1]; deterministic.

    Images u8[N,C,H,W], labels integers [N]. If there are more than MAX_TRAIN images, a fixed random subset is used.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        from sklearn.svm import SVC  # slow to import, and not needed by other metrics

        _check(images, labels)
        if len(np.unique(labels)) < 2:
            raise UserError("all training images have the same class; a classifier needs at least two")
        if len(images) > MAX_TRAIN:
            chosen = np.sort(np.random.RandomState(0).permutation(len(images))[:MAX_TRAIN])
            images, labels = images[chosen], labels[chosen]
        self.shape = images.shape[1:]
        self.num_train = len(images)
        self.model = SVC(kernel="rbf", C=10.0, gamma="scale").fit(self._features(images), labels)

    def agreement(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Return the fraction of images, 0 to 1, whose predicted class equals their label."""
        _check(images, labels)
        if images.shape[1:] != self.shape:
            raise UserError(f"images of shape {images.shape[1:]} do not fit a classifier trained on {self.shape}")
        return float(np.mean(self.model.predict(self._features(images)) == labels))

    @staticmethod
    def _features(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1).astype(np.float64) / 255


def class_agreement(train_images, train_labels, images, labels) -> float:
    """Return the fraction of `images` that a classifier trained on the `train_` data assigns to their `labels`."""
    return PixelClassifier(train_images, train_labels).agreement(images, labels)


def interval(share: float, num: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a fraction measured on `num` images (Wilson 1927)."""
    from scipy.stats import binomtest  # here, as it takes half a second that no other score should wait for

    limits = binomtest(round(share * num), num).proportion_ci(0.95, method="wilson")
    return float(limits.low), float(limits.high)


def _check(images: np.ndarray, labels: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise UserError(f"the classifier takes uint8 images [N,C,H,W], not {images.dtype} {list(images.shape)}")
    if len(labels) != len(images):
        raise UserError(f"{len(images)} images but {len(labels)} labels")
