"""What every hook is: called by the loop at its turns. One of your own is a subclass, e.g. `--hook=mine.py:Probe`."""

from pathlib import Path

Values = dict[str, dict[str, float]]
"""What a tick measured, by name: {num, mean, std} over all processes."""


class Hook:
    """Something that happens beside training. Hooks are called in all processes, so that they may work together."""

    def on_start(self, run, folder: Path) -> None:
        """Training begins, or goes on."""

    def on_step(self, run, images: int) -> None:
        """A step on so many images is done."""

    def on_tick(self, run, values: Values) -> None:
        """A tick is done; these are its statistics."""

    def on_snapshot(self, run, path: Path) -> None:
        """A snapshot was written to `path`, after the state if there was one."""

    def close(self) -> None:
        """Training ends, in whatever way."""


class Hooks(Hook):
    """Several hooks, called in order."""

    def __init__(self, hooks=()):
        self.hooks: list[Hook] = list(hooks)

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
