"""Random options and files end in a result or in one line, never in a traceback.

`FUZZ=3400 python -m pytest tests/fault/test_fuzz.py` tries 3400 cases of each of the six, 20,400 in all.
"""

import contextlib
import io
import json
import os
import pickle
import zipfile

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elucid.commands import dataset_tool, evaluate, fid, generate, train
from elucid.dnnlib import errors
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading import checksums
from elucid.metrics.reference import load_reference
from elucid.preparation.convert import convert
from elucid.torch_utils.checkpoint import load_state
from elucid.training.config.check import check
from elucid.training.config.options import options_from
from elucid.training.config.run_folders import stored_options
from elucid.training.config.train_options import TrainOptions
from elucid.training.data.dataset import open_dataset
from elucid.training.snapshots.snapshot import load_snapshot
from tests.fault.hostile.kit import Kit
from tests.fault.hostile.pickles import changed, with_network

fuzz = settings(
    max_examples=int(os.environ.get("FUZZ", "40")),
    deadline=None,
    derandomize="FUZZ" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)

numbers = st.one_of(st.integers(-(10**30), 10**30), st.floats(), st.sampled_from([0, -1, 10**9, 1 << 62, 10**400]))
texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["edm", "rgb", "os:system", "x.py:Y", "\x1b[31m", "nan", "1,2", "[", "karras"]),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
edits = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4)
ends = st.one_of(st.just(1.0), st.floats(0, 1))


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    kit = Kit(tmp_path_factory.mktemp("fuzz") / "kit")
    _ = kit.snapshot, kit.pictures, kit.reference, kit.state
    return kit


@contextlib.contextmanager
def only_errors():
    """What goes wrong in here is a UserError or one of click's, in one harmless line."""
    errors._noted.clear()
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            yield
        except (UserError, click.ClickException) as error:
            text = error.format_message() if isinstance(error, click.ClickException) else str(error)
            assert errors.clean(text), "it says nothing"
            assert isinstance(error, click.ClickException) or text == errors.clean(text)


def damaged(data: bytes, changes, end: float) -> bytes:
    """Data with other bytes at some relative places, and cut."""
    result = bytearray(data[: round(len(data) * end)])
    for place, value in changes:
        if result:
            result[int(place * len(result))] = value
    return bytes(result)


def places(value, prefix=()):
    """All paths in nested dicts and lists."""
    yield prefix
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*prefix, key))


