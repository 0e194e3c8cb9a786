"""What a discovery costs: stages, operators under the roofline, against plain torch, and how time grows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import altair as alt
import pandas as pd

from dsae_core.ui.charts.comparison import LABEL_PIXELS, spread
from dsae_core.ui.charts.style import AXIS_HEIGHT, INK, Drawing
from dsae_core.ui.text import seconds

if TYPE_CHECKING:
    from dsae_core.profiling import Profile
    from dsae_core.rivals import RivalTime
    from dsae_core.roofline import Ceilings
    from dsae_core.scaling import Scaling

DEVICES = {"cpu": "CPU", "cuda": "CUDA"}
"""Devices in words, in the order of the theme's first two colours."""

VARIANTS = {"fused": "compiled", "eager": "plain torch (eager)", "compiled": "torch.compile"}
"""Ways to compute what an operator computes, in the order of the theme's first three colours."""

MEASURED = "measured"
"""Says that a point was measured; the theme's first colour."""

TIMES = "\N{MULTIPLICATION SIGN}"

BAR = 22
"""Pixels a bar."""

LEGEND_HEIGHT = 38
"""Pixels below an axis for a legend: a chart's height includes them."""

BELOW = {"bottom": 2}
"""Pixels around a chart; Streamlit leaves 20 below one that does not say, far from the notes on it."""

ROOFLINE_HEIGHT, SCALING_HEIGHT = 312, 222


def device_of(profile: Profile) -> str:
    """Where the model of a profile ran, in words."""
    return device_title(str(profile.settings.get("device", "cpu")))


def device_title(device: str) -> str:
    """A device in words."""
    return DEVICES.get(device, device)


# --- frames ------------------------------------------------------------------------------------------------


def stage_frame(profiles: Sequence[Profile]) -> pd.DataFrame:
    """device, stage, seconds, share of the device's total, and label; a row a stage, in order."""
    rows = [
        {
            "device": device_of(profile),
            "stage": stage.name,
            "seconds": stage.seconds,
            "share": stage.seconds / (profile.seconds or 1.0),
            "label": seconds(stage.seconds),
        }
        for profile in profiles
        for stage in profile.stages
    ]
    return pd.DataFrame(rows)


