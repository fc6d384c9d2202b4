"""Respacing: which steps of a discrete process sampling visits (Nichol & Dhariwal 2021, section 4)."""

import re
from itertools import accumulate, repeat

from elucid.dnnlib.errors import UserError

FORMS = '"250", "10,15,20", "ddim25" or "linspace250"'


def respaced(sections: str, steps: int) -> list[int]:
    """Return the kept steps, increasing, of 0..steps-1.

    "10,15,20": that many evenly spaced steps, both ends included, in each of three equal sections of the process;
    "250": one section. "ddimN": every k-th step from 0, with the k that gives exactly N (Song et al. 2021).
    "linspaceN": N evenly spaced numbers from 0 to steps-1, rounded down. Raises UserError if that cannot be made.
    """
    text = str(sections).replace(" ", "")
    strided = re.fullmatch(r"(ddim|linspace)(\d+)", text)
    if strided:
        kind, count = strided.group(1), int(strided.group(2))
        return _every(count, steps, text) if kind == "ddim" else _even(_fitting(count, steps, text), steps, int)
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise UserError(f"respacing={sections!r} is not understood; write {FORMS}")
    counts = [int(count) for count in text.split(",")]
    kept, start = [], 0
    for index, count in enumerate(counts):
        size = steps // len(counts) + (index < steps % len(counts))
        kept += [start + one for one in _even(_fitting(count, size, text, len(counts)), size, round)]
        start += size
    return kept


def _fitting(count: int, size: int, text: str, sections: int = 1) -> int:
    if not 1 <= count <= size:
        of = f"one of its {sections} sections of the process" if sections > 1 else "the process"
        raise UserError(f"respacing={text}: {count} steps of {of} with {size}; give a number from 1 to {size}")
    return count


def _even(count: int, size: int, rounding) -> list[int]:
    # Summed rather than multiplied, as published: ties such as 49.5 round down when the sum falls just short of them.
    strides = repeat((size - 1) / max(count - 1, 1), count - 1)
    return [rounding(position) for position in accumulate(strides, initial=0.0)]


def _every(count: int, steps: int, text: str) -> list[int]:
    for stride in range(1, steps + 1):
        kept = list(range(0, steps, stride))
        if len(kept) == count:
            return kept
    near = sorted({len(range(0, steps, stride)) for stride in range(1, steps + 1)}, key=lambda n: abs(n - count))[:2]
    raise UserError(
        f"respacing={text}: no whole stride takes exactly {count} of {steps} steps; "
        f"use ddim{near[0]}, or respacing={count}"
    )
