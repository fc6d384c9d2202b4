"""A process that has imported torch, and forks itself to run scripts: each of them is spared the import.

It reads a line of JSON for each program: `argv`, `cwd`, the environments of the `processes` it has, and the files for
`stdout` and `stderr`. It answers with a line of their exit codes; when one fails, the others are terminated. It imports
nothing of the project, and computes nothing: a copy is as new as any process, and has no thread but its own.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import sys
import threading
import traceback

PRELOADED = (
    *("torch", "torch.distributed", "torch._dynamo", "torch.utils._python_dispatch", "torch.distributed.fsdp"),
    *("numpy", "numpy.testing", "scipy.stats", "scipy.optimize", "PIL.Image", "PIL.PngImagePlugin", "click", "psutil"),
    *("tqdm", "requests", "concurrent.futures.thread", "multiprocessing", "zipfile", "tempfile", "uuid"),
)


def become(request: dict, rank: int) -> None:
    """Turn this copy of the process into that program, up to its first line."""
    for number, name, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["stdout"], os.O_WRONLY | os.O_APPEND),
        (2, request["stderr"], os.O_WRONLY | os.O_APPEND),
    ):
        opened = os.open(name, flags)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["processes"][rank])
    sys.argv[:] = request["argv"]
    sys.path[0] = os.path.dirname(request["argv"][0])


def codes_of(children: list[int]) -> list[int]:
    """Wait for all; returns their exit codes, negative for a signal."""
    codes: dict[int, int] = {}
    while len(codes) < len(children):
        ended, status = os.wait()
        codes[ended] = os.waitstatus_to_exitcode(status)
        if codes[ended]:
            for other in set(children) - codes.keys():
                os.kill(other, signal.SIGTERM)
    return [codes[one] for one in children]


def serve() -> str:
    """Serve until the input ends; in a copy, return the script that it is to run."""
    source = os.fdopen(os.dup(0), "rb", buffering=0)
    answers = os.dup(1)
    for line in iter(source.readline, b""):
        request, children = json.loads(line), []
        for rank in range(len(request["processes"])):
            child = os.fork()
            if child == 0:
                source.close()
                os.close(answers)
                become(request, rank)
                return request["argv"][0]
            children.append(child)
        os.write(answers, (json.dumps(codes_of(children)) + "\n").encode())
    return ""


def run_to_the_end(script: str) -> int:
    """Run it and what was left for the end; returns the exit code."""
    code: object = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    if not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code


if __name__ == "__main__":
    for module in PRELOADED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # collections in a copy leave alone what it shares, whose pages would be copied
    script = serve()
    os._exit(run_to_the_end(script) if script else 0)  # without taking all of torch apart
