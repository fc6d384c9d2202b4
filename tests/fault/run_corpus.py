"""Passes every hostile file through every command that reads it: `python -m tests.fault.run_corpus FOLDER [KIND...]`.

Each command runs in a process of its own, forked from one that has imported the program, as starting a fresh one takes
longer than most of these files. Its memory and CPU time are compared with those of the same command on a whole file.
Prints a table, and every file that a command did not refuse in one line with exit code 2. `--torchrun` takes ten files
under torchrun with two processes instead.
"""

import argparse
import os
import resource
import shutil
import signal
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from tests import scripts
from tests.fault.hostile.commands import calls
from tests.fault.hostile.corpus import corpus
from tests.fault.hostile.kit import Case, Kit

MOST_SECONDS, MOST_BYTES = 20, 10**9
PATIENCE = 120  # seconds


@dataclass
class Outcome:
    code: int
    text: str
    seconds: float
    peak: int  # bytes

    def faults(self, case: Case, script: str, canary: Path, baseline: int) -> list[str]:
        """What is wrong with it."""
        found = []
        errors = [line for line in self.text.splitlines() if line.startswith("error: ")]
        if canary.exists():
            found.append("code ran")
            canary.unlink()
        if self.code < 0:
            found.append(f"signal {-self.code}")
        if "Traceback" in self.text:
            found.append("traceback")
        if not (self.code == 2 and len(errors) == 1) and not (script in case.accepted and self.code == 0):
            found.append(f"code {self.code}, {len(errors)} errors")
        if any(ord(letter) < 32 for line in errors for letter in line):
            found.append("control characters")
        if self.peak - baseline > MOST_BYTES:
            found.append(f"{(self.peak - baseline) / 1e9:.2f} GB")
        if self.seconds > MOST_SECONDS:
            found.append(f"{self.seconds:.0f} s of CPU")
        return found


def forked(script: str, arguments: list[str], log: Path) -> Outcome:
    """Run a command in a forked process."""
    child = os.fork()
    if child == 0:
        os.setsid()
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(handle, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        resource.setrlimit(resource.RLIMIT_CPU, (PATIENCE, PATIENCE))
        sys.argv = [f"{script}.py", *arguments]
        code = 1
        try:
            from elucid.start import start

            start(script)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    end = time.monotonic() + PATIENCE
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.005)
    text = log.read_text(encoding="utf-8", errors="surrogateescape")
    return Outcome(os.waitstatus_to_exitcode(status), text, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def baselines(kit: Kit, work: Path) -> dict[tuple[str, str], int]:
    """The peak memory of each command on a whole file, by kind and script."""
    whole = {"snapshot": kit.snapshot, "reference": kit.reference, "images": kit.pictures, "state": kit.state_file}
    like = {"weights": "snapshot", "latents": "images", "source": "images", "picture": "images"}
    peaks: dict[tuple[str, str], int] = {}
    for kind in (*whole, *like):
        for script, arguments in calls(kind, whole[like.get(kind, kind)], kit, work / f"good-{kind}"):
            outcome = forked(script, arguments, work / "log")
            if kind in whole:
                assert outcome.code == 0, outcome.text
            peaks[kind, script] = max(peaks.get((kind, script), 0), outcome.peak)
    return peaks


def under_torchrun(kit: Kit, cases: list[Case], work: Path) -> int:
    import subprocess

    wrong = 0
    for case in cases:
        script, arguments = next(iter(calls(case.kind, case.path, kit, work / case.name)))
        command = scripts.command(f"{script}.py", *arguments, processes=2)
        command.insert(len(command) - len(arguments) - 1, "--")  # torchrun takes --num for an abbreviation of its own
        done = subprocess.run(
            command,
            env=scripts.environment(work), capture_output=True, text=True, timeout=PATIENCE * 2,
        )  # fmt: skip
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        good = done.returncode == 1 and len(errors) == 1 and "exitcode  : 2" in done.stderr
        wrong += not good
        print(f"{'good ' if good else 'WRONG'} {case.kind:10} {case.name:24} {errors[:2]}", flush=True)
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("kinds", nargs="*")
    parser.add_argument("--torchrun", action="store_true")
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "ELUCID_CACHE": str(given.folder.absolute() / "cache")}
    kit = Kit(given.folder.absolute())
    work = kit.folder / "work"
    work.mkdir(exist_ok=True)
    _ = kit.snapshot, kit.pictures, kit.reference, kit.state_file
    cases = [case for case in corpus(kit) if not given.kinds or case.kind in given.kinds]
    if given.torchrun:
        sys.exit(under_torchrun(kit, kit.rng.sample([case for case in cases if not case.accepted], 10), work) > 0)
    import elucid.commands.dataset_tool  # noqa: F401  before the forks
    import elucid.commands.fid  # noqa: F401
    import elucid.commands.generate  # noqa: F401
    import elucid.commands.train  # noqa: F401

    peaks = baselines(kit, work)
    rows: dict[str, list[tuple[Outcome, int]]] = defaultdict(list)
    files: dict[str, set[str]] = defaultdict(set)
    wrong = 0
    for case in cases:
        for number, (script, arguments) in enumerate(calls(case.kind, case.path, kit, work / "out")):
            outcome = forked(script, arguments, work / "log")
            baseline = peaks[case.kind, script]
            rows[case.kind].append((outcome, baseline))
            files[case.kind].add(case.name)
            faults = outcome.faults(case, script, kit.canary, baseline)
            if faults:
                wrong += 1
                last = (outcome.text.strip().splitlines() or [""])[-1][:200]
                print(
                    f"WRONG {case.kind}/{case.path.name} {script}[{number}]: {', '.join(faults)}: {last!a}", flush=True
                )
            shutil.rmtree(work / "out", ignore_errors=True)
    print("| kind | files | runs | most memory above baseline, MB | most CPU, s |")
    print("|---|---|---|---|---|")
    for kind, outcomes in rows.items():
        memory = max(outcome.peak - baseline for outcome, baseline in outcomes) / 1e6
        seconds = max(outcome.seconds for outcome, _ in outcomes)
        print(f"| {kind} | {len(files[kind])} | {len(outcomes)} | {max(memory, 0):.0f} | {seconds:.1f} |")
    total = sum(map(len, files.values()))
    print(f"{total} files, {sum(map(len, rows.values()))} runs, {wrong} not as promised")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
