"""Snapshots `network-snapshot-NNNNNN.pkl`: everything needed for sampling, as data, read without running code.

`pickle.load(file)["ema"]` also works if this package is importable.
"""

import os
import pickle
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from elucid import unpickle
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import fetch, is_url, write_output
from elucid.dnnlib.reading import checksums
from elucid.dnnlib.remote.hub import hub_model, is_hub
from elucid.dnnlib.unpickle import Record, read_pickle, recorder, require_plain
from elucid.torch_utils.guards.finite import require_finite
from elucid.torch_utils.guards.torch_files import load_torch
from elucid.training.preconds.base import Preconditioned
from elucid.training.registry.interfaces import INTERFACES
from elucid.training.registry.names import TABLES
from elucid.training.snapshots.adm_family import is_torch_file, read_adm_file
from elucid.training.snapshots.edm2_family import is_edm2_pickle, read_edm2_pickle
from elucid.training.snapshots.edm_family import EDM_NAMES, is_edm_pickle, read_edm_pickle
from elucid.training.snapshots.records import describe_denoiser, rebuild_denoiser
from elucid.training.snapshots.transformers.files import state_dicts
from elucid.training.snapshots.transformers.reader import read_transformer
from elucid.training.snapshots.trust import load_object
from elucid.training.snapshots.weights_folder import WEIGHTS, read_weights_folder, save_weights_folder

FORMAT, VERSION = "elucid-snapshot", 2
REBUILD = f"{unpickle.denoiser.__module__}.{unpickle.denoiser.__qualname__}"
REBUILD_BY_FORMAT = {1: "training.rebuild.rebuild_denoiser", 2: REBUILD}
"""The function that a pickled denoiser refers to, by format version."""
PARTS = ("encoder", "dataset", "options", "sampler", "schedule")
"""Fields of a snapshot besides the denoisers, stored as data."""

OTHER_KINDS = {
    b"PK": "a zip archive, or a damaged torch file",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x1f\x8b": "a gzip file",
    b"version https://git-lfs": "a Git LFS pointer whose file has not been fetched",
}
"""Files often mistaken for snapshots, by their first bytes."""


@dataclass
class Snapshot:
    """A snapshot: EMA denoisers by name, components (encoder, sampler, schedule), dataset and options of the run."""

    emas: dict[str, Preconditioned]
    encoder: dict[str, Any] = field(default_factory=lambda: {"name": "rgb"})
    dataset: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    nimg: int = 0
    sampler: dict[str, Any] = field(default_factory=lambda: {"name": "edm"})
    schedule: dict[str, Any] = field(default_factory=lambda: {"name": "karras"})

    @property
    def ema(self) -> Preconditioned:
        """The first EMA denoiser."""
        return next(iter(self.emas.values()))


class _Pickler(pickle.Pickler):
    """Pickles a denoiser as a call of `elucid.unpickle.denoiser` on plain data, without affecting `copy`."""

    def __init__(self, file, half: bool = False):
        super().__init__(file, protocol=4)
        self.half = half

    def reducer_override(self, obj):
        if isinstance(obj, Preconditioned):
            return unpickle.denoiser, (plain(describe_denoiser(obj, self.half), "denoiser"),)
        return NotImplemented


def save_snapshot(path: str | os.PathLike, snapshot: Snapshot, half: bool = False) -> None:
    """Write a snapshot atomically, perhaps in `half` precision; the same content gives the same bytes.

    Raises UserError if its options are not plain data or its weights not finite, or the file cannot be written.
    """
    for name, denoiser in snapshot.emas.items():
        require_finite(denoiser.state_dict(), f"{path} is not saved: the average {name}")
    parts = {name: getattr(snapshot, name) for name in PARTS}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "ema": snapshot.ema,
        "emas": dict(snapshot.emas),
        **{name: plain(value, name) for name, value in parts.items()},
        "nimg": int(snapshot.nimg),
    }
    with write_output(path) as file:
        _Pickler(file, half).dump(content)
        checksums.seal(file)  # after the pickle's end, where `pickle.load` does not look


def save_folder(folder: str | os.PathLike, snapshot: Snapshot) -> None:
    """Write a snapshot as `config.json` and `*.safetensors`, which `load_snapshot` reads; needs safetensors."""
    parts = {name: plain(getattr(snapshot, name), name) for name in PARTS}
    save_weights_folder(folder, snapshot.emas, {**parts, "nimg": int(snapshot.nimg)})


