"""What a page says of errors: a user's in their own sentence, all others in a plain one with a reference to the log."""

from __future__ import annotations

import logging
import re
import secrets

import streamlit as st

from dsae_core.errors import UserError
from dsae_core.limits import demo_limits
from dsae_core.ui.text import escape_markdown

_log = logging.getLogger(__name__)

_PATH = re.compile(r"""(?<![\w:/.~])(?:~|[A-Za-z]:)?[\\/](?:[^\s\\/'"“”;:,()<>]+[\\/])*([^\s\\/'"“”;:,()<>]+)""")
"""An absolute path, or one in a home folder; its last part is the first group."""


def told(error: UserError) -> str:
    """The sentence of an error; strangers who visit a public demo are not told where its files are."""
    sentence = str(error)
    return sentence if demo_limits() is None else _PATH.sub(r"\1", sentence)


def noted(error: Exception, what: str) -> str:
    """Put an error that nobody foresaw into the log, with all that is known of it.

    Args:
        error: what was raised.
        what: what it ended, for the log and for the page: "the run".

    Returns:
        The sentence for the page, which gives nothing away but a reference to the log.
    """
    reference = secrets.token_hex(4)
    _log.error("%s ended with an internal error, reference %s", what, reference, exc_info=error)
    return (
        f"{what[:1].upper()}{what[1:]} ended with an internal error ({type(error).__name__}); the server's log has it "
        f"all under the reference {reference}."
    )


def show(error: Exception) -> bool:
    """Streamlit's on_script_error: say in a page, in place of what failed, that it did.

    Returns:
        Whether anything was said; Streamlit's own message, without details, stands where nothing was.
    """
    st.error(escape_markdown(told(error) if isinstance(error, UserError) else noted(error, "this page")))
    return True
