"""Base class of hooks, which the training loop calls. To add one, subclass `Hook`, e.g. `--hook=mine.py:Probe`."""

from pathlib import Path

Values = dict[str, dict[str, float]]
"""Statistics of a tick by name: {num, mean, std} over all processes."""


class Hook:
    """Base class of hooks. Hooks are called on all processes, so they may use collective operations.

    `run.averages` are the denoisers to sample from, within `with run.gathered(name):`, which all processes enter. Long
    work should end early if `run.stop.requested`, on any process.
    """

    reads_snapshots = True
    """Whether `on_snapshot` reads the file; training then waits until it is written."""

    adds_values = False
    """Whether `on_tick` adds statistics; it is then called before they are logged (for `--hook` only)."""

    def check(self, run) -> None:
        """Raise UserError if this hook does not fit the run; called before anything is written, for `--hook` only."""

    def on_start(self, run, folder: Path) -> None:
        """Called when training starts or resumes."""

    def on_step(self, run, images: int) -> None:
        """Called after each step with its number of images."""

    def on_tick(self, run, values: Values) -> None:
        """Called after each tick with its statistics."""

    def on_snapshot(self, run, path: Path) -> None:
        """Called after a snapshot was saved to `path`, and before it a state, if due."""

    def close(self) -> None:
        """Called when training ends, also after an error."""


class Hooks(Hook):
    """Calls several hooks in order."""

    def __init__(self, hooks=()):
        self.hooks: list[Hook] = list(hooks)

    @property
    def reads_snapshots(self) -> bool:  # type: ignore[override]  # of any of them
        return any(hook.reads_snapshots and type(hook).on_snapshot is not Hook.on_snapshot for hook in self.hooks)

    def on_start(self, run, folder: Path) -> None:
        for hook in self.hooks:
            hook.on_start(run, folder)

    def on_step(self, run, images: int) -> None:
        for hook in self.hooks:
            hook.on_step(run, images)

    def on_tick(self, run, values: Values) -> None:
        for hook in self.hooks:
            hook.on_tick(run, values)

    def on_snapshot(self, run, path: Path) -> None:
        for hook in self.hooks:
            hook.on_snapshot(run, path)

    def close(self) -> None:
        for hook in self.hooks:
            hook.close()
