"""The targets by name. A target's module is imported when it is asked for, so that it can be instrumented first."""

from __future__ import annotations

import importlib

from fuzz.target import Target

READERS = ("prompts_csv", "saved_run", "link", "circuit", "benchmark")
OPERATORS = ("encode_codes", "unique_scores", "discover_heads", "pair_scores", "train_topk", "train_shared")
NAMES = (*READERS, *OPERATORS)


def load_target(name: str) -> Target:
    """One of NAMES."""
    module = importlib.import_module(f"fuzz.targets.{'operators' if name in OPERATORS else name}")
    targets: dict[str, Target] = module.TARGETS
    return targets[name]
