"""The options of sampling that state an inverse problem: operator, measurements, noise and method."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.encoders.base import Encoder
from elucid.training.guidance.inverse.base import PosteriorDenoiser
from elucid.training.sampling.conditions.opening import is_one_file, open_arrays
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
    path, many = str(options.measurement), None
    noise = 0.0 if options.measurement_noise is None else options.measurement_noise
    method = options.posterior or "tmpd"
    if is_one_file(path):
        return posterior_denoiser(denoiser, encoder.affine, options.operator, path, noise, method, steps), None
    wrapped = posterior_denoiser(denoiser, encoder.affine, options.operator, None, noise, method, steps)
    found = open_arrays(path, "measurement")
    many = torch.stack([torch.from_numpy(found.image(index)).to(torch.float64) for index in range(len(found))])
    return wrapped, wrapped.problem.require(as_measured(many, wrapped))


def as_measured(many: Tensor, wrapped: PosteriorDenoiser) -> Tensor:
    """Return measurements [N,1,1,D] or [N,1,H,W] without the axes that the operator's lack."""
    shape = wrapped.problem.measured_shape
    return many.reshape(len(many), *shape) if many[0].numel() == torch.Size(shape).numel() else many
