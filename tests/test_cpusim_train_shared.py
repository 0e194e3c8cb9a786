"""The CUDA bodies of train_shared, run on the CPU by csrc/cpusim, against the plain-torch reference."""

import struct

import cpusim
import numpy as np
import pytest
import torch
from cpusim import ORDERS
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ops_train_shared import relative, rows, start
from torch import Tensor
from torch.nn.functional import normalize, pad

from dsae_core import ops, reference

pytestmark = pytest.mark.skipif(not cpusim.SOURCES.exists(), reason="installed without its sources")

SHAPES = [(1, 1, 1), (5, 3, 70), (65, 7, 9), (130, 70, 41), (64, 64, 16), (600, 20, 6)]
"""n, D, F: fewer and more than a tile, exactly one, and rows for two slices."""


def simulate(
    x: Tensor,
    state: Tensor,
    n_features: int,
    step: int,
    epochs: int,
    l1: float,
    lr: float,
    *,
    order: str = "random",
    seed: int = 0,
    quads: bool = True,
    without: str = "",
) -> tuple[Tensor, Tensor]:
    """As ops.train_shared. quads: read four numbers of x in one go, where a row has whole fours."""
    x, state = x.contiguous(), state.contiguous()
    quads = quads and x.shape[1] % 4 == 0
    request = struct.pack("8q2d", ORDERS[order], seed, quads, *x.shape, n_features, step, epochs, l1, lr)
    request += x.numpy().tobytes() + state.numpy().tobytes()
    floats = torch.tensor(np.frombuffer(cpusim.run("run_train_shared", request, without), np.float32))
    trained, loss = floats.split([state.numel(), epochs])
    return trained.view(state.shape), loss


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_are_autograds(shape: tuple[int, int, int], order: str) -> None:
    """From moments of zero, Adam's mean after one step is a tenth of the gradient."""
    n, D, F = shape
    x, state = rows(n, D), start(D, F)
    state[1:] = 0
    exact = reference.train_shared(x.double(), state.double(), F, 0, 1, 0.3, 1e-3)[0][1]
    twin = reference.train_shared(x, state, F, 0, 1, 0.3, 1e-3)[0][1]
    ours = simulate(x, state, F, 0, 1, 0.3, 1e-3, order=order)[0][1]
    parts = [reference.shared_parameters(gradient, F, D) for gradient in (ours, twin, exact)]
    for name, *gradients in zip(("encoder", "bias", "decoder", "offset"), *parts, strict=True):
        mine, theirs, truth = gradients
        assert (mine - truth).norm() <= 3 * (theirs - truth).norm() + 2e-6 * truth.norm() + 1e-8, name


def assert_as_close_to_float64_as_its_twin(
    got: tuple[Tensor, Tensor], x: Tensor, state: Tensor, n_features: int, step: int, epochs: int
) -> None:
    truth = reference.train_shared(x.double(), state.double(), n_features, step, epochs, 0.02, 1e-3)
    twin = reference.train_shared(x, state, n_features, step, epochs, 0.02, 1e-3)
    for name, ours, theirs, exact in zip(("state", "loss"), got, twin, truth, strict=True):
        assert relative(ours, exact) <= 3 * relative(theirs, exact) + 1e-6, name


@settings(deadline=None, max_examples=15)
@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 80), st.integers(1, 80)),
    step=st.integers(0, 20),
    epochs=st.integers(0, 2),
    order=st.sampled_from(sorted(ORDERS)),
    quads=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_drawn_cases(shape: tuple[int, int, int], step: int, epochs: int, order: str, quads: bool, seed: int) -> None:
    n, D, F = shape
    x, state = rows(n, D, seed), start(D, F, seed)
    got = simulate(x, state, F, step, epochs, 0.02, 1e-3, order=order, seed=seed, quads=quads)
    assert_as_close_to_float64_as_its_twin(got, x, state, F, step, epochs)


def test_several_steps_are_the_cpu_operators() -> None:
    x, state = rows(100, 30), start(30, 20)
    got = simulate(x, state, 20, 7, 6, 0.02, 1e-3)
    assert_as_close_to_float64_as_its_twin(got, x, state, 20, 7, 6)
    for ours, theirs in zip(got, ops.train_shared(x, state, 20, 7, 6, 0.02, 1e-3), strict=True):
        assert relative(ours, theirs) < 1e-5


