"""Files that are no snapshots, are damaged, or were made to harm: one clear line, and nothing in them is run."""

import builtins
import functools
import importlib
import io
import os
import pickle
import random
import struct
import subprocess

import pytest
import torch

from elucid.dnnlib.config import construct
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading import checksums
from elucid.dnnlib.unpickle import read_pickle
from elucid.training.networks.song_unet import SongUNet
from elucid.training.preconds.edm import EDMPrecond
from elucid.training.snapshots.records import describe_denoiser
from elucid.training.snapshots.snapshot import REBUILD, VERSION, load_snapshot
from elucid.training.types import NetSpec
from tests import published, vectors


def refused(data: bytes, tmp_path, match: str) -> str:
    """The message with which these bytes are refused as a snapshot."""
    path = tmp_path / "hostile.pkl"
    path.write_bytes(data)
    with pytest.raises(UserError, match=match) as error:
        load_snapshot(path)
    message = str(error.value)
    assert str(path) in message and "\n" not in message
    return message


class Call:
    """Pickled as a call."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def attacks(sentinel):
    """Calls that would leave `sentinel` behind, and others that open the way to such calls, with their names.

    Old protocols write Python 2's names for the same things.
    """
    code = f"open({str(sentinel)!r}, 'w').close()"
    system = f"{os.system.__module__}.system"
    return {
        "system": (Call(os.system, f"touch {sentinel}"), system),
        "eval": (Call(builtins.eval, code), ".*builtin.*eval"),
        "exec": (Call(builtins.exec, code), ".*builtin.*exec"),
        "import": (Call(builtins.__import__, "os"), ".*builtin.*__import__"),
        "getattr": (Call(builtins.getattr, "os", "system"), ".*builtin.*getattr"),
        "open": (Call(open, str(sentinel), "w"), "_?io.open"),
        "popen": (Call(subprocess.Popen, ["touch", str(sentinel)]), "(subprocess|commands).Popen"),
        "import_module": (Call(importlib.import_module, "antigravity"), "importlib.import_module"),
        "partial": (functools.partial(os.system, f"touch {sentinel}"), "functools.partial"),
        "torch.load": (Call(torch.load, str(sentinel)), "torch.serialization.load"),
        "torch.save": (Call(torch.save, {}, str(sentinel)), "torch.serialization.save"),
        "class": (Call(torch.nn.Linear, 2, 2), "torch.nn.modules.linear.Linear"),
    }


@pytest.mark.parametrize("name", attacks("x"))
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_calls_are_refused_by_name(name, protocol, tmp_path):
    sentinel = tmp_path / "sentinel"
    attack, called = attacks(sentinel)[name]
    refused(pickle.dumps(attack, protocol=protocol), tmp_path, f"names the callable {called}.*no code was run")
    ours = {"format": "elucid-snapshot", "version": 1, "ema": attack, "emas": {"a": attack}}
    refused(pickle.dumps(ours, protocol=protocol), tmp_path, f"names the callable {called}")
    assert not sentinel.exists()


def test_calls_deep_in_a_published_form_are_refused(tmp_path):
    sentinel = tmp_path / "sentinel"
    attack, called = attacks(sentinel)["system"]
    for place in ("_init_kwargs", "_buffers", "_modules"):
        denoiser = published.Persistent("EDMPrecond")
        denoiser.state[place]["model"] = attack
        refused(published.dumps({"ema": denoiser}), tmp_path, f"names the callable {called}")
    stored = io.BytesIO()
    torch.save(attack, stored, _use_new_zipfile_serialization=False)
    inner = Call(torch.storage._load_from_bytes, stored.getvalue())
    refused(pickle.dumps(inner), tmp_path, f"names the callable {called}")
    assert not sentinel.exists()


@pytest.mark.parametrize(
    "data, match",
    [
        (b"cos\nsystem\n(S'true'\ntR.", "callable os.system"),
        (b"(S'true'\nios\nsystem\n.", "callable os.system"),
        (b"(cos\nsystem\nS'true'\no.", "callable os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.", "callable os.system"),
        (b"\x80\x04\x8c\x05torch\x8c\x0fstorage.os.path\x93.", "callable torch.storage.os.path"),
        (b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93.", "OrderedDict.__init__"),
        (b"\x80\x02\x82\x01.", "outside the file .pickle opcode EXT1"),
        (b"\x80\x02\x83\x01\x00.", "opcode EXT2"),
        (b"Pid\n.", "opcode PERSID"),
        (b"\x80\x02K\x01Q.", "opcode BINPERSID"),
        (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
        (b"ccollections\nOrderedDict\n}S'make'\nNsb.", "damaged"),  # state set on a name
        (b"ccollections\nOrderedDict\n(tR(tR.", "a call of a dict"),
        (b"S'os'\n(tR.", "a call of a str"),
        (b"]N]s.", "damaged"),
        (b"cnumpy.core.multiarray\nscalar\n(NC\x02abtR.", "damaged"),
        (b"ccopyreg\n_reconstructor\n(]NtR.", "damaged"),
        (b"c_codecs\nencode\n(K\x05X\x06\x00\x00\x00latin1tR.", "damaged"),
        (b"}(]K\x01u.", "a list as a key"),
        (b"}(((ttNu.", "a tuple as a key"),
        (b"N.", "neither a snapshot of this program"),
        (b".", "damaged"),
        (b"", "is empty"),
        (b"<html>404 Not Found</html>", r"is not a snapshot \(not a pickle\); give"),
        (b"\x89PNG\r\n\x1a\n" + bytes(60) + b".", r"is not a snapshot \(a PNG image\); give"),
        (b"\x80\x04}\x8c\x03em", "damaged, truncated"),
        (b"PK\x03\x04" + bytes(60), "a zip archive, or a damaged torch file"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.", "damaged"),  # a text longer than memory
        (pickle.dumps({"model_state": {}}), "neither a snapshot of this program"),
    ],
)
def test_raw_programs(data, match, tmp_path):
    refused(data, tmp_path, match)


def test_a_name_cannot_be_changed_from_within():
    table = {"a.make": lambda *args: list(args)}
    for data in (b"ca\nmake\n}S'make'\nNsb.", b"ca\nmake\nN}S'make'\nNs\x86b."):
        with pytest.raises(UserError, match="damaged"):
            read_pickle(data, table, "x")
    assert read_pickle(b"ca\nmake\n(K\x01tR.", table, "x") == [1]


class Pretend:
    """Pickled as a snapshot's denoiser, whatever its description."""

    def __init__(self, record):
        self.record = record

    def __reduce__(self):
        module, _, name = REBUILD.rpartition(".")
        return getattr(importlib.import_module(module), name), (self.record,)


