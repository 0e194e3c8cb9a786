"""The command line: dsae discover | ground-truth | benchmark | published | faithfulness | profile | models | app.

A UserError becomes one sentence on standard error and exit code 2.
"""

from __future__ import annotations

import platform
import sys
import warnings
from importlib import metadata
from typing import Annotated

import typer

from dsae_core.cli.ablating import faithfulness
from dsae_core.cli.benchmarking import benchmark, published
from dsae_core.cli.dashboard import dashboard
from dsae_core.cli.discovering import discover
from dsae_core.cli.measuring import ground_truth
from dsae_core.cli.models import models_fetch, models_list
from dsae_core.cli.profiling import profile
from dsae_core.errors import ResultWarning, UserError

app = typer.Typer(
    help="Find the attention heads behind a language model's behaviour from ten prompt pairs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its boxes cut long words and name a type for every flag
    add_completion=False,
)


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    from dsae_core import ops

    used = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers"))
    operators = "compiled operators" if ops.compiled else "operators in plain torch"
    typer.echo(f"dsae-core {metadata.version('dsae-core')} (Python {platform.python_version()}, {used}; {operators})")
    raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="What is installed, and exit.")
    ] = False,
) -> None:
    pass


app.command()(discover)
app.command("ground-truth", short_help="Measure every head's effect by exact patching.")(ground_truth)
app.command(short_help="Compare methods with the measured circuits, in a table.")(benchmark)
app.command(short_help="Run the experiment of O'Neill & Bui 2024 again.")(published)
app.command(short_help="Keep only a method's best heads, and remove them.")(faithfulness)
app.command(short_help="Measure where a discovery's time goes.")(profile)
app.command("app")(dashboard)

models_app = typer.Typer(help="The models that can be named, and fetching them.", no_args_is_help=True)
models_app.command("list")(models_list)
models_app.command("fetch")(models_fetch)
app.add_typer(models_app, name="models")


def main() -> None:
    """Entry point of the dsae command."""
    warnings.simplefilter("ignore", ResultWarning)
    try:
        app()
    except UserError as error:
        typer.echo(f"dsae: {error}", err=True)
        sys.exit(2)
