"""What a page says once its server no longer answers."""

from __future__ import annotations

TITLE = "The server does not answer"
WORDS = (
    "It was stopped, or it cannot be reached from here. "
    "If you run the server yourself, start “dsae app” again, then reload this page."
)
"""Reload: Streamlit connects a page to the next server by itself, which knows nothing of what the page shows."""

_THEIRS = "Connection error"
"""The title of Streamlit's own message, which asks whether one is connected to the internet; most servers are local."""

SCRIPT = f"""<script>
new MutationObserver(() => {{
  for (const title of document.querySelectorAll('[data-testid="stDialog"] h2[slot="title"]')) {{
    const words = title.nextElementSibling?.firstElementChild;
    if (title.textContent !== "{_THEIRS}" || !words) continue;
    title.textContent = "{TITLE}";
    words.textContent = "{WORDS}";
  }}
}}).observe(document.body, {{ childList: true }});
</script>"""
"""Stands in the page: when it is needed nothing more can be sent. Looks only when a dialog is put beside the page."""
