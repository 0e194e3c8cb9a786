"""train_topk against its plain-torch twin, which uses autograd and torch.optim.Adam."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dsae_core import ops, reference


class Start(NamedTuple):
    x: Tensor
    encoder: Tensor
    decoder: Tensor
    bias: Tensor

    def double(self) -> "Start":
        return Start(*(tensor.double() for tensor in self))


SHAPES = [  # H, n, d, F, k
    (3, 40, 64, 64, 2),
    (1, 1, 1, 1, 1),
    (2, 33, 7, 9, 3),
    (2, 32, 16, 8, 8),
    (1, 95, 70, 41, 2),
    (4, 5, 20, 100, 5),
]


def start_values(H: int, n: int, d: int, F: int, seed: int = 0) -> Start:
    """Rows made of a few directions and noise; a decoder of samples, and an encoder near it."""
    g = torch.Generator().manual_seed(seed)
    weights = torch.rand(H, n, 6, generator=g) * (torch.rand(H, n, 6, generator=g) < 0.4)
    x = torch.bmm(weights, torch.randn(H, 6, d, generator=g)) + 0.1 * torch.randn(H, n, d, generator=g)
    picks = torch.randint(0, n, (H, F, 1), generator=g).expand(-1, -1, d)
    samples = x.gather(1, picks).transpose(1, 2)
    encoder = samples + 0.2 * torch.randn(H, d, F, generator=g)
    return Start(x, encoder, samples + 0.1, 0.1 * torch.randn(H, F, generator=g))


def rms(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).square().mean().sqrt())


def test_by_hand() -> None:
    """One row (3, 4) and one feature. The encoder looks along (1, 0), so the activation is 3.

    The decoder says (3, 0): the error is (0, -4), the loss 16 / 25. It is at right angles to the decoder, so encoder
    and bias have no gradient; the decoder's is along (0, -1), so Adam's first step of 0.1 makes it (1, 0.1). Then it
    says 3 (1, 0.1) / sqrt(1.01), which leaves a squared error of 25 - 2 * 3 * 3.4 / sqrt(1.01) + 9.
    """
    along = torch.tensor([[[5.0], [0.0]]])
    encoder, decoder, bias, loss = ops.train_topk(
        torch.tensor([[[3.0, 4.0]]]), along, along / 5, torch.zeros(1, 1), 1, 2, 0.1
    )
    assert loss.tolist() == pytest.approx([16 / 25, (25 - 20.4 / 1.01**0.5 + 9) / 25])
    _, once, _, _ = ops.train_topk(torch.tensor([[[3.0, 4.0]]]), along, along / 5, torch.zeros(1, 1), 1, 1, 0.1)
    torch.testing.assert_close(once, normalize(torch.tensor([[[1.0], [0.1]]]), dim=1))
    assert encoder.shape == decoder.shape == (1, 2, 1)
    assert bias.shape == (1, 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("epochs", [1, 2, 5, 40])
def test_as_close_to_float64_as_its_twin(shape: tuple[int, int, int, int, int], epochs: int) -> None:
    start, k = start_values(*shape[:-1]), shape[-1]
    truth = reference.train_topk(*start.double(), k, epochs, 0.01)
    twin = reference.train_topk(*start, k, epochs, 0.01)
    trained = ops.train_topk(*start, k, epochs, 0.01)
    for name, ours, theirs, exact in zip(("encoder", "decoder", "bias", "loss"), trained, twin, truth, strict=True):
        assert rms(ours, exact) <= 3 * rms(theirs, exact) + 1e-6, name


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_of_a_step(shape: tuple[int, int, int, int, int]) -> None:
    """With long start vectors gradients fall far below Adam's epsilon, where its first step is proportional to them."""
    x, encoder, decoder, bias = start_values(*shape[:-1])
    length = 1e8
    start = Start(x, normalize(encoder, dim=1) * length, normalize(decoder, dim=1) * length, bias)
    exact_encoder, exact_decoder, _, _ = reference.train_topk(*start.double(), shape[-1], 1, length)
    trained_encoder, trained_decoder, _, _ = ops.train_topk(*start, shape[-1], 1, length)
    for start_matrix, trained, exact in [
        (start.encoder, trained_encoder, exact_encoder),
        (start.decoder, trained_decoder, exact_decoder),
    ]:
        moved = rms(exact, normalize(start_matrix.double(), dim=1))
        assert moved > 1e-4 or shape[2] == 1  # in one dimension a direction cannot move
        assert rms(trained, exact) <= 1e-4 * moved + 1e-7


