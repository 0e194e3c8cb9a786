"""dsae models list and fetch."""

from __future__ import annotations

from typing import Annotated

import typer

from dsae_core.cli.options import ProgressBar


def models_list() -> None:
    """List the models that can be named, and whether they are here."""
    from dsae_core.models import available_models

    for info in available_models():
        typer.echo(f"{info.name:<16} {'ready' if info.fetched else 'not fetched':<12} {info.description}")


def models_fetch(name: Annotated[str, typer.Argument(help="A name of `dsae models list`.")]) -> None:
    """Fetch and convert a model; does nothing where it is already here."""
    from dsae_core.models import fetch_model

    with ProgressBar() as bar:
        path = fetch_model(name, progress=bar.update)
    typer.echo(f"{name} is ready in {path}")
