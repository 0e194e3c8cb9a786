"""The CUDA operators from torch's dispatcher to the kernels' bodies, in the simulator, against the CPU operators.

Bindings (csrc/cuda/*.cpp) and launchers (*.cu) are compiled with a C++ compiler, beside csrc/cpusim/fake, and
registered as CPU operators in a namespace of their own. What only nvcc and a GPU can show is left to test_ops_cuda.py.
"""

import os
import shlex
import subprocess
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cpusim
import pytest
import torch
from test_ops_train_shared import rows
from test_ops_train_shared import start as shared_start
from torch import Tensor
from torch.utils.cpp_extension import include_paths, library_paths

from dsae_core import ops

pytestmark = pytest.mark.skipif(not cpusim.SOURCES.exists(), reason="installed without its sources")

OPERATORS = ["encode_codes", "unique_scores", "discover_heads", "pair_scores", "train_topk", "train_shared"]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """torch.ops.dsae_simulated: the operators, with the schemas of torch.ops.dsae."""
    folder = tmp_path_factory.mktemp("operators")
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    includes = [cpusim.SOURCES / "cpusim" / "fake", cpusim.SOURCES, *include_paths(), sysconfig.get_path("include")]
    flags = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
    flags += [argument for path in includes for argument in ("-I", str(path))]

    def compile_file(source: Path, *more: str) -> Path:
        target = folder / f"{source.name}.o"
        command = [*compiler, *flags, *more, "-x", "c++", "-c", str(source), "-o", str(target)]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return target

    def compile_renamed(source: Path) -> Path:
        text = source.read_text().replace("(dsae, CUDA,", "(dsae_simulated, CPU,")
        renamed = folder / source.name
        renamed.write_text(text.replace("STABLE_TORCH_LIBRARY(dsae,", "STABLE_TORCH_LIBRARY(dsae_simulated,"))
        return compile_file(renamed)

    with ThreadPoolExecutor(2) as pool:
        objects = [pool.submit(compile_renamed, cpusim.SOURCES / "cuda" / f"{name}.cpp") for name in OPERATORS]
        objects += [
            pool.submit(compile_file, cpusim.SOURCES / "cuda" / f"{name}.cu", "-include", "cpusim/cpusim.h")
            for name in OPERATORS
        ]
        objects.append(pool.submit(compile_renamed, cpusim.SOURCES / "ops.cpp"))
        objects.append(pool.submit(compile_file, cpusim.SOURCES / "cpusim" / "registry.cpp"))
        files = [str(one.result()) for one in objects]
    library = folder / "simulated.so"
    link = [f"-L{path}" for path in library_paths()] + ["-ltorch", "-ltorch_cpu", "-lc10"]
    result = subprocess.run([*compiler, "-shared", *files, "-o", str(library), *link], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    torch.ops.load_library(library)
    return torch.ops.dsae_simulated


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def encode_inputs(E: int, T: int, H: int, d: int, F: int) -> tuple[Tensor, Tensor, Tensor]:
    """z, dictionary and bias of small integers: their products are exact in float32, and many tie."""
    g = generator()
    z, dictionary, bias = (
        torch.randint(-2, 3, shape, generator=g).float() for shape in [(E, T, H, d), (H, d, F), (H, F)]
    )
    return z, dictionary, bias


def random_codes(E: int, T: int, H: int, F: int) -> Tensor:
    return torch.randint(ops.INACTIVE, F, (E, T, H), generator=generator(), dtype=torch.int32)


def start_values(H: int, n: int, d: int, F: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = generator()
    x, encoder, decoder = (torch.randn(shape, generator=g) for shape in [(H, n, d), (H, d, F), (H, d, F)])
    return x, encoder, decoder, torch.randn(H, F, generator=g) / 10


def assert_equal(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1, 1), (20, 17, 3, 33, 70), (5, 3, 2, 8, 9), (20, 17, 3, 64, 64), (3, 0, 2, 4, 5)], ids=str
)
@pytest.mark.parametrize("shared_bytes", [232448, 101376, 49152])
def test_encode_and_discover(
    simulated: Any,
    sizes: tuple[int, int, int, int, int],
    dtype: torch.dtype,
    shared_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As shared memory shrinks, smaller tiles and then none for the tensor cores; several blocks a head."""
    monkeypatch.setenv("CPUSIM_SHARED_BYTES", str(shared_bytes))
    z, dictionary, bias = encode_inputs(*sizes)
    z = z.to(dtype).transpose(0, 1).contiguous().transpose(0, 1)
    strided = dictionary.transpose(1, 2).contiguous().transpose(1, 2)
    mask = (torch.rand(sizes[1], sizes[0], generator=generator()) < 0.7).T
    n_positive = (sizes[0] + 1) // 2
    assert_equal(simulated.encode_codes(z, strided, bias, 2.0), ops.encode_codes(z, strided, bias, 2.0))
    for left_out in (None, mask):
        assert_equal(
            simulated.discover_heads(z, strided, bias, 2.0, n_positive, left_out),
            ops.discover_heads(z, strided, bias, 2.0, n_positive, left_out),
        )


@pytest.mark.parametrize("shared_bytes", [232448, 49152])
@pytest.mark.parametrize("n_positive", [0, 4, 9])
def test_unique_scores(simulated: Any, n_positive: int, shared_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With little shared memory, the bitmaps take several passes."""
    monkeypatch.setenv("CPUSIM_SHARED_BYTES", str(shared_bytes))
    codes, values = random_codes(9, 40, 3, 9000), torch.rand(9, 40, 3, generator=generator())
    assert_equal(
        simulated.unique_scores(codes, values, n_positive, 9000), ops.unique_scores(codes, values, n_positive, 9000)
    )


@pytest.mark.parametrize(("E", "H", "n_positive"), [(1, 1, 1), (70, 66, 40), (33, 5, 0), (9, 3, 9), (0, 3, 0)])
def test_pair_scores(simulated: Any, E: int, H: int, n_positive: int) -> None:
    codes = random_codes(H, 1, E, 6)[:, 0].T
    assert torch.equal(simulated.pair_scores(codes, n_positive, 6), ops.pair_scores(codes, n_positive, 6))


@pytest.mark.parametrize("n_positive", [0, 3])
def test_codes_out_of_range(simulated: Any, n_positive: int) -> None:
    codes = random_codes(5, 2, 4, 6)
    codes[4, 1, 1] = 6
    with pytest.raises(RuntimeError, match="pair_scores: every code must be"):
        simulated.pair_scores(codes[:, 1], n_positive, 6)
    with pytest.raises(RuntimeError, match="unique_scores: every code must be"):
        simulated.unique_scores(codes, torch.ones(5, 2, 4), n_positive, 6)


@pytest.mark.parametrize("shared_bytes", [232448, 30000, 20000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_train_topk(simulated: Any, dtype: torch.dtype, shared_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More heads than blocks, and as shared memory shrinks, smaller tiles and then the state in global memory."""
    monkeypatch.setenv("CPUSIM_SHARED_BYTES", str(shared_bytes))
    x, *start = start_values(5, 40, 10, 12)
    x = x.to(dtype).transpose(1, 2).contiguous().transpose(1, 2)
    got, expected = simulated.train_topk(x, *start, 2, 3, 0.01), ops.train_topk(x, *start, 2, 3, 0.01)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_train_topk_refuses_numbers_that_are_not_finite(simulated: Any) -> None:
    start = start_values(2, 5, 6, 4)
    start[0][1, 2, 3] = float("inf")
    with pytest.raises(RuntimeError, match="x must be finite"):
        simulated.train_topk(*start, 2, 1, 0.01)


def test_no_epochs(simulated: Any) -> None:
    start = start_values(2, 5, 6, 4)
    assert_equal(simulated.train_topk(*start, 2, 0, 0.01), ops.train_topk(*start, 2, 0, 0.01))
    x, state = rows(9, 6), shared_start(6, 4)
    assert_equal(simulated.train_shared(x, state, 4, 2, 0, 0.1, 0.01), (state, torch.empty(0)))


@pytest.mark.parametrize("shape", [(1, 1, 1), (70, 10, 12), (300, 66, 20)], ids=str)
def test_train_shared(simulated: Any, shape: tuple[int, int, int]) -> None:
    """Any layout of x and state, which stay as they are; x that begins anywhere; the same numbers every time."""
    n, D, F = shape
    x, state = rows(n, D), shared_start(D, F)
    expected = ops.train_shared(x, state, F, 3, 3, 0.02, 1e-3)
    odd = torch.empty(n * D + 1)[1:].view(n, D).copy_(x)
    results = [
        simulated.train_shared(x, state, F, 3, 3, 0.02, 1e-3),
        simulated.train_shared(odd, state, F, 3, 3, 0.02, 1e-3),
        simulated.train_shared(x.T.contiguous().T, state.T.contiguous().T, F, 3, 3, 0.02, 1e-3),
    ]
    assert torch.equal(state, shared_start(D, F))
    for result in results:
        for ours, theirs, first in zip(result, expected, results[0], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
            assert torch.equal(ours, first)


def test_train_shared_refuses_what_the_cpu_operator_refuses(simulated: Any) -> None:
    x, state = rows(9, 6), shared_start(6, 4)
    for arguments in [
        (x[:0], state, 4, 0, 3, 0.1, 0.1),
        (x, state, 5, 0, 3, 0.1, 0.1),
        (x.double(), state, 4, 0, 3, 0.1, 0.1),
        (x, state, 4, -1, 3, 0.1, 0.1),
        (x, state, 4, 0, 3, 0.1, float("nan")),
    ]:
        with pytest.raises(RuntimeError) as theirs:
            ops.train_shared(*arguments)
        with pytest.raises(RuntimeError, match="train_shared: ") as ours:
            simulated.train_shared(*arguments)
        said = [str(error.value).splitlines()[0].partition("train_shared: ")[2] for error in (ours, theirs)]
        assert said[0] == said[1]


def test_a_device_that_refuses_is_an_error(simulated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPUSIM_SHARED_BYTES", "1000")
    with pytest.raises(RuntimeError, match="encode_codes: invalid argument"):
        simulated.encode_codes(*encode_inputs(2, 2, 2, 2, 2), 0.0)
