"""train_shared against its plain-torch twin, which uses autograd and torch.optim.Adam."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dsae_core import ops, reference
from dsae_core.dictionary import EPOCHS_A_CALL, train_shared

SHAPES = [(120, 40, 24), (1, 1, 1), (33, 7, 9), (32, 32, 8), (95, 70, 41), (5, 20, 100)]  # n, D, F


def rows(n: int, D: int, seed: int = 0) -> Tensor:
    """Rows of very different lengths, made of a few directions and noise, off centre."""
    g = torch.Generator().manual_seed(seed)
    weights = torch.rand(n, 5, generator=g) * (torch.rand(n, 5, generator=g) < 0.4)
    x = weights @ torch.randn(5, D, generator=g) + 0.1 * torch.randn(n, D, generator=g) + 0.2
    return x * torch.exp(torch.randn(n, 1, generator=g))


def start(D: int, F: int, seed: int = 0) -> Tensor:
    """A state in the middle of a training: every parameter is in use and the moments are not zero."""
    g = torch.Generator().manual_seed(seed)
    parameters = torch.randn(2 * F * D + F + D, generator=g) * D**-0.5
    moments = 1e-4 * torch.randn(parameters.shape, generator=g)
    return torch.stack([parameters, moments, moments.square()])


def relative(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact.double()).norm() / exact.double().norm().clamp_min(1e-30))


def active_share(x: Tensor, state: Tensor, F: int) -> float:
    encoder, bias, _, offset = reference.shared_parameters(state[0], F, x.shape[1])
    return float(((x - offset) @ normalize(encoder, dim=1).T + bias > 0).float().mean())


def test_by_hand() -> None:
    """One row (3, 4), one feature along (1, 0), bias 1, offset (0, 0): the activation is 4.

    The decoder [D, F] has rows of one number, which unit norm makes 1: it says (4, 4), so the errors are (1, 0), the
    mean square .5, and with l1 = .5 the loss .5 + .5 * 4. By the activation: (1 + 0) + .5 = 1.5, so that is the
    bias's gradient; the encoder's is 1.5 (3, 4) at right angles to (1, 0), over its length 2; the decoder cannot
    turn; the offset gets the errors, less what it takes from the activation: (1, 0) - 1.5 (1, 0).
    """
    state = torch.zeros(3, 7)
    state[0] = torch.tensor([2.0, 0.0, 1.0, 5.0, 0.1, 0.0, 0.0])
    trained, loss = ops.train_shared(torch.tensor([[3.0, 4.0]]), state, 1, 0, 1, 0.5, 0.01)
    assert loss.tolist() == pytest.approx([2.5])
    gradient = torch.tensor([0.0, 3.0, 1.5, 0.0, 0.0, -0.5, 0.0])
    torch.testing.assert_close(trained[1], 0.1 * gradient)
    torch.testing.assert_close(trained[2], 0.001 * gradient**2)
    torch.testing.assert_close(trained[0], state[0] - 0.01 * gradient.sign())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("l1", [0.0, 0.3])
def test_gradients_are_autograds(shape: tuple[int, int, int], l1: float) -> None:
    """From moments of zero, Adam's mean after one step is a tenth of the gradient."""
    n, D, F = shape
    x, state = rows(n, D), start(D, F)
    state[1:] = 0
    exact = reference.train_shared(x.double(), state.double(), F, 0, 1, l1, 1e-3)[0][1]
    twin = reference.train_shared(x, state, F, 0, 1, l1, 1e-3)[0][1]
    ours = ops.train_shared(x, state, F, 0, 1, l1, 1e-3)[0][1]
    parts = [reference.shared_parameters(gradient, F, D) for gradient in (ours, twin, exact)]
    for name, *gradients in zip(("encoder", "bias", "decoder", "offset"), *parts, strict=True):
        mine, theirs, truth = gradients
        assert (mine - truth).norm() <= 3 * (theirs - truth).norm() + 2e-6 * truth.norm() + 1e-8, name


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("epochs", [1, 3, 20])
def test_as_close_to_float64_as_its_twin(shape: tuple[int, int, int], epochs: int) -> None:
    n, D, F = shape
    x, state = rows(n, D), start(D, F)
    truth = reference.train_shared(x.double(), state.double(), F, 7, epochs, 0.02, 1e-3)
    twin = reference.train_shared(x, state, F, 7, epochs, 0.02, 1e-3)
    trained = ops.train_shared(x, state, F, 7, epochs, 0.02, 1e-3)
    for name, ours, theirs, exact in zip(("state", "loss"), trained, twin, truth, strict=True):
        assert relative(ours, exact) <= 3 * relative(theirs, exact) + 1e-6, name


