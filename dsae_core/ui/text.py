"""Words and numbers on the page, and the escaping of every string that people or models wrote."""

from __future__ import annotations

import html
import re
import zoneinfo
from datetime import datetime, timezone

MINUS = "\N{MINUS SIGN}"
"""Before negative numbers on the page, as charts have it; files keep the hyphen, which programs read."""

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_DIRECTIVE = re.compile(r"\\:(?=\S)")


def escape_html(text: object) -> str:
    """Text that is safe inside an element and inside a quoted attribute."""
    return html.escape(str(text), quote=True)


def escape_markdown(text: object) -> str:
    """Text that Streamlit's Markdown shows as it is: no markup, links, formulas, directives, icons or emoji."""
    escaped = _PUNCTUATION.sub(r"\\\1", " ".join(str(text).split()))
    # Emoji and icon names (":name:") are replaced after escapes are resolved; an invisible joiner stops that.
    return _DIRECTIVE.sub("\\\\:\N{WORD JOINER}", escaped)


def plural(n: int, word: str) -> str:
    """ "1 head", "2 heads"."""
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def head_name(layer: int, head: int) -> str:
    """The field's name of a head, layer.head."""
    return f"{layer}.{head}"


def share(value: float) -> str:
    """A share between 0 and 1 with two digits: ".93", "1.00"."""
    text = f"{value:.2f}"
    return text.removeprefix("0") if 0 <= value < 1 and text != "1.00" else text


def rate(value: float) -> str:
    """A rate of errors between 0 and 1 with two digits, "<.01" where it would look like none."""
    return "<.01" if value < 0.005 else share(value)


def signed(value: float, digits: int) -> str:
    """A number with its sign and so many decimals: "+1.20", "−0.35"."""
    return f"{value:+z.{digits}f}".replace("-", MINUS)


def decimal(value: float, digits: int) -> str:
    """A number with so many decimals, with a sign where it is negative: "1.20", "−0.35"."""
    return f"{value:z.{digits}f}".replace("-", MINUS)


def number(value: float) -> str:
    """Three significant digits; below a thousandth two and an exponent."""
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    digits = max(0, 2 - int(f"{abs(value):e}".split("e")[1]))
    return f"{value:,.{digits}f}".replace("-", MINUS)


def visible(token: str) -> str:
    """A token as text on one line, with its spaces before and after it visible."""
    text = token.replace("\n", "↵").replace("\t", "⇥")
    return f"·{text[1:]}" if text.startswith(" ") and len(text) > 1 else text.replace(" ", "·")


def seconds(value: float) -> str:
    """A duration: "40 ms", "3.2 s", "2 min 05 s"."""
    if value < 0.0995:
        return f"{1000 * value:.0f} ms"
    if value < 9.95:
        return f"{value:.1f} s"
    if value < 59.5:
        return f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s"


def local_time(when: datetime, zone: str | None) -> str:
    """A time as the visitor's clock has it, "22 Nov 2026, 16:20"; in UTC, then named, where that is unknown."""
    try:
        there: zoneinfo.ZoneInfo | timezone = zoneinfo.ZoneInfo(zone) if zone else timezone.utc
    except (zoneinfo.ZoneInfoNotFoundError, ValueError):
        there = timezone.utc
    local = when.astimezone(there)
    return f"{local.day} {local:%b %Y, %H:%M}{' UTC' if there is timezone.utc else ''}"
