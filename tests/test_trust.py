"""benchmarks/trust.py: what becomes of promises that hold, fail, or were not run."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]

MACHINE = {"processor": "a processor", "cores": 2, "memory_gib": 8.0, "gpu": None, "system": "Linux x86_64"}


@pytest.fixture(scope="module")
def trust() -> ModuleType:
    spec = importlib.util.spec_from_file_location("trust", ROOT / "benchmarks" / "trust.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["trust"] = module  # dataclasses look for their module there
    spec.loader.exec_module(module)
    return module


def case(promise: str | None, inside: str = "", *, name: str = "test_a", figure: str | None = None) -> str:
    properties = "".join(
        f'<property name="{key}" value="{value}"/>'
        for key, value in (("promise", promise), ("figure", figure))
        if value is not None
    )
    return f'<testcase classname="tests.test_x" name="{name}"><properties>{properties}</properties>{inside}</testcase>'


def rows_of(trust: ModuleType, folder: Path, *cases: str) -> list[tuple[str, str, str, bool | None]]:
    path = folder / "junit.xml"
    path.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    return [(row.promise, row.proof, row.figure, row.ok) for row in trust.suite_rows(path)]


def test_a_report_of_the_suite(trust: ModuleType, tmp_path: Path) -> None:
    found = rows_of(
        trust,
        tmp_path,
        case("It holds.", figure="40 kills"),
        case(None, "<failure/>"),
        case("It fails.", '<failure message="no"/>', name="test_b"),
        case("It cannot be run.", '<skipped message="no browser"/>', name="test_c"),
        case("It breaks.", "<error/>", name="test_d"),
    )
    assert found == [
        ("It holds.", "tests/test_x.py::test_a", "40 kills", True),
        ("It fails.", "tests/test_x.py::test_b", "", False),
        ("It cannot be run.", "tests/test_x.py::test_c", "skipped: no browser", None),
        ("It breaks.", "tests/test_x.py::test_d", "", False),
    ]


@pytest.mark.parametrize(
    ("second", "ok"), [("", True), ("<failure/>", False), ("<skipped/>", None)], ids=["pass", "fail", "skip"]
)
def test_a_promise_of_several_cases_needs_all_of_them(
    trust: ModuleType, tmp_path: Path, second: str, ok: bool | None
) -> None:
    cases = [case("All.", name="test_a[1]", figure="1 MB"), case("All.", second, name="test_a[2]", figure="1 MB")]
    (row,) = rows_of(trust, tmp_path, *cases)
    assert row[1] == "tests/test_x.py::test_a"
    assert row[2].startswith("2 cases; 1 MB")
    assert row[3] is ok


def test_pytest_itself_writes_such_a_report(trust: ModuleType, tmp_path: Path) -> None:
    """The marker's text and the figure get from a test into a row; a failing test makes a failed row."""
    conftest = (ROOT / "tests" / "conftest.py").read_text()
    start = conftest.index("@pytest.fixture(autouse=True)\ndef _promise(")
    (tmp_path / "conftest.py").write_text(
        "import pytest\nfrom collections.abc import Callable\n\n" + conftest[start : conftest.index("\n\n\n", start)]
    )
    (tmp_path / "test_it.py").write_text("""
import pytest

@pytest.mark.promise("It counts.")
def test_counts(record_property):
    record_property("figure", "3 things")

@pytest.mark.promise("It is wrong.")
def test_wrong():
    assert False
""")
    report = tmp_path / "junit.xml"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}"]
    command += ["-o", "junit_family=xunit1", "-o", "markers=promise(text)", "-m", "promise", str(tmp_path)]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 1
    found = {row.promise: (row.figure, row.ok) for row in trust.suite_rows(report)}
    assert found == {"It counts.": ("3 things", True), "It is wrong.": ("", False)}


def write_script(folder: Path, subject: str, rows: object, code: int = 0) -> None:
    """A stand-in for benchmarks/trust_SUBJECT.py; rows None writes nothing."""
    lines = ["import json, sys", "from pathlib import Path"]
    if rows is not None:
        lines.append(f"Path(sys.argv[sys.argv.index('--json') + 1]).write_text({json.dumps(rows)!r})")
    folder.mkdir(exist_ok=True)
    (folder / f"trust_{subject}.py").write_text("\n".join([*lines, f"sys.exit({code})"]))


