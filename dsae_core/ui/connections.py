"""How the server's answers leave the machine."""

from __future__ import annotations

import contextlib
import os
import socket

import psutil


def send_at_once() -> None:
    """Have every connection that this process will accept send what it is given at once.

    The last piece of an answer otherwise waits until the browser has confirmed what came before, which takes it 40 ms:
    a first visit asks for a hundred files, and every redraw is an answer in pieces. asyncio sees to that itself, but
    only for sockets that were made with the protocol's number, as Streamlit's is not.
    """
    for connection in psutil.Process().net_connections("tcp"):
        if connection.status != psutil.CONN_LISTEN:
            continue
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fd)) as listening:
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
