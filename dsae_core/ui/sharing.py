"""What a run can leave as: a link, Python, a circuit, a graph for circuit evaluators, charts as pictures."""

from __future__ import annotations

import copy
import json
import keyword
import re
import textwrap
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit, urlunsplit

from dsae_core.circuits import Circuit
from dsae_core.errors import UserError
from dsae_core.files import read_text
from dsae_core.models import LanguageModel, available_models
from dsae_core.prompts import PromptPairs
from dsae_core.result import Discovery
from dsae_core.tasks import TASKS
from dsae_core.ui.charts.style import GROUND, INK, Drawing
from dsae_core.ui.request import CUSTOM, SHOWN_AT, RunRequest

Kind = Literal["svg", "png"]
Mode = Literal["light", "dark"]
MODES: tuple[Mode, ...] = ("light", "dark")

WIDE, HALF, NARROW = 1000, 680, 480
"""Widths of pictures of all layers, of half a page, and of curves; PNG files have twice as many pixels."""

_INK = {"light": "#1b2128", "dark": "#e8eaed"}
_QUIET = {"light": "#5c6670", "dark": "#9aa5b1"}
_FONT = "Source Sans Pro, Helvetica Neue, Arial, sans-serif"
_PADDING, _TITLE = 16, 50
_SUBTITLE_LINE, _LETTER = 15, 5.6
"""Pixels of a further line below the title, and about those of a letter in it."""


def link(url: str | None, request: RunRequest, threshold: float | None = None) -> str:
    """The address that opens a run's settings, and its result where the server keeps it.

    Args:
        url: of the page on show, None where it is not known; its query is replaced.
        request: the run.
        threshold: to show the result at; None for where it starts.
    """
    shown = {} if threshold is None else {SHOWN_AT: f"{threshold:g}"}
    parts = urlsplit(url or "")
    path = parts.path or ("/" if parts.netloc else "")
    return urlunsplit((parts.scheme, parts.netloc, path, urlencode({**request.to_query(), **shown}), ""))


def is_local(url: str | None) -> bool:
    """Whether an address means something on this computer alone."""
    return (urlsplit(url or "").hostname or "") in ("localhost", "127.0.0.1", "::1")


def carries_prompts(request: RunRequest) -> bool:
    """Whether the link brings all that the run needs; prompts may be too long for it."""
    return request.task != CUSTOM or "prompts" in request.to_query()


def file_stem(request: RunRequest, name: str = "") -> str:
    """The start of the names of a run's files: of its name, where it has one in letters that all systems take."""
    return _plain(name) or _plain(f"{request.task}-{request.method}-seed{request.seed}")


def _plain(text: str) -> str:
    """Text as a file's name, without anything that could be a path: ASCII letters without accents, digits, hyphens."""
    letters = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9]+", "-", letters)[:60].strip("-")


def python(discovery: Discovery, threshold: float) -> str:
    """A script that repeats a run with the public names.

    Prompts of a built-in task are drawn again, a user's own are written out. Every text is a Python literal, so that
    no prompt and no name can become code.

    Raises:
        UserError: the run's seed is no seed.
    """
    request = RunRequest.of(discovery)
    drawn = request.task in TASKS
    names = ["discover", "load_model", "tasks"] if drawn else ["PromptPairs", "discover", "load_model"]
    lines = [
        f"from dsae_core import {', '.join(names)}",
        "",
        f"model = load_model({_literal(request.model)})",
        *(_drawn(request) if drawn else _written(discovery.prompts)),
        *_call(request),
        "",
        f"for layer, head in found.circuit(threshold={threshold:g}).heads:",
        '    print(f"{layer}.{head}: {found.node_scores[layer, head]:.3g}")',
    ]
    return "\n".join(lines) + "\n"


def _drawn(request: RunRequest) -> list[str]:
    return [f"pairs = tasks.{request.task}(model.tokenizer, n={request.examples}, seed={request.seed})"]


def _written(pairs: PromptPairs | None) -> list[str]:
    if pairs is None:
        raise UserError("This run was made from head outputs alone; there are no prompts to repeat it with.")
    lines = ["pairs = PromptPairs("]
    for name in ("positive", "negative", "answer", "distractor"):
        if values := getattr(pairs, name):
            lines += [f"    {name}=(", *(f"        {_literal(value)}," for value in values), "    ),"]
    if pairs.metric != "logit_difference":
        lines.append(f"    metric={_literal(pairs.metric)},")
    if pairs.task != CUSTOM:
        lines.append(f"    task={_literal(pairs.task)},")
    return [*lines, ")"]


