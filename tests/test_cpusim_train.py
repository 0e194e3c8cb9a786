"""The CUDA bodies of train_topk, run on the CPU by csrc/cpusim, against the plain-torch reference."""

import struct

import cpusim
import numpy as np
import pytest
import torch
from cpusim import ORDERS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from dsae_core import reference

pytestmark = pytest.mark.skipif(not cpusim.SOURCES.exists(), reason="installed without its sources")

TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
VARIANTS = {"tiles of 128 rows": 0, "tiles of 64 rows": 1, "state in global memory": 2}

Start = tuple[Tensor, Tensor, Tensor, Tensor]
"""x [H, n, d], encoder [H, d, F], decoder [H, d, F] and bias [H, F]."""


def simulate(
    start: Start,
    k: int,
    epochs: int,
    lr: float,
    *,
    variant: str = "tiles of 64 rows",
    blocks: int = 2,
    order: str = "random",
    seed: int = 0,
    without: str = "",
) -> tuple[Tensor, ...]:
    """Encoder, decoder, bias, loss, and the sum of the squares of x."""
    x, encoder, decoder, bias = (tensor.contiguous() for tensor in start)
    (H, n, d), F = x.shape, bias.shape[1]
    request = struct.pack(
        "11qd", VARIANTS[variant], min(blocks, H), ORDERS[order], seed, TYPES[x.dtype], H, n, d, F, k, epochs, lr
    )
    request += x.view(torch.uint8).numpy().tobytes()
    request += b"".join(tensor.numpy().tobytes() for tensor in (encoder, decoder, bias))
    reply = cpusim.run("run_train_topk", request, without)
    floats = torch.tensor(np.frombuffer(reply[:-8], np.float32))
    parts = floats.split([H * d * F, H * d * F, H * F, epochs])
    shapes = encoder.shape, decoder.shape, bias.shape, (epochs,)
    square_sum = torch.tensor(np.frombuffer(reply[-8:], np.float64)[0])
    return (*(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)), square_sum)


def start_values(H: int, n: int, d: int, F: int, seed: int = 0) -> Start:
    """Rows made of a few directions and noise; a decoder of samples, and an encoder near it."""
    g = torch.Generator().manual_seed(seed)
    weights = torch.rand(H, n, 6, generator=g) * (torch.rand(H, n, 6, generator=g) < 0.4)
    x = torch.bmm(weights, torch.randn(H, 6, d, generator=g)) + 0.1 * torch.randn(H, n, d, generator=g)
    picks = torch.randint(0, n, (H, F, 1), generator=g).expand(-1, -1, d)
    samples = x.gather(1, picks).transpose(1, 2)
    encoder = samples + 0.2 * torch.randn(H, d, F, generator=g)
    return x, encoder, samples + 0.1, 0.1 * torch.randn(H, F, generator=g)


def double(start: Start) -> Start:
    x, encoder, decoder, bias = start
    return x.double(), encoder.double(), decoder.double(), bias.double()


def rms(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).square().mean().sqrt())


def assert_as_close_to_float64_as_its_twin(start: Start, k: int, epochs: int, got: tuple[Tensor, ...]) -> None:
    truth = reference.train_topk(*double(start), k, epochs, 0.01)
    twin = reference.train_topk(*start, k, epochs, 0.01)
    for name, ours, theirs, exact in zip(("encoder", "decoder", "bias", "loss"), got, twin, truth, strict=False):
        assert rms(ours, exact) <= 3 * rms(theirs, exact) + 1e-6, name


@pytest.mark.parametrize(("variant", "order"), list(zip(VARIANTS, ORDERS, strict=True)))
@pytest.mark.parametrize(
    "shape",  # H, n, d, F, k
    [(1, 1, 1, 1, 1), (2, 40, 64, 64, 2), (2, 33, 7, 9, 9), (1, 150, 140, 70, 3)],
    ids=str,
)
def test_as_close_to_float64_as_its_twin(shape: tuple[int, int, int, int, int], order: str, variant: str) -> None:
    start = start_values(*shape[:-1])
    got = simulate(start, shape[-1], 2, 0.01, order=order, variant=variant)
    assert_as_close_to_float64_as_its_twin(start, shape[-1], 2, got)


@settings(deadline=None, max_examples=12)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 40), st.integers(1, 70)),
    dtype=st.sampled_from(list(TYPES)),
    variant=st.sampled_from(sorted(VARIANTS)),
    order=st.sampled_from(sorted(ORDERS)),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_gradients_of_a_step(
    shape: tuple[int, int, int, int], dtype: torch.dtype, variant: str, order: str, seed: int, data: st.DataObject
) -> None:
    """With long start vectors gradients fall far below Adam's epsilon, where its first step is proportional to them."""
    k = data.draw(st.integers(1, min(shape[-1], 4)))
    x, encoder, decoder, bias = start_values(*shape, seed)
    length = 1e8
    x = x.to(dtype)
    start = x, normalize(encoder, dim=1) * length, normalize(decoder, dim=1) * length, bias
    exact = reference.train_topk(*double(start), k, 1, length)
    got = simulate(start, k, 1, length, order=order, variant=variant, seed=seed)
    for name, ours, truth, before in zip(("encoder", "decoder"), got, exact, start[1:3], strict=False):
        moved = rms(truth, normalize(before.double(), dim=1))
        assert rms(ours, truth) <= 1e-4 * moved + 1e-6, name
    torch.testing.assert_close(got[3].double(), exact[3], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got[4], x.double().square().sum(), rtol=1e-12, atol=0)


