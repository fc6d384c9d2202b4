"""Transforms of images to a given size: resizing and three crops."""

from collections.abc import Callable

from PIL import Image

from elucid.dnnlib.errors import UserError

Size = tuple[int, int]  # width, height
Transform = Callable[[Image.Image, Size], Image.Image | None]  # None: the image is too small and is skipped


def resize(picture: Image.Image, size: Size) -> Image.Image:
    """Resize the whole image to `size` with a Lanczos filter, ignoring the aspect ratio."""
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def center_crop(picture: Image.Image, size: Size) -> Image.Image:
    """Crop the largest central rectangle with the aspect ratio of `size`, then resize with a Lanczos filter."""
    width, height = picture.size
    crop = min(width, height * size[0] // size[1]), min(height, width * size[1] // size[0])
    return resize(_middle(picture, (max(crop[0], 1), max(crop[1], 1))), size)


def center_crop_wide(picture: Image.Image, size: Size) -> Image.Image | None:
    """Resize the central rows to W x H with a Lanczos filter, and pad with black above and below to W x W.

    The number of rows is the height of the whole image scaled to width W, as published; this keeps the aspect ratio if
    the source has width W. Images narrower than W, or with fewer than H such rows, are skipped.
    """
    width, height = size
    rows = round(width * picture.height / picture.width)
    if picture.width < width or rows < height:
        return None
    strip = resize(_middle(picture, (picture.width, rows)), size)
    canvas = Image.new(picture.mode, (width, width))
    canvas.paste(strip, (0, (width - height) // 2))
    return canvas


def center_crop_dhariwal(picture: Image.Image, size: Size) -> Image.Image:
    """Crop as in ADM (Dhariwal & Nichol 2021).

    Halve with a box filter while the shorter side is at least twice the target, resize it to the target with a bicubic
    filter, then crop the central square.
    """
    side = size[0]
    while min(picture.size) >= 2 * side:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = side / min(picture.size)
    scaled = round(picture.width * scale), round(picture.height * scale)
    return _middle(picture.resize(scaled, Image.Resampling.BICUBIC), (side, side))


TRANSFORMS: dict[str, Transform] = {
    "center-crop": center_crop,
    "center-crop-wide": center_crop_wide,
    "center-crop-dhariwal": center_crop_dhariwal,
}


def result_size(name: str | None, resolution: Size | None) -> Size | None:
    """Return the size of all results, None if images keep theirs. Raises UserError for incompatible options."""
    if name is None:
        return resolution
    if resolution is None:
        raise UserError(f"`transform`={name} needs `resolution`=WxH")
    if name == "center-crop-dhariwal" and resolution[0] != resolution[1]:
        raise UserError(f"`transform`={name} makes squares; give `resolution`={resolution[0]}x{resolution[0]}")
    if name == "center-crop-wide":
        if resolution[1] > resolution[0]:
            raise UserError(f"`transform`={name} is for wide images; give a `resolution` wider than high")
        return resolution[0], resolution[0]
    return resolution


def apply(name: str | None, picture: Image.Image, resolution: Size | None) -> Image.Image | None:
    """Apply a transform by name; without a name resize, without a resolution return the image unchanged."""
    if resolution is None:
        return picture
    return TRANSFORMS[name](picture, resolution) if name else resize(picture, resolution)


def _middle(picture: Image.Image, size: Size) -> Image.Image:
    left, top = (picture.width - size[0]) // 2, (picture.height - size[1]) // 2
    return picture.crop((left, top, left + size[0], top + size[1]))
