"""Kills small runs at random moments until they end, and compares the end with that of an undisturbed run.

    python -m tests.fault.kill_runs --count=200

Each kill is SIGKILL to the only process, to torchrun, to one of its processes, or to all at once; background saves are
under way most of the time. Not part of `make test`: a kill takes about ten seconds. Exit code 1 if anything differs.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import psutil

from elucid.torch_utils.checkpoint import load_state
from tests.fault import trials

CASES = [(1, "all"), (2, "agent"), (2, "rank"), (2, "all")]
BOUND = 60.0
"""Seconds in which processes must have ended whose torchrun was killed."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, table, wrong = random.Random(options.seed), Counter(), []
    slowest = 0.0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data = trials.make_data(folder)
        straight = {n: trials.undisturbed(data, folder / f"straight{n}", 1, n) for n in (1, 2)}
        runs = kills = 0
        while kills < options.count:
            processes, what = CASES[runs % len(CASES)]
            trial, reference = trials.Trial(data, folder / f"run{runs}", 1, processes), straight[processes]
            most, of_this = rng.randint(2, 6), 0  # then it may end
            while not (trial.folder.exists() and trial.done):
                launchers = trial.start()
                members: list[psutil.Process] = []
                if of_this < most and trials.wait_for_moment(trial, launchers, rng):
                    members = trials.everyone(launchers)
                    trials.kill(launchers, what, rng)
                    kills, of_this = kills + 1, of_this + 1
                    table[processes, what, "kills"] += 1
                elif launchers[0].wait(600):
                    raise RuntimeError(trial.log.read_text(errors="replace")[-3000:])
                try:
                    slowest = max(slowest, trials.wait_for(launchers, members, BOUND))
                except TimeoutError as error:
                    wrong.append(f"run {runs} ({processes} processes, {what}): {error}")
                    print(wrong[-1], trial.log.read_text(errors="replace")[-2000:], flush=True)
                for one in launchers:
                    one.wait(BOUND)
                wrong += [f"run {runs}: {one}" for one in trial.unreadable()]
            found = trials.differences(load_state(reference / trials.END), load_state(trial.folder / trials.END))
            wrong += [f"run {runs} ({processes} processes, {what}): {one}" for one in found[:3]]
            if "is not an intact" in trial.log.read_text(errors="replace"):
                wrong.append(f"run {runs}: an unreadable state was found")
            table[processes, what, "runs"] += 1
            table[processes, what, "identical"] += not found
            runs += 1
            end = "differs" if found else "identical"
            print(f"run {runs}: {processes} processes, {what}, {of_this} kills, {end}", flush=True)
    print("\nprocesses  killed   kills  runs  identical to the bit")
    for processes, what in CASES:
        row = [table[processes, what, name] for name in ("kills", "runs", "identical")]
        print(f"{processes:9d}  {what:7s} {row[0]:6d} {row[1]:5d} {row[2]:10d}")
    print(f"longest time until all processes had ended: {slowest:.1f} s")
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
