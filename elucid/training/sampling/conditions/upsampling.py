"""A base model and the model that enlarges its samples (Ho et al. 2021, arXiv 2106.15282): what passes between them."""

from collections.abc import Callable, Sequence

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.precision import set_precision
from elucid.training.sampling.conditions.lowres import FromFolder, Items, LowResImages
from elucid.training.sampling.cpu_blocks import Samples
from elucid.training.sampling.options import SampleOptions
from elucid.training.snapshots.snapshot import Snapshot
from elucid.training.transforms.lowres import NAME


class FromModel(LowResImages):
    """Samples of a base model, which `make` returns for seeds and classes, rounded to u8 as if they were PNGs.

    `precisions` are those of the base model and of the one that enlarges. `before` are the low-resolution images that
    the base model itself enlarges, if it does.
    """

    def __init__(
        self,
        make: Callable[[Items], Samples],
        label_dim: int,
        precisions: tuple[str, str],
        before: LowResImages | None = None,
    ):
        self.make, self.label_dim, self.precisions, self.before = make, label_dim, precisions, before

    def require(self, seeds: Sequence[int]) -> None:
        if self.before is not None:
            self.before.require(seeds)

    def __call__(self, items: Items) -> Samples:
        base, after = self.precisions
        set_precision(base, bench=False)
        try:
            return self.make(items)
        finally:
            set_precision(after, bench=False)


def given_images(snapshot: Snapshot, options: SampleOptions) -> FromFolder | None:
    """Return the images of `lowres_from`. Raises UserError if only the model or only the option is there."""
    spec, path = snapshot.ema.spec, options.lowres_from
    if path is None and NAME in spec.spatial:
        raise UserError(
            "the model enlarges images, and has none; give `lowres_from`=FOLDER, or a base model as the network and "
            "this one as `upsample`"
        )
    if path is None:
        return None
    if NAME not in spec.spatial:
        raise UserError(f"`lowres_from`={path}: the model was trained without --lowres; leave `lowres_from` out")
    return FromFolder(path, spec, factor_of(snapshot), snapshot.dataset.get("class_names"))


def factor_of(snapshot: Snapshot) -> int:
    """Return by how much a model enlarges images. Raises UserError if the options of its run do not tell."""
    factor = (snapshot.options.get("lowres") or {}).get("factor")
    if not isinstance(factor, int):
        raise UserError("the snapshot's options have no lowres.factor; train the model with --lowres")
    return factor


def require_pair(
    path: str, snapshot: Snapshot, made: tuple[int, int, int], label_dim: int, class_names: Sequence[str] | None
) -> None:
    """Raise UserError unless the snapshot of `path` enlarges images of this shape (C,H,W) and of these classes."""
    spec = snapshot.ema.spec
    if NAME not in spec.spatial:
        raise UserError(
            f"`upsample`={path} was trained without --lowres and enlarges nothing; give one trained with it"
        )
    factor, (channels, height, width) = factor_of(snapshot), made
    rows, columns = spec.resolution
    if (height * factor, width * factor) != (rows, columns):
        wanted = f"{columns // factor}x{rows // factor}"
        raise UserError(
            f"`upsample`={path} enlarges {wanted} to {columns}x{rows}, but the base model makes {width}x{height}; "
            f"choose a base model of {wanted}, or another `upsample`"
        )
    if channels != spec.image_channels:
        raise UserError(
            f"`upsample`={path} enlarges images of {spec.image_channels} channels, but the base model makes "
            f"{channels}; choose two models of the same kind of images"
        )
    if spec.label_dim and spec.label_dim != label_dim:
        there = f"{label_dim} classes" if label_dim else "no classes"
        raise UserError(
            f"`upsample`={path} has {spec.label_dim} classes, but the base model has {there}; choose two models of the "
            "same classes, or an `upsample` trained with --cond=0"
        )
    names = snapshot.dataset.get("class_names")
    if spec.label_dim and names and class_names and list(names) != list(class_names):
        ours, theirs = (", ".join(some[:3]) for some in (names, class_names))
        raise UserError(
            f"`upsample`={path} has other classes ({ours}, ...) than the base model ({theirs}, ...); choose two models "
            "of the same classes, in the same order"
        )
