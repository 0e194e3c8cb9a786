"""How the dashboard's answers get to a browser: at once, and with the code of what they show named beforehand."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import pytest
import streamlit as st
from starlette.types import Message, Receive, Scope, Send

from dsae_core.ui import preloading
from dsae_core.ui.connections import send_at_once


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere accepted connections need not inherit the option")
def test_accepted_connections_do_not_wait_to_send() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        send_at_once()
        with socket.create_connection(listening.getsockname()) as ours, listening.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), "what a plain socket does"
        assert listening.fileno() >= 0, "the listening socket is closed"


def test_scripts_are_followed_through_their_imports(tmp_path: Path) -> None:
    (tmp_path / "Chart.a1.js").write_text('import{a as b}from"./draw.b2.js";import"./gone.c3.js";')
    (tmp_path / "draw.b2.js").write_text('import{c}from"./Chart.a1.js";import "./deep-1_x.d4.js"')
    (tmp_path / "deep-1_x.d4.js").write_text("export{}")
    for name in ("Twice.e5.js", "Twice.f6.js", "unused.g7.js"):
        (tmp_path / name).write_text("")
    assert preloading.scripts(tmp_path, ["Chart", "Twice", "None"]) == (
        "Chart.a1.js",
        "draw.b2.js",
        "deep-1_x.d4.js",
    )
    assert preloading.scripts(tmp_path / "elsewhere", ["Chart"]) == ()


def test_the_installed_streamlit_has_every_element_named() -> None:
    folder = Path(st.__file__).parent / "static" / "static" / "js"
    for element in preloading.ELEMENTS:
        assert len(preloading.scripts(folder, [element])) > 1, element
    named = preloading.header().decode()
    assert "<./static/js/ArrowVegaLiteChart." in named
    assert "<./static/js/index." not in named, "the page itself names it"


@pytest.mark.parametrize(
    ("kind", "status", "named"),
    [(b"text/html; charset=utf-8", 200, True), (b"text/html", 404, False), (b"text/css", 200, False)],
)
def test_pages_alone_name_scripts(kind: bytes, status: int, named: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": b"<html>"})

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    asyncio.run(preloading.Preloading(app)({"type": "http"}, receive, send))
    assert [b"link" in dict(message.get("headers", [])) for message in sent] == [named, False]
    assert sent[1]["body"] == b"<html>"
