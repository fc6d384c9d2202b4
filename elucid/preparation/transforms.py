"""How a picture is brought to the size asked for: resizing and the three crops."""

from collections.abc import Callable

from PIL import Image

from elucid.dnnlib.errors import UserError

Size = tuple[int, int]  # width, height
Transform = Callable[[Image.Image, Size], Image.Image | None]  # None: the picture is too small and is left out


def resize(picture: Image.Image, size: Size) -> Image.Image:
    """The whole picture, stretched to `size` by Lanczos filtering."""
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def center_crop(picture: Image.Image, size: Size) -> Image.Image:
    """The largest rectangle in the middle that has the proportions of `size`, then Lanczos."""
    width, height = picture.size
    crop = min(width, height * size[0] // size[1]), min(height, width * size[1] // size[0])
    return resize(_middle(picture, (max(crop[0], 1), max(crop[1], 1))), size)


def center_crop_wide(picture: Image.Image, size: Size) -> Image.Image | None:
    """Wide pictures in a square canvas: the middle rows by Lanczos to W x H, black above and below to W x W.

    The rows kept are as many as the whole picture would have at width W, the published rule, which is true to
    proportion where the source is W wide. Pictures narrower than W, or with fewer than H such rows, are left out.
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
    """The crop of ADM (Dhariwal & Nichol 2021): halve by box filter while the shorter side is at least twice the
    target, bring it to the target by bicubic filtering, then cut the middle square."""
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
    """Size of all results, None where pictures keep their own. Raises UserError for options that cannot go together."""
    if name is None:
        return resolution
    if resolution is None:
        raise UserError(f"`transform`={name} needs `resolution`=WxH")
    if name == "center-crop-dhariwal" and resolution[0] != resolution[1]:
        raise UserError(f"`transform`={name} makes squares; give `resolution`={resolution[0]}x{resolution[0]}")
    if name == "center-crop-wide":
        if resolution[1] > resolution[0]:
            raise UserError(f"`transform`={name} is for wide pictures; give a `resolution` wider than high")
        return resolution[0], resolution[0]
    return resolution


def apply(name: str | None, picture: Image.Image, resolution: Size | None) -> Image.Image | None:
    """Transform by name; without a name resize, without a resolution leave the picture as it is."""
    if resolution is None:
        return picture
    return TRANSFORMS[name](picture, resolution) if name else resize(picture, resolution)


def _middle(picture: Image.Image, size: Size) -> Image.Image:
    left, top = (picture.width - size[0]) // 2, (picture.height - size[1]) // 2
    return picture.crop((left, top, left + size[0], top + size[1]))
