"""DINOv2's vision transformers with public weights, downloaded or from a file.

Oquab et al. 2023 (arXiv 2304.07193).
"""

import os
from dataclasses import dataclass
from pathlib import Path

from elucid.dnnlib import files
from elucid.pretrained.vision_transformer import VisionTransformer
from elucid.pretrained.weights import DETECTOR_OPTION, downloaded, fill, read_state

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's red, green, blue in [0, 1]


@dataclass(frozen=True)
class Size:
    """One of the published networks: its width, blocks, heads, and where its weights are."""

    letter: str
    width: int
    depth: int
    heads: int
    sha256: str
    megabytes: int

    @property
    def file(self) -> str:
        return f"dinov2_vit{self.letter}14_pretrain.pth"

    @property
    def url(self) -> str:
        return f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vit{self.letter}14/{self.file}"

    @property
    def what(self) -> str:
        return f"the public DINOv2 ViT-{self.letter.upper()}/14"


SIZES = {
    one.letter: one
    for one in (
        Size("s", 384, 12, 6, "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9", 88),
        Size("b", 768, 12, 12, "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73", 346),
        Size("l", 1024, 24, 16, "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428", 1218),
    )
}


def weights_of(size: Size, weights: str | os.PathLike | None, mend: str, option: str = DETECTOR_OPTION) -> Path:
    """Return the file of `weights`, a path or URL, or if that is None the public one, which may be downloaded.

    All processes must call it. Raises UserError, which advises `option` or `mend`, if there is none.
    """
    if weights is not None:
        return files.fetch(weights, "weights")
    return downloaded(size.url, size.sha256, f"DINOv2 weights ({size.megabytes} MB)", mend, option)


def load_network(path: Path, size: Size | None = None) -> VisionTransformer:
    """Load a network of this size, by default ViT-L/14, from a state dict.

    Raises UserError if the file is invalid or has other names or shapes.
    """
    size = size or SIZES["l"]
    state = read_state(path, size.file)
    network = VisionTransformer(size.width, size.depth, size.heads)
    fill(network, state, path, size.what, size.file)
    return network
