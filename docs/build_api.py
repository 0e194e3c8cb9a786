"""Builds the API reference from docstrings, with pdoc, into docs/api or the folder that is named.

    python docs/build_api.py [FOLDER]

The command line and the dashboard are left out: they describe themselves.
"""

from __future__ import annotations

import importlib.metadata
import pkgutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pdoc
import pdoc.render

import dsae_core

LEFT_OUT = ("dsae_core.ui", "dsae_core.cli", "dsae_core.engines")


def public_modules() -> list[str]:
    """The package and its modules, but for private ones and those left out."""
    found = [module.name for module in pkgutil.walk_packages(dsae_core.__path__, "dsae_core.")]
    kept = [name for name in found if not name.startswith(LEFT_OUT) and not name.rpartition(".")[2].startswith("_")]
    return ["dsae_core", *sorted(kept)]


def build(folder: Path) -> None:
    """Write one HTML page a module, and an index with a search."""
    pdoc.render.configure(docformat="google", show_source=False, footer_text=f"dsae-core {version()}")
    with warnings.catch_warnings(), loaded_names():
        warnings.filterwarnings("ignore", message="Error parsing type annotation")  # names for type checkers only
        warnings.filterwarnings("ignore", message="The module specification")  # tasks, which is a public name too
        pdoc.pdoc(*public_modules(), output_directory=folder)


@contextmanager
def loaded_names() -> Iterator[None]:
    """The package's names are loaded when first used, and pdoc looks at what is loaded: so meanwhile they are."""
    added = [name for name in dsae_core.__all__ if name not in vars(dsae_core)]
    for name in added:
        setattr(dsae_core, name, getattr(dsae_core, name))
    try:
        yield
    finally:
        for name in added:
            delattr(dsae_core, name)


def version() -> str:
    """The installed version."""
    return importlib.metadata.version("dsae-core")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "api"
    build(target)
    print(target / "index.html")