def plain(value: Any, place: str) -> Any:
    """Copy nested plain data, merging equal strings into one object, which makes the pickle's bytes reproducible."""
    if isinstance(value, dict):
        return {plain(key, place): plain(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, place) for item in value]
    if type(value) is str:
        return sys.intern(value)
    if value is None or type(value) in (bool, int, float, bytes):
        return value
    raise UserError(f"snapshot: {place} is a {type(value).__name__}, not plain data (numbers, strings, lists, dicts)")


def load_snapshot(
    source: str | os.PathLike,
    device: torch.device | str = "cpu",
    ema: str | None = None,
    adm: Mapping[str, Any] | None = None,
) -> Snapshot:
    """Read a snapshot or published checkpoint from a path or URL; `ema` selects one average.

    For a run folder, the newest snapshot is read. `adm` has options of a public state dict, with the names of its
    program's flags, and perhaps an `adm_preset` (`registry.adm_presets`) or, for a transformer, a `checkpoint_model`
    (`registry.public_transformers`). Raises UserError for a file that is damaged, is not a snapshot, or refers to a
    callable that is not allowed.
    """
    path = located(source)
    if path.suffix == ".safetensors":
        if adm:
            raise UserError(f"{path} has its own options; leave out {', '.join(adm)}")
        checked = True  # the format has no checksum; its header says how long the file is
        with naming(path):
            snapshot = read_folder(path, ema)
    elif is_torch_file(path):
        checked = checksums.verify(path)
        with naming(path):
            snapshot = read_state_dict(path, adm, ema)
    else:
        if adm:
            raise UserError(f"{path} is no state dict, so it has its own options; leave out {', '.join(adm)}")
        data, checked = checksums.content(read(path), path)
        names = {**EDM_NAMES, **{name: recorder(name) for name in REBUILD_BY_FORMAT.values()}}
        content = read_pickle(data, names, str(path))
        with naming(path):
            if is_edm2_pickle(content):
                snapshot = published(read_edm2_pickle(content, path), ema)
            elif is_edm_pickle(content):
                snapshot = published(read_edm_pickle(content), ema)
            else:
                snapshot = read_own(content, ema)
    if not checked:
        checksums.note_missing(path)
    for denoiser in snapshot.emas.values():
        denoiser.to(device)
    return snapshot


def read_state_dict(path: Path, options: Mapping[str, Any] | None, ema: str | None) -> Snapshot:
    """Create a snapshot from a file of torch with the state dict of a transformer or of an ADM network."""
    content = load_torch(path)
    transformers = state_dicts(content)
    if transformers:
        return Snapshot(**read_transformer(transformers, path, options, ema))
    if options and "checkpoint_model" in options:
        raise UserError("`checkpoint_model` names a transformer, but the file has none; leave it out")
    return published(read_adm_file(path, content, options), ema)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the path before the message of a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def published(fields: dict[str, Any], ema: str | None) -> Snapshot:
    """Return the snapshot of a published checkpoint, with one average if `ema` is given."""
    snapshot = Snapshot(**fields)
    snapshot.emas = snapshot.emas if ema is None else {ema: chosen(snapshot.emas, ema)}
    return snapshot


def located(source: str | os.PathLike) -> Path:
    """Return the file of a path, URL or `hf://user/name`, or the newest snapshot of a run folder."""
    if is_hub(source):
        source = hub_model(str(source))
    if not is_url(source) and Path(source).is_dir():
        snapshots = snapshots_in(source)
        if not snapshots and Path(source, WEIGHTS).is_file():
            return Path(source, WEIGHTS)
        if not snapshots:
            runs = sorted(path.parent.name for path in Path(source).glob("*/network-snapshot-*.pkl"))
            inside = f"; there are runs in it, e.g. {Path(source) / runs[-1]}" if runs else ""
            raise UserError(f"{source} holds no network-snapshot-*.pkl yet{inside}")
        return snapshots[-1]
    return fetch(source, "snapshot")


def snapshots_in(folder: str | os.PathLike) -> list[Path]:
    """Return the snapshots of a run folder, the newest last."""
    return sorted(sorted(Path(folder).glob("network-snapshot-*.pkl")), key=_kimg)


def _kimg(path: Path) -> float:
    """Return the number in a snapshot's name, which may have decimals; EDM2's is followed by the EMA length."""
    number = re.fullmatch(r"network-snapshot-(\d+(?:\.\d+)?)(-0\.\d+)?", path.stem)
    return float(number[1]) if number else -1.0


