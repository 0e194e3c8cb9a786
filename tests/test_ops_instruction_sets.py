"""The operators that are compiled for several instruction sets, with the versions for older processors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FILES = ["test_ops_encode.py", "test_ops_train.py", "test_ops_train_shared.py"]


@pytest.mark.parametrize("isa", ["avx2", "baseline"])
def test_other_instruction_sets(isa: str) -> None:
    """DSAE_CPU_ISA is read once a process, so their tests run again in another one."""
    files = [str(Path(__file__).with_name(name)) for name in FILES]
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *files]
    result = subprocess.run(command, env={**os.environ, "DSAE_CPU_ISA": isa}, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
