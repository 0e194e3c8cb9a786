"""What no input may bring about: code that runs, files outside their folders, markup on a page, secrets in an error."""

from __future__ import annotations

import ast
import dataclasses
import html as entities
import importlib.util
import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from packaging.requirements import Requirement
from streamlit.testing.v1 import AppTest
from test_ui_view import small_discovery, small_truth

import dsae_core
from dsae_core import figures
from dsae_core.circuits import read_circuit, stored_circuit
from dsae_core.errors import UserError
from dsae_core.files import read_text, write_atomic
from dsae_core.models import load_model
from dsae_core.prompts import PromptPairs
from dsae_core.result import Discovery, read_discovery
from dsae_core.tasks import read_pairs_csv, write_pairs_csv
from dsae_core.ui import drafts, sharing
from dsae_core.ui.charts.attention import attention_frame, attention_map
from dsae_core.ui.library import Library, data_dir, library
from dsae_core.ui.request import RunRequest
from dsae_core.ui.sections.editor import tokens_table
from dsae_core.ui.sections.header import pictures
from dsae_core.ui.view import View

PACKAGE = Path(dsae_core.__file__).parent
ROOT = PACKAGE.parent
SCRIPTS = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "benchmarks").glob("*.py"), ROOT / "setup.py", ROOT / "app.py"])

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</p></div><script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "[x](javascript:alert(1))",
    "![x](https://example.org/x.png)",
    "$\\LaTeX$ $$x$$",
    ":material/delete: :red[x] :smile: :streamlit:",
    "`code` **b** _i_ ~~s~~ # h",
    "&lt;b&gt; &amp; &#60;",
    '"]; alert(1); ["',
    "{{x}} ${x} %s {0}",
)
EVERYTHING = " ".join(HOSTILE)


# --- no code from files ------------------------------------------------------------------------------------

LOADERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle", "yaml"}
"""Modules whose readers can run what they read."""


def dangers(tree: ast.AST) -> list[str]:
    """What a syntax tree does that could run a file's or a user's text."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [f"import {alias.name}" for alias in node.names if alias.name.split(".")[0] in LOADERS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in LOADERS:
            found.append(f"from {node.module}")
        elif isinstance(node, ast.Call):
            found += _call(node)
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            found += [
                "trust_remote_code"
                for key, value in pairs
                if isinstance(key, ast.Constant) and key.value == "trust_remote_code" and not _is(value, False)
            ]
    return found


def _call(node: ast.Call) -> list[str]:
    given = {word.arg: word.value for word in node.keywords}
    name = ast.unparse(node.func)
    found = []
    if name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"):
        found.append(name)
    if name == "torch.load" and not _is(given.get("weights_only"), True):
        found.append("torch.load without weights_only=True")
    if name.split(".")[-1] == "load" and "allow_pickle" in given and not _is(given["allow_pickle"], False):
        found.append("allow_pickle")
    if "trust_remote_code" in given and not _is(given["trust_remote_code"], False):
        found.append("trust_remote_code")
    if "shell" in given and not _is(given["shell"], False):
        found.append("shell=True")
    if name.endswith(("from_pretrained", "from_config")) and name.split(".")[0].startswith("Auto"):
        has = "trust_remote_code" in given or None in given
        found += [] if has else [f"{name} that does not refuse remote code"]
    return found


def _is(value: ast.expr | None, wanted: bool) -> bool:
    return isinstance(value, ast.Constant) and value.value is wanted


ALLOWED = {("models/hooked.py", "import pickle")}
"""hooked.py names the error of torch's restricted unpickler; see the next test."""


@pytest.mark.promise(
    "Nothing in the package unpickles, evaluates text, opens a shell or runs code that comes with a model."
)
def test_no_code_runs_what_it_reads(record_property: Callable[[str, object], None]) -> None:
    found = []
    for path in SCRIPTS:
        name = str(path.relative_to(PACKAGE)) if path.is_relative_to(PACKAGE) else path.name
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [(name, danger) for danger in dangers(tree) if (name, danger) not in ALLOWED]
    assert found == []
    record_property("figure", f"{len(SCRIPTS)} files")


