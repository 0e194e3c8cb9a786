"""The model that is loaded before anybody asks for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsae_core.errors import UserError
from dsae_core.models import available_models
from dsae_core.ui import runs
from dsae_core.ui.request import RunRequest


@pytest.mark.parametrize("fetched", [True, False])
def test_the_default_model_is_loaded_ahead_where_it_is_fetched(monkeypatch: pytest.MonkeyPatch, fetched: bool) -> None:
    here = replace(next(m for m in available_models() if m.name == RunRequest().model), fetched=fetched)
    loads: list[str] = []
    monkeypatch.setattr(runs, "available_models", lambda: [here])
    monkeypatch.setattr(runs, "loaded_model", lambda name, report: loads.append(name))
    runs.load_ahead()
    assert loads == [here.name] * fetched


def test_a_model_that_cannot_be_loaded_ahead_is_left_to_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(name: str, report: object) -> None:
        raise UserError("It is damaged.")

    here = replace(next(m for m in available_models() if m.name == RunRequest().model), fetched=True)
    monkeypatch.setattr(runs, "available_models", lambda: [here])
    monkeypatch.setattr(runs, "loaded_model", broken)
    with caplog.at_level("INFO", "dsae_core"):
        runs.load_ahead()
    assert "It is damaged." in caplog.text
