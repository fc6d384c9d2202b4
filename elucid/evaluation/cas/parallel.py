"""Runs the trainings of one process: side by side on a CPU, each on one thread; one after the other on a GPU."""

import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import torch
from tqdm import tqdm

from elucid.dnnlib.progress import progress_bar
from elucid.evaluation.cas.scores import Scores
from elucid.torch_utils import distributed

Cell = dict[str, Any]
OnStep = Callable[[float | None], None]
"""Called after each step of a training, sometimes with the accuracy on its batch."""


class _Ended(Exception):
    """Another training failed, or Ctrl-C was pressed."""


def in_parallel(
    cells: Sequence[Cell], train: Callable[[Cell, OnStep], Scores], steps: int, device: torch.device
) -> list[Scores]:
    """Return train(cell, on_step) for each cell, in order, with a progress bar over all their steps.

    Splitting a convolution between threads changes its rounding; distributing whole trainings does not, so the scores
    do not depend on the number of threads.
    """
    threads = torch.get_num_threads()
    bar = progress_bar(total=steps * len(cells), desc="training", unit="step", disable=not distributed.is_main())
    lock, ended = threading.Lock(), threading.Event()

    def run(cell: Cell) -> Scores:
        name = f"{cell['set']}, seed {cell['seed']}"

        def on_step(accuracy: float | None) -> None:
            if ended.is_set():
                raise _Ended
            with lock:
                if accuracy is not None:
                    bar.set_postfix_str(f"{name}: {100 * accuracy:.0f} % of a batch", refresh=False)
                bar.update()

        scores = train(cell, on_step)
        with lock:
            tqdm.write(f"trained on {name}: top-1 {scores.top1:.2f} % of the test images", file=sys.stderr)
        return scores

    with bar:
        if device.type != "cpu":
            return [run(cell) for cell in cells]
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        try:
            running = [pool.submit(run, cell) for cell in cells]
            for one in as_completed(running):
                one.result()  # the first error ends the others
            return [one.result() for one in running]
        finally:
            ended.set()
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)