def kernel_frame(profiles: Sequence[Profile]) -> pd.DataFrame:
    """A row an operator and device, as in KernelTime; of two measurements of one the first counts.

    Beside KernelTime's fields: roof, the GFLOP/s that the device's ceilings allow at this intensity, and mib.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for profile in profiles:
        ceilings = {ceiling.device: ceiling for ceiling in profile.ceilings}
        for kernel in profile.kernels:
            roof = roof_at(ceilings[kernel.device], kernel.intensity)
            fields = {
                **vars(kernel),
                "device": device_title(kernel.device),
                "shape": by(kernel.shape),
                "roof": roof,
                "mib": kernel.bytes / 2**20,
            }
            rows.setdefault((kernel.name, kernel.device), fields)
    return pd.DataFrame(rows.values())


def ceilings_of(profiles: Sequence[Profile]) -> tuple[Ceilings, ...]:
    """The ceilings of every device; of two measurements of one the first counts."""
    found: dict[str, Ceilings] = {}
    for profile in profiles:
        for ceiling in profile.ceilings:
            found.setdefault(ceiling.device, ceiling)
    return tuple(found.values())


def roof_at(ceilings: Ceilings, intensity: float) -> float:
    """GFLOP/s that no operator of so many FLOPs a byte exceeds: min(peak, intensity * bandwidth)."""
    return min(ceilings.matmul_gflop_s, intensity * ceilings.copy_gb_s)


def roof_frame(ceilings: Sequence[Ceilings], intensities: Iterable[float]) -> pd.DataFrame:
    """device, intensity, gflop_s and limit: three corners of each device's roof, as wide as the operators need.

    Args:
        ceilings: of each device.
        intensities: of the operators that are drawn below, in FLOPs a byte, above 0.
    """
    ridges = [ceiling.matmul_gflop_s / ceiling.copy_gb_s for ceiling in ceilings]
    inside = [*ridges, *intensities]
    low, high = min(inside) / 5, max(inside) * 5
    rows = []
    for ceiling, ridge in zip(ceilings, ridges, strict=True):
        copy = f"copy, {_rate(ceiling.copy_gb_s)} GB/s"
        product = f"matrix product, {_rate(ceiling.matmul_gflop_s)} GFLOP/s"
        for intensity, limit in ((low, copy), (ridge, f"{copy}; {product}"), (high, product)):
            rows.append((device_title(ceiling.device), intensity, roof_at(ceiling, intensity), limit))
    return pd.DataFrame(rows, columns=["device", "intensity", "gflop_s", "limit"])


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}"


def rivals_frame(rivals: Sequence[RivalTime]) -> pd.DataFrame:
    """operator, variant (in words), shape, ms, mib, note; share of the slowest variant's time; ratio to the compiled.

    Of a variant that did not run ms, mib and ratio are missing, and share is 0.
    """
    slowest: dict[str, float] = {}
    fused: dict[str, float] = {}
    for rival in rivals:
        slowest[rival.name] = max(slowest.get(rival.name, 0.0), rival.ms or 0.0)
        if rival.variant == "fused" and rival.ms:
            fused[rival.name] = rival.ms
    rows = []
    for rival in rivals:
        ratio = rival.ms / fused[rival.name] if rival.ms is not None and rival.name in fused else None
        rows.append(
            {
                "operator": rival.name,
                "variant": VARIANTS[rival.variant],
                "shape": by(rival.shape),
                "ms": rival.ms,
                "mib": rival.mib,
                "share": (rival.ms or 0.0) / (slowest[rival.name] or 1.0),
                "ratio": ratio,
                "label": _rival_label(rival, ratio),
                "note": rival.note,
            }
        )
    return pd.DataFrame(rows)


def _rival_label(rival: RivalTime, ratio: float | None) -> str:
    if rival.ms is None:
        return "did not run"
    time = milliseconds(rival.ms)
    return time if rival.variant == "fused" or ratio is None else f"{time} · {times(ratio)}"


def milliseconds(value: float) -> str:
    """A time given in ms: "0.28 ms", "12.6 ms", "138 ms", "3.3 s"."""
    if value < 99.5:
        return f"{value:.2f} ms" if value < 9.95 else f"{value:.1f} ms"
    return f"{value:.0f} ms" if value < 999.5 else seconds(value / 1000)


def by(sizes: str) -> str:
    """Sizes as people write them: "20 × 17"."""
    return sizes.replace(" x ", f" {TIMES} ")


def times(ratio: float) -> str:
    """How many times as long: "0.61×", "12.4×", "977×"."""
    digits = 2 if ratio < 1 else 1 if ratio < 99.95 else 0
    return f"{ratio:,.{digits}f}{TIMES}"


def scaling_frame(scaling: Scaling) -> pd.DataFrame:
    """value, seconds, fitted: the points and c * value^exponent, the line through their logarithms' means."""
    logs = [(math.log(value), math.log(time)) for value, time in scaling.points]
    mean_x, mean_y = (sum(column) / len(logs) for column in zip(*logs, strict=True))
    fitted = [math.exp(mean_y + scaling.exponent * (x - mean_x)) for x, _ in logs]
    frame = pd.DataFrame(scaling.points, columns=["value", "seconds"])
    return frame.assign(fitted=fitted, label=[seconds(time) for time in frame["seconds"]])


# --- drawings ----------------------------------------------------------------------------------------------


def stage_chart(frame: pd.DataFrame) -> Drawing:
    """Seconds by stage, a bar a device.

    Args:
        frame: stage_frame(profiles).
    """
    stages, devices = tuple(dict.fromkeys(frame["stage"])), tuple(dict.fromkeys(frame["device"]))
    return Drawing(_stage_spec(stages, len(devices), float(frame["seconds"].max())), {"stages": frame})


