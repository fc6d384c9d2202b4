"""Class agreement of samples, measured by a support vector classifier trained on real pixels.

It needs no network and no download, and is meant for small, simple images such as digits.
"""

from collections.abc import Callable

import numpy as np

from elucid.dnnlib.errors import UserError

MAX_TRAIN = 5000  # fitting time is quadratic in this number
DEFAULT_C, DEFAULT_GAMMA = 10.0, "scale"
GRID_C, GRID_GAMMA = (1.0, 10.0, 100.0), ("scale", 0.001, 0.01, 0.1)
"""Settings that `best_setting` tries."""
FOLDS = 3


class PixelClassifier:
    """RBF support vector classifier on pixels in [0, 1]; deterministic.

    Images u8[N,C,H,W], labels integers [N]. If there are more than MAX_TRAIN images, a fixed random subset is used. `C`
    is the penalty and `gamma` the kernel's width in exp(-gamma |x - y|^2), or "scale": 1 / (pixels * their variance).
    """

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, C: float = DEFAULT_C, gamma: float | str = DEFAULT_GAMMA
    ):
        _check(images, labels)
        if len(np.unique(labels)) < 2:
            raise UserError("all training images have the same class; a classifier needs at least two")
        images, labels = training_part(images, labels)
        self.shape = images.shape[1:]
        self.num_train = len(images)
        self.model = make_svc(C, gamma).fit(pixels(images), labels)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Return the class of each image."""
        if images.shape[1:] != self.shape:
            raise UserError(f"images of shape {images.shape[1:]} do not fit a classifier trained on {self.shape}")
        return self.model.predict(pixels(images))

    def agreement(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Return the fraction of images, 0 to 1, whose predicted class equals their label."""
        _check(images, labels)
        return float(np.mean(self.predict(images) == labels))


def class_agreement(train_images, train_labels, images, labels) -> float:
    """Return the fraction of `images` that a classifier trained on the `train_` data assigns to their `labels`."""
    return PixelClassifier(train_images, train_labels).agreement(images, labels)


def make_svc(C: float, gamma: float | str):
    """Return an untrained classifier of scikit-learn."""
    from sklearn.svm import SVC  # slow to import, and not needed by other metrics

    return SVC(kernel="rbf", C=C, gamma=gamma)


def training_part(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most MAX_TRAIN images and their labels, always the same."""
    if len(images) <= MAX_TRAIN:
        return images, labels
    chosen = np.sort(np.random.RandomState(0).permutation(len(images))[:MAX_TRAIN])
    return images[chosen], labels[chosen]


def best_setting(
    images: np.ndarray, labels: np.ndarray, on_setting: Callable[[], object] = lambda: None
) -> tuple[float, float | str, list[tuple[float, float | str, float]]]:
    """Return the C and gamma with the largest accuracy in cross-validation, and (C, gamma, accuracy) of all settings.

    Of equal ones the first counts, whose C is smallest. `on_setting` is called after each.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    images, labels = training_part(images, labels)
    if min(np.unique(labels, return_counts=True)[1]) < FOLDS:
        raise UserError(
            f"a class has fewer than {FOLDS} training images, which cross-validation needs; leave `grid` out"
        )
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    tried = []
    for C in GRID_C:
        for gamma in GRID_GAMMA:
            accuracies = cross_val_score(make_svc(C, gamma), pixels(images), labels, cv=folds)
            tried.append((C, gamma, float(accuracies.mean())))
            on_setting()
    C, gamma, _ = max(tried, key=lambda one: one[2])
    return C, gamma, tried


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return i64[classes,classes]: how many images of each class (rows) were assigned to each class (columns)."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def commonest_confusions(matrix: np.ndarray, most: int = 20) -> list[tuple[int, int, int]]:
    """Return (class, assigned class, number), the most frequent wrong assignments first."""
    wrong = np.where(np.eye(len(matrix), dtype=bool), 0, matrix)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    places = (divmod(int(place), len(matrix)) for place in order)
    return [(own, other, int(wrong[own, other])) for own, other in places if wrong[own, other]]


def pixels(images: np.ndarray) -> np.ndarray:
    """Return images as rows f64[N,C*H*W] in [0, 1]."""
    return images.reshape(len(images), -1).astype(np.float64) / 255


def _check(images: np.ndarray, labels: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise UserError(f"the classifier takes uint8 images [N,C,H,W], not {images.dtype} {list(images.shape)}")
    if len(labels) != len(images):
        raise UserError(f"{len(images)} images but {len(labels)} labels")
