"""The source archive and its wheels, installed into clean environments of several Pythons.

    python benchmarks/trust_installs.py [--python NAME]... [--torch REQUIREMENT]... [--torch-index URL] [--json FILE]

Builds the archive and, from it, a pure wheel and a compiled one for every Python. For every Python on the path
(python3.11, python3.12 and python3.13 unless named) it makes an environment, installs torch and the pure wheel with all
that it needs, and runs benchmarks/install_smoke.py and the command `dsae`; then it does the same with the compiled
wheel, and with one that this Python builds from the archive, for itself alone. That one, built with the first --torch,
is then tried with the others. On Linux, torch from the default index brings several GB of CUDA libraries;
--torch-index names another. CUDA operators are left out unless DSAE_CUDA says otherwise. Environments are made one at a
time in the folder for temporary files, and deleted.

--json writes the rows of docs/reliability.md that this proves. The exit code is 1 where one does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dsae_core.files import write_atomic

ROOT = Path(__file__).parents[1]
PYTHONS = ("python3.11", "python3.12", "python3.13")
TORCH, OLDEST_TORCH = "torch==2.13.0", "torch==2.11.0"


@dataclass(frozen=True)
class Row:
    """One promise; ok is None where it was not run."""

    promise: str
    proof: str
    figure: str
    ok: bool | None


class StepError(Exception):
    """A command ended badly; the message is its last line."""


def run(command: Sequence[str | Path], *, folder: Path | None = None, **environment: str) -> str:
    """What a command prints. `environment` adds to this process's, less what would let it see this checkout.

    Raises:
        StepError: its exit code is not 0.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**variables, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        lines = (result.stderr.strip() or result.stdout.strip()).splitlines()
        said = next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "")
        raise StepError(f"`{' '.join(str(part) for part in command[:6])} ...` failed: {said.strip()}")
    return result.stdout + result.stderr


