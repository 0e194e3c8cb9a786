"""Accuracy against effort: what more seconds and more prompts buy, and what bounds it.

    python benchmarks/effort.py FILE... [--bound FILE] [--tasks ioi,greater_than,docstring] [--figure FILE.svg]

FILEs are of `dsae benchmark --json`, with any numbers of examples; --bound is of truth_agreement.py, and gives how well
exact patching of one half of the prompts ranks the circuit that the other half measures. Prints a line for each method
and number of examples, means over draws and tasks; runs no model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import altair as alt
import pandas as pd

from dsae_core.baselines import BASELINES
from dsae_core.benchmark_record import read_benchmark
from dsae_core.figures import COLOURS, GREY, SHAPES, save_svg

MEASURES = {"auc": "Node ROC AUC", "average_precision": "Average precision"}
NEEDS = ["forward passes", "gradients", "ablations"]
LEFT_OUT = ("random", "paired_flow")
"""Of the figure: chance, and the positional method's twin, which lies under it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("benchmarks", nargs="+", type=Path)
    parser.add_argument("--bound", type=Path)
    parser.add_argument("--tasks", default="ioi,greater_than,docstring")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    tasks = options.tasks.split(",")
    frame = pd.concat([points(path, tasks) for path in options.benchmarks])
    frame = frame.sort_values(["method", "examples", "draws"]).drop_duplicates(["method", "examples"], keep="last")
    bound = {} if options.bound is None else ceilings(options.bound, tasks)
    print(frame.round(3).to_string(index=False))
    print("\n".join(f"exact patching on other prompts: {MEASURES[name]} {value:.3f}" for name, value in bound.items()))
    if options.figure is not None:
        save_svg(chart(frame, bound), options.figure)


def points(path: Path, tasks: list[str]) -> pd.DataFrame:
    """One row a method that has all the tasks: method, needs, examples, draws, seconds of the fastest one, auc,
    average_precision.
    """
    benchmark = read_benchmark(path)
    rows = pd.DataFrame([vars(row) for row in benchmark.rows if row.task in tasks])
    found = []
    for method, own in rows.groupby("method"):
        by_task = own.groupby("task")
        if len(by_task) < len(tasks) or method in LEFT_OUT:
            continue
        values = {name: float(by_task[name].mean().mean()) for name in MEASURES}
        seconds = float(by_task["seconds"].min().mean())  # other work on the machine only ever adds
        draws = own["draw"].nunique()
        found.append((method, needs(str(method)), benchmark.settings["examples"], draws, seconds, *values.values()))
    return pd.DataFrame(found, columns=["method", "needs", "examples", "draws", "seconds", *MEASURES])


def needs(method: str) -> str:
    """What a method uses beside the prompts, in three kinds."""
    said = BASELINES[method].needs if method in BASELINES else "forward pass"
    return next((kind for kind in NEEDS if kind in said), NEEDS[0])


def ceilings(path: Path, tasks: list[str]) -> dict[str, float]:
    """Mean over tasks of how well each half's effects rank the other half's circuit."""
    rows = [row for task, row in json.loads(path.read_text())["tasks"].items() if task in tasks]
    return {name: mean(row[f"{name}_{side}"] for row in rows for side in _SIDES) for name in MEASURES}


_SIDES = ("first_on_second", "second_on_first")


def chart(frame: pd.DataFrame, bound: dict[str, float]) -> alt.TopLevelMixin:
    """A panel a measure: seconds across, a mark a method, joined where it has several numbers of examples."""
    panels = [panel(frame, name, bound.get(name)) for name in MEASURES]
    styled: alt.TopLevelMixin = (
        alt.hconcat(*panels)
        .configure(background="white", font="sans-serif")
        .configure_axis(labelFontSize=12, titleFontSize=12, titleFontWeight="normal", domain=False)
        .configure_view(stroke=None)
        .configure_legend(labelFontSize=12, titleFontSize=12, orient="bottom", title=None)
    )
    return styled


def panel(frame: pd.DataFrame, name: str, bound: float | None) -> Any:
    """One measure against seconds."""
    x = alt.X("seconds:Q", title="seconds (logarithmic)", scale=alt.Scale(type="log"), axis=alt.Axis(gridOpacity=0.6))
    y = alt.Y(f"{name}:Q", title=MEASURES[name], scale=alt.Scale(zero=False), axis=alt.Axis(gridOpacity=0.6))
    base = alt.Chart(frame).encode(x=x, y=y)
    colour = alt.Color("needs:N", scale=alt.Scale(domain=NEEDS, range=COLOURS[: len(NEEDS)]))
    shape = alt.Shape("needs:N", scale=alt.Scale(domain=NEEDS, range=SHAPES[: len(NEEDS)]))
    lines = base.mark_line(strokeWidth=1).encode(detail="method:N", color=colour, order="examples:Q")
    marks = base.mark_point(filled=True, size=55, opacity=1).encode(color=colour, shape=shape)
    ten = base.transform_filter(alt.datum.examples == 10)
    # Names stand on the left of forward passes' marks and on the right of all others, out of each other's way.
    fast = ten.transform_filter(alt.FieldEqualPredicate(NEEDS[0], "needs"))
    slow = ten.transform_filter(alt.FieldOneOfPredicate("needs", NEEDS[1:]))
    names = [
        fast.mark_text(align="right", dx=-8, dy=-5, fontSize=10).encode(text="method:N"),
        slow.mark_text(align="left", dx=8, fontSize=10).encode(text="method:N"),
    ]
    others = base.transform_filter(alt.datum.examples != 10)
    numbers = others.mark_text(dy=10, fontSize=9, color=GREY).encode(text="examples:Q")
    layers = [lines, marks, *names, numbers]
    if bound is not None:
        at = alt.Chart(pd.DataFrame({name: [bound]})).encode(y=f"{name}:Q")
        layers.append(at.mark_rule(strokeDash=[4, 3], color=GREY))
    return alt.layer(*layers).properties(width=380, height=300)


if __name__ == "__main__":
    main()
