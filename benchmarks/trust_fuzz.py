"""Bad input, guided by coverage: every reader and every operator against inputs that nobody meant.

    python benchmarks/trust_fuzz.py [--inputs 100000] [--seed 1] [--findings FOLDER] [--json FILE]

Each target of fuzz/ runs in a process of its own, with as many inputs as are asked for. A finding is an input that is
neither taken as it is meant nor refused as documented, that takes more than a second, or that ends the process; the
inputs are kept in the folder. --json writes the rows of docs/reliability.md that this proves. The exit code is 1 where
something was found, and 2 where atheris, which guides the search, is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dsae_core.files import write_atomic  # noqa: E402
from fuzz.campaign import Outcome, fuzz_target  # noqa: E402
from fuzz.registry import OPERATORS  # noqa: E402

PROMISES: dict[str, tuple[str, ...]] = {
    "A file of prompts is read as it is meant or refused in a sentence.": ("prompts_csv",),
    "A saved run is read whole or refused in a sentence, in Python and on the Runs page.": ("saved_run",),
    "A link opens what it says, and defaults where it makes no sense.": ("link",),
    "A circuit file is read whole or refused in a sentence.": ("circuit",),
    "A benchmark file is read whole or refused in a sentence.": ("benchmark",),
    "Any arguments of a compiled operator are refused, or give what plain torch gives.": OPERATORS,
}


def row(promise: str, outcomes: Sequence[Outcome], inputs: int) -> dict[str, Any]:
    """The row of one promise: it holds where every target took all inputs and none was a finding."""
    findings = sum(len(outcome.findings) for outcome in outcomes)
    tried = sum(outcome.inputs for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    return {
        "promise": promise,
        "proof": f"python -m fuzz {outcomes[0].target if len(outcomes) == 1 else 'all'}",
        "figure": f"{tried:,} inputs, {findings} findings, {seconds:.0f} s",
        "ok": findings == 0 and all(outcome.inputs >= inputs for outcome in outcomes),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--findings", type=Path, default=ROOT / "build" / "fuzz", help="folder for inputs that fail")
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed; run `make setup` on Linux, x86-64, or use `python -m fuzz.brief`.")
        return 2
    rows = []
    for promise, names in PROMISES.items():
        outcomes = [fuzz_target(name, options.inputs, options.seed, options.findings) for name in names]
        for outcome in outcomes:
            print(f"{outcome.target}: {outcome.inputs} inputs in {outcome.seconds:.0f} s", flush=True)
            for wrong, file in outcome.findings.items():
                print(f"    {wrong}: {file}", flush=True)
        rows.append(row(promise, outcomes, options.inputs))
    if options.json:
        write_atomic(options.json, json.dumps(rows, indent=1) + "\n")
    return 0 if all(made["ok"] for made in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
