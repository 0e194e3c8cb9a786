"""What a run can leave as: links, Python that repeats it, circuits, graphs, pictures."""

from __future__ import annotations

import ast
import dataclasses
import html
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
import torch
from test_ui_inspector import measured
from test_ui_kernels import profile
from test_ui_view import small_discovery, small_truth

from dsae_core.circuits import Circuit
from dsae_core.discovery import discover
from dsae_core.models import LanguageModel, load_model
from dsae_core.prompts import PromptPairs
from dsae_core.result import Discovery
from dsae_core.tasks import TASKS
from dsae_core.ui import comparison, sharing, theme
from dsae_core.ui.charts import comparison as compare_charts
from dsae_core.ui.charts import kernels as kernel_charts
from dsae_core.ui.charts.attention import attention_frame, attention_map
from dsae_core.ui.charts.effects import effects_frame, effects_map
from dsae_core.ui.charts.preview import preview_map
from dsae_core.ui.charts.style import Drawing, Grid
from dsae_core.ui.charts.validation import validation_curve
from dsae_core.ui.comparison import Difference, Line
from dsae_core.ui.request import CUSTOM, MAX_PACKED, MAX_UNPACKED, RunRequest, pack_pairs, threshold_of
from dsae_core.ui.sections.header import pictures
from dsae_core.ui.sharing import ModelShape
from dsae_core.ui.view import View

NASTY = PromptPairs(
    positive=('say "hi"\n{x}', "it's </script> \\n ünï 🙂"),
    negative=("'''", '"""; import os'),
    answer=((" Mary", " Anna"), (" x",)),
    distractor=((" y",), (" z",)),
    metric="probability_difference",
)


@pytest.fixture
def view() -> View:
    return View(small_discovery(), small_truth())


# --- links -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "x", "-1", "nan", "inf", "1e999"])
def test_a_link_s_threshold_makes_sense_or_is_named(text: str) -> None:
    assert threshold_of({"at": text}) is None
    assert RunRequest.from_query({"at": text}, TASKS) == (RunRequest(), ["at"])


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8501/?a=b", True),
        ("http://localhost:8501", True),
        ("http://[::1]:8501", True),
        ("https://demo.example.org", False),
        (None, False),
    ],
)
def test_whether_a_link_works_elsewhere(url: str | None, local: bool) -> None:
    assert sharing.is_local(url) is local


@pytest.mark.parametrize(
    "request_",
    [
        RunRequest("./my model&x=1", "ioi", 25, "paper", 3, (("l1", 0.05), ("pool", "last"))),
        RunRequest(task=CUSTOM, examples=2, seed=4, pairs=NASTY),
    ],
)
def test_a_link_opens_the_same_run(request_: RunRequest) -> None:
    url = sharing.link("http://host:8501/?old=1#part", request_)
    assert url.startswith("http://host:8501/?")
    query = dict(parse_qsl(urlsplit(url).query, strict_parsing=True))
    assert RunRequest.from_query(query, TASKS) == (request_, [])
    assert threshold_of(query) is None
    at = dict(parse_qsl(urlsplit(sharing.link("http://host:8501/", request_, 0.15)).query, strict_parsing=True))
    assert RunRequest.from_query(at, TASKS) == (request_, [])
    assert threshold_of(at) == 0.15
    assert sharing.carries_prompts(request_)
    assert request_.settable()


@pytest.mark.parametrize(
    ("page", "start"),
    [
        ("http://127.0.0.1:8501", "http://127.0.0.1:8501/?model="),
        ("https://host/dsae/compare#a", "https://host/dsae/compare?model="),
        ("", "?model="),
        (None, "?model="),
    ],
)
def test_a_link_begins_with_the_page_s_address(page: str | None, start: str) -> None:
    assert sharing.link(page, RunRequest()).startswith(start)


def test_prompts_too_long_for_a_link_are_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    words = [str(number) for number in torch.randint(0, 10**9, (1200,), generator=generator).tolist()]
    long = RunRequest(task=CUSTOM, examples=1, pairs=PromptPairs((" ".join(words),), ("x",)))
    assert len(pack_pairs(long.pairs or NASTY)) > MAX_PACKED
    assert "prompts" not in long.to_query()
    assert not sharing.carries_prompts(long)
    assert long.settable()


