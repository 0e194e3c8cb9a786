"""The CUDA operators against float64 and against the CPU operators; facts about kernels and devices.

Without a device only the refusals at the end run; the kernels' bodies run in test_cpusim*.py.
"""

import os
import subprocess
import sys

import pytest
import torch
from test_ops_train_shared import relative
from test_ops_train_shared import rows as shared_rows
from test_ops_train_shared import start as shared_start
from torch import Tensor
from torch.nn.functional import normalize

from dsae_core import _native, ops, reference
from dsae_core.discovery import discover_from_activations

on_cuda = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
TYPES = [torch.float32, torch.float16, torch.bfloat16]


def cuda_only(test):  # type: ignore[no-untyped-def]
    for mark in on_cuda:
        test = mark(test)
    return test


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def encode_inputs(E: int, T: int, H: int, d: int, F: int, *, exact: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """z, dictionary and bias, on the CPU. exact: small integers, whose products are exact and often tie."""
    g = generator()

    def numbers(*shape: int) -> Tensor:
        return torch.randint(-2, 3, shape, generator=g).float() if exact else torch.randn(*shape, generator=g)

    return numbers(E, T, H, d), numbers(H, d, F), numbers(H, F)


def random_codes(E: int, T: int, H: int, F: int) -> Tensor:
    return torch.randint(ops.INACTIVE, F, (E, T, H), generator=generator(), dtype=torch.int32)


def start_values(H: int, n: int, d: int, F: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = generator()
    weights = torch.rand(H, n, 6, generator=g) * (torch.rand(H, n, 6, generator=g) < 0.4)
    x = torch.bmm(weights, torch.randn(H, 6, d, generator=g)) + 0.1 * torch.randn(H, n, d, generator=g)
    picks = torch.randint(0, n, (H, F, 1), generator=g).expand(-1, -1, d)
    samples = x.gather(1, picks).transpose(1, 2)
    encoder = samples + 0.2 * torch.randn(H, d, F, generator=g)
    return x, encoder, samples + 0.1, 0.1 * torch.randn(H, F, generator=g)


def to_cuda(*tensors: Tensor) -> list[Tensor]:
    return [tensor.cuda() for tensor in tensors]


def rms(a: Tensor, b: Tensor) -> float:
    return float((a.double().cpu() - b.double().cpu()).square().mean().sqrt())


ENCODE_SHAPES = [
    (1, 1, 1, 1, 1),
    (3, 5, 2, 7, 33),
    (20, 17, 9, 64, 64),
    (5, 13, 3, 128, 200),
    (2, 6, 2, 16, 1000),
    (300, 1, 5, 65, 70),
]


@cuda_only
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", ENCODE_SHAPES, ids=str)
def test_encode_codes_exact_on_small_integers(shape: tuple[int, int, int, int, int], dtype: torch.dtype) -> None:
    z, dictionary, bias = encode_inputs(*shape, exact=True)
    codes, values = ops.encode_codes(z.to(dtype).cuda(), dictionary.cuda(), bias.cuda(), 2.0)
    expected_codes, expected_values = reference.encode_codes(z, dictionary, bias, 2.0)
    assert torch.equal(codes.cpu(), expected_codes)
    assert torch.equal(values.cpu(), expected_values)


@cuda_only
@pytest.mark.parametrize("shape", ENCODE_SHAPES, ids=str)
def test_encode_codes_are_those_of_float64(shape: tuple[int, int, int, int, int]) -> None:
    z, dictionary, bias = encode_inputs(*shape)
    codes, values = (tensor.cpu() for tensor in ops.encode_codes(*to_cuda(z, dictionary, bias), 1.0))
    z64, dictionary64, bias64 = z.double(), dictionary.double(), bias.double()
    truth = torch.relu(torch.einsum("ethd,hdf->ethf", z64, dictionary64) + bias64)
    size = torch.einsum("ethd,hdf->ethf", z64.abs(), dictionary64.abs()) + bias64.abs()
    rounding = (z.shape[-1] + 2) * torch.finfo(torch.float32).eps * size.amax(-1)
    assert ((values - truth.amax(-1)).abs() <= rounding).all()
    active = codes != ops.INACTIVE
    assert torch.equal(active, values > 1.0)
    winners = truth.gather(-1, codes.clamp_min(0).long()[..., None])[..., 0]
    assert (winners >= truth.amax(-1) - 2 * rounding)[active].all()


@cuda_only
def test_encode_codes_reads_any_layout_and_keeps_nan_apart() -> None:
    z, dictionary, bias = encode_inputs(4, 5, 3, 66, 40, exact=True)
    z[1, 2, 0] = float("nan")
    expected = reference.encode_codes(z, dictionary, bias, 1.0)
    roomy = torch.full((4, 10, 4, 69), float("nan"), device="cuda")
    roomy[:, ::2, 1:, 2:-1] = z.cuda()
    for view in (roomy[:, ::2, 1:, 2:-1], z.cuda().permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)):
        assert not view.is_contiguous()
        for got, want in zip(ops.encode_codes(view, *to_cuda(dictionary, bias), 1.0), expected, strict=True):
            assert torch.equal(got.cpu(), want)


@cuda_only
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "shape", [(500, 20, 5, 64, 64), (50, 20, 3, 80, 200), (10, 13, 2, 128, 65), (129, 1, 2, 1, 1)], ids=str
)
def test_tensor_cores_give_the_codes_of_float32(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype, scale: float
) -> None:
    """Bit for bit: up to 64 rows, which calls here are cut into, encode_codes uses no tensor cores.

    With scales, numbers go beyond what half precision can hold and below what it can tell from zero.
    """
    z, dictionary, bias = encode_inputs(*shape)
    z, bias = z * scale, bias * scale
    near = dictionary[..., :1] * (1 + 3e-4 * torch.randn(dictionary.shape, generator=generator(1)))
    for columns, offsets in ((dictionary, bias), (near, torch.zeros_like(bias))):
        rows, *rest = to_cuda(z.to(dtype).flatten(0, 1)[:, None], columns, offsets)
        for view in (rows, torch.nn.functional.pad(rows, (1, 2))[..., 1:-2]):
            together = ops.encode_codes(view, *rest, 0.5 * scale)
            apart = zip(*(ops.encode_codes(part, *rest, 0.5 * scale) for part in view.split(64)), strict=True)
            for ours, theirs in zip(together, map(torch.cat, apart), strict=True):
                assert torch.equal(ours, theirs)


