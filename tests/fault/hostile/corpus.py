"""All hostile files: `python -m tests.fault.hostile.corpus FOLDER` makes them."""

import sys
from collections.abc import Iterator
from pathlib import Path

from tests.fault.hostile import arrays, pickles, pictures, torch_files, transformers
from tests.fault.hostile.kit import Case, Kit

MAKERS = (pickles, torch_files, transformers, arrays, pictures)


def corpus(kit: Kit) -> Iterator[Case]:
    """Make the files one after the other; some are large until they are compressed."""
    for maker in MAKERS:
        yield from maker.cases(kit)


if __name__ == "__main__":
    made = list(corpus(Kit(Path(sys.argv[1]).absolute())))
    print(f"{len(made)} files in {sys.argv[1]}")