def test_final_loss_like_the_twin() -> None:
    start = start_values(4, 120, 32, 24)
    loss = ops.train_topk(*start, 2, 60, 0.01)[3]
    expected = reference.train_topk(*start, 2, 60, 0.01)[3]
    assert loss[-1] < 0.5 * loss[0]
    torch.testing.assert_close(loss, expected, rtol=0.01, atol=0)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    start, threads = start_values(7, 50, 20, 16), torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(ops.train_topk(*start, 2, 10, 0.01))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            assert torch.equal(a, b)


def test_heads_share_only_the_scale() -> None:
    """A head's training depends on the others through the mean of |x|² alone: here, not at all."""
    one = start_values(1, 30, 10, 8)
    many = Start(*(tensor.repeat(5, *[1] * (tensor.dim() - 1)) for tensor in one))
    trained = ops.train_topk(*many, 2, 5, 0.01)
    for matrix in trained[:3]:
        for head in matrix[1:]:
            assert torch.equal(head, matrix[0])


def test_the_lowest_of_equal_features_is_kept() -> None:
    """Features 1 and 2 see the same, so with k = 1 only feature 1 learns in the first epoch."""
    x, encoder, decoder, bias = start_values(1, 20, 6, 4)
    encoder[..., 1] = encoder[..., 2] = x.mean(1)
    bias = torch.tensor([[-9.0, 0.0, 0.0, -9.0]])
    trained = ops.train_topk(x, encoder, decoder, bias, 1, 1, 0.01)
    start = normalize(encoder, dim=1), normalize(decoder, dim=1), bias
    for matrix, before in zip(trained[:3], start, strict=True):
        assert not torch.allclose(matrix[..., 1], before[..., 1], atol=1e-3)
        torch.testing.assert_close(matrix[..., [0, 2, 3]], before[..., [0, 2, 3]])
    for ours, theirs in zip(trained, reference.train_topk(x, encoder, decoder, bias, 1, 1, 0.01), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_rows_may_use_fewer_features_than_k() -> None:
    x, encoder, decoder, bias = start_values(2, 30, 10, 6)
    bias = bias - 0.8
    activations = torch.relu(torch.bmm(x, normalize(encoder, dim=1)) + bias[:, None])
    n_active = (activations > 0).sum(-1)
    assert n_active.min() == 0
    assert 0 < (n_active < 4).sum() < n_active.numel()
    truth = reference.train_topk(x.double(), encoder.double(), decoder.double(), bias.double(), 4, 3, 0.01)
    for ours, exact in zip(ops.train_topk(x, encoder, decoder, bias, 4, 3, 0.01), truth, strict=True):
        assert rms(ours, exact) < 1e-4


def test_all_zero_rows_teach_nothing() -> None:
    _, encoder, decoder, bias = start_values(2, 5, 10, 6)
    trained = ops.train_topk(torch.zeros(2, 5, 10), encoder, decoder, bias.clamp_max(0), 2, 3, 0.01)
    torch.testing.assert_close(trained[0], normalize(encoder, dim=1))
    torch.testing.assert_close(trained[1], normalize(decoder, dim=1))
    assert torch.equal(trained[2], bias.clamp_max(0))
    assert trained[3].tolist() == [0.0] * 3


def test_a_feature_of_zero_length_is_like_the_twins() -> None:
    start = start_values(1, 20, 6, 4)
    start.encoder[..., 2] = 0
    start.decoder[..., 1] = 0
    for ours, theirs in zip(ops.train_topk(*start, 2, 4, 0.01), reference.train_topk(*start, 2, 4, 0.01), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_no_epochs_and_no_rate() -> None:
    start = start_values(2, 20, 6, 4)
    unit = normalize(start.encoder, dim=1), normalize(start.decoder, dim=1), start.bias
    for epochs, lr in [(0, 0.01), (3, 0.0)]:
        *trained, loss = ops.train_topk(*start, 2, epochs, lr)
        for matrix, before in zip(trained, unit, strict=True):
            torch.testing.assert_close(matrix, before)
        assert loss.shape == (epochs,)
        assert len(set(loss.tolist())) == min(epochs, 1)


def test_reads_any_layout_and_leaves_it_alone() -> None:
    start = start_values(3, 21, 10, 8)
    expected = ops.train_topk(*start, 2, 4, 0.01)
    layouts = [
        Start(start.x.transpose(0, 1).contiguous().transpose(0, 1), *start[1:]),
        Start(start.x.transpose(1, 2).contiguous().transpose(1, 2), *start[1:]),
        Start(
            start.x,
            start.encoder.transpose(1, 2).contiguous().transpose(1, 2),
            start.decoder.transpose(0, 2).contiguous().transpose(0, 2),
            start.bias.T.contiguous().T,
        ),
    ]
    for layout in layouts:
        assert not all(tensor.is_contiguous() for tensor in layout)
        before = [tensor.clone() for tensor in layout]
        for got, want in zip(ops.train_topk(*layout, 2, 4, 0.01), expected, strict=True):
            assert torch.equal(got, want)
        assert all(torch.equal(a, b) for a, b in zip(layout, before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rows(dtype: torch.dtype) -> None:
    """They are converted exactly, so the results are those of the same numbers in float32."""
    x, *start = start_values(3, 21, 10, 8)
    trained = ops.train_topk(x.to(dtype), *start, 2, 4, 0.01)
    for got, expected in zip(trained, ops.train_topk(x.to(dtype).float(), *start, 2, 4, 0.01), strict=True):
        assert got.dtype == torch.float32
        assert torch.equal(got, expected)


def test_opcheck() -> None:
    torch.library.opcheck(torch.ops.dsae.train_topk.default, (*start_values(2, 5, 6, 4), 2, 3, 0.01))


def test_errors() -> None:
    x, encoder, decoder, bias = start_values(2, 5, 6, 4)
    spoilt = x.clone()
    spoilt[1, 2, 3] = float("nan")
    refused = [
        ((x[0], encoder, decoder, bias, 2, 3, 0.1), r"x must be \[heads, rows, d\], not of shape \[5, 6\]"),
        ((x[:, :0], encoder, decoder, bias, 2, 3, 0.1), r"x has no rows to learn from, its shape is \[2, 0, 6\]"),
        ((spoilt, encoder, decoder, bias, 2, 3, 0.1), "x must be finite, but has NaN or infinity"),
        ((x, encoder[:, :5], decoder, bias, 2, 3, 0.1), r"encoder must be .* = \[2, 6, 4\], not of shape \[2, 5, 4\]"),
        ((x, encoder, decoder[..., :3], bias, 2, 3, 0.1), r"decoder must be .* not of shape \[2, 6, 3\]"),
        ((x, encoder, decoder, bias[0], 2, 3, 0.1), r"bias must be .* = \[2, 4\], not of shape \[4\]"),
        ((x.double(), encoder, decoder, bias, 2, 3, 0.1), "x must be float32, float16 or bfloat16, not Double"),
        ((x, encoder.half(), decoder, bias, 2, 3, 0.1), "encoder must be float32, not Half"),
        ((x, encoder, decoder, bias, 0, 3, 0.1), r"k must be between 1 and the number of features \(4\), not 0"),
        ((x, encoder, decoder, bias, 5, 3, 0.1), "k must be between 1"),
        ((x, encoder, decoder, bias, 2, -1, 0.1), "epochs must be 0 or more, not -1"),
        ((x, encoder, decoder, bias, 2, 3, -0.1), "lr must be a finite number of 0 or more, not -0.1"),
        ((x, encoder, decoder, bias, 2, 3, float("nan")), "lr must be a finite number"),
    ]
    for arguments, message in refused:
        with pytest.raises(RuntimeError, match=f"train_topk: {message}"):
            ops.train_topk(*arguments)
