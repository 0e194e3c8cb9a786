"""The models and tokenizers that all sessions of a server share."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dsae_core.errors import UserError
from dsae_core.models import LanguageModel, ModelTokenizer
from dsae_core.ui import runs
from dsae_core.ui.runs import ModelShelf, TokenizerShelf


def no_report(stage: str, fraction: float) -> None:
    """Nobody looks."""


def test_sessions_that_ask_at_once_share_one_model(tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load(name: str, **_: Any) -> LanguageModel:
        loaded.append(name)
        time.sleep(0.2)  # so that the other one asks meanwhile
        return tiny_model

    monkeypatch.setattr(runs, "load_model", load)
    shelf, together = ModelShelf(), threading.Barrier(2)

    def ask(_: int) -> LanguageModel:
        together.wait(10)
        return shelf.get("tiny", no_report)

    with ThreadPoolExecutor(2) as sessions:
        first, second = sessions.map(ask, range(2))
    assert first is second is tiny_model
    assert loaded == ["tiny"]


def test_the_models_used_last_are_kept(tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(runs, "load_model", lambda name, **_: (loaded.append(name), tiny_model)[1])
    shelf = ModelShelf(keep=2)
    for name in ("a", "b", "a", "c", "a", "b"):
        shelf.get(name, no_report)
    assert loaded == ["a", "b", "c", "b"]
    assert shelf.peek("c") is None


def test_a_model_that_cannot_be_loaded_is_tried_again(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str, **_: Any) -> LanguageModel:
        raise UserError("no")

    monkeypatch.setattr(runs, "load_model", fail)
    shelf = ModelShelf()
    with pytest.raises(UserError):
        shelf.get("tiny", no_report)
    monkeypatch.setattr(runs, "load_model", lambda name, **_: tiny_model)
    assert shelf.get("tiny", no_report) is tiny_model


def test_sessions_that_ask_at_once_share_one_tokenizer(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    alone = ModelTokenizer(tiny_model.tokenizer, 64)

    def stored(name: str) -> ModelTokenizer:
        read.append(name)
        time.sleep(0.2)
        return alone

    monkeypatch.setattr(runs, "stored_tokenizer", stored)
    shelf = TokenizerShelf(keep=2)
    with ThreadPoolExecutor(4) as sessions:
        found = list(sessions.map(lambda _: shelf.get("tiny", 10).found, range(4)))
    assert found == [alone] * 4
    assert not shelf.get("other", 0).over
    assert shelf.get("other", 10).found is alone
    assert shelf.get("third", 10).found is alone
    assert shelf.get("tiny", 10).found is alone  # was put away meanwhile
    assert read == ["tiny", "other", "third", "tiny"]


@pytest.mark.parametrize("error", [UserError("damaged"), None])
def test_a_tokenizer_that_was_not_there_is_looked_for_again(
    error: UserError | None, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def stored(name: str) -> ModelTokenizer | None:
        asked.append(name)
        if len(asked) > 1:
            return ModelTokenizer(tiny_model.tokenizer, 64)
        if error is not None:
            raise error
        return None

    monkeypatch.setattr(runs, "stored_tokenizer", stored)
    patient, curious = TokenizerShelf(again=60), TokenizerShelf(again=0)
    for _ in range(2):  # not at every redraw
        missing = patient.get("tiny", 10)
        assert missing.over
        assert missing.found is None
    assert asked == ["tiny"]
    curious._readings["tiny"] = missing
    time.sleep(0.01)
    assert curious.get("tiny", 10).found is not None
