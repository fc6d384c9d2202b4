"""Hostile files of torch: training states, and state dicts given as snapshots or weights of a detector."""

import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import torch

from elucid.dnnlib.reading import checksums
from tests.fault.hostile.kit import Case, Kit
from tests.fault.hostile.pickles import doubling
from tests.fault.test_hostile_pickles import attacks

PLUGIN = "import pathlib\npathlib.Path({canary!r}).touch()\nclass Name: pass\n"
BAD_FIELDS = {
    "format": [None, "elucid", 2],
    "version": [None, "2", 99, -1, [2], 1.5],
    "options": [None, "", "{", "[]", "null", "3", {"a": 1}, "[" * 100_000, '{"a": 1' + "0" * 10_000 + "}", '"\\ud800"'],
    "nimg": [None, "many", -1, 1 << 70, 0.5, float("nan")],
    "position": [None, -1, 1 << 80],
    "tick": ["x", -5],
    "elapsed": ["long", float("inf")],
    "objective": [None, {}, {"denoiser.x": 1}, [1]],
    "ema": [None, {}, 7],
    "optimizers": [None, {}, {"main": 1}],
    "processes": [None, [], [1], [{"random": {}, "stats": {}}]],
    "data": [None, {}, {"images": 10**9}],
}
BAD_OPTIONS = {
    "network.num_blocks": [10**9, "many", -3],
    "network.model_channels": [1 << 40, None],
    "loop.batch_size": [0, -4, "x", 10**30],
    "loop.duration_mimg": ["x", None],
    "dataset.path": [7, None, "\\x1b[31mnowhere", "/dev/zero"],
    "dataset.max_size": [0, "x"],
    "precond": [None, {}, "edm", {"name": 5}],
    "loss": [None, [], {"name": "edm", "base": 7}, {"name": "cdm", "base": None}],
    "optimizer.betas": ["x", [1, 2, 3]],
    "ema.halflife_mimg": ["x", [10**400]],
    "sampler.name": [None, 7, "nothing"],
    "hooks": [7, [None], [{"name": None}]],
    "loop": [None, []],
}


def cases(kit: Kit) -> Iterator[Case]:
    for name, data in not_data(kit).items():
        for kind in ("state", "snapshot", "weights"):
            yield kit.write(kind, name, data, ".pt")
    yield from states(kit)


def states(kit: Kit) -> Iterator[Case]:
    yield from kit.damaged("state", kit.state_file, cuts=12, flips=25)
    for key, values in BAD_FIELDS.items():
        for number, value in enumerate(values):
            yield kit.write("state", f"{key}-{number}", saved(kit.state_with(**{key: value})), ".pt")
    for path, values in BAD_OPTIONS.items():
        for number, value in enumerate(values):
            state = kit.state_with(options=kit.options_with(path, value))
            yield kit.write("state", f"{path}-{number}", saved(state), ".pt")
    plugin = kit.folder / "stranger.py"
    plugin.write_text(PLUGIN.format(canary=str(kit.canary)))
    for part in ("network", "precond", "loss", "optimizer", "ema", "encoder", "sampler", "schedule", "lr_schedule"):
        options = kit.options_with(f"{part}.name", f"{plugin}:Name")
        yield kit.write("state", f"code-{part}", saved(kit.state_with(options=options)), ".pt")
    for part in ("hooks", "loggers", "transforms"):
        options = kit.options_with(part, [{"name": f"{plugin}:Name"}])
        yield kit.write("state", f"code-{part}", saved(kit.state_with(options=options)), ".pt")
    options = json.loads(kit.state["options"])
    options["dataset"]["reader"] = {"name": f"{plugin}:Name"}
    yield kit.write("state", "code-reader", saved(kit.state_with(options=json.dumps(options))), ".pt")
    for part in ("objective", "ema"):
        for name, number in (("nan", float("nan")), ("infinity", float("inf"))):
            state = kit.state_with()
            last(state[part]).view(-1)[0] = number
            yield kit.write("state", f"{part}-{name}", saved(state), ".pt")


def last(state: dict) -> torch.Tensor:
    """The last tensor of floats in nested dicts."""
    found = [value for value in state.values() if isinstance(value, torch.Tensor) and value.is_floating_point()]
    return found[-1] if found else last(list(state.values())[-1])


def saved(content: Any, seal: bool = True, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return checksums.sealed(buffer.getvalue()) if seal else buffer.getvalue()


def not_data(kit: Kit) -> dict[str, bytes]:
    """Files of torch that hold more, or other, than arrays, or expand."""
    mark = "time_embed.0.weight"
    legacy = {"_use_new_zipfile_serialization": False}
    called = {name: attack for name, (attack, _) in attacks(kit.canary).items() if name != "partial"}
    plain = saved({mark: torch.zeros(4)}, seal=False)
    wide = torch.zeros(1).expand(1 << 36)
    views = {f"w{number}": torch.zeros(1 << 10).expand(1 << 10, 1 << 10) for number in range(9)}
    indices = torch.zeros(1, 1, dtype=torch.int64)
    sparse = torch.sparse_coo_tensor(indices, torch.ones(1), (1 << 40,), check_invariants=False)
    files = {
        **{f"call-{name}": saved({mark: attack}, seal=False) for name, attack in called.items()},
        **{f"call-{name}-legacy": saved({mark: called[name]}, seal=False, **legacy) for name in ("system", "eval")},
        "compressed": recompressed(saved({mark: torch.zeros(100_000_000, dtype=torch.uint8)}, seal=False)),
        "compressed-pickle": recompressed(plain, {"data.pkl": b"\x80\x02(" + b"]" * 200_000_000 + b"l."}),
        "long-pickle": with_pickle(plain, b"\x80\x02(" + b"]" * 20_000_000 + b"l."),
        "deep-pickle": with_pickle(plain, b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999 + b"."),
        "wide-view": saved({mark: wide}, seal=False),
"many-views": saved({mark: wide[:8], **views}, seal=False),
        "sparse": saved({mark: sparse}, seal=False),
        "meta": saved({mark: torch.zeros(1 << 40, device="meta")}, seal=False),
        "doubling": saved({"format": "elucid-state", mark: doubling(40)}, seal=False),
        "list": saved([1, 2], seal=False),
        "number": saved(5, seal=False),
        "names": saved({mark: torch.zeros(4), "\x1b[31m\u202e" * 1000: torch.zeros(1)}, seal=False),
        "integers": saved({mark: torch.zeros(4, dtype=torch.int64)}, seal=False),
        "legacy-cut": saved({mark: torch.zeros(1000)}, seal=False, **legacy)[:300],
        "legacy-lists": b"\x80\x02(" + b"]" * 20_000_000 + b"l.",
        "zip-without-pickle": recompressed(plain, {"data.pkl": None}),
    }  # fmt: skip
    return files


def recompressed(data: bytes, changes: dict[str, bytes | None] | None = None, method=zipfile.ZIP_DEFLATED) -> bytes:
    """The same zip, compressed, with other content of entries, or without them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", method) as new:
        for entry in old.infolist():
            content = (changes or {}).get(entry.filename.rpartition("/")[2], old.read(entry))
            if content is not None:
                new.writestr(entry.filename, content)
    return buffer.getvalue()


def with_pickle(data: bytes, program: bytes) -> bytes:
    return recompressed(data, {"data.pkl": program}, zipfile.ZIP_STORED)