def test_pickle_is_named_for_its_error_alone() -> None:
    tree = ast.parse((PACKAGE / "models" / "hooked.py").read_text(encoding="utf-8"))
    uses = [ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "pickle"]
    assert set(uses) == {"pickle.UnpicklingError"}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "torch.load(f, weights_only=wish)",
        "eval(text)",
        "exec(text)",
        "np.load(f, allow_pickle=True)",
        "AutoModel.from_pretrained(p, trust_remote_code=True)",
        "AutoModel.from_pretrained(p)",
        "options = {'trust_remote_code': True}",
        "subprocess.run(c, shell=True)",
        "os.system(c)",
    ],
)
def test_the_scan_finds_what_it_looks_for(source: str) -> None:
    assert dangers(ast.parse(source))
    assert not dangers(ast.parse("model.eval(); torch.load(f, weights_only=True); re.compile(p); json.load(f)"))


# --- no files outside their folders ------------------------------------------------------------------------

PATHS = (
    "../../evil",
    "/tmp/evil",
    "..\\..\\evil",
    "a/../../evil",
    "evil\x00.json",
    "~/evil",
    "C:\\evil",
    ".",
    "..",
    "",
    "CON",
    "x" * 300,
)


def snapshot(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.promise("Run names, task names, model names and names of uploaded files never become paths.")
def test_names_never_become_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    work = tmp_path / "a" / "b" / "c" / "here"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    monkeypatch.setenv("DSAE_DATA", str(work / "data"))
    kept = library()
    assert kept.count() == 0
    before = snapshot(tmp_path)
    for name in PATHS:
        found = small_discovery("custom")
        prompts = dataclasses.replace(found.prompts, task=name)  # type: ignore[type-var]
        found = dataclasses.replace(found, provenance={"model": name}, prompts=prompts)
        number, _ = kept.keep(found, name=name)
        kept.rename(number, name)
        assert kept.load(number).task == name
        assert stored_circuit(name, name, name) is None
        assert sharing.ModelShape.stored(name) is None
        request = RunRequest(model=name, task=name, method=name)
        assert re.fullmatch(r"[A-Za-z0-9-]{1,60}", sharing.file_stem(request))
    assert snapshot(tmp_path) - before <= {
        f"a/b/c/here/data/runs.sqlite3{end}" for end in ("", "-wal", "-shm", ".lock")
    }
    record_property("figure", f"{len(PATHS)} names")


@pytest.mark.parametrize("name", ["evil.csv", "../../evil.csv", "/tmp/evil.csv", "..\\evil.csv"])
def test_an_upload_is_written_nowhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    page.query_params["task"] = "custom"
    page.run()
    before = snapshot(tmp_path), snapshot(data_dir().parent)
    page.file_uploader(key="upload").set_value((name, b"positive,negative\none two,one three\n", "text/csv")).run()
    assert not page.exception
    assert tuple(page.session_state["draft_now"].columns) == drafts.COLUMNS
    assert (snapshot(tmp_path), snapshot(data_dir().parent)) == before


@pytest.mark.parametrize("name", ["a\x00b", "../../nowhere", "/nowhere/at/all", "~nobody/x", "./\x00"])
def test_a_model_s_name_that_is_no_name_is_refused_in_a_sentence(name: str) -> None:
    with pytest.raises(UserError):
        load_model(name)


@pytest.mark.parametrize("read", [read_circuit, read_discovery, lambda path: read_text(path, "the file")])
@pytest.mark.parametrize("name", ["a\x00b", "\x00", "missing", "."])
def test_a_file_that_cannot_be_is_refused_in_a_sentence(read: Callable[[str], Any], name: str, tmp_path: Path) -> None:
    with pytest.raises((UserError, ValueError)):  # Python's own for NUL, which no command line and no page can give
        read(str(tmp_path / name))


@pytest.mark.promise("A file is never written through a link: the link is replaced, what it points to stays.")
@pytest.mark.parametrize(
    "write", [lambda p: write_atomic(p, "new"), lambda p: small_truth().save(p), lambda p: small_discovery().save(p)]
)
def test_a_link_in_the_place_of_a_file_is_not_followed(write: Callable[[Path], Path], tmp_path: Path) -> None:
    target, folder = tmp_path / "target", tmp_path / "folder"
    target.write_text("precious")
    folder.mkdir()
    link = folder / "out.json"
    link.symlink_to(target)
    write(link)
    assert target.read_text() == "precious"
    assert not link.is_symlink()
    assert link.read_text() != "precious"
    with pytest.raises((UserError, ValueError)):
        write(tmp_path / "a\x00b.json")


# --- no markup from text -----------------------------------------------------------------------------------

TAGS = set("p div span b i em br h1 h2 table thead tbody tr th td style".split())
ATTRIBUTES = {"class", "title", "style", "role", "tabindex", "data-help"}
OWN_LINK = [("a", {"class": "d-jump", "href": "#selected-head"}), ("h2", {"class": "d-section", "id": "selected-head"})]
"""The one link of a page, within itself, and where it leads; no other has an address or a name."""


class Seen(HTMLParser):
    """The tags, attributes and text of HTML as a browser reads it."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if (tag, dict(attrs)) in OWN_LINK:
            return
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile_discovery(task: str = "custom") -> Discovery:
    """A discovery that has markup wherever a file can bring text."""
    found = small_discovery(task)
    prompts = PromptPairs(
        positive=(EVERYTHING, EVERYTHING),
        negative=(EVERYTHING, EVERYTHING),
        answer=((EVERYTHING,), (" b",)),
        distractor=((EVERYTHING,), (" d",)),
        task=task if task == "custom" else EVERYTHING[:300],
    )
    tokens = tuple(("", HOSTILE[i], EVERYTHING) for i in range(4))
    settings = {"method": EVERYTHING[:90], "seed": 0, **{text[:90]: text for text in HOSTILE}}
    return dataclasses.replace(
        found,
        prompts=prompts,
        tokens=tokens,
        settings=settings,
        timings=dict.fromkeys(HOSTILE, 0.1),
        provenance={"model": EVERYTHING[:300], "date": EVERYTHING},
        warnings=HOSTILE,
    )


def draw_hostile() -> None:
    """The Discover page with the hostile result and a hostile table."""
    import streamlit as st
    from test_safety import EVERYTHING, HOSTILE, hostile_discovery

    from dsae_core.prompts import PromptPairs
    from dsae_core.ui import drafts, state
    from dsae_core.ui.pages import discover
    from dsae_core.ui.view import View

    visit = st.session_state["visit"] = st.session_state.get("visit", 0) + 1
    if visit == 1:
        st.query_params.from_dict({"task": "custom", "model": EVERYTHING[:200], EVERYTHING: EVERYTHING})
        drafts.open_pairs(PromptPairs(HOSTILE, HOSTILE))
    elif visit == 2:
        state.show(View(hostile_discovery(), None))
        state.say("error", EVERYTHING)
    discover.page()


def draw_saved() -> None:
    """The Runs page."""
    from dsae_core.ui.pages import saved

    saved.page()


def draw_compare() -> None:
    """The Compare page, two runs."""
    from dsae_core.ui.pages import compare

    compare.page()


def bodies(page: AppTest) -> Seen:
    """All HTML that a page draws itself, as a browser reads it."""
    return Seen("".join(element.proto.body for where in (page.main, page.sidebar) for element in where.get("html")))


def plain(seen: Seen) -> bool:
    return seen.tags <= TAGS and seen.attributes <= ATTRIBUTES


def markdown(page: AppTest) -> list[str]:
    """Every text of a page that Streamlit reads as Markdown."""
    alerts = [element.value for element in (*page.error, *page.warning, *page.info)]
    captions = [element.value for where in (page.main, page.sidebar) for element in where.get("caption")]
    labels = [w.label for w in (*page.button, *page.selectbox, *page.slider, *page.text_input, *page.get("expander"))]
    helps = [w.proto.help for w in (*page.button, *page.selectbox, *page.slider) if w.proto.help]
    return alerts + captions + labels + helps


def is_escaped(text: str) -> bool:
    """Whether a Markdown text has no markup, formula, directive, icon or emoji left that is not escaped."""
    bare = re.sub(r"\\[!-/:-@\[-`{-~]", "", text)
    return not re.search(r"[<`$]|\]\(|:\w+:|:\w+\[|:material", bare)


@pytest.mark.promise(
    "No prompt, token, name or setting becomes HTML or Markdown on a page; all are found there as text."
)
def test_a_hostile_result_is_text_on_discover() -> None:
    page = AppTest.from_function(draw_hostile, default_timeout=60).run()
    assert not page.exception
    assert plain(bodies(page))
    assert "could not be understood" in bodies(page).text  # of the link, whose parameter has a hostile name
    assert EVERYTHING in bodies(page).text
    page.run()
    shown = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", page.error[0].value).replace("\N{WORD JOINER}", "")
    assert shown == EVERYTHING
    views = page.get("button_group")
    for view in ("Prompts", "Code table"):
        box = next(group for group in views if group.proto.id and group.label == "What to look at")
        box.set_value([view] if isinstance(box.value, list) else view).run()
        assert not page.exception
        seen = bodies(page)
        assert plain(seen), (seen.tags - TAGS, seen.attributes - ATTRIBUTES)
        for text in HOSTILE:
            assert text in seen.text
        assert all(is_escaped(text) for text in markdown(page))


def test_hostile_runs_are_text_on_their_pages() -> None:
    kept = Library(data_dir() / "runs.sqlite3")
    for i, text in enumerate(HOSTILE):
        kept.keep(dataclasses.replace(hostile_discovery(), node_scores=small_discovery().node_scores + i), name=text)
    page = AppTest.from_function(draw_saved, default_timeout=60).run()
    assert not page.exception
    seen = bodies(page)
    assert plain(seen)
    assert all(text in seen.text for text in HOSTILE)
    page.text_input(key="runs_search").set_value(HOSTILE[0] + "?").run()
    assert plain(bodies(page))
    assert HOSTILE[0] in bodies(page).text
    compare = AppTest.from_function(draw_compare, default_timeout=60)
    compare.session_state["compare_kept_mode"] = "runs"
    compare.run()
    assert not compare.exception
    assert plain(bodies(compare))
    assert HOSTILE[0] in bodies(compare).text
    assert all(is_escaped(text) for text in markdown(compare))


def test_hostile_files_are_named_as_text() -> None:
    for name in HOSTILE:
        page = AppTest.from_function(draw_saved, default_timeout=60).run()
        uploader = page.get("file_uploader")[0]
        page.file_uploader(key=uploader.key).set_value((name + ".json", b"{", "application/json")).run()
        assert not page.exception
        (said,) = page.error
        assert is_escaped(said.value)


def texts(svg: str) -> list[str]:
    """The texts of an SVG; fails where it is not well-formed or has more than drawing in it."""
    root = ElementTree.fromstring(svg)
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags <= {
        "svg",
        "g",
        "path",
        "text",
        "tspan",
        "rect",
        "line",
        "defs",
        "clipPath",
        "linearGradient",
        "stop",
        "style",
        "title",
        "circle",
    }
    assert not any(name.lower().startswith("on") or "href" in name for e in root.iter() for name in e.attrib)
    return ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("text")]


@pytest.mark.promise("No text becomes markup in a picture or a figure.")
def test_hostile_texts_are_text_in_pictures(tmp_path: Path) -> None:
    draw, width = pictures(View(hostile_discovery(), small_truth()), 1.0, 10, (1, 0))["Scores"]
    for text in HOSTILE:
        svg = sharing.picture(draw, text, text, kind="svg", mode="light", width=width).decode()
        assert text in " ".join(texts(svg))
        rows = [{"model": m, "task": text, "method": text, "rank_correlation": 0.5} for m in (text, "b")]
        path = figures.save_svg(figures.stability_chart(rows), tmp_path / "stability.svg")
        assert text in " ".join(texts(path.read_text()))
        curves = pd.DataFrame(
            {"size": [0, 4] * 2, "share": [0.0, 1.0] * 2, "kind": ["kept"] * 2 + ["removed"] * 2, "seed": -1}
        )
        path = figures.save_svg(figures.faithfulness_chart(curves, n_heads=4, method=text), tmp_path / "curves.svg")
        assert text[:20] in " ".join(texts(path.read_text()))  # a legend cuts long names


def test_hostile_tokens_are_text_on_an_axis() -> None:
    import numpy as np
    import vl_convert

    tokens = HOSTILE
    frame = attention_frame(np.full((len(tokens), len(tokens)), 0.5, dtype=np.float32), tokens)
    drawing = attention_map(frame, tokens, [1], difference=False)
    spec = json.loads(json.dumps({**drawing.spec, "datasets": {"cells": frame.to_dict("records")}}))
    for layer in spec["layer"]:
        for axis in ("x", "y"):
            layer["encoding"][axis]["axis"]["labelLimit"] = 1000  # as they would be cut short otherwise
    said = texts(vl_convert.vegalite_to_svg(spec))
    for token in tokens:
        assert any(
            entities.unescape(token).replace(" ", "·") in text or token.replace(" ", "·") in text for text in said
        )


def test_the_editor_s_table_is_text() -> None:
    from dsae_core.ui.alignment import AlignedRow, Token

    rows = [AlignedRow(1, (Token(text, True),), (Token(text, False),), text, (text,)) for text in HOSTILE]
    seen = Seen(tokens_table(rows, None))
    assert plain(seen)
    assert all(text in seen.text for text in HOSTILE)


@pytest.mark.parametrize("switch", ["unsafe_allow_html", "unsafe_allow_javascript"])
def test_streamlit_s_own_cleaning_is_never_switched_off(switch: str) -> None:
    pages = list((PACKAGE / "ui").rglob("*.py"))
    assert len(pages) > 30
    assert [path.name for path in pages if switch in path.read_text(encoding="utf-8")] == []


# --- tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell", ["=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("http://x")', "\t=1", "|a", "'", '"', "a\nb", " b"]
)
def test_a_table_says_what_was_written_even_where_a_spreadsheet_would_count(cell: str) -> None:
    """A prompt may start with "=": a quote put before it would change the prompt that is read back."""
    pairs = PromptPairs((cell,), (f"{cell}x",), ((f" {cell}".replace("|", "/"),),), ((" y",),))
    if cell.strip():
        assert read_pairs_csv(write_pairs_csv(pairs)) == pairs


# --- nothing given away ------------------------------------------------------------------------------------

SECRET = "hf_SECRET123"


def fail_on_the_page() -> None:
    """A page that nobody foresaw the end of, under the handler that the server has."""
    from streamlit.error_util import handle_user_script_exception

    from dsae_core.ui.entry import app

    error = OSError(13, "denied hf_SECRET123", "/home/host/.netrc")
    handle_user_script_exception(error, app._on_script_error)


@pytest.mark.promise(
    "An unforeseen error shows one plain sentence and a reference; path, environment and message stay in the log."
)
def test_an_unforeseen_error_gives_nothing_away(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    with caplog.at_level(logging.ERROR):
        page = AppTest.from_function(fail_on_the_page, default_timeout=60).run()
    assert not page.exception
    (said,) = page.error
    sentence = said.value.replace("\\", "")
    match = re.fullmatch(
        r"This page ended with an internal error \(PermissionError\); the server's log has it all under the reference "
        r"([0-9a-f]{8})\.",
        sentence,
    )
    assert match is not None, sentence
    noted = [record for record in caplog.records if match[1] in record.getMessage()]
    assert len(noted) == 1
    assert SECRET in str(noted[0].exc_info[1])  # type: ignore[index]


def test_a_user_s_error_is_shown_as_it_is() -> None:
    def script() -> None:
        from dsae_core.errors import UserError
        from dsae_core.ui import faults

        faults.show(UserError("The <b>file</b> is empty."))

    page = AppTest.from_function(script).run()
    assert page.error[0].value == r"The \<b\>file\<\/b\> is empty\."


def test_streamlit_shows_no_details_either() -> None:
    config = (PACKAGE / "ui" / ".streamlit" / "config.toml").read_text(encoding="utf-8")
    assert 'showErrorDetails = "none"' in config


# --- what is installed -------------------------------------------------------------------------------------


def requirements(name: str) -> list[Requirement]:
    """The requirements of a file, those of files that it names left out."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-r ")]


