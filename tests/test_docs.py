"""The documents: the tutorial runs, the reference is complete, and what the files name is there."""

from __future__ import annotations

import fnmatch
import importlib
import importlib.util
import inspect
import re
import shlex
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import typer.main
import yaml
from nbclient import NotebookClient

import dsae_core
from dsae_core import cli

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs" / "tutorial.ipynb"

pytestmark = pytest.mark.skipif(not TUTORIAL.exists(), reason="installed without its sources")


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_api", ROOT / "docs" / "build_api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference(builder: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The API reference as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("api")
    before = set(vars(dsae_core))
    builder.build(folder)
    left = {name for name, thing in vars(dsae_core).items() if not inspect.ismodule(thing)}
    assert left <= before  # other tests replace what a name would load
    return folder


def submodules_of_the_readme() -> list[str]:
    """What the README's last section names, as modules."""
    section = (ROOT / "README.md").read_text().partition("## What is where")[2]
    names = [name.removeprefix("dsae_core/") for name in re.findall(r"`([a-z_/]+(?:\.py|/))`", section)]
    modules = [name.removesuffix(".py").rstrip("/").replace("/", ".") for name in names]
    return sorted({f"dsae_core.{name}" for name in modules} - {"dsae_core.ui", "dsae_core.csrc"})


def test_every_public_name_has_a_docstring_and_is_in_the_reference(reference: Path) -> None:
    page = (reference / "dsae_core.html").read_text()
    for name in dsae_core.__all__:
        thing = getattr(dsae_core, name)
        assert len((inspect.getdoc(thing) or "").split()) > 3, name
        if inspect.ismodule(thing):
            assert (reference / "dsae_core" / f"{name}.html").exists()
            continue
        section = page.partition(f'id="{name}"')[2].partition("</section>")[0]
        first_words = (inspect.getdoc(thing) or "").split()[:3]
        text = re.sub(r"<[^>]+>", " ", section)
        assert " ".join(first_words) in " ".join(text.split()), name


def test_every_module_that_the_readme_names_is_in_the_reference(reference: Path) -> None:
    names = submodules_of_the_readme()
    assert len(names) > 12
    for name in names:
        module = importlib.import_module(name)
        assert module.__doc__, name
        page = reference / f"{name.replace('.', '/')}.html"
        assert page.exists(), name
        here = [thing for key, thing in vars(module).items() if not key.startswith("_")]
        for thing in here:
            if (inspect.isfunction(thing) or inspect.isclass(thing)) and thing.__module__ == name:
                assert thing.__doc__, f"{name}.{thing.__name__}"
                assert f'id="{thing.__name__}"' in page.read_text(), f"{name}.{thing.__name__}"


@pytest.mark.model
@pytest.mark.promise("The tutorial runs as it is written, from its first cell to its last.")
def test_the_tutorial_runs(record_property: Callable[[str, object], None]) -> None:
    notebook = nbformat.read(TUTORIAL, as_version=4)
    start = time.monotonic()
    NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
    seconds = time.monotonic() - start
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    printed = "\n".join(output.get("text", "") for cell in code for output in cell.outputs)
    auc = float(re.findall(r"ROC AUC (\d\.\d+)", printed)[0])
    assert auc > 0.9
    assert "True" in code[-1].outputs[0]["text"]  # what was saved is what was read
    record_property("figure", f"{len(code)} cells, {seconds:.0f} s")


def test_the_tutorial_is_kept_without_outputs() -> None:
    notebook = nbformat.read(TUTORIAL, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments, continued lines joined."""
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]  # type: ignore[misc]


def targets() -> set[str]:
    """The Makefile's targets."""
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def test_the_dockerfile_copies_what_is_there_and_sent() -> None:
    ignore = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    sent = [line[1:] for line in ignore if line.startswith("!")]
    assert ignore[0] == "*"
    copied = [shlex.split(arguments)[:-1] for name, arguments in instructions() if name == "COPY"]
    sources = [source for each in copied if not each[0].startswith("--from") for source in each]
    assert len(sources) > 6
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in sent), source
    assert set(sources) == set(sent)  # and nothing is sent for nothing
    # What setup.py and pyproject.toml read at the build is among it.
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE", "csrc", "dsae_core"} <= set(sources)


def options_of_the_page() -> set[str]:
    """The options of dsae app."""
    command = typer.main.get_command(cli.app).commands["app"]  # type: ignore[attr-defined]
    return {option for parameter in command.params for option in parameter.opts}


def test_the_dockerfiles_commands_are_there() -> None:
    every = instructions()
    asked = re.findall(r"\bmake ([a-z-]+)", " ".join(arguments for name, arguments in every if name == "RUN"))
    assert asked
    assert set(asked) <= targets()
    words = shlex.split(every[-1][1].replace('["sh", "-c", ', "").rstrip("]"))[0].split()
    options = {word for word in words if word.startswith("--")}
    assert {"--address", "--port", "--headless"} <= options <= options_of_the_page()


def test_the_container_runs_without_rights_and_without_a_compiler() -> None:
    stages: list[list[tuple[str, str]]] = []
    for name, arguments in instructions():
        if name == "FROM":
            stages.append([])
        stages[-1].append((name, arguments))
    assert len(stages) == 2
    bases = [stage[0][1].split()[0] for stage in stages]
    assert bases[0] == bases[1]  # the environment made in one runs in the other
    last = dict(stages[1])
    assert last["USER"] not in ("root", "0")
    assert "g++" not in " ".join(arguments for _, arguments in stages[1])
    version = re.search(r"python:(\d\.\d+)", bases[0])
    assert version is not None
    from packaging.specifiers import SpecifierSet

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"{version[1]}.1" in SpecifierSet(project["requires-python"])
    package = "\n".join(path.read_text() for path in (ROOT / "dsae_core").rglob("*.py"))
    for variable in re.findall(r"\b(DSAE_[A-Z]+)=", last["ENV"]):
        assert f'"{variable}"' in package, variable


@pytest.mark.parametrize("document", ["README.md", "docs/install.md"])
def test_the_folders_that_the_dockerfile_names_are_the_users_to_name(document: str) -> None:
    variables = re.findall(r"\b(DSAE_[A-Z]+)=", dict(instructions())["ENV"])
    assert variables == ["DSAE_CACHE", "DSAE_DATA"]
    text = (ROOT / document).read_text()
    assert [name for name in variables if f"`{name}` names another" not in " ".join(text.split())] == []


@pytest.mark.parametrize("document", ["README.md", "SECURITY.md"])
def test_the_ports_option_is_told_of_and_examples_have_real_ones(document: str) -> None:
    lines = re.findall(r"^.*\bdsae app\b.*$", (ROOT / document).read_text(), flags=re.MULTILINE)
    examples = [line for line in lines if "`" not in line]
    found = {word for line in examples for word in re.findall(r"--[a-z]+\b", line.partition("dsae app")[2])}
    assert {"--port", "--demo"} <= found <= options_of_the_page()


def test_the_makefiles_first_lines_name_its_targets() -> None:
    head = (ROOT / "Makefile").read_text().partition("VENV ?=")[0]
    named = set(re.findall(r"^# make ([a-z-]+)", head, flags=re.MULTILINE))
    assert {"setup", "app", "test", "trust", "docs"} <= named <= targets()


def test_the_citation_and_the_changelog_are_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert citation["title"] == project["name"]
    (paper,) = citation["references"]
    assert paper["url"].endswith("2405.12522")
    assert [author["family-names"] for author in paper["authors"]] == ["O'Neill", "Bui"]
    changes = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert changes[:2] == ["Unreleased", project["version"]]
    kinds = re.findall(r"^### (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "SECURITY.md",
        "docs/install.md",
        "docs/method.md",
        "docs/results.md",
        "CHANGELOG.md",
    ],
)
def test_files_that_the_documents_name_are_there(document: str) -> None:
    text = (ROOT / document).read_text()
    named = re.findall(r"`((?:benchmarks|docs|tests|csrc|dsae_core)/[\w./-]+)`", text)
    linked = [name for name in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in name]
    named += [str((Path(document).parent / name).as_posix()) for name in linked]
    written_by_make = {"docs/reliability.md", "docs/api"}
    missing = [name for name in named if name not in written_by_make and not (ROOT / name).exists()]
    assert missing == []


def table(text: str, needed: str) -> dict[str, dict[str, str]]:
    """The first table with this column: its rows by their first cell, as column -> cell."""
    lines = [line.strip("|").split("|") if line.startswith("|") else [] for line in text.splitlines()]
    cells = [[cell.strip() for cell in line] for line in lines]
    start = next(i for i, row in enumerate(cells) if needed in row)
    end = next((i for i in range(start, len(cells)) if not cells[i]), len(cells))
    return {row[0]: dict(zip(cells[start], row, strict=True)) for row in cells[start + 2 : end]}


def test_the_readmes_figures_are_those_of_the_results() -> None:
    short, long = (table((ROOT / name).read_text(), "all six") for name in ("README.md", "docs/results.md"))
    assert len(short) == 6 < len(long)
    for method, row in short.items():
        assert row == {column: long[method][column] for column in row}, method