def test_final_loss_like_the_twin_when_few_features_are_active() -> None:
    x, state = rows(300, 48), start(48, 40)
    state[1:] = 0
    trained, loss = ops.train_shared(x, state, 40, 0, 400, 0.2, 5e-3)
    expected = reference.train_shared(x, state, 40, 0, 400, 0.2, 5e-3)[1]
    assert 0 < active_share(x, trained, 40) < 0.05 < active_share(x, state, 40)
    assert loss[-1] < 0.8 * loss[0]
    torch.testing.assert_close(loss, expected, rtol=0.01, atol=0)


@pytest.mark.parametrize(("l1", "lr"), [(0.2, 5e-3), (0.02, 1e-3), (0.2, 0.1), (0.0, 1e-2)])
def test_leaving_out_inactive_features_changes_nothing(l1: float, lr: float) -> None:
    """Each call starts by looking at every feature, so calls of one epoch never leave one out."""
    x, state = rows(200, 40), start(40, 30)
    state[1:] = 0
    whole, losses = ops.train_shared(x, state, 30, 0, 150, l1, lr)
    for step in range(150):
        state, loss = ops.train_shared(x, state, 30, step, 1, l1, lr)
        assert loss[0] == losses[step]
    assert torch.equal(state, whole)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    x, state, threads = rows(210, 70), start(70, 41), torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(ops.train_shared(x, state, 41, 0, 15, 0.05, 1e-2))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            assert torch.equal(a, b)


