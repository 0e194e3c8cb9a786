"""dsae app: the page in a browser."""

from __future__ import annotations

import errno
import importlib.util
import ipaddress
import os
import socket
import sys
from dataclasses import replace
from typing import Annotated

import typer

from dsae_core.errors import UserError
from dsae_core.limits import VARIABLE, Limits, demo_limits

LOCAL = "127.0.0.1"
MESSAGE_MB = 16
"""What one message between a browser and a public demo may have; those of the default model's results have 1."""


def dashboard(
    port: Annotated[int, typer.Option(help="Port of the page.")] = 8501,
    address: Annotated[str, typer.Option(help="Address to bind to; another than 127.0.0.1 lets others in.")] = LOCAL,
    host: Annotated[
        list[str] | None,
        typer.Option(help="A name under which the page is reached, as behind a proxy; can be repeated."),
    ] = None,
    headless: Annotated[bool, typer.Option(help="Do not open a browser.")] = False,
    demo: Annotated[
        bool, typer.Option("--demo", help="For visitors from outside: few models, small runs, nothing kept.")
    ] = False,
    models: Annotated[
        str | None, typer.Option(help="Models of the demo, with commas; the default model where none is named.")
    ] = None,
) -> None:
    """Open the dashboard in a browser."""
    spec = importlib.util.find_spec("dsae_core.ui.entry")
    if spec is None or spec.origin is None:
        raise UserError("This installation has no dashboard; install dsae-core again.")
    limits = _limits(demo, models)
    check_port(address, port)
    arguments = [sys.executable, "-m", "streamlit", "run", spec.origin]
    arguments += [f"--server.port={port}", f"--server.address={address}"]
    arguments += [f"--server.headless={str(headless).lower()}", "--browser.gatherUsageStats=false"]
    arguments += ["--server.showEmailPrompt=false"]  # a first run must not wait for somebody to type
    arguments += ["--logger.hideWelcomeMessage=true"]
    # Whatever a configuration file or the environment of this machine says:
    arguments += ["--client.showErrorDetails=none", "--server.enableXsrfProtection=true"]
    arguments += [f"--server.allowedHosts={name}" for name in _hosts(address, host or [], limits)]
    if limits is not None:
        os.environ[VARIABLE] = limits.to_text()
        arguments += [f"--server.maxUploadSize={limits.upload_mb}", f"--server.maxMessageSize={MESSAGE_MB}"]
    elif not _is_local(address):
        typer.echo(
            f"dsae: everybody who reaches {address} can run any model, read model folders of this machine and see all "
            "kept runs; use --demo for visitors.",
            err=True,
        )
    typer.echo(f"The dashboard is at {_url(address, port)} (Ctrl-C stops it)")
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")  # a thread a page, each with memory of its own, would fill it
    sys.stdout.flush()
    os.execv(sys.executable, arguments)


def check_port(address: str, port: int) -> None:
    """Refuse a port or an address that cannot be had, before a server is started for it."""
    other = 8501 if port >= 65535 or port < 1024 else port + 1
    take = f"Take another: make app PORT={other} (or dsae app --port {other})."
    if not 1 <= port <= 65535:
        raise UserError(f"{port} is no port; they are 1 to 65535. {take}")
    if address.startswith("unix:"):  # a socket's file has no port
        return
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.create_server((address, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"Port {port} is taken, perhaps by another dsae app. {take}") from error
        if error.errno == errno.EACCES:
            raise UserError(f"Port {port} is kept for the system. {take}") from error
        raise UserError(f"This machine has no address {address!r}; leave --address out, or name one it has.") from error


def _limits(demo: bool, models: str | None) -> Limits | None:
    """The limits of a public demo, None where none is asked for."""
    found = demo_limits()  # a host may set limits in the environment; --demo alone takes the usual ones
    if found is None and not demo:
        if models is not None:
            raise UserError("--models limits the models of a public demo; add --demo.")
        return None
    found = found or Limits()
    if models is None:
        return found
    return replace(found, models=tuple(name.strip() for name in models.split(",") if name.strip()))


def _hosts(address: str, named: list[str], limits: Limits | None) -> list[str]:
    """The names under which browsers may reach the page; none where any will do.

    A page of somebody else's site can have its own name stand for this machine. It must not thereby reach a dashboard
    that was opened for one's own browser.
    """
    if limits is not None or not _is_local(address):
        return named
    return list(dict.fromkeys(["localhost", LOCAL, "::1", address, *named]))


def _url(address: str, port: int) -> str:
    """Where a browser of this machine finds the page."""
    if address.startswith("unix:"):
        return address
    reached = {"0.0.0.0": LOCAL, "::": "::1"}.get(address, address)
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


def _is_local(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