def own_snapshot(record, **changes):
    content = {
        "format": "elucid-snapshot",
        "version": VERSION,
        "emas": {"a": Pretend(record)},
        "encoder": {"name": "rgb"},
    }
    return checksums.sealed(pickle.dumps({**content, "dataset": {}, "options": {}, "nimg": 0, **changes}))


def record_of(**changes):
    """A small denoiser's description, with changes."""
    options = {"img_resolution": 8, "in_channels": 1, "out_channels": 1, "model_channels": 8, "channel_mult": [1]}
    model = construct(SongUNet, {**options, "num_blocks": 1, "attn_resolutions": []})
    record = describe_denoiser(construct(EDMPrecond, {}, model=model, spec=NetSpec((8, 8), 1)))
    return {**record, **changes}


def test_own_form_is_checked(tmp_path):
    (tmp_path / "good.pkl").write_bytes(own_snapshot(record_of()))
    load_snapshot(tmp_path / "good.pkl")  # so that each refusal below has the one reason that is meant

    network = record_of()["network"]
    state = record_of()["state"]
    name, value = next(iter(state.items()))

    def with_options(**options):
        return record_of(network={**network, "options": {**network["options"], **options}})

    for record, match in (
        (record_of(name="subprocess:Popen"), "'subprocess:Popen', which is not .*Preconditioned; refused"),
        (record_of(name="not_imported_yet:Thing"), "external code; if you trust it"),
        (record_of(name="/tmp/evil.py:Thing"), "external code; if you trust it"),
        (record_of(name="elucid.training.snapshots.snapshot:os"), "Preconditioned; refused"),
        (
            record_of(**{"class": "training.nothing:Thing"}, network={"class": "torch:nn", "options": {}}),
            "which does not exist in this",
        ),
        (record_of(name="nothing"), "which does not exist in this"),
        (record_of(network={**network, "name": "elucid.training.types:NetSpec"}), "Module; refused"),
        (record_of(options={"model": None}), "no option 'model'"),
        (record_of(spec={"resolution": [8, 8], "image_channels": 1, "evil": 1}), "damaged"),
        (record_of(state={**state, name: {**value, "shape": [1 << 40]}}), "damaged"),
        (record_of(state={**state, name: {**value, "shape": [-1, -8]}}), "damaged"),
        (record_of(state={**state, name: {**value, "dtype": "object"}}), "damaged"),
        (record_of(state={}), "larger network|lacks the weights"),
        (with_options(model_channels=1 << 20), "larger network than its weights"),
        (with_options(frobnicate=1), "no option 'frobnicate'"),
        (record_of(spec={"resolution": [float("inf"), 8], "image_channels": 1}), "the network's resolution is"),
        (record_of(spec={"resolution": [8, 8], "image_channels": 1, "vector": {"labels": 3}}), "the network's .* is"),
        (record_of(state={**state, name: {**value, "shape": [float("inf")]}}), "damaged"),
        (5, "damaged"),
    ):
        refused(own_snapshot(record), tmp_path, match)
    record = record_of()
    refused(
        own_snapshot(record, version=VERSION + 1), tmp_path, f"snapshot format {VERSION + 1}; this program reads up to"
    )
    refused(
        own_snapshot(record, encoder={"name": "subprocess:Popen", "args": ["true"]}),
        tmp_path,
        "Popen is not a subclass of elucid.training.encoders.base.Encoder",
    )
    refused(own_snapshot(record, emas={}), tmp_path, "'emas' is missing")
    refused(own_snapshot(record, emas={"a": 1}), tmp_path, "'a' is not a denoiser")
    refused(own_snapshot(record, nimg="many"), tmp_path, "'nimg' is missing or damaged")


