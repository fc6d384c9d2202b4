"""Hostile snapshots."""

import importlib
import pickle
import struct
from collections.abc import Iterator

from elucid.dnnlib.reading import checksums
from elucid.dnnlib.unpickle import read_pickle, recorder
from elucid.training.snapshots.edm_family import EDM_NAMES
from elucid.training.snapshots.snapshot import REBUILD
from tests import published, vectors
from tests.fault.hostile.kit import Case, Kit
from tests.fault.test_hostile_pickles import attacks

BAD_DATA = {  # fields of a snapshot that are of another type
    "version": [None, "2", 10**9, -1, 2.5, [2], True],
    "nimg": ["many", None, 1e300, [1]],
    "emas": [[], {}, {1: 2}, {"a": None}, "ema"],
    "encoder": [None, {}, {"name": 5}, {"name": "vae", "model": 7}, {"name": ["rgb"]}, {"name": "rgb", "x": 1}],
    "dataset": [None, 3, {"class_names": [1, 2]}, {"class_counts": "x"}, {"resolution": [None, "8"]}, {"name": 7}],
    "sampler": [None, {"name": 3}, {"name": "os:system"}, {"name": "edm", "S_churn": "much"}, {"name": "nothing"}],
    "schedule": [{"name": {}}, {"name": "karras", "num_steps": "x"}, {"name": "karras", "rho": [1]}],
    "options": [[1], "x", {"a": 10**400}],
}
UNREAD = {
    "encoder": ("train",),
    "sampler": ("train",),
    "schedule": ("train", "generate"),
}
"""Scripts that have no use for a part: `--transfer` takes the weights, and `--steps` replaces the schedule's."""
BAD_OPTIONS = {
    "num_blocks": [10**9, 10**18, -1, "many", 1.5, None],
    "model_channels": [1 << 40, 0, -8, "x", float("nan")],
    "channel_mult": [[1] * 10**5, [], [10**9], "1,2", [[1]]],
    "attn_resolutions": [[10**30], "x"],
    "img_resolution": [1 << 30, 0, "8", None],
    "nothing_of_the_kind": [1],
}
BAD_EDM2_OPTIONS = {
    **BAD_OPTIONS,
    "img_channels": [None, -1, 1 << 40, "3", 2.5],
    "label_dim": [-1, 1 << 40, "x", [10]],
    "sigma_data": [0, "x", float("nan"), None],
    "resample_filter": [[], [1] * 10**6, "x"],
    "channels_per_head": [0, -1, "x"],
}


def cases(kit: Kit) -> Iterator[Case]:
    whole = kit.snapshot.read_bytes()
    yield from kit.damaged("snapshot", kit.snapshot, cuts=10, flips=25)
    for name, (attack, _) in attacks(kit.canary).items():
        for protocol in (0, 2, 4):
            yield kit.write("snapshot", f"{name}-{protocol}", pickle.dumps(attack, protocol=protocol), ".pkl")
        yield kit.write("snapshot", f"{name}-inside", changed(whole, sampler=attack), ".pkl")
    for name, data in raw().items():
        yield kit.write("snapshot", name, data, ".pkl")
    for key, values in BAD_DATA.items():
        for number, value in enumerate(values):
            data = changed(whole, **{key: value})
            yield kit.write("snapshot", f"{key}-{number}", data, ".pkl", accepted=UNREAD.get(key, ()))
    for key, values in BAD_OPTIONS.items():
        for number, value in enumerate(values):
            data = with_network(whole, lambda record, k=key, v=value: record["network"]["options"].update({k: v}))
            yield kit.write("snapshot", f"network-{key}-{number}", data, ".pkl")
    yield from edm2(kit)
    for name, number in (("nan", b"\0\0\xc0\x7f"), ("infinity", b"\0\0\x80\x7f")):
        yield kit.write("snapshot", name, with_network(whole, lambda record, n=number: poison(record, n)), ".pkl")
    text = "\x1b[31mred\x1b[0m \u202edrowssap \udcff " + "x" * 100_000
    yield kit.write("snapshot", "escapes", changed(whole, sampler={"name": text}), ".pkl", accepted=("train",))
    yield kit.write("snapshot", "options-deep", deep(changed(whole, 0, options={"a": "DEEP"}), 60_000), ".pkl")
    yield kit.write("snapshot", "options-doubling", changed(whole, options={"a": doubling(60)}), ".pkl")


