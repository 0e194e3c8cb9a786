"""The compiled operators, typed and documented.

They are registered with torch as `torch.ops.dsae.*`, so torch picks the implementation by the tensors' device and
`torch.compile` knows their shapes. `dsae_core.reference` has the same functions in plain torch. Where the extension is
not installed or does not load, `dsae_core.fallback` registers operators of the same names and results, in plain torch.

Symbols: E examples, T token positions, H heads, d numbers a head output has, F features of a head's dictionary.
"""

import importlib
import logging

import torch
from torch import Tensor

from dsae_core import fallback
from dsae_core.codes import INACTIVE

__all__ = [
    "INACTIVE",
    "compiled",
    "discover_heads",
    "encode_codes",
    "notice",
    "pair_scores",
    "runs_on",
    "train_shared",
    "train_topk",
    "unique_scores",
]

compiled: bool
"""Whether the compiled operators are at work; else plain torch is."""

notice: str | None
"""What to tell a user where they are not: one sentence. It is logged once, as a warning."""

try:
    importlib.import_module("dsae_core._C")
except ImportError as error:
    _plain_torch = fallback.register()
    compiled = False
    notice = (
        "dsae_core's compiled operators are missing or don't fit this Python or torch, so plain torch computes the "
        f"same more slowly; install a C++ compiler and dsae-core again to have them ({error})."
    )
    logging.getLogger("dsae_core").warning(notice)
else:
    compiled, notice = True, None


def runs_on(device: torch.device) -> bool:
    """Whether the operators run there: always on the CPU; on CUDA where nvcc built them or they are plain torch."""
    if device.type == "cpu":
        return True
    return device.type == "cuda" and torch._C._dispatch_has_kernel_for_dispatch_key("dsae::encode_codes", "CUDA")


