"""The source archive, the pure wheel, and an installation of it; benchmarks/trust_installs.py has the long form."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Callable
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from types import ModuleType

import pytest

from dsae_core import _native, ops

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="installed without its sources")


@pytest.fixture(scope="module")
def installs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("trust_installs", ROOT / "benchmarks" / "trust_installs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["trust_installs"] = module  # dataclasses look for their module there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("installs")


@pytest.fixture(scope="module")
def sources(installs: ModuleType, work: Path) -> Path:
    """The unpacked source archive."""
    found: Path = installs.unpack(installs.build_archive(work / "archive"), work / "sources")
    return found


@pytest.fixture(scope="module")
def pure(installs: ModuleType, work: Path, sources: Path) -> tuple[Path, str]:
    """The wheel that comes out where there is no compiler, and what the build printed."""
    made: tuple[Path, str] = installs.build_pure_wheel(sources, work / "pure")
    return made


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as file:
        name = next(name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(file.read(name))


def files(folder: Path) -> set[str]:
    """Files below a folder, relative to it, but for what builds leave behind."""
    found = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {str(path) for path in found if path.suffix not in {".so", ".o", ".pyc"} and path.parts[0] != "api"}


def test_the_archive_has_all_that_builds_tests_and_documents(sources: Path) -> None:
    inside = files(sources)
    built = (sources / "setup.py").stat().st_ctime
    for folder in ("csrc", "dsae_core", "tests", "docs", "fuzz"):
        here = {f"{folder}/{name}" for name in files(ROOT / folder)}
        missing = {name for name in here - inside if (ROOT / name).stat().st_ctime < built}  # newer ones came later
        assert not missing, folder
    single = ["setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "Makefile"]
    single += ["SECURITY.md", "docs/results.md"]
    assert {*single, "requirements.txt", "requirements-dev.txt", "app.py", "benchmarks/trust_installs.py"} <= inside
    assert [path for path in sources.rglob("*") if path.suffix in {".so", ".o", ".pyc"}] == []


def test_the_wheel_without_a_compiler_is_pure_and_says_why(pure: tuple[Path, str]) -> None:
    wheel, printed = pure
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "Installing dsae-core as pure Python, slower but complete." in printed
    assert "install one (on Debian and Ubuntu: apt install g++)" in printed


def test_the_wheel_has_the_whole_package_and_nothing_else(sources: Path, pure: tuple[Path, str]) -> None:
    with zipfile.ZipFile(pure[0]) as file:
        inside = {name for name in file.namelist() if ".dist-info/" not in name}
    assert inside == {f"dsae_core/{name}" for name in files(sources / "dsae_core")}
    assert {"dsae_core/py.typed", "dsae_core/_native.pyi", "dsae_core/ui/.streamlit/config.toml"} <= inside
    assert sum(name.startswith("dsae_core/circuits/data/") for name in inside) >= 11


def test_the_wheels_metadata(sources: Path, pure: tuple[Path, str]) -> None:
    project = tomllib.loads((sources / "pyproject.toml").read_text())["project"]
    found = metadata(pure[0])
    assert (found["Name"], found["Version"]) == ("dsae-core", project["version"])
    assert set(found["Requires-Python"].split(",")) == set(project["requires-python"].split(","))
    assert found["License-Expression"] == "Apache-2.0"
    assert found.get_all("License-File") == ["LICENSE"]
    needed = [line for line in found.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert len(needed) == len(project["dependencies"]) > 10
    with zipfile.ZipFile(pure[0]) as file:
        entry = next(name for name in file.namelist() if name.endswith("entry_points.txt"))
        assert "dsae = dsae_core.cli:main" in file.read(entry).decode()


def test_the_stated_pythons_are_those_that_the_tested_libraries_allow() -> None:
    """`requires-python` starts where the pinned libraries do: an older Python could not install them."""
    import importlib.metadata

    from packaging.specifiers import SpecifierSet

    stated = SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    pins = [line.split("==")[0] for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line]
    assert len(pins) > 10
    for name in pins:
        allowed = SpecifierSet(importlib.metadata.metadata(name).get("Requires-Python") or "")
        refused = [minor for minor in range(8, 14) if f"3.{minor}.1" in stated and f"3.{minor}.1" not in allowed]
        assert refused == [], name


def test_the_makefile_refuses_the_same_pythons() -> None:
    from packaging.specifiers import SpecifierSet

    stated = SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    line = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "sys.version_info <" in line)
    expression = line.partition("sys.exit(not ")[2].partition(")'")[0]
    for minor in range(9, 16):
        inside = eval(expression.replace("sys.version_info", f"(3, {minor}, 1)"))
        assert inside == (f"3.{minor}.1" in stated), minor


TOOL = """#!/bin/sh
echo "$(basename "$0") $*" >> "$LOG"
"""
PYTHON = """#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p "$3/bin"
  for name in pip dsae python ruff mypy pytest; do cp "$(dirname "$0")/tool" "$3/bin/$name"; done