def roofline(kernels: pd.DataFrame, roofs: pd.DataFrame) -> Drawing:
    """Operators below the roofs of their devices, over arithmetic intensity; both axes are logarithmic.

    Args:
        kernels: rows of kernel_frame(profiles) that have FLOPs.
        roofs: roof_frame(ceilings, intensities).
    """
    shown = kernels.sort_values("gflop_s", ascending=False)
    rates = [*shown["gflop_s"], *roofs["gflop_s"]]
    decades = math.log10(max(rates) / min(rates)) + 0.5  # with the room above and below
    gap = decades * LABEL_PIXELS / (ROOFLINE_HEIGHT - 2 * AXIS_HEIGHT)
    heights = spread([math.log10(rate) for rate in shown["gflop_s"]], gap)
    shown = shown.assign(label_at=[10**height for height in heights], top=shown[["roof", "gflop_s"]].max(axis=1))
    middle = float(roofs["intensity"].min() * roofs["intensity"].max()) ** 0.5
    shown["side"] = ["left" if intensity > middle else "right" for intensity in shown["intensity"]]
    lowest = min(float(shown["label_at"].min()), float(roofs["gflop_s"].min()))
    highest = max(float(shown["gflop_s"].max()), float(roofs["gflop_s"].max()))
    # Room for what is written above the roofs and below the lowest mark.
    domain = (float(roofs["intensity"].min()), float(roofs["intensity"].max())), (lowest / 1.6, highest * 2)
    data = {"kernels": shown, "roofs": roofs, "names": _roof_names(roofs)}
    return Drawing(_roofline_spec(domain, roofs["device"].nunique()), data)


def _roof_names(roofs: pd.DataFrame) -> pd.DataFrame:
    """What is written on each roof: at its left end (`end`) the bandwidth, at its right end the peak."""
    several = roofs["device"].nunique() > 1
    by_device = roofs.groupby("device", sort=False)
    ends = pd.concat([by_device.head(1).assign(end="left"), by_device.tail(1).assign(end="right")])
    return ends.assign(text=ends["device"] + ": " + ends["limit"] if several else ends["limit"])


def rivals_chart(frame: pd.DataFrame) -> Drawing:
    """Time of each variant as a share of the slowest variant's, by operator.

    Args:
        frame: rivals_frame(profile.rivals).
    """
    return Drawing(_rivals_spec(tuple(dict.fromkeys(frame["operator"]))), {"rivals": frame})


def scaling_chart(scaling: Scaling) -> Drawing:
    """Seconds against what was varied, with the fitted line; both axes are logarithmic."""
    frame = scaling_frame(scaling)
    values = tuple(int(value) for value in frame["value"])
    drawn = [*frame["seconds"], *frame["fitted"]]
    limits = min(drawn) / 2.5, max(drawn) * 2
    return Drawing(_scaling_spec(scaling.quantity, values, limits), {"points": frame.assign(source=MEASURED)})


def _device_colour(n_devices: int) -> alt.Color:
    legend = alt.Legend(title=None, orient="bottom") if n_devices > 1 else None
    return alt.Color("device:N", scale=alt.Scale(domain=list(DEVICES.values())), legend=legend)


@lru_cache(maxsize=8)
def _stage_spec(stages: tuple[str, ...], n_devices: int, longest: float) -> dict[str, Any]:
    encoding: dict[str, Any] = {
        "y": alt.Y(
            "stage:N",
            title="Stage",
            sort=list(stages),
            scale=alt.Scale(paddingInner=0.25),
            axis=alt.Axis(ticks=False, domain=False, grid=False, labelPadding=6),
        ),
        "tooltip": [
            alt.Tooltip("stage:N", title="Stage"),
            alt.Tooltip("device:N", title="Model on"),
            alt.Tooltip("seconds:Q", title="Seconds", format=".3~f"),
            alt.Tooltip("share:Q", title="Share of the discovery", format=".1%"),
        ],
    }
    if n_devices > 1:
        encoding["yOffset"] = alt.YOffset("device:N", sort=list(DEVICES.values()))
    x = alt.X(
        "seconds:Q",
        title="Seconds",
        scale=alt.Scale(domain=[0, 1.15 * longest], nice=False),
        axis=alt.Axis(tickCount=6, gridOpacity=0.5),
    )
    base = alt.Chart(alt.NamedData("stages")).encode(x=x, **encoding)
    bars = base.mark_bar(cornerRadiusEnd=2, minBandSize=3).encode(color=_device_colour(n_devices))
    words = base.mark_text(align="left", dx=5, fontSize=12, color=INK).encode(text="label:N")
    height = len(stages) * (n_devices * BAR + 6) + AXIS_HEIGHT + (LEGEND_HEIGHT if n_devices > 1 else 0)
    return alt.layer(bars, words).properties(height=height, padding=BELOW).to_dict()


