"""Reach a Ray cluster, or start one on this machine, and put workers on it."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib
import importlib.metadata
import ipaddress
import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsae_core.engines.pool import Pool
from dsae_core.errors import UserError
from dsae_core.models.hub import first_line
from dsae_core.patching_record import Notice

OBJECT_STORE = 128 * 2**20
"""Bytes of shared memory that a local cluster takes: models never pass through it, only prompts and scores."""

CONNECT_SECONDS = 5.0
"""How long an address may take to answer."""

HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How a client of gRPC, which is what Ray speaks, begins: a fixed text and an empty frame of settings (RFC 9113)."""

HTTP2_SETTINGS = b"\x04"
"""The kind of frame, its fourth byte, that a server begins with."""


@dataclass(frozen=True)
class Placement:
    """What each worker takes and where it is.

    Attributes:
        address: of a running cluster, "host:port" or "auto"; None starts one on this machine for the time being.
        workers: how many; None for as many as there is room for.
        threads: processor threads of each.
        device: what each puts its model on: "cpu", "cuda" (one GPU each) or "auto" (all GPUs of a machine).
    """

    address: str | None = None
    workers: int | None = None
    threads: int = 1
    device: str = "cpu"


def import_ray() -> Any:
    """The ray module.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UserError(
            "The engine ray needs Ray, which is not installed; run: pip install 'dsae-core[ray]' (or choose "
            "--engine local)."
        ) from error


@contextmanager
def ray_pool(worker: type, arguments: dict[str, Any], placement: Placement, *, notice: Notice) -> Iterator[Pool]:
    """Workers on a cluster; gone, with a cluster that was started for them, when the block ends.

    Args:
        worker: the class of the workers; its `hello` gives where it is and its version of this package.
        arguments: of its constructor.
        placement: where, how many, how large.
        notice: called with a sentence about each worker that died.

    Raises:
        UserError: Ray is not installed, the address cannot be reached, or the cluster has no room.
    """
    if placement.device not in ("cpu", "cuda", "auto"):
        raise UserError(
            f"With the engine ray the device is cpu, cuda or auto, not {placement.device!r}; each worker sees only "
            "the GPUs that Ray gives it."
        )
    with _connected(placement) as ray:
        gpus = _gpus_of_a_worker(ray, placement.device)
        size = _room(ray, placement, gpus)
        remote = ray.remote(worker).options(num_cpus=placement.threads, num_gpus=gpus, max_restarts=0)
        version = importlib.metadata.version("dsae-core")
        yield Pool(ray, lambda: remote.remote(**arguments), size, version=version, notice=notice)


# --- connecting --------------------------------------------------------------------------------------------


@contextmanager
def _connected(placement: Placement) -> Iterator[Any]:
    """Ray, connected; where this process is connected already, through that connection, which stays."""
    with ExitStack() as undo:
        undo.enter_context(_environment(local=placement.address is None))
        ray = import_ray()
        if not ray.is_initialized():
            if placement.address is None:
                _start_cluster(ray, placement, undo)
            else:
                _join_cluster(ray, placement.address, undo)
        yield ray


@contextmanager
def _environment(*, local: bool) -> Iterator[None]:
    """Settings that Ray only reads from the environment, some of them when it is imported."""
    settings = {"RAY_USAGE_STATS_ENABLED": "0"}
    if local:
        # Named after the systems where it is the default: every process of the cluster listens on localhost only.
        settings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        settings["RAY_worker_register_timeout_seconds"] = "300"  # a minute is too little on a machine that is busy
        if os.environ.get("RAY_AUTH_MODE") is None:  # other users of this machine can reach localhost
            settings |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _token()}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@functools.cache
def _token() -> str:
    """What the processes of a local cluster know each other by; Ray reads it once in a process."""
    return secrets.token_hex(32)


def _start_cluster(ray: Any, placement: Placement, undo: ExitStack) -> None:
    folder = undo.enter_context(_session_folder())
    undo.callback(ray.shutdown)
    try:
        ray.init(
            address="local",
            num_cpus=max(_cpus(), (placement.workers or 1) * placement.threads),
            num_gpus=0 if placement.device == "cpu" else None,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(folder),
        )
    except (Exception, SystemExit) as error:
        raise UserError(f"A Ray cluster could not be started on this machine: {_reason(error)}.") from error
    if not ipaddress.ip_address(ray.util.get_node_ip_address()).is_loopback:
        raise UserError("Ray was imported before and would listen to other machines too; start a new process.")


@contextmanager
def _session_folder() -> Iterator[Path]:
    """Where Ray keeps sockets and logs; those of processes that were killed are removed first."""
    # A short path, for the names of sockets are built on it and may have 107 bytes.
    place = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())
    for left in place.glob("dsae-ray-*"):
        with contextlib.suppress(OSError), (left / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="dsae-ray-", dir=place))
    try:
        with (folder / "lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _join_cluster(ray: Any, address: str, undo: ExitStack) -> None:
    _require_answer(ray, address)
    undo.callback(ray.shutdown)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (Exception, SystemExit) as error:  # Ray ends the process where it gives up on a cluster
        raise UserError(
            f"The Ray cluster at {address} cannot be used: {_reason(error)}. Start one with: ray start --head"
        ) from error


def _require_answer(ray: Any, address: str) -> None:
    """Raise a UserError unless something that could be Ray listens at an address that names a host and a port.

    Ray itself would try for minutes.
    """
    host, separator, port = address.rpartition("://")[2].rpartition(":")
    if not separator or not port.isdigit():
        return  # "auto" and the like: Ray says at once what is wrong with them
    if host in ("localhost", "127.0.0.1", "[::1]"):
        host = ray.util.get_node_ip_address()  # what Ray takes these for
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS) as connection:
            connection.sendall(HTTP2_GREETING)
            answer = connection.recv(9)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"No Ray cluster answers at {address}: {first_line(error)}. Check the address; ray start --head prints it."
        ) from error
    if answer[3:4] != HTTP2_SETTINGS and not os.environ.get("RAY_USE_TLS"):
        raise UserError(
            f"What answers at {address} is not a Ray cluster. Check the address; ray start --head prints it."
        )


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "it does not answer as a Ray cluster does"
    return first_line(error) if isinstance(error, Exception) else type(error).__name__


def _cpus() -> int:
    """Processors that this process may use."""
    with contextlib.suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# --- room --------------------------------------------------------------------------------------------------


def _gpus_of_a_worker(ray: Any, device: str) -> int:
    if device == "cpu":
        return 0
    most = int(max((node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]), default=0))
    if device == "cuda" and most < 1:
        raise UserError("The cluster has no GPU; choose the device cpu, or start Ray on machines that have one.")
    return 1 if device == "cuda" else most


def _room(ray: Any, placement: Placement, gpus: int) -> int:
    """How many workers to start: as many as were asked for, or as there is room for."""
    resources = ray.cluster_resources()
    room = int(resources.get("CPU", 0)) // placement.threads
    if gpus:
        room = min(room, int(resources.get("GPU", 0)) // gpus)
    if room < (placement.workers or 1):
        each = f"{placement.threads} thread{'' if placement.threads == 1 else 's'}"
        each += f" and {gpus} GPU{'' if gpus == 1 else 's'}" if gpus else ""
        raise UserError(
            f"The cluster has room for {room} worker{'' if room == 1 else 's'} of {each}, and "
            f"{placement.workers or 1} should run; choose fewer --workers or --threads."
        )
    return placement.workers or room
