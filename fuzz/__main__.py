"""python -m fuzz: see fuzz/__init__.py."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fuzz.campaign import fuzz_target
from fuzz.engine import explore
from fuzz.registry import NAMES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Fuzz the readers and the operators.")
    parser.add_argument("target", choices=[*NAMES, "all"])
    parser.add_argument("--inputs", type=int, default=100_000, help="inputs a target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--findings",
        type=Path,
        default=Path(__file__).resolve().parents[1] / "build" / "fuzz",
        help="folder for inputs that fail",
    )
    options = parser.parse_args()
    if options.target != "all":
        explore(options.target, options.inputs, options.seed, options.findings)  # does not return
    found = 0
    for name in NAMES:
        outcome = fuzz_target(name, options.inputs, options.seed, options.findings)
        print(f"{name}: {outcome.inputs} inputs in {outcome.seconds:.0f} s, {len(outcome.findings)} findings")
        for wrong, file in outcome.findings.items():
            print(f"    {wrong}: {file}")
        found += len(outcome.findings)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
