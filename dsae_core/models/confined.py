"""Refuse a model's folder whose files would have others read, outside it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dsae_core.errors import UserError

MOST_SHOWN = 80
"""Characters of a file's name that a sentence quotes."""


def require_confined(folder: Path) -> None:
    """Raise where a link in a model's folder leads out of it, or its tokenizer's settings name a file elsewhere.

    The folder itself may be a link. In the hub's cache, where a model's files are links to blobs beside its snapshots,
    they may lead anywhere in the folder that the cache has for the model.

    Raises:
        UserError: names the link, or the setting.
    """
    own = Path(os.path.realpath(folder))
    if own.parent.name == "snapshots" and (own.parent.parent / "blobs").is_dir():
        own = own.parent.parent
    for file in (*_entries(folder), *_entries(folder / "additional_chat_templates")):
        if file.is_symlink() and not Path(os.path.realpath(file)).is_relative_to(own):
            raise UserError(
                f"{file} is a link to what is outside the model's folder, which is not read; copy it into the folder, "
                "or give the folder that has the files themselves."
            )
    _check_tokenizer_settings(folder)


def is_plain_name(name: str) -> bool:
    """Whether a name that a model's file gives is one of a file beside it: no path, on any system."""
    return name not in ("", ".", "..") and not any(mark in name for mark in "/\\:\0")


def require_plain_name(name: str, source: Path) -> None:
    """Raise where a name that the file `source` gives is no name of a file beside it."""
    if not is_plain_name(name):
        raise UserError(
            f"{source} names {name[:MOST_SHOWN]!r}, which is no file of the model's folder, and nothing else is read; "
            "fetch the model again, or choose another."
        )


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _check_tokenizer_settings(folder: Path) -> None:
    """transformers takes some of the files that a tokenizer is read from by the names that its settings give."""
    source = folder / "tokenizer_config.json"
    try:
        settings: Any = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return  # whoever reads the folder next says what is wrong with it
    if not isinstance(settings, dict):
        return
    named = settings.get("fast_tokenizer_files")
    names = [named] if isinstance(named, str) else list(named) if isinstance(named, list | dict) else []
    if not (folder / "tokenizer.json").is_file():  # else they are not looked at, and some have a path of their maker's
        names += [value for key, value in settings.items() if key in ("vocab", "merges") or key.endswith("_file")]
    for name in names:
        if isinstance(name, str):
            require_plain_name(name, source)
