"""Time limits of a run, counted from the start of its command."""

import math
import os
import re
import time
from contextlib import suppress
from pathlib import Path

from elucid.dnnlib.errors import UserError
from elucid.torch_utils import distributed
from elucid.torch_utils.signals import StopRequest

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def parse_duration(text: str | float) -> float:
    """Return the seconds of a duration such as `3h50m`, `90s`, `1d12h`; a number alone is in seconds.

    Raises UserError for anything else, and for a duration that is not positive.
    """
    word = str(text).strip().lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", word)
    if word and "".join(number + unit for number, unit in parts) == word:
        seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    else:
        seconds = float(word) if re.fullmatch(r"\d+(\.\d+)?", word) else math.nan
    if not 0 < seconds < math.inf:
        raise UserError(f"`time_limit`={text!r} is not a duration; write it like 3h50m, 90m or 1d12h")
    return seconds


def limit_time(stop: StopRequest, limit: str | float | None) -> None:
    """Let a run stop so that it ends within a time from now. Raises UserError if it is no duration."""
    if limit is not None:
        stop.end = time.monotonic() + parse_duration(limit)


def time_left(limit: str | float) -> float:
    """Return the seconds that a command has left of its time limit, at least 1. Raises UserError if it is no duration.

    torchrun counts as the command that it starts, perhaps not for the first time.
    """
    return max(parse_duration(limit) - seconds_running(), 1.0)


def seconds_running() -> float:
    """Return for how long this process has run, or the torchrun that has started it; 0 where /proc is not readable.

    Measured from the boot of the machine, so that a clock that is set does not count.
    """
    process = os.getppid() if os.environ.get("TORCHELASTIC_RUN_ID") else os.getpid()
    with suppress(OSError, ValueError, IndexError, AttributeError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(float(Path("/proc/uptime").read_text().split()[0]) - started, 0.0)
    return 0.0


def stopped_by_itself(stop: StopRequest) -> bool:
    """Return whether a time limit or a hook has stopped the run. All processes must call it together.

    torchrun must not start such a run again; processes that a signal has ended count as lost, and it may.
    """
    reasons = set(distributed.gather_objects(stop.reason)) - {""}
    return bool(reasons) and reasons <= {"time limit", "request"}
