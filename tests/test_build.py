"""What the build makes, what it says when it can't, and that it does nothing twice."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dsae_core import _native, ops

ROOT = Path(ops.__file__).parents[1]

pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="installed without its sources")


def run_setup(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources alone, to build without touching what is installed."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "csrc", folder / "csrc")
    shutil.copy(ROOT / "setup.py", folder)
    (folder / "dsae_core").mkdir()
    return folder


def test_build_info() -> None:
    info = _native.build_info()
    assert info["compiler"] in ("gcc", "clang")
    assert info["cxx_standard"] == 17
    assert info["build_type"] == "release"
    assert [int(part) for part in info["torch_version"].split(".")[:2]] >= [2, 11]
    assert "-O3" in info["cxx_flags"]
    assert (info["cuda_version"] is None) == (info["nvcc_flags"] is None) == (info["cuda_archs"] == [])


def test_native_stub_names_what_the_module_has() -> None:
    stub = (ROOT / "dsae_core" / "_native.pyi").read_text()
    for name in [name for name in vars(_native) if not name.startswith("_")]:
        assert f"def {name}(" in stub
    for key in _native.build_info():
        assert f"    {key}: " in stub


def test_the_operators_tell_the_same_facts() -> None:
    """A wheel for every Python has no compiled _native; its stand-in asks the operators."""
    spec = importlib.util.spec_from_file_location("stand_in", ROOT / "dsae_core" / "_native.py")
    assert spec is not None
    assert spec.loader is not None
    stand_in = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stand_in)
    assert stand_in.build_info() == _native.build_info()
    with pytest.raises(RuntimeError, match="built without CUDA"):
        stand_in.count_rechecked_rows(0)


def test_cuda_operators_are_in_the_build_when_nvcc_is_there() -> None:
    info = _native.build_info()
    if info["cuda_version"] is None:
        assert os.environ.get("DSAE_CUDA") == "0" or not shutil.which("nvcc"), "nvcc is here but wasn't used"
        pytest.skip("built without nvcc")
    assert torch._C._dispatch_has_kernel_for_dispatch_key("dsae::unique_scores", "CUDA")
    assert b"unique_scores_kernel" in next((ROOT / "dsae_core").glob("_C*.so")).read_bytes()


def test_operators_load_without_a_cuda_driver() -> None:
    """This process has imported them; nothing of CUDA may be needed before a CUDA tensor comes."""
    needed = subprocess.run(
        ["ldd", str(next((ROOT / "dsae_core").glob("_C*.so")))], capture_output=True, text=True, check=True
    ).stdout
    assert "libcuda" not in needed


def test_operators_need_only_the_stable_abi() -> None:
    """Plain C functions of torch, no C++ ones: those change from one torch to the next."""
    library = next((ROOT / "dsae_core").glob("_C*.so"))
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True
    ).stdout.split()
    of_torch = [symbol for symbol in symbols if re.search("torch|c10|2at", symbol)]
    assert len(of_torch) > 20
    assert [symbol for symbol in of_torch if not re.match("(aoti_)?torch_", symbol)] == []


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"DSAE_BUILD": "1", "PATH": "/nowhere", "CXX": ""}, "install one (on Debian and Ubuntu: apt install g++)"),
        ({"CXX": "no-such-compiler"}, "looked for no-such-compiler"),
        ({"DSAE_CUDA": "maybe"}, "it must be auto, 1 or 0"),
        ({"DSAE_CUDA": "1", "PATH": "/nowhere", "CXX": ""}, "need a C++17 compiler"),
        ({"DSAE_CUDA": "1", "CUDA_HOME": "/nowhere"}, "there is no nvcc"),
        ({"DSAE_CUDA_ARCHS": "80 hopper"}, "'hopper' is no architecture"),
    ],
    ids=["no compiler", "wrong CXX", "wrong DSAE_CUDA", "CUDA without a compiler", "no nvcc", "wrong architecture"],
)
def test_what_is_missing_is_said_in_one_sentence(checkout: Path, environment: dict[str, str], says: str) -> None:
    result = run_setup(checkout, **environment)
    assert result.returncode != 0
    assert says in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr


@pytest.fixture(scope="module")
def first_build(checkout: Path) -> subprocess.CompletedProcess[str]:
    result = run_setup(checkout, DSAE_CUDA="0")
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def test_a_second_build_compiles_only_what_changed(
    checkout: Path, first_build: subprocess.CompletedProcess[str]
) -> None:
    assert "encode_codes.cpp" in first_build.stdout

    second = run_setup(checkout, DSAE_CUDA="0")
    assert second.returncode == 0
    assert second.stdout.count("ninja: no work to do.") == 2
    assert ".cpp" not in second.stdout

    with (checkout / "csrc" / "cpu" / "encode_codes.isa.h").open("a") as header:
        header.write("// changed\n")
    third = run_setup(checkout, DSAE_CUDA="0")
    assert "encode_codes.cpp" in third.stdout
    assert "pair_scores.cpp" not in third.stdout


@pytest.mark.usefixtures("first_build")
def test_a_build_without_cuda_works_and_says_so(checkout: Path) -> None:
    script = """
import torch
from dsae_core import _C, _native
print(_native.build_info()["cuda_version"])
print(torch.ops.dsae.pair_scores(torch.zeros(2, 3, dtype=torch.int32), 1, 1).sum().item())
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=checkout, capture_output=True, text=True)
    assert result.stdout.split() == ["None", "0"], result.stderr
