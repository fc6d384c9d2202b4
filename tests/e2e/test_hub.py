"""Models and data on a hub, against a local imitation of its HTTP interface."""

import base64
import hashlib
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

import elucid
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.remote.hub import parsed
from tests import scripts
from tests.snapshots import save_random_snapshot

pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Repositories by kind and name, each with files by path; as much of the interface as upload and download use."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def answer(self, status, content=b"", **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        repositories = self.server.repositories
        for name, files in repositories.items():
            kind = "models" if name.startswith("models/") else "datasets"
            if path.startswith(f"/api/{name}/tree/"):
                listed = [
                    {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for file, data in files.items()
                ]
                return self.answer(200, listed, Content_Type="application/json")
            if path in (f"/api/{name}", f"/api/{name}/revision/main", f"/api/{name}/revision/{COMMIT}"):
                about = {"id": name.partition("/")[2], "sha": COMMIT, "private": False, "tags": [], "downloads": 0}
                about["siblings"] = [{"rfilename": file} for file in files]
                return self.answer(200, about, Content_Type="application/json")
            prefix = "" if kind == "models" else "datasets/"
            start = f"/{prefix}{name.partition('/')[2]}/resolve/{COMMIT}/"
            if path.startswith(start) and (data := files.get(path.removeprefix(start))) is not None:
                etag = f'"{hashlib.sha1(data).hexdigest()}"'
                return self.answer(200, data, ETag=etag, X_Repo_Commit=COMMIT)
        if "/resolve/" in path and any(path.startswith(f"/{name.partition('/')[2]}/") for name in repositories):
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        return self.answer(404, {"error": "not found"}, X_Error_Code="RepoNotFound")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given.get('organization') or 'user'}/{given['name']}"
            self.server.repositories.setdefault(f"models/{name}", {})
            return self.answer(200, {"url": f"{self.server.address}/{name}"}, Content_Type="application/json")
        name, _, action = self.path.removeprefix("/api/").rpartition("/main")[0].rpartition("/")
        if action == "preupload":
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files}, Content_Type="application/json")
        if action == "commit":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            about = {"commitUrl": f"{self.server.address}/x/y/commit/{COMMIT}", "commitOid": COMMIT}
            return self.answer(200, {**about, "success": True}, Content_Type="application/json")
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []}, Content_Type="application/json")
        return self.answer(404)


@pytest.fixture(scope="module")
def hub():
    with Hub() as server:
        yield server
        server.shutdown()


def run(hub, folder, script, *args, offline=False):
    where = {**scripts.environment(), "HF_ENDPOINT": hub.address, "HF_HOME": str(folder / "hf"), "HF_TOKEN": "hf_none"}
    where |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": str(int(offline))}
    return scripts.finished(where, script, *args)


