"""Whether an installed dsae-core works, by itself, in a few seconds: run it with the environment's own Python.

    python benchmarks/install_smoke.py

Prints one line of JSON: versions, whether the operators are compiled, and how many checks passed. Raises where one does
not.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path

import torch

import dsae_core
from dsae_core import circuits, discover_from_activations, ops, reference


def check_operators() -> int:
    """Every operator against its twin on random data; integers, so that sums are exact and codes must be equal."""
    g = torch.Generator().manual_seed(0)
    z, dictionary, bias = (torch.randint(-2, 3, s, generator=g).float() for s in [(6, 3, 4, 8), (4, 8, 16), (4, 16)])
    codes, values = ops.encode_codes(z, dictionary, bias, 1.0)
    x, state = torch.randn(4, 20, 8, generator=g), torch.randn(3, 2 * 5 * 8 + 5 + 8, generator=g).abs()
    directions = torch.randn(4, 8, 6, generator=g)
    calls = {
        "encode_codes": (z, dictionary, bias, 1.0),
        "discover_heads": (z, dictionary, bias, 1.0, 3),
        "unique_scores": (codes, values, 3, 16),
        "pair_scores": (codes[:, 0], 3, 16),
        "train_topk": (x, directions, directions, torch.zeros(4, 6), 2, 3, 0.01),
        "train_shared": (x[0], state, 5, 0, 3, 0.02, 1e-3),
    }
    for name, arguments in calls.items():
        ours, twins = getattr(ops, name)(*arguments), getattr(reference, name)(*arguments)
        for mine, twin in zip(*((r,) if isinstance(r, torch.Tensor) else r for r in (ours, twins)), strict=True):
            torch.testing.assert_close(mine, twin, rtol=1e-3, atol=1e-4)
    return len(calls)


def check_discovery() -> int:
    """Two planted heads come first, by both methods' machinery from activations on."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(1, 4, 2, 3, 8, generator=g) + 0.1 * torch.randn(16, 4, 2, 3, 8, generator=g)
    for position, layer, head in ((3, 0, 1), (2, 1, 2)):
        z[:8, position, layer, head] = 3 * torch.randn(8, generator=g) + 0.1 * torch.randn(8, 8, generator=g)
    w_o = torch.randn(2, 3, 8, 24, generator=g) / 24**0.5
    found = discover_from_activations(z[:8], z[8:], w_o, n_features=16)
    assert set(found.ranking()[:2]) == {(0, 1), (1, 2)}, found.ranking()
    paper = discover_from_activations(z[:8], z[8:], w_o, method="paper", n_features=16, epochs=20)
    assert paper.pair_scores.shape == (6, 6)
    return 2


def check_files() -> int:
    """What is read from the package at run time is in it."""
    assert circuits.stored_circuit("smollm2-135m", "ioi") is not None
    folder = Path(dsae_core.__file__).parent
    for name in ("py.typed", "ui/data/demo_ioi.json", "ui/.streamlit/config.toml", "ui/entry.py"):
        assert (folder / name).exists(), name
    return 2


if __name__ == "__main__":
    passed = check_operators() + check_discovery() + check_files()
    facts = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "version": importlib.metadata.version("dsae-core"),
        "folder": str(Path(dsae_core.__file__).parent),
        "compiled": ops.compiled,
        "checks": passed,
    }
    print(json.dumps(facts))