def test_prompts_of_a_link_that_make_no_sense_are_said_to() -> None:
    bomb = PromptPairs(("a" * (MAX_UNPACKED + 1),), ("b",))
    texts = ["", "?", "AAAA", "ä", pack_pairs(NASTY)[:-9], pack_pairs(bomb), pack_pairs(NASTY) + "AAAA"]
    for text in [*texts, pack_pairs(dataclasses.replace(NASTY, task="ioi"))]:
        query = {"task": CUSTOM, "prompts": text}
        asked, bad = RunRequest.from_query(query, TASKS)
        assert (asked.pairs, bad) == (None, ["prompts"]), text[:20]
    assert RunRequest.from_query({"task": "ioi", "prompts": pack_pairs(NASTY)}, TASKS)[1] == ["prompts"]


@pytest.mark.parametrize(
    "request_",
    [
        RunRequest(method="<method>"),
        RunRequest(task="<task>"),
        RunRequest(examples=0),
        RunRequest(seed=2**40),
        RunRequest(model=""),
        RunRequest(options=(("nonsense", 1),)),
        RunRequest(task=CUSTOM),
    ],
)
def test_settings_that_no_control_has_are_known_as_such(request_: RunRequest) -> None:
    assert not request_.settable()


# --- Python ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved_model(tiny_model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the tiny model, whose name is no plain word."""
    folder = tmp_path_factory.mktemp("models") / 'tiny "quoted"'
    tiny_model.module.save_pretrained(folder)
    tiny_model.tokenizer.save_pretrained(folder)
    return str(folder)


def result_of(snippet: str) -> Discovery:
    names: dict[str, object] = {}
    exec(compile(snippet, "snippet", "exec"), names)
    found = names["found"]
    assert isinstance(found, Discovery)
    return found


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("positional", {}),
        ("positional", {"k": 1, "epochs": 9, "n_features": 16}),
        ("paper", {"epochs": 20, "pool": "last"}),
    ],
)
def test_the_snippet_gives_the_same_scores(
    saved_model: str,
    tiny_pairs: PromptPairs,
    method: str,
    options: dict[str, object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = load_model(saved_model)
    found = discover(model, tiny_pairs, method=method, seed=5, **options)
    again = result_of(sharing.python(found, 0.5))
    assert torch.equal(again.node_scores, found.node_scores)
    assert torch.equal(again.codes, found.codes)
    assert again.settings == found.settings
    assert again.prompts == found.prompts
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed] == [f"{a}.{b}" for a, b in found.circuit(threshold=0.5).heads]


def test_the_snippet_draws_a_task_s_prompts_again() -> None:
    found = dataclasses.replace(small_discovery(), settings={"method": "paper", "seed": 7, "l1": 0.05})
    snippet = sharing.python(found, 1.0)
    assert "pairs = tasks.ioi(model.tokenizer, n=2, seed=7)" in snippet
    assert 'found = discover(model, pairs, method="paper", seed=7, l1=0.05)' in snippet
    assert "PromptPairs" not in snippet


@pytest.mark.model
def test_the_snippet_of_a_task_gives_the_same_scores(smollm2: LanguageModel) -> None:
    found = discover(smollm2, TASKS["ioi"].make(smollm2.tokenizer, 2, 7), seed=7, epochs=3)
    snippet = sharing.python(found, 0.5)
    assert "pairs = tasks.ioi(model.tokenizer, n=2, seed=7)" in snippet
    again = result_of(snippet)
    assert torch.equal(again.node_scores, found.node_scores)
    assert torch.equal(again.pair_scores, found.pair_scores)
    assert torch.equal(again.codes, found.codes)
    assert again.prompts == found.prompts


def test_every_built_in_task_has_a_public_function() -> None:
    from dsae_core import tasks

    assert all(getattr(tasks, name) is task.make for name, task in TASKS.items())


def test_no_text_of_a_run_becomes_code() -> None:
    evil = 'x"); import os; os.abort(); ("'
    found = dataclasses.replace(
        small_discovery(CUSTOM),
        prompts=NASTY,
        provenance={"model": evil},
        settings={"method": evil, "seed": 0, "k=1); evil(": 3, "pool": evil},
    )
    tree = ast.parse(sharing.python(found, 1.0))
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert calls == {"load_model", "PromptPairs", "discover", "print"}
    (load,) = (n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "load_model")
    assert ast.literal_eval(load.args[0]) == evil
    (pairs,) = (n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "PromptPairs")
    assert PromptPairs(**{key.arg or "": ast.literal_eval(key.value) for key in pairs.keywords}) == NASTY


def test_file_names_are_plain() -> None:
    assert sharing.file_stem(RunRequest(task="../<x>", method="a b", seed=3)) == "x-a-b-seed3"


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("my antonyms", "my-antonyms"),
        ("../../etc/passwd", "etc-passwd"),
        ("C:\\run.", "C-run"),
        ("\uff0e\uff0e\uff0fx\x00.json", "x-json"),  # full stops and a slash of another width
        ("Ägypten", "Agypten"),
        ("日本語", "ioi-positional-seed0"),
        (" . ", "ioi-positional-seed0"),
        ("x" * 59 + " y", "x" * 59),
    ],
)
def test_a_name_becomes_a_file_s_and_never_a_path(name: str, stem: str) -> None:
    assert sharing.file_stem(RunRequest(), name) == stem


