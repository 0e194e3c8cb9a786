"""How time grows with heads and with examples: points, fitted exponents, and a chart.

    python benchmarks/scaling.py [--json FILE] [--figure FILE.svg] [--threads N]

The files are benchmarks/results/scaling.cpu.json and docs/images/scaling.svg unless named. Discoveries start from
random activations, so no model is needed; see dsae_core.profiling.measure_scaling.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import altair as alt
import pandas as pd
import torch

from dsae_core.figures import save_svg
from dsae_core.files import write_atomic
from dsae_core.machine import machine_facts
from dsae_core.scaling import Scaling, measure_scaling

ROOT = Path(__file__).parents[1]


def fitted_line(scaling: Scaling) -> pd.DataFrame:
    """The power law through the points, at the first and last of them."""
    logs = [math.log(seconds) - scaling.exponent * math.log(value) for value, seconds in scaling.points]
    factor = math.exp(sum(logs) / len(logs))
    ends = [scaling.points[0][0], scaling.points[-1][0]]
    return pd.DataFrame({"value": ends, "seconds": [factor * end**scaling.exponent for end in ends]})


def panel(scaling: Scaling) -> alt.LayerChart:
    """One series, both axes logarithmic."""
    values = [value for value, _ in scaling.points]
    x = alt.X(
        "value:Q",
        title=scaling.quantity,
        scale=alt.Scale(type="log", domain=[values[0], values[-1]], nice=False),
        axis=alt.Axis(values=values, format="d"),
    )
    y = alt.Y("seconds:Q", title="seconds", scale=alt.Scale(type="log"))
    points = alt.Chart(pd.DataFrame(scaling.points, columns=["value", "seconds"]))
    line = alt.Chart(fitted_line(scaling)).mark_line(color="#8a939c", strokeDash=[4, 3])
    title = f"{scaling.name}: ~ {scaling.quantity}^{scaling.exponent:.2f}"
    layers = line.encode(x=x, y=y) + points.mark_point(filled=True, size=60, color="#0072b2").encode(x=x, y=y)
    return layers.properties(title=title, width=230, height=200)


def chart(found: Sequence[Scaling]) -> alt.TopLevelMixin:
    """The series side by side."""
    return alt.hconcat(*map(panel, found)).resolve_scale(x="independent", y="independent")


def main() -> None:
    """Measure, print, and write the file and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "scaling.cpu.json")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "images" / "scaling.svg")
    parser.add_argument("--threads", type=int, help="torch's number of threads")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    found = measure_scaling()
    for scaling in found:
        points = ", ".join(f"{value}: {seconds:.4f} s" for value, seconds in scaling.points)
        print(f"{scaling.name} against {scaling.quantity}: exponent {scaling.exponent:.2f} ({points})")
    document = {"schema": 1, "machine": machine_facts(), "scaling": [asdict(scaling) for scaling in found]}
    write_atomic(options.json, json.dumps(document, indent=1) + "\n")
    save_svg(chart(found), options.figure)


if __name__ == "__main__":
    main()