def is_exact(requirement: Requirement) -> bool:
    return [(s.operator, "*" in s.version) for s in requirement.specifier] == [("==", False)] and not requirement.url


@pytest.mark.promise(
    "Every package that the project installs is named in one exact version, within the ranges it claims."
)
def test_requirements_are_exact_and_within_the_ranges(record_property: Callable[[str, object], None]) -> None:
    files = sorted(path.name for path in ROOT.glob("requirements*.txt"))
    assert {"requirements.txt", "requirements-dev.txt"} <= set(files)
    pinned = {name: requirements(name) for name in files}
    assert [str(r) for found in pinned.values() for r in found if not is_exact(r)] == []
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    tools = [Requirement(text) for text in re.findall(r"^(?:TORCH|AUDIT) \?= (\S+)$", make, flags=re.MULTILINE)]
    assert [tool.name for tool in tools] == ["torch", "pip-audit"]
    assert all(map(is_exact, tools))
    exact = {r.name: next(iter(r.specifier)).version for r in (*tools, *pinned["requirements.txt"])}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    ranges = [Requirement(text) for text in (*project["project"]["dependencies"], *project["build-system"]["requires"])]
    assert [str(r) for r in ranges if not r.specifier.contains(exact[r.name])] == []
    record_property("figure", f"{sum(map(len, pinned.values())) + len(tools)} packages")