def few_active(n: int, D: int, F: int) -> tuple[Tensor, Tensor]:
    """Rows and a state with which one activation in a hundred is positive, so that most squares of 16 have none."""
    x, state = rows(n, D), start(D, F)
    encoder, bias, _, offset = reference.shared_parameters(state[0], F, D)
    bias -= ((x - offset) @ normalize(encoder, dim=1).T + bias).flatten().kthvalue(n * F * 99 // 100).values
    state[1:] = 0
    return x, state


def squares(x: Tensor, state: Tensor, n_features: int) -> Tensor:
    """Whether any activation is positive in 16 rows and 16 features."""
    encoder, bias, _, offset = reference.shared_parameters(state[0], n_features, x.shape[1])
    active = (x - offset) @ normalize(encoder, dim=1).T + bias > 0
    n, F = active.shape
    return pad(active, (0, -F % 16, 0, -n % 16)).unflatten(1, (-1, 16)).unflatten(0, (-1, 16)).any(3).any(1)


@pytest.mark.parametrize("shape", [(90, 20, 70), (300, 40, 150), (520, 9, 20)], ids=str)
def test_what_is_left_out_is_zero(shape: tuple[int, int, int]) -> None:
    n, D, F = shape
    x, state = few_active(n, D, F)
    assert 0.1 < squares(x, state, F).float().mean() < 0.8
    got = simulate(x, state, F, 0, 2, 0.02, 1e-3)
    assert_as_close_to_float64_as_its_twin(got, x, state, F, 0, 2)


def test_nothing_is_active() -> None:
    x, state = few_active(70, 20, 10)
    reference.shared_parameters(state[0], 10, 20)[1].sub_(1e3)
    got = simulate(x, state, 10, 0, 2, 0.02, 1e-3)
    assert_as_close_to_float64_as_its_twin(got, x, state, 10, 0, 2)


def test_every_schedule_gives_the_same_numbers() -> None:
    x, state = rows(600, 20), start(20, 12)
    results = [
        simulate(x, state, 12, 0, 2, 0.02, 1e-3, order=order, quads=q) for order in ORDERS for q in (True, False)
    ]
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


def test_two_calls_are_one() -> None:
    x, state = rows(70, 12), start(12, 9)
    whole, losses = simulate(x, state, 9, 3, 4, 0.02, 1e-3)
    half, first = simulate(x, state, 9, 3, 2, 0.02, 1e-3)
    again, second = simulate(x, half, 9, 5, 2, 0.02, 1e-3)
    assert torch.equal(again, whole)
    assert torch.equal(torch.cat([first, second]), losses)


def test_all_zero_rows_and_weights_of_zero_length_are_like_the_twins() -> None:
    x, state = rows(40, 10), start(10, 6)
    x[3:9] = 0
    encoder, _, decoder, _ = reference.shared_parameters(state[0], 6, 10)
    encoder[2] = 0
    decoder[4] = 0
    ours = simulate(x, state, 6, 0, 1, 0.02, 1e-3)
    for mine, theirs in zip(ours, reference.train_shared(x, state, 6, 0, 1, 0.02, 1e-3), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_show_in_the_loss(spoilt: float) -> None:
    x, state = rows(40, 10), start(10, 6)
    x[31, 4] = spoilt
    assert not torch.isfinite(simulate(x, state, 6, 0, 1, 0.02, 1e-3)[1]).any()


def test_no_epochs_and_no_rate() -> None:
    x, state = rows(20, 6), start(6, 4)
    kept, loss = simulate(x, state, 4, 3, 0, 0.02, 1e-3)
    assert torch.equal(kept, state)
    assert loss.shape == (0,)
    kept, loss = simulate(x, state, 4, 3, 2, 0.02, 0.0)
    assert torch.equal(kept[0], state[0])
    assert loss[0] == loss[1]


def test_needs_each_of_its_barriers() -> None:
    x, state = rows(70, 70), start(70, 34)
    expected = simulate(x, state, 34, 0, 2, 0.02, 1e-3)

    def is_right(order: str, without: str) -> bool:
        got = simulate(x, state, 34, 0, 2, 0.02, 1e-3, order=order, without=without)
        return all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))

    assert is_right("random", "")
    assert len(list(cpusim.barriers("train_shared_tiles"))) == 4
    assert cpusim.barriers_without_need("train_shared_tiles", is_right) == []
