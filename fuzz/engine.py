"""Runs one target under atheris: libFuzzer's search, guided by which lines of dsae_core an input reaches."""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from fuzz.registry import load_target
from fuzz.target import complaint

MAX_BYTES = 1 << 14
HANG_SECONDS = 60
"""After which libFuzzer ends the process; complaint() reports what is merely slow."""

MEMORY_MIB = 4096
REPORT_EVERY = 1000
"""Inputs; a process that dies has lost no more of its count."""

PLAIN_SHARE = 0.2
"""Share of mutations that are libFuzzer's own, of bytes that mean nothing to it."""


def explore(name: str, inputs: int, seed: int, folder: Path) -> None:
    """Try inputs on a target, then end the process.

    Leaves in the folder every input that was a finding, one a kind, and report.json, which says how many inputs were
    tried and lists the findings. If the process dies instead, libFuzzer leaves the input that killed it there.
    """
    import atheris

    folder.mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=["dsae_core"]):
        target = load_target(name)
    found: dict[str, str] = {}
    tried, begin = 0, time.monotonic()

    def report() -> None:
        seconds = round(time.monotonic() - begin, 1)
        document = {"target": name, "inputs": tried, "seed": seed, "seconds": seconds, "findings": found}
        (folder / "report.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    def try_one(data: bytes) -> None:
        nonlocal tried
        wrong = complaint(target, data)
        tried += 1
        if wrong and wrong not in found:
            found[wrong] = f"finding-{hashlib.sha256(data).hexdigest()[:12]}"
            (folder / found[wrong]).write_bytes(data)
        if tried % REPORT_EVERY == 0 or tried == inputs or wrong:
            report()

    def mutate(data: bytes, max_size: int, mutation_seed: int) -> bytes:
        random = Random(mutation_seed)
        if random.random() < PLAIN_SHARE:
            return bytes(atheris.Mutate(data, max_size))
        return target.mutate(data, random)[:max_size]

    with tempfile.TemporaryDirectory() as corpus:
        for number, start in enumerate(target.seeds):
            (Path(corpus) / f"{number}").write_bytes(start)
        options = [
            f"-atheris_runs={inputs}",
            f"-seed={seed or 1}",  # libFuzzer takes 0 for the clock
            f"-max_len={MAX_BYTES}",
            f"-timeout={HANG_SECONDS}",
            f"-rss_limit_mb={MEMORY_MIB}",
            f"-artifact_prefix={folder}/",
            "-verbosity=0",
            corpus,
        ]
        report()
        atheris.Setup([sys.argv[0], *options], try_one, custom_mutator=mutate)
        atheris.Fuzz()  # ends the process
