"""The options of sampling that state an inverse problem: operator, measurements, noise and method."""

import os

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.data.pictures import is_picture
from elucid.training.encoders.base import Encoder
from elucid.training.inverse.operators.files import read_array
from elucid.training.sampling.conditions.opening import open_arrays
from elucid.training.sampling.inverse.posterior import posterior_denoiser
from elucid.training.sampling.options import SampleOptions

OTHERS = ("measurement", "measurement_noise", "posterior")


def with_measurement(
    denoiser, encoder: Encoder, options: SampleOptions, steps: int | None = None
) -> tuple[object, Tensor | None]:
    """Wrap the denoiser, with all its other guidance, so that its images agree with the measurement, if one is given.

    `steps` is the number that the sampler takes. Returns it, and the measurements [N,...] if there are many, one for
    each group of seeds. Raises UserError for options that lack the others, and for measurements that the operator
    cannot make of the model's images.
    """
    if options.operator is None:
        if given := [name for name in OTHERS if getattr(options, name) is not None]:
            raise UserError(f"`{given[0]}` needs the `operator` that made the measurement, e.g. inpaint:mask.png")
        return denoiser, None
    if options.measurement is None:
        raise UserError(f"`operator`={options.operator} needs a `measurement`: a file, or a folder or zip of many")
    path = str(options.measurement)
    noise = 0.0 if options.measurement_noise is None else options.measurement_noise
    method = options.posterior or "tmpd"
    wrapped = posterior_denoiser(denoiser, encoder.affine, options.operator, None, noise, method, steps)
    found = wrapped.problem.require(read_measurements(path, wrapped.problem.measured_shape))
    if len(found) > 1:
        return wrapped, found
    wrapped.problem.measurement = found
    return wrapped, None


def read_measurements(path: str, shape: tuple[int, ...]) -> Tensor:
    """Return what a file holds, one measurement of this shape or [N,...] of many, or the files of a folder or zip.

    Raises UserError naming a file that cannot be read, or is of another shape than the first.
    """
    if os.path.isdir(path):
        names = sorted(name for name in os.listdir(path) if is_picture(name) or name.lower().endswith(".npy"))
        if not names:
            raise UserError(
                f"`measurement`={path} has no .npy and no pictures; give a folder with one of each condition"
            )
        every = [read_array(os.path.join(path, name), "`measurement`") for name in names]
        other = next((place for place, one in enumerate(every) if one.shape != every[0].shape), None)
        if other is not None:
            shapes = [list(every[0].shape), list(every[other].shape)]
            raise UserError(
                f"`measurement`={path}: {names[0]} is {shapes[0]}, {names[other]} {shapes[1]}; make them alike"
            )
        return torch.stack(every)
    if is_picture(path) or path.lower().endswith(".npy"):
        return read_array(path, "`measurement`")
    found = open_arrays(path, "measurement")
    many = torch.stack([torch.from_numpy(found.image(index)).to(torch.float64) for index in range(len(found))])
    lacking = many.ndim - 1 - len(shape)  # axes that a data set puts before those of the operator
    ones = lacking > 0 and many.shape[1 : 1 + lacking] == (1,) * lacking
    return many.flatten(0, lacking) if ones else many