def read(path: Path) -> bytes:
    """Read a file, rejecting those that cannot be snapshots."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if not data:
        raise UserError(f"{path} is empty; get the file again")
    kind = next((kind for start, kind in OTHER_KINDS.items() if data.startswith(start)), None)
    # Pickles of the oldest protocols have no magic byte, but all pickles end with a full stop.
    if kind is None and not data.startswith(b"\x80") and not data.rstrip().endswith(b"."):
        kind = "not a pickle"
    if kind is not None:
        raise UserError(
            f"{path} is not a snapshot ({kind}); give a network-snapshot-NNNNNN.pkl from train.py, or a published "
            "checkpoint of EDM, EDM2, CDM, Patch Diffusion or the ADM family"
        )
    return data


def read_own(content: Any, ema: str | None = None) -> Snapshot:
    """Create a snapshot from the content of its pickle; if `ema` is given, only that average is built."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError("it is a pickle, but neither a snapshot of this program nor of the EDM family; check the path")
    if type(content.get("version")) is not int or content["version"] not in REBUILD_BY_FORMAT:
        raise UserError(f"snapshot format {content.get('version')!r}; this program reads up to {VERSION}: update it")
    content = {"sampler": {"name": "edm"}, "schedule": {"name": "karras"}, **content}  # format 1 had none
    require_parts(content, "emas")
    emas = content["emas"] if ema is None else {ema: chosen(content["emas"], ema)}
    for name, record in emas.items():
        if (
            not isinstance(record, Record)
            or record.name != REBUILD_BY_FORMAT[content["version"]]
            or len(record.args) != 1
        ):
            raise UserError(f"the snapshot's average {name!r} is not a denoiser; get the file again")
    built = {name: rebuild_denoiser(record.args[0]) for name, record in emas.items()}
    return Snapshot(built, nimg=content["nimg"], **{name: content[name] for name in PARTS})


def read_folder(weights: Path, ema: str | None = None) -> Snapshot:
    """Create a snapshot from a folder written by `save_folder`; if `ema` is given, only that average is built."""
    content, states = read_weights_folder(weights)
    require_parts(content, "denoisers")
    denoisers = content["denoisers"]
    names = list(denoisers) if ema is None else [ema] if chosen(denoisers, ema) else []
    built = {name: rebuild_denoiser(denoisers[name], states[name]) for name in names}
    return Snapshot(built, nimg=content["nimg"], **{name: content[name] for name in PARTS})


def require_parts(content: dict[str, Any], averages: str) -> None:
    """Raise UserError if a part of a snapshot is missing or of a wrong type; `averages` is the name of its models."""
    kinds = {averages: dict, **dict.fromkeys(PARTS, dict), "nimg": int}
    for name, kind in kinds.items():
        if (
            not isinstance(content.get(name), kind)
            or not content[name]
            and name in (averages, "encoder", "sampler", "schedule")
        ):
            raise UserError(f"the snapshot's {name!r} is missing or damaged; get the file again")
    if not all(isinstance(name, str) for name in content[averages]):
        raise UserError("the snapshot's averages have no names; get the file again")
    for name in PARTS:
        require_plain(content[name], f"the snapshot's {name!r}")
    require_dataset(content["dataset"])
    for name in ("sampler", "schedule"):
        if not isinstance(content[name].get("name"), str):
            raise UserError(f"the snapshot's {name!r} has no name; get the file again")
    check_component("encoder", content["encoder"])


def require_dataset(dataset: dict[str, Any]) -> None:
    """Raise UserError unless what a snapshot says of its data is of the right types."""
    names, counts = dataset.get("class_names"), dataset.get("class_counts")
    sizes = [dataset.get("channels"), dataset.get("label_dim"), *(dataset.get("resolution") or [])]
    good = (
        isinstance(dataset.get("name", ""), str)
        and (names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names)))
        and (counts is None or (isinstance(counts, list) and all(type(one) is int and one >= 0 for one in counts)))
        and all(one is None or (type(one) is int and one >= 0) for one in sizes)
    )
    if not good:
        raise UserError("the snapshot's 'dataset' is damaged; get the file again")


def chosen(emas: dict[str, Any], name: str) -> Any:
    """Return one of several averages. Raises UserError if it does not exist, listing them."""
    if name not in emas:
        raise UserError(f"no average {name!r}; the snapshot has {', '.join(emas)}")
    return emas[name]


def check_component(kind: str, component: dict[str, Any]) -> None:
    """Raise UserError unless a component is our own or from a trusted plugin (`load_object`)."""
    name = component.get("name")
    if not isinstance(name, str):
        raise UserError(f"the snapshot's {kind} has no name; get the file again")
    if name not in TABLES[kind]:
        INTERFACES[kind].require(load_object(TABLES[kind], name), name)