@lru_cache(maxsize=8)
def _roofline_spec(domain: tuple[tuple[float, float], tuple[float, float]], n_devices: int) -> dict[str, Any]:
    x = alt.X(
        "intensity:Q",
        title="Arithmetic intensity (FLOPs a byte)",
        scale=alt.Scale(type="log", domain=list(domain[0]), nice=False),
        axis=alt.Axis(format=",~r", tickCount=5, gridOpacity=0.5),
    )
    rates = alt.Scale(type="log", domain=list(domain[1]), nice=False)
    y = alt.Y("gflop_s:Q", title="GFLOP/s", scale=rates, axis=alt.Axis(format=",~r", tickCount=5, gridOpacity=0.5))
    colour = _device_colour(n_devices)
    lines = alt.Chart(alt.NamedData("roofs")).encode(
        x=x,
        y=y,
        color=colour,
        tooltip=[
            alt.Tooltip("device:N", title="Device"),
            alt.Tooltip("limit:N", title="Ceiling"),
            alt.Tooltip("intensity:Q", title="FLOPs a byte", format=".3~g"),
            alt.Tooltip("gflop_s:Q", title="GFLOP/s at most", format=".3~s"),
        ],
    )
    corners = lines.mark_point(filled=True, size=26, opacity=1)
    named = alt.Chart(alt.NamedData("names")).encode(x=x, y=y, text="text:N")
    flat = named.transform_filter(alt.datum.end == "right").mark_text(
        align="right", dx=-4, dy=-9, fontSize=11.5, color=INK, opacity=0.75
    )
    slope = named.transform_filter(alt.datum.end == "left").mark_text(
        align="left", dx=12, dy=4, fontSize=11.5, color=INK, opacity=0.75
    )
    kernels = alt.Chart(alt.NamedData("kernels")).encode(x=x, y=y, tooltip=_kernel_tooltip())
    missing = kernels.mark_rule(strokeDash=[2, 3], opacity=0.6, color=INK).encode(y2="top:Q")
    marks = kernels.mark_point(filled=True, size=110, opacity=1).encode(
        color=colour, shape=alt.Shape("device:N", scale=alt.Scale(domain=list(DEVICES.values())), legend=None)
    )
    style: dict[str, Any] = {"fontSize": 12.5, "fontWeight": "bold", "color": INK}
    right, left = (
        kernels.transform_filter(alt.datum.side == side).encode(y=alt.Y("label_at:Q", scale=rates), text="name:N")
        for side in ("right", "left")
    )
    names = right.mark_text(align="left", dx=10, **style), left.mark_text(align="right", dx=-10, **style)
    chart = alt.layer(lines.mark_line(strokeWidth=2), corners, flat, slope, missing, marks, *names)
    height = ROOFLINE_HEIGHT + (LEGEND_HEIGHT if n_devices > 1 else 0)
    return chart.properties(height=height, padding=BELOW).to_dict()


def _kernel_tooltip() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("name:N", title="Operator"),
        alt.Tooltip("device:N", title="On"),
        alt.Tooltip("shape:N", title="First call"),
        alt.Tooltip("calls:Q", title="Calls"),
        alt.Tooltip("ms:Q", title="ms, all calls", format=",.2~f"),
        alt.Tooltip("bytes:Q", title="Bytes", format=","),
        alt.Tooltip("flops:Q", title="FLOPs", format=".4~s"),
        alt.Tooltip("intensity:Q", title="FLOPs a byte", format=".3~g"),
        alt.Tooltip("gflop_s:Q", title="GFLOP/s", format=",.3~f"),
        alt.Tooltip("bound:N", title="Bound by"),
        alt.Tooltip("share:Q", title="Share of the roofline", format=".1%"),
    ]