def _call(request: RunRequest) -> list[str]:
    settings = [f"method={_literal(request.method)}", f"seed={request.seed}"]
    settings += [f"{name}={_literal(value)}" for name, value in request.options if _is_parameter(name)]
    line = f"found = discover(model, pairs, {', '.join(settings)})"
    if len(line) <= 88:
        return [line]
    return ["found = discover(", "    model,", "    pairs,", *(f"    {setting}," for setting in settings), ")"]


def _is_parameter(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name) and name != "__debug__"


def _literal(value: Any) -> str:
    """A Python literal, with double quotes where that can be."""
    if not isinstance(value, str):
        return repr(value)
    quoted = repr(value)
    return f'"{quoted[1:-1]}"' if quoted.startswith("'") and '"' not in value else quoted


# --- circuits ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelShape:
    """What a graph must know of a model beside its heads.

    Attributes:
        d_model: width of the residual stream.
        parallel: whether attention and MLP of a layer read the same input (as in GPT-NeoX), so that no head of a
            layer reaches its MLP.
    """

    d_model: int
    parallel: bool

    @classmethod
    def of(cls, model: LanguageModel) -> ModelShape:
        """The shape of a loaded model."""
        config = model.module.config
        parallel = getattr(config, "use_parallel_residual", config.model_type in ("phi", "gptj", "codegen"))
        return cls(model.d_model, bool(parallel))

    @classmethod
    def stored(cls, name: str) -> ModelShape | None:
        """The shape of a model known by name that is in the cache folder, from its configuration; else None."""
        info = next((info for info in available_models() if info.name == name and info.fetched), None)
        if info is None:
            return None
        config = json.loads(read_text(info.path / "config.json", "the model's configuration"))
        return cls(int(config["hidden_size"]), parallel=False)


def circuit_graph(discovery: Discovery, threshold: float, shape: ModelShape) -> dict[str, Any]:
    """The circuit at a threshold as circuit evaluators read it.

    The format is that of ``Graph.to_json`` and ``Graph.from_json`` of EAP-IG (Hanna et al. 2024), which the circuit
    track of MIB (Mueller et al. 2025) takes as well: ``cfg`` (n_layers, n_heads, d_model, parallel_attn_mlp), ``nodes``
    by name (``input``, ``a3.h2`` for head 2 of layer 3, ``m3`` for its MLP, ``logits``) with ``in_graph`` and, where
    there is one, ``score``; ``edges`` by name (``a3.h2->a5.h1<q>``, ``m3->logits``) with ``score`` and ``in_graph``.

    Discovery looks at heads only, so heads have their node score and every other node is in the graph without one;
    such nodes are always kept where a reader cuts the graph by node scores. Edges are those between nodes in the
    graph, all of them; between two heads they have the edge score (of a discovery without those, the pair score),
    elsewhere 0. Edges that are left out are not in it.
    """
    members = set(discovery.circuit(threshold=threshold).heads)
    between = discovery.pair_scores if discovery.edge_scores is None else discovery.edge_scores
    n_layers, n_heads = discovery.n_layers, discovery.n_heads
    nodes: dict[str, dict[str, Any]] = {"input": {"in_graph": True}}
    edges: dict[str, dict[str, Any]] = {}
    upstream: list[tuple[str, int]] = [("input", -1)]  # names, and the head's index in all heads or -1

    def join(target: str, index: int = -1, letters: str = "") -> None:
        for name, sender in upstream:
            score = float(between[sender, index]) if min(sender, index) >= 0 else 0.0
            for end in [f"<{letter}>" for letter in letters] or [""]:
                edges[f"{name}->{target}{end}"] = {"score": score, "in_graph": True}

    for layer in range(n_layers):
        heads = []
        for head in range(n_heads):
            name, index = f"a{layer}.h{head}", layer * n_heads + head
            inside = (layer, head) in members
            nodes[name] = {"in_graph": inside, "score": float(discovery.node_scores[layer, head])}
            if inside:
                join(name, index, "qkv")
                heads.append((name, index))
        mlp = f"m{layer}"
        nodes[mlp] = {"in_graph": True}
        if shape.parallel:
            join(mlp)
        upstream += heads
        if not shape.parallel:
            join(mlp)
        upstream.append((mlp, -1))
    join("logits")
    nodes["logits"] = {"in_graph": True}
    sizes = {"n_layers": n_layers, "n_heads": n_heads, "d_model": shape.d_model, "parallel_attn_mlp": shape.parallel}
    return {"cfg": sizes, "nodes": nodes, "edges": edges}


