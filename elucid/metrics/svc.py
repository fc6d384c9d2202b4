"""Do samples show the class that was asked for? A support vector classifier trained on real pixels judges.

It needs no network and no download; meant for small, simple images such as digits.
"""

import numpy as np

from elucid.dnnlib.errors import UserError

MAX_TRAIN = 5000  # the time of the fit grows with the square of this number


class PixelClassifier:
    """RBF support vector classifier on pixels in [0, 1]; the same data give the same classifier.

    Images u8[N,C,H,W], labels integers [N]. Of more than MAX_TRAIN images a fixed random subset is used.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        from sklearn.svm import SVC  # takes a second to import, which no other metric should wait for

        _check(images, labels)
        if len(np.unique(labels)) < 2:
            raise UserError("the training images are all of one class; a classifier needs at least two")
        if len(images) > MAX_TRAIN:
            chosen = np.sort(np.random.RandomState(0).permutation(len(images))[:MAX_TRAIN])
            images, labels = images[chosen], labels[chosen]
        self.shape = images.shape[1:]
        self.num_train = len(images)
        self.model = SVC(kernel="rbf", C=10.0, gamma="scale").fit(self._features(images), labels)

    def agreement(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Share of images, 0 to 1, whose predicted class is their label."""
        _check(images, labels)
        if images.shape[1:] != self.shape:
            raise UserError(f"images of shape {images.shape[1:]} do not fit a classifier trained on {self.shape}")
        return float(np.mean(self.model.predict(self._features(images)) == labels))

    @staticmethod
    def _features(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1).astype(np.float64) / 255


def class_agreement(train_images, train_labels, images, labels) -> float:
    """Share of `images` that a classifier trained on the first two arguments assigns to their `labels`."""
    return PixelClassifier(train_images, train_labels).agreement(images, labels)


def interval(share: float, num: int) -> tuple[float, float]:
    """95 % confidence interval of a share measured on `num` images (Wilson 1927)."""
    from scipy.stats import binomtest  # here, as it takes half a second that no other score should wait for

    limits = binomtest(round(share * num), num).proportion_ci(0.95, method="wilson")
    return float(limits.low), float(limits.high)


def _check(images: np.ndarray, labels: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise UserError(f"the classifier takes uint8 images [N,C,H,W], not {images.dtype} {list(images.shape)}")
    if len(labels) != len(images):
        raise UserError(f"{len(images)} images but {len(labels)} labels")
