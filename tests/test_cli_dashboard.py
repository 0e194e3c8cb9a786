"""dsae app, run as a user runs it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest


def test_the_dashboard_starts_for_somebody_who_never_used_streamlit(tmp_path: Path) -> None:
    """Without --headless, in an empty home folder: nothing may be asked for on the terminal."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from dsae_core.cli import main; main()", "app", "--port", str(port)]
    environment = {**os.environ, "HOME": str(tmp_path), "BROWSER": "true"}
    with (
        (tmp_path / "said").open("w") as said,
        subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=said) as server,
    ):
        try:
            for _ in range(600):
                assert server.poll() is None, "the server ended"
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
                        assert answer.status == 200
                        break
                except urllib.error.URLError:
                    time.sleep(0.1)
            else:
                pytest.fail("the server did not answer within a minute")
        finally:
            server.terminate()
    told = f"The dashboard is at http://127.0.0.1:{port} (Ctrl-C stops it)"
    assert (tmp_path / "said").read_text().splitlines()[:1] == [told]
    assert "Streamlit" not in (tmp_path / "said").read_text()


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8501"),
        ("0.0.0.0", "http://127.0.0.1:8501"),
        ("::", "http://[::1]:8501"),
        ("example.org", "http://example.org:8501"),
        ("unix:/tmp/page", "unix:/tmp/page"),
    ],
)
def test_a_page_s_address_is_one_that_a_browser_takes(address: str, url: str) -> None:
    from dsae_core.cli.dashboard import _url

    assert _url(address, 8501) == url
