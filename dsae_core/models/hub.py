"""Fetch a model of the hub: its safetensors, its config and its tokenizer, and nothing else."""

from __future__ import annotations

from pathlib import Path

from dsae_core.errors import UserError
from dsae_core.models.language_model import Progress

WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
# Subfolders and consolidated files repeat the weights in other formats.
UNWANTED = ("*/*", "consolidated*", "adapter_*")
MOST_SAID = 300
"""Characters of a library's message that one of ours quotes."""
HUB_SECONDS = 10.0
"""How long to wait for the hub's first answer; huggingface_hub itself would wait without end."""


def first_line(error: Exception) -> str:
    """What an exception says, cut to its first line, or to two where the first announces the second; else its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])
    return said[:MOST_SAID].rstrip(".: ") or type(error).__name__


def fetch_snapshot(name: str, progress: Progress | None = None) -> Path:
    """The local folder of a hub model, downloaded if it is not in the hub's cache.

    Raises:
        UserError: There is no such model, it asks for a licence to be accepted, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    if progress is not None:
        progress("download", 0.0)
    try:
        return Path(
            snapshot_download(
                name,
                allow_patterns=list(WANTED),
                ignore_patterns=list(UNWANTED),
                local_files_only=not _hub_answers(name),
            )
        )
    except HFValidationError as error:
        raise UserError(f"{name!r} is neither a folder nor a possible name of a model on the hub.") from error
    except GatedRepoError as error:  # a kind of RepositoryNotFoundError, so it goes first
        raise UserError(
            f"{name} asks for its licence to be accepted: do that on its page, then sign in with 'hf auth login'."
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"The hub has no model {name}, or it is private; check the name, or sign in with 'hf auth login'."
        ) from error
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"{name} is not on this machine and the hub cannot be reached or does not answer; check the network "
            "connection, or give the folder of a model."
        ) from error
    except Exception as error:  # of the disk, and of the HTTP library, whose name depends on huggingface_hub's version
        raise UserError(
            f"{name} could not be downloaded ({first_line(error)}); check the network connection and the disk, then "
            "try again: what has arrived is kept."
        ) from error


def stored_snapshot(name: str) -> Path | None:
    """The local folder of a hub model in the hub's cache, None where it is not there; the hub is not asked."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):  # ValueError where it is no possible name; that nothing is there is both
        return None


def _hub_answers(name: str) -> bool:
    """Whether the hub says anything about a model within HUB_SECONDS, if only that there is none."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except (OSError, ValueError):  # an answer of the hub, or no need to ask it: snapshot_download says what it means
        return True
    except Exception:  # no connection, or no answer in time; a kind of the HTTP library's own
        return False
    return True