@cuda_only
def test_tensor_cores_multiply_few_rows_again() -> None:
    inputs = to_cuda(*encode_inputs(500, 20, 3, 64, 64))
    counter = torch.zeros(1, dtype=torch.int32, device="cuda")
    _native.count_rechecked_rows(counter.data_ptr())
    try:
        ops.encode_codes(*inputs, 0.5)
    finally:
        _native.count_rechecked_rows(0)
    ops.encode_codes(*inputs, 0.5)
    assert 0 < int(counter) < 0.2 * 30000


@cuda_only
@pytest.mark.parametrize("shape", [(0, 3, 2, 4, 5), (3, 0, 2, 4, 5), (3, 2, 0, 4, 5)], ids=str)
def test_nothing_to_encode(shape: tuple[int, int, int, int, int]) -> None:
    inputs = to_cuda(*encode_inputs(*shape))
    assert ops.encode_codes(*inputs, 0.0)[0].shape == shape[:3]
    assert ops.discover_heads(*inputs, 0.0, 0)[2].tolist() == [0] * shape[2]


@cuda_only
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1, 1), (20, 17, 33, 64, 64), (300, 17, 3, 64, 64), (9, 40, 5, 16, 30000)], ids=str
)
def test_discover_heads(shape: tuple[int, int, int, int, int], dtype: torch.dtype, masked: bool) -> None:
    z, dictionary, bias = encode_inputs(*shape, exact=True)
    mask = torch.rand(shape[:2], generator=generator()) < 0.7 if masked else None
    n_positive = (shape[0] + 1) // 2
    got = ops.discover_heads(
        z.to(dtype).cuda(), dictionary.cuda(), bias.cuda(), 2.0, n_positive, None if mask is None else mask.cuda()
    )
    expected = ops.discover_heads(z, dictionary, bias, 2.0, n_positive, mask)
    for ours, theirs in zip(got[:3], expected[:3], strict=True):
        assert torch.equal(ours.cpu(), theirs)
    torch.testing.assert_close(got[3].cpu(), expected[3], rtol=1e-6, atol=0)