# --- circuits ----------------------------------------------------------------------------------------------


def test_the_circuit_file_is_a_circuit(view: View) -> None:
    circuit = view.discovery.circuit(threshold=1.0)
    assert Circuit.from_dict(json.loads(sharing.circuit_json(circuit))).heads == ((0, 1), (1, 0))


def test_the_graph_has_the_nodes_and_edges_of_the_circuit(view: View) -> None:
    graph = sharing.circuit_graph(view.discovery, 1.0, ModelShape(8, parallel=False))
    assert graph["cfg"] == {"n_layers": 2, "n_heads": 2, "d_model": 8, "parallel_attn_mlp": False}
    nodes, edges = graph["nodes"], graph["edges"]
    assert list(nodes) == ["input", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1", "logits"]
    assert [name for name in nodes if nodes[name]["in_graph"]] == ["input", "a0.h1", "m0", "a1.h0", "m1", "logits"]
    assert {name: node["score"] for name, node in nodes.items() if "score" in node} == {
        "a0.h0": 0.0,
        "a0.h1": 1.0,
        "a1.h0": 4.0,
        "a1.h1": 0.5,
    }
    senders = {"a0.h1<q>": ["input"], "a1.h0<k>": ["input", "a0.h1", "m0"], "m0": ["input", "a0.h1"]}
    for target, expected in senders.items():
        assert [name.split("->")[0] for name in edges if name.endswith(f"->{target}")] == expected
    assert [name for name in edges if name.endswith("logits")] == [
        f"{name}->logits" for name in ("input", "a0.h1", "m0", "a1.h0", "m1")
    ]
    assert edges["a0.h1->a1.h0<v>"] == {"score": 3.0, "in_graph": True}
    assert edges["input->m0"]["score"] == 0.0
    assert not any("a0.h0" in name or "a1.h1" in name for name in edges)
    assert len(edges) == 3 + 2 + 9 + 4 + 5
    json.dumps(graph, allow_nan=False)


def test_in_a_parallel_model_no_head_reaches_its_layer_s_mlp(view: View) -> None:
    edges = sharing.circuit_graph(view.discovery, 1.0, ModelShape(8, parallel=True))["edges"]
    assert "a0.h1->m0" not in edges
    assert "a0.h1->m1" in edges


def test_the_shape_is_the_model_s(tiny_model: LanguageModel) -> None:
    assert ModelShape.of(tiny_model) == ModelShape(32, parallel=False)
    assert ModelShape.stored("no such model") is None


@pytest.mark.model
def test_the_default_model_s_shape_is_read_without_loading_it(smollm2: LanguageModel) -> None:
    assert ModelShape.stored("smollm2-135m") == ModelShape.of(smollm2)


# --- pictures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_chart_becomes_a_picture_in_the_theme_s_colours(view: View, mode: sharing.Mode) -> None:
    charts = pictures(view, 1.0, 10, (1, 0))
    assert list(charts) == ["Scores", "Circuit", "Ranked scores", "Precision and recall", "ROC curve"]
    for title, (draw, width) in charts.items():
        svg = sharing.picture(draw, title, "<b>of & this</b>", kind="svg", mode=mode, width=width).decode()
        assert svg.startswith("<svg")
        assert f">{title}<" in svg
        assert "&lt;b&gt;of &amp; this" in svg
        assert "currentColor" not in svg
        assert sharing.theme_colours(mode)["backgroundColor"] in svg
        coloured = title not in ("Precision and recall", "ROC curve")
        assert (sharing.theme_colours(mode)["chartCategoricalColors"][0] in svg) == coloured


def charts_elsewhere() -> dict[str, tuple[Drawing, int]]:
    """Every chart of the other pages and sections, with the width of its picture, by title."""
    scores, view = torch.tensor([[0.0, 1.0], [4.0, 0.5]]), View(small_discovery(), small_truth())
    lines = [Line(name, scores + i * torch.eye(2), 1.0 + i, auc=0.9) for i, name in enumerate(("paired", "norm"))]
    heads, other = comparison.heads(lines[0], small_truth()), Difference(view, View(small_discovery(top=9.0), None))
    weights = np.tril(np.full((3, 3), 0.5, dtype=np.float32))
    tokens = ("<b>", " &", "c")
    attention = attention_frame(weights, tokens, weights.T)
    grid = Grid.of(view.heads, has_truth=True)
    kernels = kernel_charts.kernel_frame([profile()])
    roofs = kernel_charts.roof_frame(kernel_charts.ceilings_of([profile()]), [20.0])
    return {
        "Method": (compare_charts.small_heatmap(heads, "rank"), sharing.NARROW),
        "Difference": (compare_charts.difference_map(other.heads), sharing.WIDE),
        "Every head, twice": (compare_charts.rank_scatter(other.heads), sharing.HALF),
        "Agreement": (compare_charts.agreement_map(comparison.agreement(lines)), sharing.HALF),
        "Accuracy and cost": (
            compare_charts.cost_chart(comparison.table(lines, has_truth=True)),
            sharing.HALF,
        ),
        "Stages": (kernel_charts.stage_chart(kernel_charts.stage_frame([profile()])), sharing.HALF),
        "Roofline": (kernel_charts.roofline(kernels[kernels["flops"] > 0], roofs), sharing.HALF),
        "Fused against plain torch": (
            kernel_charts.rivals_chart(kernel_charts.rivals_frame(profile().rivals)),
            sharing.HALF,
        ),
        "Growth": (kernel_charts.scaling_chart(profile().scaling[0]), sharing.NARROW),
        "Keep only the circuit": (validation_curve(measured(), "kept", 1), sharing.HALF),
        "Remove the circuit": (validation_curve(measured(), "removed", 1), sharing.HALF),
        "Attention": (attention_map(attention, tokens, [1], difference=True), sharing.NARROW),
        "Direct effect": (effects_map(grid, effects_frame(scores.numpy(), (1, 0))), sharing.WIDE),
        "Preview": (preview_map(scores), sharing.WIDE),
    }


def axis_titles(part: Any) -> set[str]:
    """The titles of the axes of a specification."""
    if isinstance(part, list):
        return set().union(*map(axis_titles, part))
    if not isinstance(part, dict):
        return set()
    own = {
        part["encoding"][axis]["title"] for axis in ("x", "y") if part.get("encoding", {}).get(axis, {}).get("title")
    }
    return own.union(*map(axis_titles, part.get("layer", [])))


@pytest.mark.parametrize("title", list(charts_elsewhere()))
def test_every_chart_of_other_pages_becomes_a_picture(title: str) -> None:
    drawing, width = charts_elsewhere()[title]
    subtitle = "how to read it, in so many words that they are more than one line of a picture; " * 2
    for mode in sharing.MODES:
        svg = sharing.picture(lambda: drawing, title, subtitle, kind="svg", mode=mode, width=width).decode()
        assert f'width="{width}"' in svg
        assert "currentColor" not in svg
        assert "NaN" not in svg
        texts = [html.unescape(text) for text in re.findall(r">([^<>]+)</t(?:ext|span)>", svg)]
        assert title in texts
        assert axis_titles(drawing.spec) <= set(texts)
        lines = [text for text in texts if len(text) > 20 and text in subtitle]
        assert len(lines) == (1 if width == sharing.WIDE else 2)
        assert " ".join(lines).startswith(subtitle.strip()[:100])


def test_a_png_is_twice_as_wide(view: View) -> None:
    draw, width = pictures(view, 1.0, 10, (1, 0))["ROC curve"]
    png = sharing.picture(draw, "ROC curve", "x", kind="png", mode="light", width=width)
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20], "big") == 2 * width


def test_without_a_circuit_there_are_no_curves_of_it() -> None:
    assert list(pictures(View(small_discovery(CUSTOM), None), 1.0, 10, (1, 0))) == [
        "Scores",
        "Circuit",
        "Ranked scores",
    ]


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_colours_are_read_from_the_theme(mode: sharing.Mode) -> None:
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    text = (Path(theme.__file__).parent / ".streamlit" / "config.toml").read_text()
    colours = tomllib.loads(text)["theme"][mode]
    assert sharing.theme_colours(mode) == {name: colours[name] for name in sharing.theme_colours(mode)}
    assert len(sharing.theme_colours(mode)) == 4
