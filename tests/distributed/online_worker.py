"""One process of the test of scores: a scored run, one that is stopped while it is scored, a watch and a sweep.

Arguments: folder with the images in `data`, to write into.
"""

import sys
from pathlib import Path

import elucid
from elucid.torch_utils import distributed
from elucid.training.hooks.base import Hook

OPTIONS = {"cbase": 16, "cres": [1, 2], "seed": 7, "device": "cpu", "nosubdir": True, "duration": 0.000096, "batch": 16}
OFTEN = {"tick": 0.032, "snap": 2, "dump": 0, "ema": [0.0001]}
SET = {"network.num_blocks": 1, "network.attn_resolutions": [], "loop.grid_images": 0}
EVAL = {"eval.steps": 2, "eval.detector": "random", "eval.metrics": "kid,fid", "eval.batch": 4}
HOW = {"metrics": "kid", "batch": 4, "device": "cpu"}


class StopTheOther(Hook):
    """Asks the last process, and only that, to stop in the fifth call of its averaged network, in its second batch."""

    calls = 0

    def on_start(self, run, folder):
        def count(*_):
            self.calls += 1
            run.stop.requested = self.calls >= 5

        if distributed.rank() == 1:
            next(iter(run.ema.averages.values())).register_forward_pre_hook(count)


def main(folder: Path) -> None:
    def train(name: str, evaluated: str, **hooks) -> None:
        own = {"data": folder / "data", "outdir": folder / name, "eval": evaluated, "set": {**SET, **EVAL}}
        elucid.train(elucid.TrainOptions(**OPTIONS, **OFTEN, **own), **hooks)

    train("run", "13@2")
    try:
        train("stopped", "400@2", hooks=[StopTheOther()])
    except elucid.Stopped as stopped:
        distributed.gather_objects(stopped.nimg)  # on both
    once = {"detector": "random", "num": 13, "once": True, "options": elucid.SampleOptions(steps=1)}
    elucid.watch(folder / "run", **once, **HOW, dest=folder / "watch.json")
    ref = folder / "run" / "evaluations" / "reference-random.npz"
    elucid.sweep(folder / "run", ref, {"steps": [1, 2, 3]}, num=34, **HOW, dest=folder / "sweep.json")
    distributed.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
