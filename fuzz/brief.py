"""A few seconds of fuzzing without atheris: mutations of the seeds, and of what came of them, as many as time allows.

    python -m fuzz.brief [--seconds S] [--seed N] [TARGET ...]     prints JSON, a field a target

It knows nothing of the lines an input reaches, so it finds less than `python -m fuzz`, and runs anywhere.
"""

from __future__ import annotations

import argparse
import base64
import json
import time
from random import Random

from fuzz.registry import NAMES, load_target
from fuzz.target import Target, complaint

POOL = 200


def try_mutations(target: Target, seconds: float, seed: int) -> tuple[int, dict[str, bytes]]:
    """How many inputs were tried, and by complaint the first input of each that broke the contract."""
    random = Random(seed)
    pool = list(target.seeds)
    found = {wrong: data for data in target.seeds if (wrong := complaint(target, data))}
    tried, end = len(pool), time.monotonic() + seconds
    while time.monotonic() < end:
        data = target.mutate(random.choice(pool), random)
        wrong = complaint(target, data)
        if wrong:
            found.setdefault(wrong, data)
        elif len(pool) < POOL:
            pool.append(data)
        else:
            pool[random.randrange(len(target.seeds), POOL)] = data
        tried += 1
    return tried, found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fuzz.brief")
    parser.add_argument("targets", nargs="*", default=[], help=f"of {', '.join(NAMES)}; all where none is named")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    report = {}
    for name in options.targets or NAMES:
        tried, found = try_mutations(load_target(name), options.seconds, options.seed)
        findings = {wrong: base64.b64encode(data).decode() for wrong, data in found.items()}
        report[name] = {"inputs": tried, "findings": findings}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
