"""The operators that are compiled for several instruction sets, with the versions for older processors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dsae_core import _native, ops

FILES = ["test_ops_encode.py", "test_ops_train.py", "test_ops_train_shared.py"]


def test_the_build_names_the_instruction_set() -> None:
    if not ops.compiled:
        assert _native.build_info()["isa"] == "none"
        return
    assert _native.build_info()["isa"] in ("avx512", "avx2", "baseline")
    command = [sys.executable, "-c", "from dsae_core import _native; print(_native.build_info()['isa'])"]
    environment = {**os.environ, "DSAE_CPU_ISA": "baseline"}
    assert subprocess.run(command, env=environment, capture_output=True, text=True).stdout.split() == ["baseline"]


@pytest.mark.parametrize("isa", ["avx2", "baseline"])
def test_other_instruction_sets(isa: str) -> None:
    """DSAE_CPU_ISA is read once a process, so their tests run again in another one."""
    files = [str(Path(__file__).with_name(name)) for name in FILES]
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *files]
    result = subprocess.run(command, env={**os.environ, "DSAE_CPU_ISA": isa}, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