def encode_codes(z: Tensor, dictionary: Tensor, bias: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """The feature that each head output activates most.

    With a = relu(z[e, t, h] @ dictionary[h] + bias[h]), the value is max(a) and the code is the feature that has it,
    the lowest one among equals. A feature whose activation is NaN never wins.

    Args:
        z: [E, T, H, d] float32, float16 or bfloat16, head outputs; the arithmetic is float32. Any strides in the first
            three dimensions; the last is contiguous.
        dictionary: [H, d, F] float32, each head's encoder.
        bias: [H, F] float32.
        threshold: 0 or more. Where the value isn't above it, the code is `INACTIVE`; so with 0, a head output that
            activates nothing has no code.

    Returns:
        codes: [E, T, H] int32, 0..F-1 or `INACTIVE`.
        values: [E, T, H] float32, 0 where no feature is positive. Inactive codes keep their value.

    Raises:
        RuntimeError: a shape, type, device, stride or threshold is not as above.
    """
    codes, values = torch.ops.dsae.encode_codes.default(z, dictionary, bias, threshold)
    return codes, values


def unique_scores(codes: Tensor, values: Tensor, n_positive: int, n_features: int) -> tuple[Tensor, Tensor]:
    """How much of what each head says is said by positive examples only.

    A code in a positive is unique when no negative has it at the same position in the same head. Inactive codes are
    never unique. Either side may be empty: without negatives every active code is unique, without positives none is.

    Args:
        codes: [E, T, H] int32, as `encode_codes` gives them; any strides.
        values: [E, T, H] float32, the activations of those codes.
        n_positive: the first n_positive examples are the positives, 0..E.
        n_features: F, up to 2^24; every code is below it.

    Returns:
        counts: [H] int32, the number of distinct unique (position, code)s that a head has.
        mass: [H] float32, the mean over positives of the largest value, over positions, of a unique code
            (0 for a positive that has none), in the units of `values`.

    Raises:
        RuntimeError: a code outside -1..F-1, or a shape, type, device or n_positive not as above.
    """
    counts, mass = torch.ops.dsae.unique_scores.default(codes, values, n_positive, n_features)
    return counts, mass


def discover_heads(
    z: Tensor, dictionary: Tensor, bias: Tensor, threshold: float, n_positive: int, mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`encode_codes` and then `unique_scores`, in one pass over the heads: on CUDA one launch, one block a head.

    Args:
        z: [E, T, H, d], as for `encode_codes`; likewise dictionary, bias and threshold.
        dictionary: [H, d, F] float32.
        bias: [H, F] float32.
        threshold: 0 or more.
        n_positive: the first n_positive examples are the positives, 0..E.
        mask: [E, T] bool, False where there is no token; None where all are. Where it is False, codes are `INACTIVE`.

    Returns:
        codes: [E, T, H] int32, as `encode_codes` gives them, but for the mask.
        values: [E, T, H] float32, likewise. Inactive codes keep their value, masked ones too.
        counts: [H] int32, as `unique_scores` gives them for those codes.
        mass: [H] float32, likewise.

    Raises:
        RuntimeError: a shape, type, device, stride, threshold or n_positive is not as above.
    """
    codes, values, counts, mass = torch.ops.dsae.discover_heads.default(
        z, dictionary, bias, threshold, n_positive, mask
    )
    return codes, values, counts, mass


def pair_scores(codes: Tensor, n_positive: int, n_features: int) -> Tensor:
    """For each two heads, the number of distinct pairs of codes that only positive examples produce.

    A pair (code of head h, code of head g) is unique when some positive has both and no negative has both. An inactive
    code is never half of a pair.

    Args:
        codes: [E, H] int32, one code for each example and head; any strides.
        n_positive: the first n_positive examples are the positives, 0..E.
        n_features: F, up to 2^24; every code is below it.

    Returns:
        [H, H] int32, symmetric; its diagonal counts each head's own unique codes. Memory beyond it: 4 * E * H
            bytes on the CPU; on CUDA 64 MiB or less, unless a bit for each example and head takes more.

    Raises:
        RuntimeError: a code outside -1..F-1, or a shape, type or n_positive not as above.
    """
    scores: Tensor = torch.ops.dsae.pair_scores.default(codes, n_positive, n_features)
    return scores


def train_topk(
    x: Tensor, encoder: Tensor, decoder: Tensor, bias: Tensor, k: int, epochs: int, lr: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Trains one TopK sparse autoencoder for each head, all heads and all epochs in one call.

    With unit(W) the matrix W with each feature (column) at length 1, a = relu(x @ unit(encoder) + bias), of which each
    row keeps its k largest, the lowest features among equals; x_hat = a @ unit(decoder).T; and the loss is the mean of
    |x_hat - x|² over all rows of all heads, divided by the mean of |x|² (by 1 if x is all zeros). Each epoch is one
    step of Adam (betas .9 and .999, epsilon 1e-8) on all rows. There is no randomness, and the result does not depend
    on the number of threads.

    Args:
        x: [H, n, d] float32, float16 or bfloat16, n rows for each head to learn from; finite. The arithmetic and all
            results are float32.
        encoder: [H, d, F] float32, the start values; likewise the decoder. A common start is samples of x for both.
        decoder: [H, d, F] float32.
        bias: [H, F] float32.
        k: features that a row may use, 1..F. A row with fewer positive activations uses fewer.
        epochs: steps, 0 or more.
        lr: Adam's step size, 0 or more.

    Returns:
        encoder: [H, d, F], trained, each feature at length 1.
        decoder: [H, d, F], likewise.
        bias: [H, F], trained.
        loss: [epochs], before each step: the share of x that was not reconstructed.

    Raises:
        RuntimeError: NaN or infinity in x, or a shape, type or setting not as above.
    """
    trained_encoder, trained_decoder, trained_bias, loss = torch.ops.dsae.train_topk.default(
        x, encoder, decoder, bias, k, epochs, lr
    )
    return trained_encoder, trained_decoder, trained_bias, loss


def train_shared(
    x: Tensor, state: Tensor, n_features: int, step: int, epochs: int, l1: float, lr: float
) -> tuple[Tensor, Tensor]:
    """Some epochs of training the sparse autoencoder that all heads share (O'Neill & Bui 2024).

    With unit(W) the matrix W with each row at length 1, a = relu((x - offset) @ unit(encoder).T + encoder_bias);
    x_hat = a @ unit(decoder).T + offset; and the loss is the mean of (x_hat - x)² over all numbers, plus l1 times the
    mean over rows of the sum of a. Each epoch is one step of Adam (betas .9 and .999, epsilon 1e-8) on all rows. There
    is no randomness, the result does not depend on the number of threads, and two calls that follow each other give
    what one call with the sum of their epochs gives, bit by bit. An epoch costs less the fewer activations are
    positive. On CUDA the call does not wait for the device, so it can be captured in a CUDA graph, and where x is not
    finite it is the loss that says so.

    Args:
        x: [n, D] float32, rows to learn from; finite.
        state: [3, 2 F D + F + D] float32: the parameters, Adam's mean and Adam's mean square of their gradients.
            A row holds encoder [F, D], encoder_bias [F], decoder [D, F] and offset [D], end to end.
        n_features: F.
        step: epochs done before, on which Adam's bias correction depends.
        epochs: steps to do, 0 or more.
        l1: weight of the sparsity term, 0 or more.
        lr: Adam's step size, 0 or more.

    Returns:
        state: as given, after the steps.
        loss: [epochs], before each step.

    Raises:
        RuntimeError: NaN or infinity in x (not on CUDA), or a shape, type or setting not as above.
    """
    trained, loss = torch.ops.dsae.train_shared.default(x, state, n_features, step, epochs, l1, lr)
    return trained, loss


# What torch.compile needs to know of each operator: the shapes and types of its results.


def _check(op: str, **tensors: tuple[Tensor | None, int]) -> None:
    """Raise a RuntimeError, as the implementations do, unless each is a tensor of so many dimensions."""
    for name, (tensor, n_dims) in tensors.items():
        if tensor is None or tensor.ndim != n_dims:
            found = "none" if tensor is None else f"one of shape {list(tensor.shape)}"
            raise RuntimeError(f"{op}: {name} must be a tensor of {n_dims} dimensions, not {found}")


def _fake_encode_codes(z: Tensor, dictionary: Tensor, bias: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    _check("encode_codes", z=(z, 4), dictionary=(dictionary, 3), bias=(bias, 2))
    return z.new_empty(z.shape[:3], dtype=torch.int32), z.new_empty(z.shape[:3], dtype=torch.float32)


def _fake_discover_heads(
    z: Tensor, dictionary: Tensor, bias: Tensor, threshold: float, n_positive: int, mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    codes, values = _fake_encode_codes(z, dictionary, bias, threshold)
    heads = z.shape[2]
    return codes, values, codes.new_empty(heads), values.new_empty(heads)


def _fake_unique_scores(codes: Tensor, values: Tensor, n_positive: int, n_features: int) -> tuple[Tensor, Tensor]:
    _check("unique_scores", codes=(codes, 3), values=(values, 3))
    heads = codes.shape[2]
    return codes.new_empty(heads), values.new_empty(heads)


def _fake_pair_scores(codes: Tensor, n_positive: int, n_features: int) -> Tensor:
    _check("pair_scores", codes=(codes, 2))
    heads = codes.shape[1]
    return codes.new_empty(heads, heads)


def _fake_train_topk(
    x: Tensor, encoder: Tensor, decoder: Tensor, bias: Tensor, k: int, epochs: int, lr: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check("train_topk", x=(x, 3), encoder=(encoder, 3), decoder=(decoder, 3), bias=(bias, 2))
    return (
        encoder.new_empty(encoder.shape),
        encoder.new_empty(encoder.shape),
        encoder.new_empty(bias.shape),
        encoder.new_empty(epochs),
    )


def _fake_train_shared(
    x: Tensor, state: Tensor, n_features: int, step: int, epochs: int, l1: float, lr: float
) -> tuple[Tensor, Tensor]:
    _check("train_shared", x=(x, 2), state=(state, 2))
    return state.new_empty(state.shape), x.new_empty(epochs)


torch.library.register_fake("dsae::encode_codes", _fake_encode_codes)
torch.library.register_fake("dsae::unique_scores", _fake_unique_scores)
torch.library.register_fake("dsae::discover_heads", _fake_discover_heads)
torch.library.register_fake("dsae::pair_scores", _fake_pair_scores)
torch.library.register_fake("dsae::train_topk", _fake_train_topk)
torch.library.register_fake("dsae::train_shared", _fake_train_shared)