def replaced(value, path, new):
    """A copy of nested dicts and lists with another value at a path."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], new)
    return copy


COMMANDS = [train.main, generate.main, dataset_tool.main, *fid.main.commands.values(), *evaluate.main.commands.values()]


@fuzz
@given(st.data())
def test_option_parser(data):
    command = data.draw(st.sampled_from(COMMANDS))
    flags = sorted({flag for parameter in command.params for flag in parameter.opts if flag.startswith("--")})
    words = st.one_of(
        texts, numbers.map(str), st.sampled_from(["1", "0.5", "all", "0-3", "true", "1,2,2", "patch(cdm(edm))"])
    )
    assignment = st.tuples(
        st.sampled_from(["loss.base", "network.num_blocks", "precond", "loop.seed", "hooks", "."]), words
    )
    flag = st.one_of(
        st.tuples(st.sampled_from(flags), words).map(lambda pair: f"{pair[0]}={pair[1]}"),
        assignment.map(lambda pair: f"--set={pair[0]}={pair[1]}"),
        words,
    )
    arguments = data.draw(st.lists(flag, max_size=6))
    with only_errors(), contextlib.suppress(click.exceptions.Exit):
        context = command.make_context("x", arguments)
        if command is train.main:
            given = {name: value for name, value in context.params.items() if value not in (None, (), False)}
            train.require_sensible(given)
            known = {name: value for name, value in given.items() if name in TrainOptions.__dataclass_fields__}
            nested = options_from({**TrainOptions(**known).flags(), "data": "nowhere"})
            assert isinstance(nested, dict)


@fuzz
@given(st.data())
def test_data_sets_and_their_tool(kit, data):
    """A zip of pictures whose dataset.json or bytes are random, read and converted."""
    names = data.draw(
        st.lists(st.one_of(texts, st.sampled_from(["a.png", "b/a.png", "b/../a.png"])), min_size=1, max_size=3)
    )
    described = data.draw(
        st.one_of(st.none(), values, values.map(lambda value: {"labels": value}), st.just({"labels": [["a.png", 0]]}))
    )
    buffer = io.BytesIO()
    with (
        contextlib.suppress(UnicodeEncodeError, ValueError, IndexError),
        zipfile.ZipFile(buffer, "w", data.draw(st.sampled_from([0, 8]))) as archive,
    ):
        for index, name in enumerate(names):
            archive.writestr(name, (kit.pictures / f"{index}.png").read_bytes())
        if described is not None:
            archive.writestr("dataset.json", json.dumps(described))
    path = kit.folder / "random.zip"
    path.write_bytes(damaged(buffer.getvalue(), data.draw(edits), data.draw(ends)))
    with only_errors():
        dataset = open_dataset(path, use_labels=data.draw(st.booleans()), latents=True)
        for index in range(len(dataset)):
            dataset.image(index), dataset.label(index)
    with only_errors():
        convert(str(path), kit.folder / "out.zip", overwrite=True, workers=1, progress=False)


@fuzz
@given(edits, ends)
def test_pictures(kit, changes, end):
    folder = kit.folder / "folder"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(damaged((kit.pictures / "0.png").read_bytes(), changes, end))
    with only_errors():
        open_dataset(folder, check=False).image(0)


@fuzz
@given(st.data())
def test_snapshots(kit, data):
    """Random bytes below a fitting checksum, random fields, or random options of the network."""
    whole, kind = kit.snapshot.read_bytes(), data.draw(st.sampled_from(["bytes", "fields", "network"]))
    with contextlib.suppress(OverflowError, UnicodeEncodeError, pickle.PicklingError):
        if kind == "bytes":
            inner = damaged(whole[: -checksums.SIZE], data.draw(edits), data.draw(ends))
            whole = checksums.sealed(inner)
        elif kind == "fields":
            field = st.sampled_from(["version", "nimg", "emas", "encoder", "dataset", "sampler", "schedule", "options"])
            whole = changed(whole, **{data.draw(field): data.draw(values)})
        else:
            new = data.draw(values)
            whole = with_network(whole, lambda record: put(record, data, new))
    path = kit.folder / "random.pkl"
    path.write_bytes(whole)
    with only_errors():
        load_snapshot(path)


def put(record: dict, data, new) -> None:
    """Set one option of a network, its preconditioner or its interface."""
    part = data.draw(
        st.sampled_from([record["network"]["options"], record["options"], record["spec"], record["network"]])
    )
    part[data.draw(st.sampled_from(sorted(part)))] = new


@fuzz
@given(st.data())
def test_states(kit, data):
    """A state whose options have another value somewhere, up to the building of the run."""
    options = json.loads(kit.state["options"])
    path = data.draw(st.sampled_from([place for place in places(options) if place]))
    new = replaced(options, path, data.draw(values))
    with only_errors():
        check(stored_options({"options": json.dumps(new)}))
    whole = kit.state_file.read_bytes()
    broken = kit.folder / "broken.pt"
    broken.write_bytes(checksums.sealed(damaged(whole[: -checksums.SIZE], data.draw(edits), data.draw(ends))))
    with only_errors():
        load_state(broken)


@fuzz
@given(edits, ends)
def test_references(kit, changes, end):
    path = kit.folder / "random.npz"
    path.write_bytes(checksums.sealed(damaged(kit.reference.read_bytes()[: -checksums.SIZE], changes, end)))
    with only_errors():
        load_reference(str(path))
