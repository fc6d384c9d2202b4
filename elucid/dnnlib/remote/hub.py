"""Models and data sets on the Hugging Face hub, `hf://user/name`, through the optional package huggingface_hub."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from elucid.dnnlib.errors import UserError

SCHEME = "hf://"
MODEL_FILES = ("*.safetensors", "config.json", "*.pkl")
SUFFIXES, DESCRIPTIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp"), ("dataset.json", "metadata.csv", "metadata.jsonl")
"""Of the files that make a data set of pictures."""


def is_hub(name: str | os.PathLike) -> bool:
    return str(name).startswith(SCHEME)


def hub_model(name: str) -> Path:
    """Download a model `hf://user/name[@revision][/file]` and return its folder or file. Raises UserError."""
    repository, revision, file = parsed(name)
    if file:
        return _file(name, repository, revision, "model", file)
    folder = _download(name, repository, revision, "model", MODEL_FILES)
    if (folder / "model.safetensors").is_file():
        return folder
    pickles = sorted(folder.glob("*.pkl"))
    if len(pickles) != 1:
        found = f"it has {len(pickles)} snapshots" if pickles else "it has no model.safetensors and no snapshot"
        raise UserError(f"{name}: {found}; name the file: {name}/FILE")
    return pickles[0]


def hub_data(name: str) -> Path:
    """Download a data set `hf://user/name[@revision][/file]`: its only zip, or a folder of pictures or parquet files.

    Of parquet files it takes those for training, if there are such. Raises UserError if it has none of the three.
    """
    repository, revision, file = parsed(name)
    if file:
        return _file(name, repository, revision, "dataset", file)
    names = _listed(name, repository, revision)
    if "shards.json" in names:
        raise UserError(f"{name} is in shards, which are read as they are needed; give {name}/shards.json")
    archives = [one for one in names if one.endswith(".zip")]
    if len(archives) > 1:
        raise UserError(f"{name} has several archives ({', '.join(archives[:5])}); name one: {name}/FILE.zip")
    if archives:
        return _download(name, repository, revision, "dataset", archives) / archives[0]
    if any(one.lower().endswith(SUFFIXES) for one in names):
        wanted = [one for one in names if one.lower().endswith(SUFFIXES) or one.rpartition("/")[2] in DESCRIPTIONS]
    else:
        tables = [one for one in names if one.endswith(".parquet")]
        wanted = [one for one in tables if "train" in one] or tables
    if not wanted:
        raise UserError(
            f"{name} has no zip, pictures or parquet files; download it, and give pictures to dataset_tool.py"
        )
    return _download(name, repository, revision, "dataset", wanted)


def _listed(name: str, repository: str, revision: str | None) -> list[str]:
    """Return the sorted names of all files of a data set; without a connection, of those that are here."""
    library = _library()
    with _failures(f"cannot download {name}"):
        try:
            found = library.HfApi().list_repo_files(repository, revision=revision, repo_type="dataset")
        except (library.errors.OfflineModeIsEnabled, ConnectionError):
            here = library.snapshot_download(repository, revision=revision, repo_type="dataset", local_files_only=True)
            found = [path.relative_to(here).as_posix() for path in Path(here).rglob("*") if path.is_file()]
    return sorted(found)


def push_folder(folder: str | os.PathLike, repository: str, private: bool) -> str:
    """Upload a folder as a model repository, which is created if it is new, and return its address."""
    repository, revision, file = parsed(f"{SCHEME}{repository}")
    if file:
        raise UserError(f"`push_to_hub`={repository}/{file}: give user/name")
    library = _library()
    with _failures(f"cannot upload to {repository}"):
        api = library.HfApi()
        api.create_repo(repository, private=private, exist_ok=True, repo_type="model")
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Model", revision=revision)
    return f"{SCHEME}{repository}"


def parsed(name: str) -> tuple[str, str | None, str]:
    """Return repository, revision and file of `hf://user/name[@revision][/file]`. Raises UserError."""
    part = r"[A-Za-z0-9][\w.-]*"
    match = re.fullmatch(rf"{SCHEME}({part}/{part})(?:@([\w.-]+))?(?:/([^@]+))?", name)
    if match is None or ".." in (match[3] or "").split("/"):
        raise UserError(f"{name!r} is not of the form hf://user/name, hf://user/name@revision or hf://user/name/file")
    return match[1], match[2], match[3] or ""


def _download(name: str, repository: str, revision: str | None, kind: str, files: Sequence[str]) -> Path:
    with _failures(f"cannot download {name}"):
        found = _library().snapshot_download(repository, revision=revision, repo_type=kind, allow_patterns=list(files))
    return Path(found)


def _file(name: str, repository: str, revision: str | None, kind: str, file: str) -> Path:
    with _failures(f"cannot download {name}"):
        return Path(_library().hf_hub_download(repository, file, revision=revision, repo_type=kind))


def _library():
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError("huggingface_hub is not installed; install it by: pip install 'elucid[hub]'") from error
    return huggingface_hub


@contextmanager
def _failures(what: str) -> Iterator[None]:
    """Turn the library's errors into UserError of one line."""
    library = _library()
    try:
        yield
    except library.errors.LocalEntryNotFoundError as error:  # an EntryNotFoundError, too
        raise UserError(f"{what}: it is not here, and the hub cannot be reached; check the connection") from error
    except library.errors.EntryNotFoundError as error:
        raise UserError(f"{what}: the repository has no such file; check the name") from error
    except (library.errors.RepositoryNotFoundError, library.errors.RevisionNotFoundError) as error:
        raise UserError(f"{what}: there is no such repository or revision, or it is not open to you") from error
    except (library.errors.HfHubHTTPError, ValueError, OSError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"{what}: {reason}; check the name and the connection") from error
