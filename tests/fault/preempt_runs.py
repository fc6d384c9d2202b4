"""Preempts small runs at random moments by SIGTERM or SIGUSR1, requeues them, and compares their ends.

    python -m tests.fault.preempt_runs --count=100

In one process, in two, and on two nodes, which are two torchruns on this machine. The table says how long it took until
all had ended, with the state saved. Not part of `make test`. Exit code 1 if anything differs or takes too long.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from elucid.torch_utils.checkpoint import load_state
from tests.fault import trials

CASES = [(1, 1), (1, 2), (2, 1)]
BOUND = 30.0
"""Seconds in which a preempted run must have ended; its state is small."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, wrong = random.Random(options.seed), []
    times, ends, early = defaultdict(list), defaultdict(list), defaultdict(int)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data = trials.make_data(folder)
        straight = {case: trials.undisturbed(data, folder / f"straight{case[0]}{case[1]}", *case) for case in CASES}
        count = runs = 0
        while count < options.count:
            case = CASES[runs % len(CASES)]
            reference = straight[case]
            trial, most, of_this = trials.Trial(data, folder / f"run{runs}", *case), rng.randint(2, 5), 0
            while not (trial.folder.exists() and trial.done):
                launchers = trial.start()
                if of_this < most and trials.wait_for_moment(trial, launchers, rng):
                    before = set(trial.folder.glob("training-state-*.pt"))
                    began, members = time.monotonic(), trials.everyone(launchers)
                    trials.signal_all(launchers, rng.choice([signal.SIGTERM, signal.SIGUSR1]))
                    trials.wait_for(launchers, members, 4 * BOUND)
                    times[case].append(time.monotonic() - began)
                    codes = {one.wait() for one in launchers}
                    count, of_this = count + 1, of_this + 1
                    wanted = {75} if case == (1, 1) else {1}
                    if trial.done or set(trial.folder.glob("training-state-*.pt")) == before:
                        early[case] += 1  # before there was anything to save, or at its very end
                    elif codes != wanted:
                        wrong.append(f"run {runs}: exit codes {codes}")
                for one in launchers:
                    one.wait(600)
                wrong += [f"run {runs}: {one}" for one in trial.unreadable()]
            found = trials.differences(load_state(reference / trials.END), load_state(trial.folder / trials.END))
            wrong += [f"run {runs} {case}: {one}" for one in found[:3]]
            ends[case].append(not found)
            runs += 1
            end = "differs" if found else "identical"
            print(f"run {runs}: {case[0]} nodes x {case[1]}, {of_this} stops, {end}", flush=True)
    print("\nnodes  processes  stops  of them in the start  runs  identical  longest  mean [s]")
    for case in CASES:
        took = times[case] or [0.0]
        print(
            f"{case[0]:5d} {case[1]:10d} {len(times[case]):6d} {early[case]:21d} {len(ends[case]):5d} "
            f"{sum(ends[case]):10d} {max(took):8.1f} {sum(took) / len(took):9.1f}"
        )
        wrong += [f"{case}: ended after {one:.1f} s" for one in took if one > BOUND]
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
