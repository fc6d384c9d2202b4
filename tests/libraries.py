"""What kept libraries compute of the same features: recorded numbers, and the call that records them.

    python -m pip install --no-deps --target=DIR prdc==0.2 torch-fidelity==0.4.0
    rm -r DIR/tests    # torch-fidelity's, which would hide these
    PYTHONPATH=.:DIR python -m tests.libraries tests/vectors/libraries.json

Only functions of features are called. `torch_fidelity` imports torchvision for its networks and data; where that is
missing or was built for another torch, empty modules stand in for it.
"""

import contextlib
import importlib
import importlib.metadata
import io
import json
import platform
import sys
import types
from collections.abc import Callable, Iterator

import numpy as np
import torch

K = {"precision": 3, "recall": 3, "density": 5, "coverage": 5}


def features() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Generated and real features f32[400,24], of mixtures that share two of three modes, and logits f32[400,12]."""
    random = np.random.RandomState(16)
    modes = 3 * random.randn(4, 24)

    def mixture(which: list[int], scale: float) -> np.ndarray:
        return (modes[random.choice(which, 400)] + scale * random.randn(400, 24)).astype(np.float32)

    return mixture([0, 1, 3], 1.1), mixture([0, 1, 2], 1.0), (2 * random.randn(400, 12)).astype(np.float32)


@contextlib.contextmanager
def stand_ins(*names: str) -> Iterator[None]:
    """Let modules of these names import as empty ones."""

    class Empty(types.ModuleType):
        __path__: list[str] = []

        def __getattr__(self, name: str):
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})  # also a base class

    before = {name: sys.modules.get(name) for name in names}
    for name in names:  # a package comes before what is in it
        sys.modules[name] = Empty(name)
        above, _, own = name.rpartition(".")
        if above:
            setattr(sys.modules[above], own, sys.modules[name])
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def by_prdc() -> dict[str, float]:
    compute = importlib.import_module("prdc").compute_prdc
    made, real, _ = features()
    with contextlib.redirect_stdout(io.StringIO()):
        by_k = {k: compute(real.astype(np.float64), made.astype(np.float64), k) for k in (3, 5)}
    return {name: float(by_k[k][name]) for name, k in K.items()}


def by_torch_fidelity() -> dict[str, float]:
    with stand_ins("torchvision", *map("torchvision.{}".format, ("datasets", "transforms", "transforms.functional"))):
        kid, prc, isc = (importlib.import_module(f"torch_fidelity.metric_{name}") for name in ("kid", "prc", "isc"))
    made, real, logits = (torch.from_numpy(values).double() for values in features())
    one = {"kid_subsets": 1, "kid_subset_size": len(made), "verbose": False}
    around = prc.prc_features_to_metric(made, real, prc_neighborhood=3, verbose=False)
    score = isc.isc_features_to_metric(logits, splits=10, shuffle=False)
    return {
        "kid": kid.kid_features_to_metric(made, real, **one)["kernel_inception_distance_mean"],
        "precision": around["precision"],
        "recall": around["recall"],
        "is": score["inception_score_mean"],
    }


def by_scikit_learn() -> dict[str, float]:
    """The unbiased squared MMD from scikit-learn's kernel matrices."""
    from sklearn.metrics.pairwise import polynomial_kernel

    made, real, _ = (values.astype(np.float64) for values in features())
    n, m = len(made), len(real)

    def others(x: np.ndarray) -> float:
        kernel = polynomial_kernel(x, degree=3, coef0=1)  # gamma is 1 / D
        return (kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1))

    cross = polynomial_kernel(made, real, degree=3, coef0=1).sum() / (n * m)
    return {"kid": float(others(made) + others(real) - 2 * cross)}


LIBRARIES: dict[str, Callable[[], dict[str, float]]] = {
    "prdc": by_prdc,
    "torch-fidelity": by_torch_fidelity,
    "scikit-learn": by_scikit_learn,
}


def record() -> dict:
    versions = {name: importlib.metadata.version(name) for name in (*LIBRARIES, "torch", "numpy")}
    return {
        "made_by": "python -m tests.libraries (its docstring has the command)",
        "versions": {**versions, "python": platform.python_version()},
        "values": {name: call() for name, call in LIBRARIES.items()},
    }


if __name__ == "__main__":
    found = json.dumps(record(), indent=2)
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        file.write(found + "\n")
