"""Where a command's work is done: its options, and what they come to."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from tqdm import tqdm

from dsae_core.engines import ENGINES
from dsae_core.errors import UserError

if TYPE_CHECKING:
    from dsae_core.engines.cluster import Placement

EngineOption = Annotated[
    str, typer.Option("--engine", help="local, in this process; or ray, on the workers of a Ray cluster.")
]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", help="With --engine ray: a running cluster, host:port; else one is started here."),
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="With --engine ray: workers; else as many as the cluster has room for."),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="With --engine ray: threads of each worker; else 1, or what the file has."),
]


def placement_of(
    engine: str,
    *,
    address: str | None,
    workers: int | None,
    threads: int | None,
    device: str,
    usual_threads: int = 1,
) -> Placement | None:
    """Where a Ray cluster's workers go; None for the local engine.

    Raises:
        UserError: there is no such engine, or an option does not go with it.
    """
    if engine not in ENGINES:
        raise UserError(f"There is no engine {engine!r}; choose one of {', '.join(ENGINES)}.")
    if engine == "local":
        if (address, workers, threads) != (None, None, None):
            raise UserError("--address, --workers and --threads go with --engine ray.")
        return None
    from dsae_core.engines.cluster import Placement

    return Placement(address, workers, threads or usual_threads, device)


def notify(sentence: str) -> None:
    """A sentence on standard error, above the progress bar."""
    tqdm.write(f"Note: {sentence}", file=sys.stderr)