def test_the_order_of_rows_matters_only_to_rounding() -> None:
    x, state = rows(90, 20), start(20, 12)
    straight = ops.train_shared(x, state, 12, 0, 5, 0.02, 1e-3)
    turned = ops.train_shared(x.flip(0), state, 12, 0, 5, 0.02, 1e-3)
    for a, b in zip(straight, turned, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_all_zero_rows_and_weights_of_zero_length_are_like_the_twins() -> None:
    x, state = rows(40, 10), start(10, 6)
    x[3:9] = 0
    encoder, _, decoder, _ = reference.shared_parameters(state[0], 6, 10)
    encoder[2] = 0
    decoder[4] = 0
    ours = ops.train_shared(x, state, 6, 0, 1, 0.02, 1e-3)
    for mine, theirs in zip(ours, reference.train_shared(x, state, 6, 0, 1, 0.02, 1e-3), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_no_epochs_and_no_rate() -> None:
    x, state = rows(20, 6), start(6, 4)
    kept, loss = ops.train_shared(x, state, 4, 3, 0, 0.02, 1e-3)
    assert torch.equal(kept, state)
    assert loss.shape == (0,)
    kept, loss = ops.train_shared(x, state, 4, 3, 3, 0.02, 0.0)
    assert torch.equal(kept[0], state[0])
    assert len(set(loss.tolist())) == 1


def test_reads_any_layout_and_leaves_it_alone() -> None:
    x, state = rows(21, 10), start(10, 8)
    expected = ops.train_shared(x, state, 8, 0, 4, 0.02, 1e-3)
    strided = x.T.contiguous().T, state.T.contiguous().T
    before = [tensor.clone() for tensor in strided]
    for got, want in zip(ops.train_shared(*strided, 8, 0, 4, 0.02, 1e-3), expected, strict=True):
        assert torch.equal(got, want)
    assert all(torch.equal(a, b) for a, b in zip(strided, before, strict=True))


def test_opcheck() -> None:
    torch.library.opcheck(torch.ops.dsae.train_shared.default, (rows(9, 6), start(6, 4), 4, 0, 3, 0.02, 1e-3))


def test_errors() -> None:
    x, state = rows(9, 6), start(6, 4)
    spoilt = x.clone()
    spoilt[5, 2] = float("inf")
    refused = [
        ((x[0], state, 4, 0, 3, 0.1, 0.1), r"x must be \[rows, d\], not of shape \[6\]"),
        ((x[:0], state, 4, 0, 3, 0.1, 0.1), r"x has no numbers to learn from, its shape is \[0, 6\]"),
        ((spoilt, state, 4, 0, 3, 0.1, 0.1), "x must be finite, but has NaN or infinity"),
        ((x, state, 5, 0, 3, 0.1, 0.1), r"state must be \[3, parameters\] = \[3, 71\], not of shape \[3, 58\]"),
        ((x, state[0], 4, 0, 3, 0.1, 0.1), r"state must be .* not of shape \[58\]"),
        ((x, state, 0, 0, 3, 0.1, 0.1), "n_features must be between 1"),
        ((x.double(), state, 4, 0, 3, 0.1, 0.1), "x must be float32, not Double"),
        ((x, state.half(), 4, 0, 3, 0.1, 0.1), "state must be float32, not Half"),
        ((x, state, 4, -1, 3, 0.1, 0.1), "step must be 0 or more, not -1"),
        ((x, state, 4, 0, -1, 0.1, 0.1), "epochs must be 0 or more, not -1"),
        ((x, state, 4, 0, 3, -0.1, 0.1), "l1 must be a finite number of 0 or more, not -0.1"),
        ((x, state, 4, 0, 3, 0.1, float("nan")), "lr must be a finite number"),
    ]
    for arguments, message in refused:
        with pytest.raises(RuntimeError, match=f"train_shared: {message}"):
            ops.train_shared(*arguments)


def test_training_reports_its_progress_and_can_be_ended() -> None:
    x, heard, epochs = rows(40, 12), [], 2 * EPOCHS_A_CALL + 1

    def train(report) -> None:  # type: ignore[no-untyped-def]
        g = torch.Generator().manual_seed(0)
        made = train_shared(x, n_features=8, l1=0.02, epochs=epochs, learning_rate=1e-3, generator=g, report=report)
        assert made.loss.shape == (epochs,)

    train(heard.append)
    assert heard == pytest.approx([0, EPOCHS_A_CALL / epochs, 2 * EPOCHS_A_CALL / epochs])

    def cancel(share: float) -> None:
        if share > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(cancel)


def test_training_from_a_seed_is_the_papers() -> None:
    """The whole dictionary against plain autograd from the same draws, written out."""
    x, n_features = rows(60, 16), 10
    settings = {"n_features": n_features, "l1": 0.05, "epochs": 60, "learning_rate": 1e-2}
    made = train_shared(x, **settings, generator=torch.Generator().manual_seed(3))  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(3)
    draws = [
        (2 * torch.rand(shape, generator=g) - 1) * fan_in**-0.5
        for shape, fan_in in [((n_features, 16), 16), ((n_features,), 16), ((16, n_features), n_features)]
    ]
    encoder, bias, decoder, offset = (draw.requires_grad_() for draw in [*draws, torch.zeros(16)])
    optimizer = torch.optim.Adam([encoder, bias, decoder, offset], lr=1e-2)
    losses = []
    for _ in range(60):
        a = torch.relu((x - offset) @ normalize(encoder, dim=1).T + bias)
        rebuilt = a @ normalize(decoder, dim=1).T + offset
        loss = torch.nn.functional.mse_loss(rebuilt, x) + 0.05 * a.norm(p=1, dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    torch.testing.assert_close(made.loss, torch.stack(losses), rtol=1e-3, atol=0)
    torch.testing.assert_close(made.encoder, normalize(encoder.detach(), dim=1), rtol=0, atol=2e-3)
    torch.testing.assert_close(made.offset, offset.detach(), rtol=0, atol=2e-3)
