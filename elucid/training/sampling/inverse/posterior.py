"""Makes the denoiser of images given a measurement."""

import hashlib
import inspect
import os
from typing import Any

import torch
from torch import Tensor

from elucid.dnnlib.files import sha256
from elucid.dnnlib.values import signature
from elucid.training.guidance.inverse.base import PosteriorDenoiser
from elucid.training.inverse.noise import MeasurementNoise
from elucid.training.inverse.operators.base import LinearOperator
from elucid.training.inverse.operators.files import read_array
from elucid.training.inverse.problem import Affine, InverseProblem
from elucid.training.registry.components import find, make, resolved
from elucid.training.sampling.inverse.texts import component_of, noise_of


def posterior_denoiser(
    denoiser,
    affine: Affine | None,
    operator: str | dict[str, Any] | LinearOperator,
    measurement: str | os.PathLike | Tensor | None = None,
    measurement_noise: str | float | MeasurementNoise = 0.0,
    posterior: str | dict[str, Any] = "tmpd",
    steps: int | None = None,
) -> PosteriorDenoiser:
    """Return the denoiser of images given a measurement, around a denoiser with all its other guidance.

    `affine` is that of the encoder, None for latents. `operator` and `posterior` are texts such as `inpaint:mask.png`,
    `superres:4`, `blur:1.5,boundary=zero`, `mine.py:Name`, `dps,step=0.5`, components, or an operator. `measurement` is
    a picture or .npy in the data's own units, or a tensor; None leaves it to cond["measurement"], one for each sample.
    `measurement_noise` is `gaussian:STD` in units of the measurement, `poisson:GAIN` in counts per unit, or STD alone,
    0 for none. `steps` is the number that the sampler takes, for methods that ask for it and are not told otherwise
    (`dps`). Raises UserError for texts, files and operators that do not fit each other or the model.
    """
    if isinstance(operator, (str, dict)):
        operator = make(component_of(operator, "operator"), "operator")
    if isinstance(measurement, (str, os.PathLike)):
        measurement = read_array(measurement, "`measurement`")
    noise = noise_of(measurement_noise)
    problem = InverseProblem(operator, affine, denoiser.spec.sample_shape, noise, measurement)
    method = component_of(posterior, "posterior")
    if steps is not None and "steps" in signature(find("posterior", method["name"])).parameters:
        method = {"steps": steps, **method}
    return make(method, "posterior", denoiser=denoiser, problem=problem)


def described(wrapped: PosteriorDenoiser) -> dict[str, Any]:
    """Return what determines the samples beside their seeds, as data: method, operator, noise and measurement."""
    problem = wrapped.problem
    operator, noise = problem.operator, problem.noise
    named = resolved(operator) if hasattr(operator, "config") else {"name": type(operator).__qualname__}
    code = inspect.getsourcefile(type(operator)) if not type(operator).__module__.startswith("elucid.") else None
    if code is not None and os.path.isfile(code):  # so that samples of an operator that was changed are not kept
        named["code"] = sha256(code)
    measured = problem.measurement
    return {
        "posterior": resolved(wrapped),
        "operator": named,
        "noise": {"name": type(noise).__name__, **vars(noise)},
        "measurement": None if measured is None else digest(measured),
    }


def digest(values: Tensor) -> str:
    """Return the SHA-256 of the shape and numbers of a tensor."""
    content = hashlib.sha256(f"{list(values.shape)}".encode())
    content.update(values.detach().to("cpu", torch.float64).contiguous().numpy().tobytes())
    return content.hexdigest()