def test_tensors_that_claim_more_than_they_hold(tmp_path):
    rebuild = torch._utils._rebuild_tensor_v2
    storage = torch.storage.TypedStorage(
        wrap_storage=torch.zeros(4).untyped_storage(), dtype=torch.float32, _internal=True
    )
    for size, stride, offset in (((1 << 40,), (0,), 0), ((4,), (1,), 1), ((2, 2), (1 << 40, 1), 0), ((4,), (-1,), 3)):
        tensor = Call(rebuild, storage, offset, size, stride, False, {})
        refused(pickle.dumps(tensor), tmp_path, "damaged")


def test_damage_anywhere_is_one_clear_line(tmp_path):
    whole_own = own_snapshot(record_of())
    case, _ = vectors.load(vectors.cases("preconds/EDM*")[0])
    whole_published = published.dumps(published.checkpoint(case, "EDMPrecond", "SongUNet", case["kwargs"], {}))
    random.seed(0)
    path = tmp_path / "damaged.pkl"
    for whole in (whole_own, whole_published):
        for trial in range(60):
            data = bytearray(whole)
            if trial % 2:
                data = data[: random.randrange(len(data))]
            else:
                for _ in range(3):
                    data[random.randrange(min(len(data), 4000))] = random.randrange(256)
            path.write_bytes(data)
            try:
                load_snapshot(path)
                assert not trial % 2, "a cut file was read"
            except UserError as error:
                assert "\n" not in str(error)