@pytest.fixture
def scripts(trust: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of scripts in place of benchmarks."""
    monkeypatch.setattr(trust, "ROOT", tmp_path)
    return tmp_path / "benchmarks"


GOOD = {"promise": "It lasts.", "proof": "python x", "figure": "9 h", "ok": True}


@pytest.mark.parametrize(
    ("rows", "code", "oks"),
    [
        ([GOOD], 0, [True]),
        ([{**GOOD, "ok": False}], 1, [False]),
        ([GOOD, {**GOOD, "ok": None}], 0, [True, None]),
        ([GOOD], 1, [True, False]),  # it says that something is wrong, but not what
        ([], 0, [False]),
        (None, 0, [False]),
        ([], 3, [None]),  # it could not find out
        ("no rows", 0, [False]),
        ([{"promise": "It lasts."}], 0, [False]),
    ],
    ids=["holds", "fails", "partly", "bad exit", "no row", "no file", "unknown", "no list", "no figure"],
)
def test_rows_of_a_script(trust: ModuleType, scripts: Path, rows: object, code: int, oks: list[bool | None]) -> None:
    write_script(scripts, "soak", rows, code)
    assert [row.ok for row in trust.prove("soak", {}, scripts)] == oks


def test_a_missing_script_is_not_run_and_not_good(
    trust: ModuleType, scripts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_script(scripts, "soak", [GOOD])
    write_script(scripts, "installs", [GOOD])
    write_script(scripts, "audit", [GOOD])
    monkeypatch.setattr(trust, "run_suite", lambda _: [trust.Row("It passes.", "tests", "", True)])
    prove = trust.prove
    monkeypatch.setattr(trust, "prove", lambda subject, options: prove(subject, options, scripts))
    options = {"audit": ["pip-audit"]}
    rows, good = trust.prove_all([], options)
    assert [row.ok for row in rows] == [True, None, True, True, True]
    assert rows[1].figure == "its script is not here"
    assert not good
    rows, good = trust.prove_all(["fuzz"], options)
    assert [row.ok for row in rows] == [True, None, True, True, True]
    assert good
    rows, good = trust.prove_all(["fuzz"], {})
    assert rows[-1].figure == "no pip-audit was named"
    assert not good


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_files_and_exit_code(
    trust: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ok: bool, code: int
) -> None:
    asked: dict[str, object] = {}

    def prove(subject: str, options: dict[str, list[str]]) -> list[object]:
        asked[subject] = options.get(subject)
        return [trust.Row(f"{subject} | pipes.", "proof", "1\nline", ok)]

    monkeypatch.setattr(trust, "prove", prove)
    monkeypatch.setattr(trust, "machine_facts", lambda: MACHINE)
    target, page = tmp_path / "trust.json", tmp_path / "reliability.md"
    arguments = ["--minutes", "1.5", "--inputs", "20", "--skip", "installs", "--audit", "tool", "--json", str(target)]
    assert trust.main([*arguments, "--markdown", str(page)]) == code
    assert asked == {"suite": None, "fuzz": ["--inputs", "20"], "soak": ["--minutes", "1.5"], "audit": ["tool"]}
    document = json.loads(target.read_text())
    assert document["schema"] == 1
    assert [row["ok"] for row in document["rows"]] == [ok, ok, ok, None, ok]
    text = page.read_text()
    assert f"| suite \\| pipes. | `proof` | 1 line | {'holds' if ok else 'FAILED'} |" in text
    assert "skipped by request | not run |" in text
    for word in ("a processor", "2 cores", "no GPU", "--minutes 1.5", "torch", "UTC"):
        assert word in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table} == {5}


def test_one_subject_is_proven_again(trust: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {subject: subject != "fuzz" for subject in trust.SUBJECTS}
    monkeypatch.setattr(trust, "prove", lambda subject, _: [trust.Row(f"{subject}.", "proof", "1", outcomes[subject])])
    monkeypatch.setattr(trust, "machine_facts", lambda: MACHINE)
    monkeypatch.setattr(trust, "_now", lambda: "2026-01-01 10:00 UTC")
    target, page = tmp_path / "trust.json", tmp_path / "reliability.md"
    files = ["--json", str(target), "--markdown", str(page)]
    assert trust.main(files) == 1
    assert "Kept" not in page.read_text()
    outcomes.update(dict.fromkeys(outcomes, False), fuzz=True)
    monkeypatch.setattr(trust, "_now", lambda: "2026-01-02 11:00 UTC")
    assert trust.main(["--only", "fuzz", *files]) == 0
    rows = {row["subject"]: row for row in json.loads(target.read_text())["rows"]}
    assert list(rows) == list(trust.SUBJECTS)
    assert all(row["ok"] for row in rows.values())
    assert {name for name, row in rows.items() if row["date"].startswith("2026-01-02")} == {"fuzz"}
    kept = "Kept from earlier runs: " + ", ".join(f"{n} (2026-01-01 10:00 UTC)" for n in rows if n != "fuzz")
    assert f"{kept}.\n" in page.read_text()


@pytest.mark.parametrize(("code", "oks"), [(0, [True]), (1, [True, False]), (2, [True, False]), (5, [True, False])])
def test_a_suite_that_does_not_run_to_its_end_fails(
    trust: ModuleType, monkeypatch: pytest.MonkeyPatch, code: int, oks: list[bool]
) -> None:
    def run(command: list[str], cwd: Path) -> SimpleNamespace:
        report = next(part for part in command if part.startswith("--junitxml=")).partition("=")[2]
        Path(report).write_text(f"<testsuites>{case('It holds.')}</testsuites>")
        return SimpleNamespace(returncode=code)

    monkeypatch.setattr(trust.subprocess, "run", run)
    assert [row.ok for row in trust.run_suite(["pytest"])] == oks
