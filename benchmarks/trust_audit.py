"""Are there known vulnerabilities in what is installed?

    make audit      or: python benchmarks/trust_audit.py PIP_AUDIT [--json FILE]

Asks pip-audit about every package beside this one, in the versions that are installed. That needs the vulnerability
service of the Python package index. Exit code 0: no package has a known vulnerability; 1: some have, they are listed;
3: the service did not answer, so nothing is known. --json writes the row of docs/reliability.md, or no row with code 3.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsae_core.files import write_atomic

UNKNOWN = 3
OWN = "dsae-core"


def ask(tool: str) -> tuple[Sequence[Mapping[str, Any]] | None, str]:
    """What pip-audit found of each package, None where it could not find out; and what it said beside."""
    command = [tool, "--path", sysconfig.get_path("purelib"), "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)
    try:
        found = [package for package in json.loads(done.stdout)["dependencies"] if package["name"] != OWN]
    except (ValueError, TypeError, KeyError):
        return None, done.stderr or done.stdout
    if all("skip_reason" in package for package in found):
        return None, next((package["skip_reason"] for package in found), "nothing is installed")
    return found, done.stderr


def vulnerabilities(dependencies: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a known vulnerability."""
    return [
        f"{package['name']} {package['version']}: {known['id']}"
        + (f", put right in {', '.join(known['fix_versions'])}" if known.get("fix_versions") else "")
        for package in dependencies
        for known in package.get("vulns", [])
    ]


def row(dependencies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The promise and what came of it."""
    found = vulnerabilities(dependencies)
    skipped = [package["name"] for package in dependencies if "skip_reason" in package]
    figure = f"{len(dependencies) - len(skipped)} packages, {len(found)} known vulnerabilities"
    if skipped:
        figure += f"; the service did not say anything of {', '.join(sorted(skipped))}"
    return {
        "promise": "No package that is installed with this one has a known vulnerability.",
        "proof": "make audit",
        "figure": figure,
        "ok": not found and not skipped,
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", help="The pip-audit to ask.")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found, said = ask(asked.tool)
    if found is None:
        last = said.strip().splitlines()[-1:] or ["it said nothing"]
        print(f"The vulnerability service did not answer, so nothing is known: {last[0][:300]}", file=sys.stderr)
        if asked.json:
            write_atomic(asked.json, "[]\n")
        sys.exit(UNKNOWN)
    for line in vulnerabilities(found):
        print(line)
    proven = row(found)
    print(proven["figure"])
    if asked.json:
        write_atomic(asked.json, json.dumps([proven], indent=1) + "\n")
    sys.exit(0 if proven["ok"] else 1)


if __name__ == "__main__":
    main()