@cuda_only
@pytest.mark.parametrize(
    ("E", "H", "F", "n_positive"),
    [(1, 1, 1, 1), (20, 270, 64, 10), (500, 144, 200, 250), (33, 65, 7, 33), (70, 130, 5, 0), (90, 3, 2_000_000, 40)],
)
def test_pair_scores(E: int, H: int, F: int, n_positive: int) -> None:
    codes = random_codes(E, 1, H, min(F, 300))[:, 0]
    codes = torch.where(codes >= 0, codes + F - min(F, 300), codes)
    assert torch.equal(ops.pair_scores(codes.cuda(), n_positive, F).cpu(), ops.pair_scores(codes, n_positive, F))
    strided = codes.cuda().T.contiguous().T
    assert torch.equal(ops.pair_scores(strided, n_positive, F).cpu(), ops.pair_scores(codes, n_positive, F))


@cuda_only
@pytest.mark.parametrize("n_positive", [0, 3])
def test_codes_out_of_range_are_reported(n_positive: int) -> None:
    codes = random_codes(5, 2, 4, 6)
    codes[4, 1, 1] = 6
    with pytest.raises(RuntimeError, match="every code must be"):
        ops.pair_scores(codes[:, 1].cuda(), n_positive, 6)
    with pytest.raises(RuntimeError, match="every code must be"):
        ops.unique_scores(codes.cuda(), torch.ones(5, 2, 4).cuda(), n_positive, 6)


@cuda_only
@pytest.mark.parametrize("epochs", [0, 1, 2, 5])
@pytest.mark.parametrize(
    "shape",  # H, n, d, F, k; the last two: tiles of 64 rows, and more shared memory than a block has
    [
        (1, 1, 1, 1, 1),
        (3, 40, 64, 64, 2),
        (2, 33, 7, 9, 9),
        (300, 20, 8, 8, 2),
        (2, 70, 128, 64, 2),
        (2, 90, 256, 96, 4),
        (2, 90, 256, 200, 4),
    ],
    ids=str,
)
def test_train_topk_as_close_to_float64_as_its_twin(shape: tuple[int, int, int, int, int], epochs: int) -> None:
    start, k = start_values(*shape[:-1]), shape[-1]
    truth = reference.train_topk(*(tensor.double() for tensor in start), k, epochs, 0.01)
    twin = reference.train_topk(*start, k, epochs, 0.01)
    trained = ops.train_topk(*to_cuda(*start), k, epochs, 0.01)
    for name, ours, theirs, exact in zip(("encoder", "decoder", "bias", "loss"), trained, twin, truth, strict=True):
        if exact.numel():
            assert rms(ours, exact) <= 3 * rms(theirs, exact) + 1e-6, name


@cuda_only
def test_train_topk_loss_over_many_epochs() -> None:
    start = start_values(4, 120, 32, 24)
    loss = ops.train_topk(*to_cuda(*start), 2, 60, 0.01)[3].cpu()
    assert loss[-1] < 0.5 * loss[0]
    torch.testing.assert_close(loss, reference.train_topk(*start, 2, 60, 0.01)[3], rtol=0.01, atol=0)


@cuda_only
@pytest.mark.parametrize("shape", [(3, 40, 64, 64, 2), (2, 33, 7, 9, 3), (2, 150, 140, 70, 3)], ids=str)
def test_train_topk_gradients_of_a_step(shape: tuple[int, int, int, int, int]) -> None:
    """With long start vectors gradients fall far below Adam's epsilon, where its first step is proportional to them."""
    x, encoder, decoder, bias = start_values(*shape[:-1])
    start = x, normalize(encoder, dim=1) * 1e8, normalize(decoder, dim=1) * 1e8, bias
    exact = reference.train_topk(*(tensor.double() for tensor in start), shape[-1], 1, 1e8)
    trained = ops.train_topk(*to_cuda(*start), shape[-1], 1, 1e8)
    for ours, truth, before in zip(trained[:2], exact[:2], start[1:3], strict=True):
        moved = rms(truth, normalize(before.double(), dim=1))
        assert rms(ours, truth) <= 1e-4 * moved + 1e-6


@cuda_only
@pytest.mark.parametrize("dtype", TYPES)
def test_train_topk_gives_the_same_numbers_every_time(dtype: torch.dtype) -> None:
    start = to_cuda(*start_values(200, 100, 64, 64))
    start[0] = start[0].to(dtype)
    first = ops.train_topk(*start, 2, 20, 0.01)
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(ops.train_topk(*start, 2, 20, 0.01), first, strict=True))


