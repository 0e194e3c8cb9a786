"""What is here to stay is passed over by the garbage collector, and what is given up is found all the same."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from dsae_core.ui.pauses import keep_for_good
from dsae_core.ui.runs import ModelShelf


class Ring:
    """Refers to itself, so that only the garbage collector finds that nobody else does."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_is_here_is_passed_over() -> None:
    gc.unfreeze()
    ring = Ring()
    keep_for_good()
    assert gc.get_freeze_count() > 1000
    assert not any(known is ring for known in gc.get_objects())


def test_what_was_given_up_since_is_found_at_the_next_call() -> None:
    ring = Ring()
    gone = weakref.ref(ring)
    keep_for_good()
    del ring
    gc.collect()
    assert gone() is not None
    keep_for_good()
    assert gone() is None


def test_a_model_that_makes_room_for_another_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsae_core.ui.runs.load_model", lambda name, progress: Ring())
    shelf = ModelShelf(keep=1)
    gone = weakref.ref(shelf.get("first", lambda stage, fraction: None))
    shelf.get("second", lambda stage, fraction: None)
    assert gone() is None
    assert shelf.peek("second") is not None