@lru_cache(maxsize=8)
def _rivals_spec(operators: tuple[str, ...]) -> dict[str, Any]:
    variants = list(VARIANTS.values())
    legend = alt.Legend(title=None, orient="bottom", columns=2)  # in one row they are wider than a phone
    base = alt.Chart(alt.NamedData("rivals")).encode(
        y=alt.Y(
            "operator:N",
            title="Operator",
            sort=list(operators),
            scale=alt.Scale(paddingInner=0.25),
            axis=alt.Axis(ticks=False, domain=False, grid=False, labelPadding=6),
        ),
        yOffset=alt.YOffset("variant:N", sort=variants),
        x=alt.X(
            "share:Q",
            title="Share of the slowest variant's time",
            scale=alt.Scale(domain=[0, 1.55], nice=False),
            axis=alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format=".0%", gridOpacity=0.5),
        ),
        tooltip=[
            alt.Tooltip("operator:N", title="Operator"),
            alt.Tooltip("variant:N", title="Computed by"),
            alt.Tooltip("shape:N", title="First call"),
            alt.Tooltip("ms:Q", title="ms, all calls", format=",.2~f"),
            alt.Tooltip("ratio:Q", title="Times the compiled one's", format=",.2~f"),
            alt.Tooltip("mib:Q", title="Extra memory (MiB)", format=",.1~f"),
            alt.Tooltip("note:N", title="Note"),
        ],
    )
    bars = base.mark_bar(cornerRadiusEnd=2).encode(
        color=alt.Color("variant:N", scale=alt.Scale(domain=variants), legend=legend)
    )
    words = base.mark_text(align="left", dx=5, fontSize=12, color=INK).encode(text="label:N")
    height = len(operators) * (len(variants) * BAR + 14) + AXIS_HEIGHT + LEGEND_HEIGHT + LABEL_PIXELS
    return alt.layer(bars, words).properties(height=height, padding=BELOW).to_dict()


@lru_cache(maxsize=16)
def _scaling_spec(quantity: str, values: tuple[int, ...], limits: tuple[float, float]) -> dict[str, Any]:
    x = alt.X(
        "value:Q",
        title=quantity.capitalize(),
        scale=alt.Scale(type="log", domain=[values[0] / 1.25, values[-1] * 1.5], nice=False),
        axis=alt.Axis(values=list(values), format=",d", grid=False),
    )

    def y(field: str) -> alt.Y:
        return alt.Y(
            f"{field}:Q",
            title="Seconds",
            scale=alt.Scale(type="log", domain=list(limits), nice=False),
            axis=alt.Axis(format="~r", tickCount=4, gridOpacity=0.5),
        )

    base = alt.Chart(alt.NamedData("points")).encode(
        x=x,
        tooltip=[
            alt.Tooltip("value:Q", title=quantity.capitalize(), format=",d"),
            alt.Tooltip("seconds:Q", title="Seconds", format=".4~g"),
            alt.Tooltip("fitted:Q", title="On the fitted line", format=".4~g"),
        ],
    )
    line = base.mark_line(color=INK, strokeDash=[4, 3], strokeWidth=1.4, opacity=0.7).encode(y=y("fitted"))
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(
        y=y("seconds"), color=alt.Color("source:N", scale=alt.Scale(domain=[MEASURED]), legend=None)
    )
    words = base.mark_text(align="left", dx=6, dy=12, fontSize=11.5, color=INK).encode(y=y("seconds"), text="label:N")
    return alt.layer(line, dots, words).properties(height=SCALING_HEIGHT, padding=BELOW).to_dict()


# --- figures stored with the project -----------------------------------------------------------------------


def stored_frame(results: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """operator, sizes, fused_ms, eager_ms, ratio, fused_mib, eager_mib of the rows of benchmarks/bench_ops.py."""
    rows = []
    for result in results:
        operator, _, sizes = str(result["name"]).partition(" ")
        figures = {
            "fused_ms": result["compiled_ms"],
            "eager_ms": result["eager_ms"],
            "ratio": result["speedup"],
            "fused_mib": result["compiled_extra_mib"],
            "eager_mib": result["eager_extra_mib"],
        }
        rows.append({"operator": operator, "sizes": by(sizes), **figures})
    return pd.DataFrame(rows).astype(dict.fromkeys(("fused_ms", "eager_ms", "ratio"), "float64"))