@cuda_only
def test_train_topk_refuses_numbers_that_are_not_finite() -> None:
    start = to_cuda(*start_values(2, 5, 6, 4))
    start[0][1, 2, 3] = float("nan")
    with pytest.raises(RuntimeError, match="x must be finite"):
        ops.train_topk(*start, 2, 3, 0.01)


SHARED_SHAPES = [(1, 1, 1), (65, 7, 9), (130, 70, 41), (2700, 576, 200), (600, 1024, 33)]


@cuda_only
@pytest.mark.parametrize("epochs", [0, 1, 4])
@pytest.mark.parametrize("shape", SHARED_SHAPES, ids=str)
def test_train_shared_as_close_to_float64_as_its_twin(shape: tuple[int, int, int], epochs: int) -> None:
    n, D, F = shape
    x, state = shared_rows(n, D), shared_start(D, F)
    truth = reference.train_shared(x.double(), state.double(), F, 7, epochs, 0.02, 1e-3)
    twin = reference.train_shared(x, state, F, 7, epochs, 0.02, 1e-3)
    trained = ops.train_shared(*to_cuda(x, state), F, 7, epochs, 0.02, 1e-3)
    for name, ours, theirs, exact in zip(("state", "loss"), trained, twin, truth, strict=True):
        assert relative(ours.cpu(), exact) <= 3 * relative(theirs, exact) + 1e-6, name


@cuda_only
@pytest.mark.parametrize("shape", SHARED_SHAPES, ids=str)
def test_train_shared_gradients_are_autograds(shape: tuple[int, int, int]) -> None:
    """From moments of zero, Adam's mean after one step is a tenth of the gradient."""
    n, D, F = shape
    x, state = shared_rows(n, D), shared_start(D, F)
    state[1:] = 0
    exact = reference.train_shared(x.double(), state.double(), F, 0, 1, 0.3, 1e-3)[0][1]
    twin = reference.train_shared(x, state, F, 0, 1, 0.3, 1e-3)[0][1]
    ours = ops.train_shared(*to_cuda(x, state), F, 0, 1, 0.3, 1e-3)[0][1].cpu()
    parts = [reference.shared_parameters(gradient, F, D) for gradient in (ours, twin, exact)]
    for name, *gradients in zip(("encoder", "bias", "decoder", "offset"), *parts, strict=True):
        mine, theirs, truth = gradients
        assert (mine - truth).norm() <= 3 * (theirs - truth).norm() + 2e-6 * truth.norm() + 1e-8, name


@cuda_only
def test_train_shared_loss_over_many_epochs_and_the_same_numbers_every_time() -> None:
    x, state = shared_rows(300, 48), shared_start(48, 40)
    state[1:] = 0
    first = ops.train_shared(*to_cuda(x, state), 40, 0, 400, 0.2, 5e-3)
    second = ops.train_shared(*to_cuda(x, state), 40, 0, 400, 0.2, 5e-3)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    torch.testing.assert_close(first[1].cpu(), ops.train_shared(x, state, 40, 0, 400, 0.2, 5e-3)[1], rtol=0.01, atol=0)


@cuda_only
def test_train_shared_in_a_graph() -> None:
    x, state = to_cuda(shared_rows(130, 70), shared_start(70, 41))
    expected = ops.train_shared(x, state, 41, 0, 5, 0.02, 1e-3)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        trained = ops.train_shared(x, state, 41, 0, 5, 0.02, 1e-3)
    for _ in range(2):
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(trained, expected, strict=True))


@cuda_only
def test_train_shared_of_numbers_that_are_not_finite() -> None:
    x, state = shared_rows(40, 10), shared_start(10, 6)
    x[31, 4] = float("nan")
    assert not torch.isfinite(ops.train_shared(*to_cuda(x, state), 6, 0, 1, 0.02, 1e-3)[1]).any()


@cuda_only
@pytest.mark.parametrize("method", ["positional", "paper"])
@pytest.mark.parametrize("n_negative", [10, 7])
def test_a_discovery_is_the_cpus(method: str, n_negative: int) -> None:
    g = generator()
    z = torch.randn(10 + n_negative, 12, 3, 8, 64, generator=g)
    z[:10, 5, 1, 3] += 3 * torch.randn(64, generator=g)
    w_o = torch.randn(3, 8, 64, 128, generator=g) / 11
    here = discover_from_activations(z[:10], z[10:], w_o, method=method, epochs=20)
    there = discover_from_activations(*to_cuda(z[:10], z[10:], w_o), method=method, epochs=20)
    assert there.node_scores.device.type == there.codes.device.type == "cpu"
    # Training follows rounding, so a few rows near the border of two codes may change sides.
    assert (there.codes == here.codes).float().mean() > 0.98
    scores = torch.stack([there.node_scores.flatten(), here.node_scores.flatten()])
    assert torch.corrcoef(scores)[0, 1] > 0.98


