"""Limits on what a file may make the program do, each with an environment variable that raises it."""

import os
from dataclasses import dataclass

from elucid.dnnlib.errors import UserError


@dataclass(frozen=True)
class Limit:
    """A limit in some unit; `value` is the default, or what the environment variable says."""

    variable: str
    default: int
    unit: str

    @property
    def value(self) -> int:
        """The limit in effect. Raises UserError unless the variable is a whole number of at least 1."""
        text = os.environ.get(self.variable, "").strip()
        if not text:
            return self.default
        if not text.isdecimal() or len(text) > 18 or int(text) < 1:
            raise UserError(f"{self.variable}={text} is not a whole number of {self.unit}; set it to {self.default}")
        return int(text)

    def require(self, found: int, what: str) -> None:
        """Raise UserError naming the variable if `found` is more than the limit; `what` names the file and count."""
        if found > self.value:
            raise self.error(f"{what} is {found}")

    def error(self, what: str) -> UserError:
        """Return the error to raise for what exceeds the limit."""
        return UserError(
            f"{what}, more than the limit of {self.value} {self.unit}; if the file is good, raise {self.variable}"
        )


PIXELS = Limit("ELUCID_MAX_PIXELS", 1 << 26, "pixels")
"""Of a picture: 8192x8192, whose copies in memory take a quarter of a gigabyte each."""
FILE_BYTES = Limit("ELUCID_MAX_FILE_BYTES", 400 * 10**6, "bytes")
"""Of one file of a data set, after decompression."""
ARRAY_BYTES = Limit("ELUCID_MAX_ARRAY_BYTES", 700 * 10**6, "bytes")
"""Of the arrays of an idx file, CIFAR, or the statistics of a reference, after decompression."""
ENTRIES = Limit("ELUCID_MAX_ENTRIES", 50 * 10**6, "files")
"""Of a zip."""
RATIO = Limit("ELUCID_MAX_RATIO", 200, "times the compressed size")
"""Decompressed over compressed size, of what is larger than `SMALL`."""
JSON_BYTES = Limit("ELUCID_MAX_JSON_BYTES", 64 * 10**6, "bytes")
"""Of a JSON text, besides 1000 for each file of a data set."""
ITEMS = Limit("ELUCID_MAX_ITEMS", 2 * 10**6, "items")
"""Of a pickle, in instructions, and of a JSON text, in lists and objects, besides 4 for each file of a data set."""
SMALL_TEXT = Limit("ELUCID_MAX_TEXT_BYTES", 1 << 16, "bytes")
"""Of a name, note or hash in a file."""
DOWNLOAD_BYTES = Limit("ELUCID_MAX_DOWNLOAD_BYTES", 20 * 10**9, "bytes")
"""Of a download."""
LAYERS = Limit("ELUCID_MAX_LAYERS", 20_000, "layers")
"""Of a network."""
DEEPEST = 100
"""Levels of nested lists and objects."""
SMALL = 16 * 10**6
"""Bytes below which no ratio is absurd."""


def require_ratio(size: int, compressed: int, what: str) -> None:
    """Raise UserError if `size` bytes are absurdly many for `compressed` ones."""
    if size > SMALL and size > RATIO.value * max(compressed, 1):
        raise RATIO.error(f"{what} expands from {compressed} to {size} bytes")
