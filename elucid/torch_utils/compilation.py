"""Regional compilation: torch.compile on the repeated blocks of a network, one graph for all that are alike."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import nn

from elucid.dnnlib.files import cache_folder
from elucid.torch_utils import distributed

MOST_GRAPHS = 1024
"""Graphs of one kind of block; torch's own limit is 8, past which the rest would run uncompiled."""


@contextmanager
def compiled(
    regions: Sequence[nn.Module],
    device: torch.device,
    warn: Callable[[str], None],
    backend: str | Callable = "inductor",
    fullgraph: bool = False,
) -> Iterator[None]:
    """Compile the calls of these parts of a network in this context, each when it is first made.

    Those with the same options and shapes of weights and inputs share one graph per mode (training, gradients). If
    compilation fails, on any process before the first step or here later, all run uncompiled, and `warn` is told why,
    once. What asks the device for a value splits a graph, or with `fullgraph` is such a failure. Copies are not
    compiled. All processes must enter it together.
    """
    with ExitStack() as settings:
        reasons = distributed.gather_objects(_enter_settings(settings) or _why_not(device, backend))
        calls = Calls(warn)
        for rank, reason in enumerate(reasons):
            if reason and calls.failed is None:
                calls.fail(reason if len(reasons) == 1 else f"{reason}, on process {rank}")
        for region in regions if calls.failed is None else ():
            # What nn.Module.compile sets; not part of copies and pickles.
            region._compiled_call_impl = calls.of(region, backend, fullgraph)
        try:
            yield
        finally:
            for region in regions:
                region._compiled_call_impl = None


class Calls:
    """The compiled calls of the regions of a network. If one cannot be compiled, all are made uncompiled from then on.

    `failed` is the reason, or None.
    """

    def __init__(self, warn: Callable[[str], None]):
        self.warn, self.failed = warn, None

    def of(self, region: nn.Module, backend: str | Callable, fullgraph: bool) -> Callable:
        """Return the call of a region."""
        call = torch.compile(region._call_impl, backend=backend, fullgraph=fullgraph, dynamic=False)
        errors = _errors()

        def safe_call(*args, **kwargs):
            if self.failed is None:
                try:
                    return call(*args, **kwargs)
                except errors as error:
                    self.fail(_one_line(error))
                    if not distributed.is_main():
                        print(f"process {distributed.rank()}: {self.failed}", file=sys.stderr, flush=True)
            return region._call_impl(*args, **kwargs)

        return safe_call

    def fail(self, reason: str) -> None:
        self.failed = f"warning: torch.compile fails ({reason}); going on uncompiled, as with --compile=0"
        self.warn(self.failed)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run what is compiled as it was written: compiled modules call no hooks, and have no forward derivatives."""
    with torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext():
        yield


def inductor_folder() -> Path:
    """Return where compiled code is kept between runs: `$TORCHINDUCTOR_CACHE_DIR`, or in the cache folder."""
    return Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or cache_folder() / "inductor")


def _enter_settings(stack: ExitStack) -> str | None:
    """Set what regional compilation needs of torch, until the stack is closed; returns why that is impossible."""
    folder = inductor_folder().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        return f"{folder}: {error.strerror}"
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        stack.callback(os.environ.pop, "TORCHINDUCTOR_CACHE_DIR", None)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    import torch._dynamo.config  # imported late, as it takes a second
    import torch._functorch.config
    from torch._inductor import codecache
    from torch._inductor import config as inductor

    # Precompiled headers lie under /tmp otherwise, where others could have put theirs.
    headers = folder / "precompiled_headers"
    for name, path in {"_HEADER_DIR": headers, "_HEADER_LOCK_DIR": headers / "locks"}.items():
        if hasattr(codecache, name):
            stack.callback(setattr, codecache, name, getattr(codecache, name))
            setattr(codecache, name, str(path))
    limits = {"recompile_limit": MOST_GRAPHS, "accumulated_recompile_limit": MOST_GRAPHS}
    # DistributedDataParallel's gradients are exchanged region by region anyway; its splitting would add graphs.
    stack.enter_context(torch._dynamo.config.patch(**limits, optimize_ddp=False))
    if torch.are_deterministic_algorithms_enabled() and hasattr(inductor, "deterministic"):
        stack.enter_context(inductor.patch(deterministic=True))  # kernels are not chosen by timing
    if hasattr(torch._functorch.config, "force_non_lazy_backward_lowering"):
        # The backward graph with the forward one, so that what fails does so where it can be caught.
        stack.enter_context(torch._functorch.config.patch(force_non_lazy_backward_lowering=True))
    return None


def _why_not(device: torch.device, backend: str | Callable) -> str | None:
    """Compile a trifle for the device and return why it fails, or None."""

    def trifle(x):
        return torch.nn.functional.silu(x) + 1

    try:
        with torch.no_grad():
            torch.compile(trifle, backend=backend, fullgraph=True, dynamic=False)(torch.ones(8, device=device))
    except _errors() as error:
        return _one_line(error)
    return None


def _errors() -> tuple[type[Exception], ...]:
    """What torch.compile raises if it cannot compile, or keep what it has; errors of the code itself are others."""
    from torch._dynamo import exc

    return exc.TorchDynamoException, exc.FailOnRecompileLimitHit, OSError


def _one_line(error: Exception) -> str:
    cause = getattr(error, "inner_exception", error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0][:200] if lines else 'no reason given'}"