fi
"""


@pytest.fixture
def make(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Run make with tools that only say how they were called: what is printed, and the calls since the last one."""
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for name, text in (("tool", TOOL), ("fake-python", PYTHON), ("c++", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    log = tmp_path / "log"
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "DSAE_", "CXX"))}
    variables |= {"LOG": str(log), "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def call(*arguments: str, **changed: str) -> tuple[list[str], list[str]]:
        log.write_text("")
        command = ["make", "--no-print-directory", "PYTHON=fake-python", "VENV=venv", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=variables | changed, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines(), log.read_text().splitlines()

    return call


def test_make_app_says_its_steps_and_installs_what_runs(make) -> None:  # type: ignore[no-untyped-def]
    said, calls = make("app", "PORT=8777")
    assert [line[:4] for line in said] == ["1/4 ", "2/4 ", "3/4 ", "4/4 "]
    assert "DSAE_BUILD=0 skips it" in said[2]
    assert not any("could not be installed" in line for line in said)
    assert not any("requirements-dev.txt" in call for call in calls)
    assert calls[-2:] == ["dsae models fetch smollm2-135m", "dsae app --port 8777"]
    said, calls = make("app")
    assert [line[:4] for line in said] == ["4/4 "]
    assert calls == ["dsae models fetch smollm2-135m", "dsae app --port 8501"]


def test_make_installs_nothing_twice(make) -> None:  # type: ignore[no-untyped-def]
    make("app")
    said, calls = make("setup")
    assert [line[:4] for line in said] == ["4/4 "]
    assert [call for call in calls if call.startswith("pip ")] == [
        "pip --disable-pip-version-check install -q -r requirements-dev.txt"
    ]
    assert make("setup") == (["make: Nothing to be done for 'setup'."], [])
    said, calls = make("test")
    assert [line for line in said if re.match(r"\d/\d", line)] == [said[-2]]
    assert said[-2].startswith("5/5 the model")
    assert calls == ["ruff check .", "ruff format --check .", "mypy ", "dsae models fetch smollm2-135m", "pytest "]


def test_make_without_a_compiler_says_that_nothing_is_compiled(make) -> None:  # type: ignore[no-untyped-def]
    said, _ = make("setup", DSAE_BUILD="0")
    assert [line[:4] for line in said if line[1] == "/"] == ["1/4 ", "2/4 ", "3/4 ", "4/4 "]
    assert "nothing compiled" in said[2]
    assert "plain torch" in said[3]
    assert [line[:4] for line in make("runtime", "VENV=other")[0]] == ["1/2 ", "2/2 "]


def environment_with(wheel: Path, folder: Path, installs: ModuleType) -> Path:
    """The Python of a clean environment with a wheel, which borrows torch and the other libraries from this one.

    It does so by a path file, which brings no editable installation along.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python: Path = installs.environment_python(folder)
    purelib = installs.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(purelib) / "borrowed.pth").write_text("\n".join(sorted(borrowed)))
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    installs.run([*command, "--ignore-installed", str(wheel)])
    return python


@pytest.fixture(scope="module")
def installed(installs: ModuleType, work: Path, pure: tuple[Path, str]) -> Path:
    """The Python of an environment with the pure wheel."""
    return environment_with(pure[0], work / "environment", installs)


@pytest.mark.promise("The pure wheel installs in a clean environment and works there, without a compiler.")
def test_an_installation_of_the_pure_wheel_works(
    installs: ModuleType, installed: Path, pure: tuple[Path, str], record_property: Callable[[str, object], None]
) -> None:
    facts = installs.smoke(installed, compiled=False)
    assert facts["version"] == metadata(pure[0])["Version"]
    record_property("figure", f"{facts['checks']} checks with Python {facts['python']}, torch {facts['torch']}")


@pytest.mark.skipif(not ops.compiled, reason="no compiler here")
@pytest.mark.promise("One compiled wheel serves every Python from 3.11 on: no module of it belongs to one alone.")
def test_the_compiled_wheel_for_every_python(
    installs: ModuleType, work: Path, sources: Path, record_property: Callable[[str, object], None]
) -> None:
    wheel = installs.build_abi3_wheel(sources, work / "abi3")
    assert re.fullmatch(r"dsae_core-[\d.]+-cp311-abi3-\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as file:
        assert [name for name in file.namelist() if name.endswith(".so")] == ["dsae_core/_C.abi3.so"]
    python = environment_with(wheel, work / "environment-abi3", installs)
    assert installs.smoke(python, compiled=True)["compiled"]
    script = "from dsae_core import _native; print(_native.__file__, _native.build_info()['compiler'])"
    file_name, compiler = installs.run([python, "-c", script], folder=work).split()
    assert file_name.endswith("_native.py")
    assert compiler == _native.build_info()["compiler"]
    record_property("figure", wheel.name)


def test_an_installation_of_the_wrong_kind_is_seen(installs: ModuleType, installed: Path) -> None:
    with pytest.raises(installs.StepError, match="the operators are not compiled"):
        installs.smoke(installed, compiled=True)


def test_a_python_that_is_not_there_is_not_run(installs: ModuleType, tmp_path: Path) -> None:
    rows = installs.try_python("python3.99", installs.Built(tmp_path, tmp_path, tmp_path), ["torch"], None, tmp_path)
    assert [row.ok for row in rows] == [None, None, None]
    assert installs.find_python("python3.99") is None


@pytest.mark.parametrize(
    ("environment", "code", "says"),
    [
        ({"DSAE_BUILD": "maybe"}, 1, "DSAE_BUILD is 'maybe'; it must be auto, 1, 0 or abi3."),
        ({"DSAE_BUILD": "abi3"}, 1, "need a C++17 compiler and found none (looked for c++, g++, clang++)"),
        ({"DSAE_BUILD": "1"}, 1, "need a C++17 compiler and found none (looked for c++, g++, clang++)"),
        ({"CXX": "no-such-compiler"}, 1, "looked for no-such-compiler"),
        ({"DSAE_BUILD": "0", "CXX": "no-such-compiler"}, 0, "dsae-core"),
        ({}, 0, "Installing dsae-core as pure Python"),
    ],
    ids=["wrong word", "insists on one for all", "insists", "named compiler", "never", "auto"],
)
def test_what_is_built_where_there_is_no_compiler(
    sources: Path, environment: dict[str, str], code: int, says: str
) -> None:
    variables = {**os.environ, "PATH": "/nowhere", "CXX": "", "DSAE_BUILD": "auto", **environment}
    result = subprocess.run(
        [sys.executable, "setup.py", "--name"], cwd=sources, env=variables, capture_output=True, text=True
    )
    assert result.returncode == code, result.stderr
    assert says in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
