"""In place of `python -m elucid`: trainings and scores that take no time, for tests of `evaluate.py compare`.

Run with the arguments of a comparison it is `evaluate.py compare` itself, whose subprocesses are these.
"""

import json
import random
import sys
import time
from pathlib import Path


def value(flags: list[str], name: str, default: str = "") -> str:
    """The value of the last flag of this name."""
    return ([default] + [flag.partition("=")[2] for flag in flags if flag.startswith(f"--{name}=")])[-1]


def train(flags: list[str]) -> int:
    """--lr is the mean score, --dropout its deviation, --cbase the milliseconds per image; --desc fails."""
    mimg = float(value(flags, "duration", "0.001"))
    if value(flags, "precond") == "wrong":
        print("error: unknown preconditioner 'wrong'", file=sys.stderr)
        return 2
    if "--dry-run" in flags:
        print(json.dumps({"loop": {"duration_mimg": mimg, "batch_size": 10, "seed": None}}, indent=2))
        return 0
    run, seed = Path(value(flags, "outdir")), int(value(flags, "seed"))
    run.mkdir(parents=True, exist_ok=True)
    with open(run / "calls", "a") as calls:
        calls.write("started\n")
    if value(flags, "transfer") == str(seed) and not (run / "mended").exists():
        (run / "mended").touch()
        print("training: 10%|# | 1/10\rerror: the loss is not finite", file=sys.stderr)
        return 2
    if value(flags, "hook") == "slow" and not (run / "state").exists():
        (run / "state").touch()
        time.sleep(60)
    pace = float(value(flags, "cbase", "1")) / 1000
    ticks = [mimg * 1e6 * part / 4 for part in range(1, 5)]
    with open(run / "stats.jsonl", "w") as stats:
        for images in ticks:
            row = {"Progress/kimg": images / 1000, "Timing/total_sec": 5 + pace * images}
            stats.write(json.dumps({name: {"mean": one} for name, one in row.items()}) + "\n")
    noise = random.Random(seed).gauss(0, float(value(flags, "dropout", "1")))
    (run / "score").write_text(str(float(value(flags, "lr", "10")) + noise))
    (run / "network-snapshot-000001.pkl").touch()
    return 0


def calc(flags: list[str]) -> int:
    """A score of the training, best at --cfg=2, with a little noise of the seeds."""
    base = float((Path(value(flags, "network")) / "score").read_text())
    guidance = (float(value(flags, "cfg", "2")) - 2) ** 2
    blocks = []
    for seeds in value(flags, "seeds").split(","):
        score = base + guidance + random.Random(seeds).gauss(0, 0.1)
        metrics = [
            {"name": f"{name}9_stub", "metric": name, "value": score} for name in value(flags, "metrics").split(",")
        ]
        blocks.append({"name": metrics[0]["name"], "value": score, "seeds": seeds, "metrics": metrics})
    print("a note")
    print(json.dumps({"blocks": blocks} if len(blocks) > 1 else blocks[0]))
    return 0


def main(flags: list[str]) -> int:
    if flags[0] == "train":
        return train(flags)
    if flags[:2] == ["fid", "calc"]:
        return calc(flags)
    Path(value(flags, "dest")).touch()
    return 0


def use_in_place_of_elucid() -> None:
    """Let comparisons of this process call this file."""
    from elucid.evaluation.trainings.cells import Command

    Command.argv = property(lambda self: [sys.executable, "-SE", __file__, *self.flags])


if __name__ == "__main__":
    if sys.argv[1] != "compare":
        sys.exit(main(sys.argv[1:]))
    use_in_place_of_elucid()
    from elucid.api.evaluations.comparing import scoring_check
    from elucid.commands.evaluate import run

    scoring_check.require_scoring = lambda *_: None
    run()