def circuit_json(circuit: Circuit) -> str:
    """The circuit file that read_circuit and `dsae discover --truth` read."""
    return json.dumps(circuit.to_dict(), indent=1) + "\n"


# --- pictures ----------------------------------------------------------------------------------------------


def picture(
    draw: Callable[[], Drawing], title: str, subtitle: str, *, kind: Kind, mode: Mode, width: int = WIDE
) -> bytes:
    """A chart as a file, in the colours the page has in light or dark, under its title.

    Args:
        draw: makes the chart.
        title: what it shows.
        subtitle: how to read it.
        kind: of the file.
        mode: "light" or "dark".
        width: of the picture in pixels.

    Raises:
        UserError: the chart cannot be drawn.
    """
    import vl_convert

    spec = standalone(draw(), title, subtitle, mode, width)
    try:
        if kind == "png":
            return bytes(vl_convert.vegalite_to_png(spec, scale=2))
        return str(vl_convert.vegalite_to_svg(spec)).encode()
    except ValueError as error:
        raise UserError("The chart could not be drawn; download its data instead.") from error


def standalone(drawing: Drawing, title: str, subtitle: str, mode: Mode, width: int = WIDE) -> dict[str, Any]:
    """A chart's specification with its data, size and the colours that the page would give it."""
    colours = theme_colours(mode)
    ink, quiet = _INK[mode], _QUIET[mode]
    spec: dict[str, Any] = _coloured(copy.deepcopy(dict(drawing.spec)), {INK: ink, GROUND: colours["backgroundColor"]})
    spec["datasets"] = {name: json.loads(frame.to_json(orient="records")) for name, frame in drawing.data.items()}
    lines = textwrap.wrap(subtitle, int((width - 2 * _PADDING) / _LETTER)) or [""]
    spec["width"] = width
    spec["height"] = spec["height"] + 2 * _PADDING + _TITLE + _SUBTITLE_LINE * (len(lines) - 1)
    spec["autosize"] = {"type": "fit", "contains": "padding"}
    spec["title"] = {"text": title, "subtitle": lines}
    spec["padding"] = _PADDING
    words = {"labelColor": quiet, "titleColor": ink, "labelFontSize": 12, "titleFontSize": 12}
    spec["config"] = {
        **spec.get("config", {}),
        "background": colours["backgroundColor"],
        "font": _FONT,
        "view": {"stroke": None},
        "axis": {**words, "gridColor": colours["borderColor"], "titleFontWeight": "normal", "ticks": False},
        "legend": words,
        "title": {
            "anchor": "start",
            "color": ink,
            "subtitleColor": quiet,
            "fontSize": 15,
            "offset": 12,
            "subtitleLineHeight": _SUBTITLE_LINE,
        },
        "range": {
            "category": colours["chartCategoricalColors"],
            "ramp": colours["chartSequentialColors"],
            "heatmap": colours["chartSequentialColors"],
        },
    }
    return spec


@cache
def theme_colours(mode: Mode) -> Mapping[str, Any]:
    """The colours of .streamlit/config.toml."""
    text = (resources.files("dsae_core.ui") / ".streamlit" / "config.toml").read_text(encoding="utf-8")
    wanted = ("chartCategoricalColors", "chartSequentialColors", "backgroundColor", "borderColor")
    section = text.split(f"[theme.{mode}]")[1].split("\n[")[0]
    pairs = (line.split(" = ", 1) for line in section.splitlines() if " = " in line)
    return {name: json.loads(value) for name, value in pairs if name in wanted}


def _coloured(part: Any, colours: Mapping[str, str]) -> Any:
    """A specification with the colours that only a page knows replaced."""
    if isinstance(part, dict):
        return {key: _coloured(value, colours) for key, value in part.items()}
    if isinstance(part, list):
        return [_coloured(value, colours) for value in part]
    return colours.get(part, part) if isinstance(part, str) else part
