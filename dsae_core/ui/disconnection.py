"""What a page does once its server no longer answers: it says so, and looks out for the next server.

Streamlit connects a page to the next server by itself. That one knows nothing of what the page shows, whose controls
are then dead; so the page is loaded anew, but for one on which somebody may have written something.
"""

from __future__ import annotations

TITLE = "The server does not answer"
WORDS = (
    "It was stopped, or it cannot be reached from here. "
    "If you run the server yourself, start “dsae app” again: this page notices."
)
ANEW = "The server was started anew and does not know this page. Copy what you have written, then load the page anew."
BUTTON = "Load anew"

_THEIRS = "Connection error"
"""The title of Streamlit's own message, which asks whether one is connected to the internet; most servers are local."""

_WRITTEN = ".st-key-draft_csv"
"""Stands on a page with the table of somebody's own prompts."""

_WORDS = f"""
new MutationObserver(() => {{
  for (const title of document.querySelectorAll('[data-testid="stDialog"] h2[slot="title"]')) {{
    const words = title.nextElementSibling?.firstElementChild;
    if (title.textContent !== "{_THEIRS}" || !words) continue;
    title.textContent = "{TITLE}";
    words.textContent = "{WORDS}";
  }}
}}).observe(document.body, {{ childList: true }});"""
"""Looks only when a dialog is put beside the page."""

_LOOKOUT = f"""
const server = document.currentScript.dataset.server;
const answering = async () => {{
  const answer = await fetch(location.pathname, {{ headers: {{ accept: "text/html" }}, cache: "no-store" }});
  return /data-server="(\\w+)"/.exec(await answer.text())?.[1];
}};
const lookOut = async () => {{
  const found = await answering().catch(() => undefined);
  if (found === undefined) setTimeout(lookOut, 1500);
  else if (found === server) looking = false;
  else if (document.querySelector("{_WRITTEN}")) tell();
  else location.reload();
}};
const tell = () => {{
  const [bar, words, button] = ["div", "span", "button"].map(name => document.createElement(name));
  bar.setAttribute("role", "alert");
  bar.className = "d-anew";
  words.textContent = "{ANEW}";
  button.textContent = "{BUTTON}";
  button.onclick = () => location.reload();
  bar.append(words, button);
  document.querySelector(".stApp").append(bar);
}};
let looking = false;
const Connection = window.WebSocket;
window.WebSocket = class extends Connection {{
  constructor(...address) {{
    super(...address);
    this.addEventListener("close", () => {{ if (!looking) looking = true, lookOut(); }});
  }}
}};"""
"""Begins when the page's connection ends: asks for the page again until a server sends it, then for that one's name."""


def script(server: str) -> str:
    """What stands in the page, in front of Streamlit's code: when it is needed nothing more can be sent.

    Args:
        server: letters and digits that no other server has, nor the same one started again.
    """
    return f'<script data-server="{server}">{{{_WORDS}{_LOOKOUT}\n}}</script>'