def test_pushed_and_sampled_from(hub, tmp_path):
    snapshot = save_random_snapshot(tmp_path / "network-snapshot-000001.pkl", names=("a",))
    done = run(
        hub, tmp_path, "export.py", "safetensors", snapshot, f"--dest={tmp_path / 'm'}", "--push-to-hub=user/model"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "hf://user/model"
    assert set(hub.repositories["models/user/model"]) >= {"config.json", "model.safetensors", "README.md"}
    for network, out in ((snapshot, "own"), ("hf://user/model", "hub")):
        done = run(
            hub,
            tmp_path,
            "generate.py",
            f"--network={network}",
            f"--outdir={tmp_path / out}",
            "--seeds=0-1",
            "--steps=2",
        )
        assert done.returncode == 0, done.stderr
    for name in ("000000.png", "000001.png"):
        one, other = (Image.open(tmp_path / out / name).tobytes() for out in ("own", "hub"))
        assert one == other


def test_data(hub, tmp_path):
    path = tmp_path / "digits.zip"
    elucid.datasets.prepare("builtin:digits-test", path, max_images=20)
    hub.repositories["datasets/user/digits"] = {"README.md": b"", "data/digits.zip": path.read_bytes()}
    flags = ["--preset=demo", f"--outdir={tmp_path / 'run'}", "--dry-run"]
    done = run(hub, tmp_path, "train.py", "--data=hf://user/digits", *flags)
    assert done.returncode == 0, done.stderr
    assert "20 images" in done.stdout
    pictures = {f"cat/{index}.png": picture(index) for index in range(3)}
    hub.repositories["datasets/user/cats"] = pictures
    done = run(hub, tmp_path, "dataset_tool.py", "--source=hf://user/cats", f"--dest={tmp_path / 'cats.zip'}")
    assert done.returncode == 0, done.stderr


def test_parquet_files(hub, tmp_path):
    pytest.importorskip("pyarrow")
    hub.repositories["datasets/user/table"] = {
        "data/train-00000-of-00001.parquet": table(range(6), [0, 1, 0, 1, 2, 0]),
        "data/test-00000-of-00001.parquet": table(range(9, 11), [0, 1]),
    }
    source = tmp_path / "table.zip"
    done = run(hub, tmp_path, "dataset_tool.py", "--source=hf://user/table", f"--dest={source}")
    assert done.returncode == 0, done.stderr
    data = elucid.datasets.open(source)
    assert data.class_names == ["red", "green", "blue"] and data.raw_labels.tolist() == [0, 1, 0, 1, 2, 0]
    assert [data.image(index)[0, 0, 0] for index in range(6)] == list(range(6))
    flags = ["--preset=demo", "--cond=1", f"--outdir={tmp_path / 'run'}", "--dry-run"]
    done = run(hub, tmp_path, "train.py", "--data=hf://user/table", *flags)
    assert done.returncode == 0 and "6 images" in done.stdout and "test-00000" not in done.stdout, done.stderr


def table(values, labels, repeat=1) -> bytes:
    """A parquet file as the hub's library writes it: pictures as structs, and names of classes in its schema."""
    import pyarrow
    import pyarrow.parquet

    pictures = [{"bytes": picture(value), "path": None} for value in values]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    features = {"label": {"names": ["red", "green", "blue"], "_type": "ClassLabel"}, "img": {"_type": "Image"}}
    columns = {"img": pyarrow.array(pictures, kind), "label": pyarrow.array(labels, pyarrow.int64())}
    columns = {name: pyarrow.chunked_array([column] * repeat) for name, column in columns.items()}
    found = pyarrow.table(columns).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    file = io.BytesIO()
    pyarrow.parquet.write_table(found, file, row_group_size=4 if repeat == 1 else None)
    return file.getvalue()


def test_damaged_parquet_files(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    whole = table(range(6), [0, 1, 0, 1, -1, 0])
    path.write_bytes(whole)
    data = elucid.datasets.open(path)
    assert len(data) == 6 and data.raw_labels.tolist() == [0, 1, 0, 1, -1, 0]
    for damaged in (b"", b"PAR1", whole[:-20], whole[:50] + bytes(200) + whole[250:], b"\0" * 1000):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="a.parquet"):
            opened = elucid.datasets.open(path)
            [opened.image(index) for index in range(len(opened))]
    path.write_bytes(table([0] * 10, [0] * 10, repeat=100_000))
    with pytest.raises(UserError, match="a.parquet has 1000000 rows in .* too few for pictures"):
        elucid.datasets.open(path)
    path.write_bytes(whole)
    monkeypatch.setenv("ELUCID_MAX_ARRAY_BYTES", "100")
    with pytest.raises(UserError, match="ELUCID_MAX_ARRAY_BYTES"):
        elucid.datasets.open(path)


def picture(index):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (index, 0, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("name", ["hf://user/none", "hf://user/model/none.pkl"])
def test_bad_names(hub, tmp_path, name):
    hub.repositories.setdefault("models/user/model", {"config.json": b"{}"})
    done = run(hub, tmp_path, "generate.py", f"--network={name}", f"--outdir={tmp_path / 'out'}", "--seeds=0")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and name in done.stderr
    assert not (tmp_path / "out").exists()


def test_names():
    assert parsed("hf://user/name") == ("user/name", None, "")
    assert parsed("hf://user/name@v1/a/b.pkl") == ("user/name", "v1", "a/b.pkl")
    for name in ("hf://user", "hf://user/name/../x", "hf://../x/y", "hf://a/b@", "hf://a/b@v/../c"):
        with pytest.raises(UserError, match="not of the form"):
            parsed(name)


def test_without_a_connection(hub, tmp_path):
    """What was downloaded is used; the rest is one line that says why."""
    hub.repositories["datasets/user/cats"] = {f"cat/{index}.png": picture(index) for index in range(3)}
    prepare = ["dataset_tool.py", "--source=hf://user/cats", f"--dest={tmp_path / 'cats.zip'}", "--overwrite"]
    assert run(hub, tmp_path, *prepare).returncode == 0
    assert run(hub, tmp_path, *prepare, offline=True).returncode == 0
    done = run(hub, tmp_path, "train.py", "--data=hf://user/none", f"--outdir={tmp_path / 'run'}", offline=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "hf://user/none: it is not here, and the hub cannot be reached" in done.stderr
