"""How the dashboard's answers get to a browser: at once, and with the code of what they show named beforehand."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import streamlit as st
from starlette.types import Message, Receive, Scope, Send

from dsae_core.ui import preloading
from dsae_core.ui.connections import send_at_once
from dsae_core.ui.disconnection import script
from dsae_core.ui.theme import NO_SIDEBAR, STYLE


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

    for font in preloading.FONTS:
        assert f"<./static/media/{font}." in named, font


PAGE = (b"<html><head></head><bo", b'dy class="a">', b"<div></div></body></html>")


def answered(
    headers: list[tuple[bytes, bytes]],
    status: int,
    parts: tuple[bytes, ...],
    asked: Sequence[tuple[bytes, bytes]] = (),
    seen: list[Scope] | None = None,
) -> list[Message]:
    """What a browser gets of an answer that comes in parts; `seen` is given the request as it arrives."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if seen is not None:
            seen.append(scope)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for i, part in enumerate(parts):
            await send({"type": "http.response.body", "body": part, "more_body": i < len(parts) - 1})

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    asyncio.run(preloading.Preloading(app)({"type": "http", "headers": list(asked)}, receive, send))
    return sent


@pytest.mark.parametrize(("accepted", "left"), [(b"text/html,*/*;q=0.8", 1), (b"*/*", 2)])
def test_a_page_is_asked_for_as_it_is_written(accepted: bytes, left: int) -> None:
    seen: list[Scope] = []
    answered([], 404, (b"",), [(b"accept", accepted), (b"accept-encoding", b"gzip")], seen)
    assert seen[0]["headers"] == [(b"accept", accepted), (b"accept-encoding", b"gzip")][:left]


def test_the_style_says_nothing_that_a_page_would_take_for_markup() -> None:
    """Streamlit leaves out all of a style in which it suspects an element."""
    assert re.findall(r"<[\w!/]\w*", STYLE) == ["<style", "</style"]
    assert re.findall(r"<[\w!/]\w*", NO_SIDEBAR) == ["<style", "</style"]


def test_a_page_names_scripts_and_has_its_style() -> None:
    length = str(sum(map(len, PAGE))).encode()
    given = [(b"content-type", b"text/html; charset=utf-8"), (b"Content-Length", length), (b"ETag", b"theirs")]
    sent = answered(given, 200, PAGE)
    headers = dict(sent[0]["headers"])
    assert b"ETag" not in headers
    assert b"rel=modulepreload" in headers[b"link"]
    body = b"".join(message["body"] for message in sent[1:])
    server = body.split(b'data-server="')[1].split(b'"')[0].decode()
    assert re.fullmatch(r"\w{16}", server)
    added = (STYLE + script(server)).encode()
    assert body == b'<html><head></head><body class="a">' + added + b"<div></div></body></html>"
    assert f'data-server="{server}"'.encode() not in answered(given, 200, PAGE)[1]["body"]  # of the next server
    assert headers[b"Content-Length"] == str(len(body)).encode()
    assert [message.get("more_body", False) for message in sent[1:]] == [False]


def test_only_the_headers_of_a_page_stay_true() -> None:
    sent = answered([(b"content-type", b"text/html"), (b"content-length", b"70")], 200, (b"",))
    assert dict(sent[0]["headers"])[b"content-length"] == b"70"
    assert sent[1]["body"] == b""


@pytest.mark.parametrize(
    ("kind", "coding", "status"),
    [(b"text/html", b"identity", 404), (b"text/css", b"identity", 200), (b"text/html", b"gzip", 200)],
)
def test_what_is_no_page_stays_as_it_is(kind: bytes, coding: bytes, status: int) -> None:
    headers = [(b"content-type", kind), (b"content-encoding", coding)]
    sent = answered(headers, status, PAGE)
    assert sent[0]["headers"] == headers
    assert [message["body"] for message in sent[1:]] == list(PAGE)


def test_drawing_a_page_leaves_the_folders_of_imports_alone() -> None:
    """An import in another thread would pass over one that moves meanwhile, and find a library missing."""
    asked = "import sys; from dsae_core.ui.entry import SCRIPT; before = list(sys.path); "
    asked += "from streamlit.runtime.scriptrunner.exec_code import modified_sys_path as drawing; "
    asked += "drawing(str(SCRIPT)).__enter__(); print(sys.path == before, SCRIPT.is_file())"
    assert subprocess.check_output([sys.executable, "-c", asked], text=True).split() == ["True", "True"]