def test_what_an_audit_says() -> None:
    spec = importlib.util.spec_from_file_location("trust_audit", ROOT / "benchmarks" / "trust_audit.py")
    assert spec is not None
    assert spec.loader is not None
    audit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(audit)
    fine = {"name": "a", "version": "1", "vulns": []}
    bad = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
    unknown = {"name": "c", "skip_reason": "Dependency not found"}
    assert audit.vulnerabilities([fine, bad]) == ["b 2: CVE-1, put right in 3"]
    assert [audit.row(found)["ok"] for found in ([fine], [fine, bad], [fine, unknown])] == [True, False, False]
    assert audit.ask(str(ROOT / "no such tool"))[0] is None


def test_an_audit_that_learns_nothing_says_so(tmp_path: Path) -> None:
    tool = tmp_path / "pip-audit"
    tool.write_text('#!/bin/sh\necho \'{"dependencies": [{"name": "a", "skip_reason": "the service is away"}]}\'\n')
    tool.chmod(0o755)
    script = str(ROOT / "benchmarks" / "trust_audit.py")
    done = subprocess.run([sys.executable, script, str(tool)], capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr.startswith("The vulnerability service did not answer, so nothing is known: the service is away")


# --- the server --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[psutil.Process, int]]:
    """A real server, started without an address: its process and its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = "from dsae_core.cli import main; main()"
    command = [sys.executable, "-c", start, "app", "--headless", "--port", str(port)]
    environment = {**os.environ, "STREAMLIT_SERVER_ADDRESS": "0.0.0.0", "STREAMLIT_CLIENT_SHOW_ERROR_DETAILS": "full"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as server:
        try:
            end = time.monotonic() + 90
            while fetch(port, "/_stcore/health")[0] != 200:
                assert server.poll() is None, "the server ended"
                assert time.monotonic() < end, "the server did not answer"
                time.sleep(0.2)
            yield psutil.Process(server.pid), port
        finally:
            server.terminate()


def fetch(port: int, path: str) -> tuple[int, bytes]:
    """Ask for a path exactly as written; (0, b"") where nobody answers."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
            line.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: line.recv(65536), b""))
    except OSError:
        return 0, b""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.promise("The page listens on 127.0.0.1 alone, whatever else the machine's settings say, unless told.")
