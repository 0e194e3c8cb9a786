"""What a browser should fetch beside the page itself: the code of the elements that the page is made of.

Streamlit's page asks for an element's code when it is first told to draw one, after the server has answered, which is
late: the largest, that of charts, then comes last. A header of the page has it come with the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, MutableMapping
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ELEMENTS = (
    "ArrowVegaLiteChart",
    "Slider",
    "Html",
    "Selectbox",
    "NumberInput",
    "Button",
    "ButtonGroup",
    "Radio",
    "DownloadButton",
)
"""Streamlit's names of the files that draw the elements of Discover."""

_IMPORTED = re.compile(r"""(?:from|import)\s*["']\./([\w.\-]+\.js)["']""")


def scripts(folder: Path, elements: Iterable[str] = ELEMENTS) -> tuple[str, ...]:
    """The files that draw these elements and those that they import, the elements' own first.

    Args:
        folder: where Streamlit keeps its scripts, each named ELEMENT.DIGEST.js.
        elements: a name that no file or more than one has is passed over: another version of Streamlit.
    """
    own = [found for name in elements if len(found := sorted(folder.glob(f"{name}.*.js"))) == 1]
    waiting = [path.name for (path,) in own]
    named: dict[str, None] = {}
    while waiting:
        name = waiting.pop(0)
        if name in named or not (folder / name).is_file():
            continue
        named[name] = None
        waiting += _IMPORTED.findall((folder / name).read_text(encoding="utf-8"))
    return tuple(named)


@cache
def header() -> bytes:
    """The value of a Link header that names the scripts, by addresses relative to the page; empty where none is."""
    static = Path(st.__file__).parent / "static"
    named = scripts(static / "static" / "js")
    page = (static / "index.html").read_text(encoding="utf-8") if named else ""
    return ", ".join(f"<./static/js/{name}>; rel=modulepreload" for name in named if name not in page).encode()


class Preloading:
    """Middleware: adds the header to every answer that is a page."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or not header():
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start" and _is_page(message):
                message["headers"] = [*message.get("headers", []), (b"link", header())]
            await send(message)

        await self._app(scope, receive, sending)


def _is_page(message: MutableMapping[str, Any]) -> bool:
    kinds = [value for name, value in message.get("headers", []) if name.lower() == b"content-type"]
    return message["status"] == 200 and any(kind.startswith(b"text/html") for kind in kinds)