def test_all_epochs_in_one_launch() -> None:
    start = start_values(1, 40, 16, 12)
    loss = simulate(start, 2, 15, 0.03)[3]
    expected = reference.train_topk(*start, 2, 15, 0.03)[3]
    assert loss[-1] < 0.7 * loss[0]
    torch.testing.assert_close(loss, expected, rtol=0.01, atol=0)


def test_every_schedule_gives_the_same_numbers() -> None:
    start = start_values(3, 30, 9, 10)
    results = [simulate(start, 2, 2, 0.01, order=order, blocks=blocks) for order in ORDERS for blocks in (1, 3)]
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


def test_the_lowest_of_equal_features_is_kept() -> None:
    """Features 1 and 2 see the same, so with k = 1 only feature 1 learns in the first epoch."""
    x, encoder, decoder, _ = start_values(1, 20, 6, 4)
    encoder[..., 1] = encoder[..., 2] = x.mean(1)
    start = x, encoder, decoder, torch.tensor([[-9.0, 0.0, 0.0, -9.0]])
    trained = simulate(start, 1, 1, 0.01)
    assert not torch.allclose(trained[0][..., 1], normalize(encoder, dim=1)[..., 1], atol=1e-3)
    torch.testing.assert_close(trained[0][..., 2], normalize(encoder, dim=1)[..., 2])
    assert_as_close_to_float64_as_its_twin(start, 1, 1, trained)


def test_rows_may_use_fewer_features_than_k() -> None:
    x, encoder, decoder, bias = start_values(2, 30, 10, 6)
    start = x, encoder, decoder, bias - 0.8
    activations = torch.relu(torch.bmm(x, normalize(encoder, dim=1)) + start[3][:, None])
    n_active = (activations > 0).sum(-1)
    assert n_active.min() == 0
    assert n_active.max() > 1
    truth = reference.train_topk(*double(start), 4, 3, 0.01)
    for ours, exact in zip(simulate(start, 4, 3, 0.01), truth, strict=False):
        assert rms(ours, exact) < 1e-4


def test_all_zero_rows_teach_nothing() -> None:
    _, encoder, decoder, bias = start_values(2, 5, 10, 6)
    start = torch.zeros(2, 5, 10), encoder, decoder, bias.clamp_max(0)
    trained = simulate(start, 2, 3, 0.01)
    torch.testing.assert_close(trained[0], normalize(encoder, dim=1))
    torch.testing.assert_close(trained[1], normalize(decoder, dim=1))
    assert torch.equal(trained[2], start[3])
    assert trained[3].tolist() == [0.0] * 3


def test_a_feature_of_zero_length_is_like_the_twins() -> None:
    start = start_values(1, 20, 6, 4)
    start[1][..., 2] = 0
    start[2][..., 1] = 0
    twin = reference.train_topk(*start, 2, 4, 0.01)
    for ours, theirs in zip(simulate(start, 2, 4, 0.01), twin, strict=False):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_seen(spoilt: float) -> None:
    start = start_values(2, 5, 6, 4)
    start[0][1, 2, 3] = spoilt
    assert not torch.isfinite(simulate(start, 2, 2, 0.01)[4])


def test_no_epochs() -> None:
    start = start_values(2, 20, 6, 4)
    trained = simulate(start, 2, 0, 0.01)
    torch.testing.assert_close(trained[0], normalize(start[1], dim=1))
    torch.testing.assert_close(trained[1], normalize(start[2], dim=1))
    assert torch.equal(trained[2], start[3])


def test_needs_each_of_its_barriers() -> None:
    # More rows, features and depth than a tile, fewer blocks than heads; some rows choose fewer features than others.
    x, encoder, decoder, bias = start_values(2, 127, 66, 66)
    start = x, encoder, decoder, bias - 0.8
    expected = {epochs: simulate(start, 2, epochs, 0.01, blocks=1) for epochs in (0, 2)}

    def is_right(order: str, without: str) -> bool:
        got = {epochs: simulate(start, 2, epochs, 0.01, blocks=1, order=order, without=without) for epochs in expected}
        return all(torch.equal(a, b) for n in expected for a, b in zip(got[n], expected[n], strict=True))

    assert is_right("random", "")
    for body, count in (("train_topk", 4), ("train_rows", 5)):
        assert len(list(cpusim.barriers(body))) == count
        assert cpusim.barriers_without_need(body, is_right) == []