def test_a_server_listens_on_this_machine_alone(
    served: tuple[psutil.Process, int], record_property: Callable[[str, object], None]
) -> None:
    process, port = served
    listening = [
        c.laddr
        for p in (process, *process.children(recursive=True))
        for c in p.net_connections("inet")
        if c.status == "LISTEN"
    ]
    assert [(a.ip, a.port) for a in listening] == [("127.0.0.1", port)]
    record_property("figure", f"listening: {', '.join(a.ip for a in listening)}")


@pytest.mark.promise("The server gives out no file of the machine, whatever path is asked for.")
def test_no_path_leads_out_of_the_page(
    served: tuple[psutil.Process, int], record_property: Callable[[str, object], None]
) -> None:
    _, port = served
    secret = Path(__file__).read_bytes()[:60]
    here = str(Path(__file__).resolve())
    up = "../" * 12
    tails = [here.lstrip("/"), "etc/passwd"]
    starts = [
        "/",
        "/static/",
        "/app/static/",
        "/media/",
        "/component/",
        "/component/x/",
        "/_stcore/",
        "/_stcore/upload_file/",
    ]
    shapes = [
        lambda s, t: s + up + t,
        lambda s, t: s + "/" + t,
        lambda s, t: s + up.replace(".", "%2e") + t,
        lambda s, t: s + up.replace("/", "%2f") + t.replace("/", "%2f"),
        lambda s, t: s + up.replace("/", "\\") + t,
        lambda s, t: s + up.replace("../", "..%252f") + t,
        lambda s, t: s + up + t + "%00.html",
    ]
    asked = 0
    for start in starts:
        for tail in tails:
            for shape in shapes:
                status, body = fetch(port, shape(start, tail))
                assert status > 0
                assert secret not in body
                assert b"root:" not in body
                asked += 1
    record_property("figure", f"{asked} paths")


def test_the_server_says_nothing_of_itself_that_is_not_asked(served: tuple[psutil.Process, int]) -> None:
    _, port = served
    settings = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/host-config").read())
    assert "env" not in json.dumps(settings).lower()
    status, body = fetch(port, "/_stcore/agent/openapi.json")
    assert b"interact" not in body or b"off" in body or status == 404


def opened(port: int, host: str, origin: str | None) -> bool:
    """Whether a browser's question for a session is answered, when it comes with these headers."""
    lines = ["GET /_stcore/stream HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
    lines += [f"Origin: {origin}"] if origin is not None else []
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        line.sendall("\r\n".join([*lines, "", ""]).encode())
        return line.recv(65536).startswith(b"HTTP/1.1 101")


@pytest.mark.promise("No page of another site can use a dashboard that runs on its visitor's machine.")
def test_another_site_s_page_gets_no_session(served: tuple[psutil.Process, int]) -> None:
    _, port = served
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        assert opened(port, host, f"http://{host}")
        assert not opened(port, host, "http://example.org")
    assert not opened(port, f"example.org:{port}", f"http://example.org:{port}")  # its name stands for 127.0.0.1