def build_archive(folder: Path) -> Path:
    """The source archive of this checkout."""
    arguments = ["--sdist", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    run([sys.executable, "-m", "build", *arguments], DSAE_BUILD="0")
    return next(folder.glob("*.tar.gz"))


def unpack(archive: Path, folder: Path) -> Path:
    """The archive's one folder."""
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


def build_pure_wheel(sources: Path, folder: Path) -> tuple[Path, str]:
    """The wheel that is built where no compiler is found; and what the build printed."""
    arguments = ["--wheel", "--no-isolation", "--outdir", str(folder), str(sources)]
    printed = run([sys.executable, "-m", "build", *arguments], PATH=str(folder / "nothing"), CXX="")
    return next(folder.glob("*.whl")), printed


def build_abi3_wheel(sources: Path, folder: Path) -> Path:
    """The one compiled wheel for all Pythons, built by this one."""
    arguments = ["--wheel", "--no-isolation", "--outdir", str(folder), str(sources)]
    run([sys.executable, "-m", "build", *arguments], DSAE_BUILD="abi3")
    return next(folder.glob("*.whl"))


def find_python(name: str) -> str | None:
    """The path of a Python that runs, None where there is none."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        path = shutil.which(name, path=folder)
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return path
    return None


def build_needs() -> list[str]:
    """What a build without isolation needs, but for torch."""
    requires: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    return [requirement for requirement in requires if not requirement.startswith("torch")]


def environment_python(folder: Path) -> Path:
    """The Python of a virtual environment."""
    return folder / ("Scripts" if os.name == "nt" else "bin") / "python"


def pip(python: Path, *arguments: str | Path, **environment: str) -> None:
    """pip of an environment."""
    run([python, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments], **environment)


def smoke(python: Path, *, compiled: bool) -> dict[str, Any]:
    """Run the smoke test and the command in an environment.

    Raises:
        StepError: something fails, or it is not this environment's installation that ran, or not the kind asked for.
    """
    outside = python.parents[1]
    script = shutil.copy(ROOT / "benchmarks" / "install_smoke.py", outside)
    facts: dict[str, Any] = json.loads(run([python, "-W", "ignore", script], folder=outside).splitlines()[0])
    if not Path(facts["folder"]).resolve().is_relative_to(outside.resolve()):
        raise StepError(f"the package came from {facts['folder']}")
    if facts["compiled"] is not compiled:
        raise StepError(f"the operators are {'' if facts['compiled'] else 'not '}compiled")
    listed = run([python.with_name("dsae"), "models", "list"], folder=outside)
    if "smollm2-135m" not in listed:
        raise StepError("`dsae models list` does not name the default model")
    return facts


@dataclass(frozen=True)
class Built:
    """What is built once, from this checkout."""

    archive: Path
    pure: Path
    abi3: Path


def try_python(name: str, built: Built, torch: Sequence[str], index: str | None, folder: Path) -> list[Row]:
    """The rows of one Python."""
    proof = f"python benchmarks/trust_installs.py --python {name}"
    label = name.replace("python", "Python ")
    path = find_python(name)
    kinds = [
        f"The pure wheel installs and works on {label}.",
        f"The compiled wheel for every Python installs and works on {label}.",
        f"From the source archive {label} compiles a wheel of its own, which installs and works.",
    ]
    if path is None:
        return [Row(promise, proof, f"there is no {name} on the path", None) for promise in kinds]
    rows: list[Row] = []

    def prove(promise: str, step: Callable[[], str]) -> None:
        print(promise, flush=True)
        try:
            rows.append(Row(promise, proof, step(), True))
        except StepError as error:
            rows.append(Row(promise, proof, str(error), False))
        print(f"  {'ok' if rows[-1].ok else 'FAILED'}: {rows[-1].figure}", flush=True)

    python = environment_python(folder)
    indexed = ["--index-url", index] if index else []

    def installed(wheel: Path, *options: str, compiled: bool) -> str:
        pip(python, "install", *options, wheel)
        return f"{wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB; {_told(smoke(python, compiled=compiled))}"

    def pure_wheel() -> str:
        run([path, "-m", "venv", folder])
        pip(python, "install", torch[0], *indexed)
        return installed(built.pure, compiled=False)

    def wheel_of_its_own() -> str:
        pip(python, "install", *build_needs())
        options = ["--no-deps", "--no-build-isolation", "--wheel-dir", folder / "wheels"]
        pip(python, "wheel", *options, built.archive, DSAE_BUILD="1", DSAE_CUDA=os.environ.get("DSAE_CUDA", "0"))
        wheel = next((folder / "wheels").glob("dsae_core-*.whl"))
        return installed(wheel, "--force-reinstall", "--no-deps", compiled=True)

    def other_torch(requirement: str) -> str:
        pip(python, "install", requirement, *indexed)
        return _told(smoke(python, compiled=True))

    prove(kinds[0], pure_wheel)
    prove(kinds[1], partial(installed, built.abi3, "--force-reinstall", "--no-deps", compiled=True))
    prove(kinds[2], wheel_of_its_own)
    for requirement in torch[1:]:
        prove(f"A wheel built with {torch[0]} works with {requirement} on {label}.", partial(other_torch, requirement))
    return rows


def _told(facts: dict[str, Any]) -> str:
    return f"{facts['checks']} checks with Python {facts['python']}, torch {facts['torch']}"


def prove_all(pythons: Sequence[str], torch: Sequence[str], index: str | None, folder: Path) -> list[Row]:
    """All rows. `folder`: an empty one to work in."""
    proof = "python benchmarks/trust_installs.py"
    promise = "The source archive is complete: wheels can be built from it alone, with a compiler and without."
    try:
        archive = build_archive(folder / "archive")
        sources = unpack(archive, folder / "sources")
        pure, _ = build_pure_wheel(sources, folder / "pure")
        built = Built(archive, pure, build_abi3_wheel(sources, folder / "abi3"))
    except StepError as error:
        return [Row(promise, proof, str(error), False)]
    n_files = sum(path.is_file() for path in sources.rglob("*"))
    rows = [Row(promise, proof, f"{archive.name}, {n_files} files, {archive.stat().st_size / 1e6:.1f} MB", True)]
    for number, name in enumerate(pythons):
        environment = folder / f"environment-{number}"
        try:
            rows += try_python(name, built, torch, index, environment)
        finally:
            shutil.rmtree(environment, ignore_errors=True)
    return rows


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", help="a Python on the path")
    parser.add_argument("--torch", action="append", help=f"a requirement, {TORCH} and {OLDEST_TORCH} unless named")
    parser.add_argument("--torch-index", help="the index URL to have torch from")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dsae-installs-") as folder:
        rows = prove_all(asked.python or PYTHONS, asked.torch or [TORCH, OLDEST_TORCH], asked.torch_index, Path(folder))
    if asked.json:
        write_atomic(asked.json, json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    for row in rows:
        print({True: "ok     ", False: "FAILED ", None: "not run"}[row.ok], row.promise, row.figure)
    return 0 if all(row.ok is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
