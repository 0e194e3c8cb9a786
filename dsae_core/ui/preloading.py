"""What a browser should have beside the page itself: its elements' code, its fonts and style, words for an emergency.

Streamlit's page asks for an element's code when it is first told to draw one, after the server has answered, which is
late: the largest, that of charts, then comes last. A header of the page has it come with the rest. And a style that
comes as an element of the page comes after the first of them were drawn, which then jump; so it stands in the page.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, MutableMapping
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dsae_core.ui.disconnection import script
from dsae_core.ui.theme import STYLE

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

FONTS = ("MaterialSymbols-Rounded", "SourceSerifVariable-Roman")
"""Likewise of the fonts that the first frame needs; until it comes the font of the icons shows their names."""

_IMPORTED = re.compile(r"""(?:from|import)\s*["']\./([\w.\-]+\.js)["']""")
_BODY = re.compile(rb"<body[^>]*>")


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
    """The value of a Link header that names scripts and fonts, by addresses relative to the page; empty for none."""
    static = Path(st.__file__).parent / "static"
    named = scripts(static / "static" / "js")
    page = (static / "index.html").read_text(encoding="utf-8") if named else ""
    links = [f"<./static/js/{name}>; rel=modulepreload" for name in named if name not in page]
    for name in FONTS:
        links += [
            f"<./static/media/{path.name}>; rel=preload; as=font; type=font/woff2; crossorigin"
            for path in (static / "static" / "media").glob(f"{name}.*.woff2")
        ]
    return ", ".join(links).encode()


def completed(page: bytes, server: str) -> bytes:
    """A page with the dashboard's style, and what it does without this server, in front of all that is drawn."""
    return _BODY.sub(lambda found: found[0] + STYLE.encode() + script(server).encode(), page, count=1)


class Preloading:
    """Middleware: completes every answer that is a page, and adds the header to it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._server = secrets.token_hex(8)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def sending(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and _is_page(message):
                start = message
            elif start is None:
                await send(message)
            elif message["type"] == "http.response.body":
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    whole = completed(body, self._server) if body else body  # empty: only the headers were asked for
                    await send({**start, "headers": _headers(start, len(whole) - len(body))})
                    await send({"type": "http.response.body", "body": whole})

        await self._app(_readable(scope), receive, sending)


def _readable(scope: Scope) -> Scope:
    """A request; where it may be for a page, one for the page as it is written: packed it could not be completed."""
    headers: list[tuple[bytes, bytes]] = scope.get("headers", [])
    if not any(name == b"accept" and b"text/html" in value for name, value in headers):
        return scope
    return {**scope, "headers": [header for header in headers if header[0] != b"accept-encoding"]}


def _headers(start: Message, added: int) -> list[tuple[bytes, bytes]]:
    """The headers of a page to which so many bytes were added; no browser shall keep it beyond this version."""
    headers = [
        (name, str(int(value) + added).encode() if name.lower() == b"content-length" else value)
        for name, value in start.get("headers", [])
        if name.lower() not in (b"etag", b"last-modified")  # those of Streamlit's part alone
    ]
    return [*headers, (b"link", header())] if header() else headers


def _is_page(message: MutableMapping[str, Any]) -> bool:
    """Whether an answer is a page, and written as it is read."""
    headers: dict[bytes, bytes] = {name.lower(): value for name, value in message.get("headers", [])}
    kind, coding = headers.get(b"content-type", b""), headers.get(b"content-encoding", b"identity")
    return bool(message["status"] == 200) and kind.startswith(b"text/html") and coding == b"identity"