@cuda_only
def test_operators_use_the_current_stream() -> None:
    """Work queued before an operator on a stream of its own is done when the operator's kernel starts."""
    z, dictionary, bias = encode_inputs(20, 17, 9, 64, 64, exact=True)
    expected = reference.encode_codes(z, dictionary, bias, 2.0)
    on_device = to_cuda(z, dictionary, bias)
    busy = torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(5):
            busy = busy @ busy * 1e-3
        late = torch.zeros_like(on_device[0]).copy_(on_device[0])
        codes, _ = ops.encode_codes(late, *on_device[1:], 2.0)
        torch.cuda.current_stream().synchronize()
    assert torch.equal(codes.cpu(), expected[0])


@cuda_only
def test_tensors_on_two_devices_are_refused() -> None:
    z, dictionary, bias = encode_inputs(2, 3, 4, 5, 6)
    for arguments in [(z.cuda(), dictionary, bias), (z, dictionary.cuda(), bias)]:
        with pytest.raises(RuntimeError, match="must be on the same device"):
            ops.encode_codes(*arguments, 0.0)


@cuda_only
def test_opcheck() -> None:
    z, dictionary, bias = to_cuda(*encode_inputs(2, 3, 4, 5, 6))
    torch.library.opcheck(torch.ops.dsae.encode_codes.default, (z, dictionary, bias, 0.5))
    torch.library.opcheck(torch.ops.dsae.discover_heads.default, (z, dictionary, bias, 0.5, 1, None))
    torch.library.opcheck(torch.ops.dsae.pair_scores.default, (random_codes(8, 1, 5, 4)[:, 0].cuda(), 3, 4))
    torch.library.opcheck(torch.ops.dsae.train_topk.default, (*to_cuda(*start_values(2, 5, 6, 4)), 2, 3, 0.01))
    shared = *to_cuda(shared_rows(9, 6), shared_start(6, 4)), 4, 0, 3, 0.02, 1e-3
    torch.library.opcheck(torch.ops.dsae.train_shared.default, shared)


@cuda_only
@pytest.mark.parametrize("features", [3_000, 7_000])
def test_any_shared_memory_can_be_had_after_any_other(features: int) -> None:
    """What a kernel may have at most is not lowered by an earlier launch, nor by a look at the kernel."""
    codes, values = random_codes(6, 20, 3, 50), torch.ones(6, 20, 3)
    for largest in (80_000, features):  # from above and from below the 48 KiB that every kernel may have
        _native.kernel_attributes()
        counts, _ = ops.unique_scores(codes.cuda(), values.cuda(), 3, largest)
        assert torch.equal(counts.cpu(), ops.unique_scores(codes, values, 3, largest)[0])


@cuda_only
def test_kernels_fit_the_device() -> None:
    limits = _native.device_limits()
    assert limits["processors"] == torch.cuda.get_device_properties(0).multi_processor_count
    kernels = _native.kernel_attributes()
    assert {kernel["name"].split(",")[0] for kernel in kernels} == {
        "encode_codes", "unique_scores", "discover_heads", "pair_scores", "train_topk", "train_shared"
    }  # fmt: skip
    for kernel in kernels:
        assert 0 < kernel["registers"] <= 255
        if kernel["shared_bytes"] <= limits["shared_bytes_per_block"]:
            assert kernel["blocks_per_processor"] >= 1, kernel["name"]


def run_without_device(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["kernel_attributes", "device_limits"])
def test_facts_without_a_device_are_a_runtime_error(name: str) -> None:
    script = f"""
from dsae_core import _native
try:
    _native.{name}()
except RuntimeError as error:
    print(error)
"""
    result = run_without_device("-c", script)
    assert result.returncode == 0
    assert "CUDA" in result.stdout


@pytest.mark.skipif(_native.build_info()["cuda_version"] is None, reason="built without nvcc")
@pytest.mark.parametrize(
    "operator", ["encode_codes", "unique_scores", "discover_heads", "pair_scores", "train_topk", "train_shared"]
)
def test_every_operator_has_a_cuda_implementation(operator: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"dsae::{operator}", "CUDA")
