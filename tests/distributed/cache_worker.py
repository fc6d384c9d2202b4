"""A process that opens a dataset while the first one decodes it slowly; see `test_slow_cache.py`.

Arguments: folder of pictures, seconds for each image, seconds after which collectives give up, what the first process
does at its second image: `goes on` or `dies`.
"""

import os
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import torch

import elucid.training.config.data as opening
from elucid.torch_utils import distributed
from elucid.training.config.settings import DataOptions
from elucid.training.data.dataset import ImageDataset

path, seconds, patience, then = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
distributed.TIMEOUT, distributed.SAY_AFTER = timedelta(seconds=patience), 0.2
plain, read, turn = ImageDataset.image, 0, threading.Lock()


def slowly(self, index):
    """Of one image, one at a time on any number of cores; a kill in between is as when memory runs out."""
    global read
    with turn:
        read += 1
        time.sleep(seconds)
        if then == "dies" and read == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, index)


def slow_statistics(dataset, **how):
    """Of the deviation, which one process measures while the others wait."""
    time.sleep(1.25 * patience)
    return plain_statistics(dataset, **how)


ImageDataset.image = slowly
plain_statistics, opening.statistics = opening.statistics, slow_statistics
ready = Path(path).parent
(ready / f"ready{distributed.rank()}").touch()
while len(list(ready.glob("ready*"))) < 2:  # starting takes longer than the collectives wait
    time.sleep(0.01)
distributed.init(torch.device("cpu"))
try:
    dataset = opening.open_training_data(DataOptions(path, cache="disk"))
except RuntimeError as error:
    print("lost" if distributed.lost_peer(error) else f"another error: {error}", flush=True)
    sys.exit(3)
sums = distributed.gather_objects(int(dataset.array.sum()))
sigma = opening.measured_sigma_data(dataset, {"name": "rgb"})
print(f"process {distributed.rank()} of {len(sums)}: same {len(set(sums)) == 1}, read {read}, {sigma}", flush=True)
distributed.shutdown()