def edm2(kit: Kit) -> Iterator[Case]:
    """A published EDM2 network: damaged, or with options or an encoder that do not fit."""
    for path in vectors.cases("edm2/precond*"):
        case, _ = vectors.load(path)
        for key, values in BAD_EDM2_OPTIONS.items():
            for number, value in enumerate(values):
                content = published.edm2_checkpoint(case["salt"], {**case["kwargs"], key: value}, case["parameters"])
                yield kit.write("snapshot", f"edm2-{key}-{number}", published.dumps(content), ".pkl")
        encoder = published.Persistent("StabilityVAEEncoder", init_kwargs={"raw_mean": {"a": {}}, "final_mean": [1]})
        content = published.edm2_checkpoint(case["salt"], case["kwargs"], case["parameters"], encoder)
        yield kit.write("snapshot", "edm2-encoder", published.dumps(content), ".pkl")


def raw() -> dict[str, bytes]:
    """Programs that no pickler writes, and files that are something else."""
    return {
        "empty": b"",
        "stop": b".",
        "none": b"N.",
        "text": b"hello\n",
        "html": b"<html>404 Not Found</html>",
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(60) + b".",
        "gzip": b"\x1f\x8b" + bytes(60) + b".",
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "zip": b"PK\x03\x04" + bytes(60),
        "zeros": bytes(10_000_000),
        "global": b"cos\nsystem\n(S'true'\ntR.",
        "inst": b"(S'true'\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nS'true'\no.",
        "stack-global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"Pid\n.",
        "buffer": b"\x80\x05\x97.",
        "long-text": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.",
        "long-number": b"\x80\x02\x8b" + struct.pack("<i", 5_000_000) + b"\x7f" * 5_000_000 + b".",
        "digits": b"I" + b"9" * 200_000 + b"\n.",
        "deep": b"\x80\x02" + b"]" * 2_000_000 + b"a" * 1_999_999 + b".",
        "marks": b"\x80\x02" + b"(" * 20_000_000 + b".",
        "lists": b"\x80\x02(" + b"]" * 20_000_000 + b"l.",
        "copies": b"\x80\x02(]" + b"2" * 20_000_000 + b"l.",
        "cycle": b"\x80\x02]q\x00h\x00a.",
        "array-of-objects": b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.",
        "wrong-scalar": b"cnumpy.core.multiarray\nscalar\n(NC\x02abtR.",
    }  # fmt: skip


class Call:
    """Pickled as a call of the function that a snapshot's denoiser refers to."""

    def __init__(self, record):
        self.record = record

    def __reduce__(self):
        module, _, name = REBUILD.rpartition(".")
        return getattr(importlib.import_module(module), name), (self.record,)


def changed(whole: bytes, protocol: int = 4, **fields) -> bytes:
    """A snapshot with other fields and a fitting checksum."""
    content = read_pickle(whole[: -checksums.SIZE], {**EDM_NAMES, REBUILD: recorder(REBUILD)}, "whole")
    content["emas"] = {name: Call(record.args[0]) for name, record in content["emas"].items()}
    content["ema"] = None
    content.update(fields)
    return checksums.sealed(pickle.dumps(content, protocol=protocol))


def with_network(whole: bytes, change) -> bytes:
    content = read_pickle(whole[: -checksums.SIZE], {**EDM_NAMES, REBUILD: recorder(REBUILD)}, "whole")
    (record,) = content["emas"].values()
    change(record.args[0])
    return changed(whole, emas={"0.5": Call(record.args[0])})


def poison(record: dict, number: bytes) -> None:
    """Put a number into the middle of the largest float32 weights."""
    weights = max(record["state"].values(), key=lambda one: len(one["data"]))
    middle = len(weights["data"]) // 8 * 4
    weights["data"] = weights["data"][:middle] + number + weights["data"][middle + 4 :]


def deep(snapshot: bytes, depth: int) -> bytes:
    """Put a list nested so deeply that `pickle` cannot write it where protocol 0 wrote DEEP."""
    program = b"]" * depth + b"a" * (depth - 1)
    return checksums.sealed(snapshot[: -checksums.SIZE].replace(b"VDEEP\n", program))


def doubling(levels: int):
    """A list of two lists that are the same, and so on: small in a pickle, endless when walked."""
    value: list = []
    for _ in range(levels):
        value = [value, value]
    return value
