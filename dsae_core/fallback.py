"""The operators where none are compiled: the same names, arguments, results and errors, in plain torch.

`dsae_core.ops` registers these as `torch.ops.dsae.*` when the extension is missing, and nothing above it changes.
`dsae_core.reference` says in a few lines what an operator means; here the same is computed at a speed and in a memory
that a discovery can live with: in blocks, by sorting in place of tables of all features, and with gradients written
out, for an operator runs below autograd. Unlike the compiled operators' last bits, those of torch's matrix products
depend on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dsae_core.codes import INACTIVE, unique_codes
from dsae_core.reference import shared_parameters

SCHEMAS = {
    "encode_codes": "(Tensor z, Tensor dictionary, Tensor bias, float threshold) -> (Tensor codes, Tensor values)",
    "unique_scores": "(Tensor codes, Tensor values, int n_positive, int n_features) -> (Tensor counts, Tensor mass)",
    "discover_heads": (
        "(Tensor z, Tensor dictionary, Tensor bias, float threshold, int n_positive, Tensor? mask=None)"
        " -> (Tensor codes, Tensor values, Tensor counts, Tensor mass)"
    ),
    "pair_scores": "(Tensor codes, int n_positive, int n_features) -> Tensor",
    "train_topk": (
        "(Tensor x, Tensor encoder, Tensor decoder, Tensor bias, int k, int epochs, float lr)"
        " -> (Tensor encoder, Tensor decoder, Tensor bias, Tensor loss)"
    ),
    "train_shared": (
        "(Tensor x, Tensor state, int n_features, int step, int epochs, float l1, float lr)"
        " -> (Tensor state, Tensor loss)"
    ),
}
"""As csrc/ops.cpp has them."""

BLOCK = 2**18
"""Numbers that an intermediate result holds at once, about: it stays in a processor's cache."""

_MOST_FEATURES = 2**24
_MOST_ROWS = 2**31 - 1
"""As csrc/arguments.h has them."""


def register() -> Any:
    """Defines torch.ops.dsae.* on the CPU and on CUDA, for as long as the library that it returns is kept."""
    library: Any = torch.library.Library("dsae", "DEF")  # type: ignore[no-untyped-call]
    for name, schema in SCHEMAS.items():
        library.define(name + schema)
        for device in ("CPU", "CUDA"):
            library.impl(name, globals()[name], device)
    return library


def encode_codes(z: Tensor, dictionary: Tensor, bias: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """See `dsae_core.ops.encode_codes`."""
    _check_encode("encode_codes", z, dictionary, bias, threshold)
    return _encode(z, dictionary, bias, threshold)


def unique_scores(codes: Tensor, values: Tensor, n_positive: int, n_features: int) -> tuple[Tensor, Tensor]:
    """See `dsae_core.ops.unique_scores`."""
    op = "unique_scores"
    _check(op, codes.ndim == 3, f"codes must be [examples, positions, heads], not of shape {_shape(codes)}")
    _check_rows(op, codes, 2)
    _check(
        op,
        values.shape == codes.shape,
        f"values must have the shape of codes, {_shape(codes)}, not {_shape(values)}",
    )
    _check_dtype(op, "codes", codes, torch.int32)
    _check_dtype(op, "values", values, torch.float32)
    _check_device(op, codes, values=values)
    _check_codes(op, codes, n_positive, n_features)
    return _unique(codes, values, n_positive)


def discover_heads(
    z: Tensor, dictionary: Tensor, bias: Tensor, threshold: float, n_positive: int, mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `dsae_core.ops.discover_heads`."""
    op = "discover_heads"
    _check_encode(op, z, dictionary, bias, threshold)
    _check_n_positive(op, n_positive, len(z))
    if mask is not None:
        needed = f"mask must be [examples, positions] = {list(z.shape[:2])}, not of shape {_shape(mask)}"
        _check(op, mask.shape == z.shape[:2], needed)
        _check(op, mask.dtype == torch.bool, f"mask must be bool, not {_type(mask)}")
        _check_device(op, z, mask=mask)
    codes, values = _encode(z, dictionary, bias, threshold)
    if mask is not None:
        codes = codes.masked_fill(~mask[:, :, None], INACTIVE)
    return codes, values, *_unique(codes, values, n_positive)


def pair_scores(codes: Tensor, n_positive: int, n_features: int) -> Tensor:
    """See `dsae_core.ops.pair_scores`. Pairs of codes become numbers, and each two heads' numbers are sorted."""
    op = "pair_scores"
    _check(op, codes.ndim == 2, f"codes must be [examples, heads], not of shape {_shape(codes)}")
    _check_rows(op, codes, 1)
    _check_dtype(op, "codes", codes, torch.int32)
    _check_codes(op, codes, n_positive, n_features)
    by_head = codes.T.long().contiguous()
    n_heads, n_examples = by_head.shape
    is_positive = torch.arange(n_examples, device=codes.device) < n_positive
    scores = codes.new_zeros(n_heads, n_heads)
    start = 0
    while start < n_heads:
        stop = min(n_heads, start + max(1, BLOCK // max(1, n_examples * (n_heads - start))))
        first, second = by_head[start:stop, None], by_head[None, start:]
        # Twice the pair's number, plus 1 in a positive: among equal pairs those of negatives come first.
        pair = 2 * (first * n_features + second) + is_positive
        pair = torch.where((first != INACTIVE) & (second != INACTIVE), pair, -2).sort(dim=-1).values
        found = pair % 2 == 1
        found[..., 1:] &= pair[..., 1:] >> 1 != pair[..., :-1] >> 1
        scores[start:stop, start:] = found.sum(dim=-1)
        scores[start:, start:stop] = scores[start:stop, start:].T.clone()
        start = stop
    return scores


def train_topk(
    x: Tensor, encoder: Tensor, decoder: Tensor, bias: Tensor, k: int, epochs: int, lr: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `dsae_core.ops.train_topk`."""
    _check_train_topk(x, encoder, decoder, bias, k, epochs, lr)
    rows = x.float().contiguous()
    size = float(torch.linalg.vector_norm(rows, dtype=torch.float64)) ** 2
    _check("train_topk", math.isfinite(size), "x must be finite, but has NaN or infinity")
    n_heads, n_rows, depth = x.shape
    count = n_heads * n_rows
    scale = size / count if size > 0 else 1.0
    trained = [tensor.clone(memory_format=torch.contiguous_format) for tensor in (encoder, decoder, bias)]
    squared_error = torch.zeros(epochs, dtype=torch.float64, device=x.device)
    for heads in _blocks(n_heads, n_rows * max(depth, encoder.shape[-1])):
        # Heads have nothing in common but the scale, so one block of them after the other sees all epochs.
        squared_error += _train_heads(rows[heads], [tensor[heads] for tensor in trained], k, epochs, lr, count * scale)
    loss = (squared_error / (count * scale)).float()
    return _unit(trained[0], 1)[0], _unit(trained[1], 1)[0], trained[2], loss


def train_shared(
    x: Tensor, state: Tensor, n_features: int, step: int, epochs: int, l1: float, lr: float
) -> tuple[Tensor, Tensor]:
    """See `dsae_core.ops.train_shared`."""
    _check_train_shared(x, state, n_features, step, epochs, l1, lr)
    x, state = x.contiguous(), state.clone(memory_format=torch.contiguous_format)
    encoder, bias, decoder, offset = shared_parameters(state[0], n_features, x.shape[1])
    loss = x.new_empty(epochs)
    for epoch in range(epochs):
        unit_encoder, encoder_length = _unit(encoder, 1)
        unit_decoder, decoder_length = _unit(decoder, 1)
        centred = x - offset
        activations = torch.addmm(bias, centred, unit_encoder.T).clamp_min_(0)
        error = torch.addmm(offset, activations, unit_decoder.T) - x
        loss[epoch] = error.square().mean() + l1 * activations.sum(dim=1).mean()
        error *= 2 / x.numel()
        before_relu = (error @ unit_decoder + l1 / len(x)) * (activations > 0)
        by_bias = before_relu.sum(dim=0)
        gradients = [
            _through_unit(before_relu.T @ centred, unit_encoder, encoder_length, 1).flatten(),
            by_bias,
            _through_unit(error.T @ activations, unit_decoder, decoder_length, 1).flatten(),
            error.sum(dim=0) - by_bias @ unit_encoder,
        ]
        _adam(state[0], torch.cat(gradients), state[1], state[2], step + epoch + 1, lr)
    return state, loss


def _encode(z: Tensor, dictionary: Tensor, bias: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    n_heads, depth, n_features = dictionary.shape
    rows = z.permute(2, 0, 1, 3).reshape(n_heads, len(z) * z.shape[1], depth)
    values = torch.empty(rows.shape[:2], device=z.device)
    features = torch.empty(rows.shape[:2], dtype=torch.int64, device=z.device)
    for head in range(n_heads):
        for block in _blocks(rows.shape[1], n_features):
            activations = torch.addmm(bias[head], rows[head, block].float(), dictionary[head])
            activations = torch.where(activations > 0, activations, 0)  # NaN isn't above 0 either
            torch.max(activations, dim=-1, out=(values[head, block], features[head, block]))  # the first of equals
    codes = torch.where(values > threshold, features, INACTIVE).int()
    shape = (n_heads, *z.shape[:2])
    return codes.view(shape).permute(1, 2, 0).contiguous(), values.view(shape).permute(1, 2, 0).contiguous()


def _unique(codes: Tensor, values: Tensor, n_positive: int) -> tuple[Tensor, Tensor]:
    found = unique_codes(codes, n_positive)  # [P, T, H]
    named = torch.where(found, codes[:n_positive], INACTIVE).sort(dim=0).values
    first = named != INACTIVE
    first[1:] &= named[1:] != named[:-1]
    counts = first.sum(dim=(0, 1)).int()
    strength = torch.where(found & (values[:n_positive] > 0), values[:n_positive], 0)
    if strength.numel() == 0:
        return counts, values.new_zeros(codes.shape[2])
    return counts, strength.amax(dim=1).mean(dim=0)


def _train_heads(x: Tensor, parameters: list[Tensor], k: int, epochs: int, lr: float, total: float) -> Tensor:
    """Trains some heads' encoder, decoder and bias in place. `total`: what the loss divides squared errors by.

    Returns:
        [epochs] float64, the sum of squared errors before each step.
    """
    encoder, decoder, bias = parameters
    moments = [(torch.zeros_like(tensor), torch.zeros_like(tensor)) for tensor in parameters]
    squared_error = torch.zeros(epochs, dtype=torch.float64, device=x.device)
    for epoch in range(epochs):
        unit_encoder, encoder_length = _unit(encoder, 1)
        unit_decoder, decoder_length = _unit(decoder, 1)
        kept = _keep_largest(torch.baddbmm(bias[:, None], x, unit_encoder).clamp_min_(0), k)
        error = torch.baddbmm(x, kept, unit_decoder.mT, beta=-1)
        squared_error[epoch] = error.square().sum(dtype=torch.float64)
        error *= 2 / total
        by_activation = torch.bmm(error, unit_decoder) * (kept > 0)
        gradients = [
            _through_unit(torch.bmm(x.mT, by_activation), unit_encoder, encoder_length, 1),
            _through_unit(torch.bmm(error.mT, kept), unit_decoder, decoder_length, 1),
            by_activation.sum(dim=1),
        ]
        for tensor, gradient, (mean, square) in zip(parameters, gradients, moments, strict=True):
            _adam(tensor, gradient, mean, square, epoch + 1, lr)
    return squared_error


def _keep_largest(activations: Tensor, k: int) -> Tensor:
    """The k largest of each row, the first ones among equals, and 0 elsewhere. Overwrites its argument."""
    kept = torch.zeros_like(activations)
    for _ in range(k):
        values, places = activations.max(dim=-1, keepdim=True)
        kept.scatter_(-1, places, values)
        activations.scatter_(-1, places, -1)
    return kept


def _unit(matrix: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The matrix with its vectors along `dim` at length 1, and their lengths; as torch's normalize has it."""
    length = matrix.norm(dim=dim, keepdim=True).clamp_min_(1e-12)
    return matrix / length, length


def _through_unit(gradient: Tensor, unit: Tensor, length: Tensor, dim: int) -> Tensor:
    """From the gradient by `unit` to that by the matrix: a vector's length changes nothing, its direction does."""
    return (gradient - (gradient * unit).sum(dim=dim, keepdim=True) * unit) / length


def _adam(parameters: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: int, lr: float) -> None:
    """Adam's update of parameters, mean and square, as torch.optim.Adam does it. step: 1 for the first."""
    mean.lerp_(gradient, 1 - 0.9)
    square.mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
    divisor = (square.sqrt() / math.sqrt(1 - 0.999**step)).add_(1e-8)
    parameters.addcdiv_(mean, divisor, value=-lr / (1 - 0.9**step))


def _blocks(length: int, numbers_each: int) -> Iterator[slice]:
    """Slices of 0..length, each of about BLOCK numbers."""
    step = max(1, BLOCK // max(1, numbers_each))
    for start in range(0, length, step):
        yield slice(start, start + step)


def _check(op: str, holds: bool, message: str) -> None:
    if not holds:
        raise RuntimeError(f"{op}: {message}")


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _type(tensor: Tensor) -> str:
    """Float, Half, Long...: torch's own names, as the compiled operators print them."""
    return tensor.type().rpartition(".")[2].removesuffix("Tensor")


def _check_dtype(op: str, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    _check(op, tensor.dtype == dtype, f"{name} must be {str(dtype).removeprefix('torch.')}, not {_type(tensor)}")


def _check_floats(op: str, name: str, tensor: Tensor) -> None:
    is_float = tensor.dtype in (torch.float32, torch.float16, torch.bfloat16)
    _check(op, is_float, f"{name} must be float32, float16 or bfloat16, not {_type(tensor)}")


def _check_device(op: str, first: Tensor, **others: Tensor) -> None:
    for name, tensor in others.items():
        _check(op, tensor.device == first.device, f"{name} must be on the same device as the first argument")


def _check_n_features(op: str, n_features: int) -> None:
    needed = f"n_features must be between 1 and {_MOST_FEATURES}, not {n_features}"
    _check(op, 1 <= n_features <= _MOST_FEATURES, needed)


def _check_rows(op: str, tensor: Tensor, row_dims: int) -> None:
    """The first row_dims dimensions count rows; ones of size 0 count for nothing."""
    for size in tensor.shape:
        _check(op, size <= _MOST_ROWS, f"at most 2^31 - 1 numbers a dimension, not {size}")
    rows = math.prod(size for size in tensor.shape[:row_dims] if size)
    _check(op, rows <= _MOST_ROWS, f"at most 2^31 - 1 rows, not those of shape {_shape(tensor)}")


def _check_n_positive(op: str, n_positive: int, n_examples: int) -> None:
    needed = f"n_positive must be between 0 and the number of examples ({n_examples}), not {n_positive}"
    _check(op, 0 <= n_positive <= n_examples, needed)


def _check_codes(op: str, codes: Tensor, n_positive: int, n_features: int) -> None:
    _check_n_positive(op, n_positive, len(codes))
    _check_n_features(op, n_features)
    _check(
        op,
        bool(((codes >= INACTIVE) & (codes < n_features)).all()),
        f"every code must be -1 (inactive) or between 0 and n_features - 1 = {n_features - 1}, but codes has others",
    )


def _check_number(op: str, name: str, value: float) -> None:
    _check(op, 0 <= value < math.inf, f"{name} must be a finite number of 0 or more, not {value:g}")


def _check_encode(op: str, z: Tensor, dictionary: Tensor, bias: Tensor, threshold: float) -> None:
    _check(op, z.ndim == 4, f"z must be [examples, positions, heads, d], not of shape {_shape(z)}")
    _check_rows(op, z, 2)
    heads, depth = z.shape[2:]
    features = dictionary.shape[-1] if dictionary.ndim else 0
    needed = f"dictionary must be [heads, d, features] = [{heads}, {depth}, features], not of shape"
    _check(op, dictionary.shape == (heads, depth, features), f"{needed} {_shape(dictionary)}")
    _check_n_features(op, features)
    needed = f"bias must be [heads, features] = [{heads}, {features}], not of shape {_shape(bias)}"
    _check(op, bias.shape == (heads, features), needed)
    _check_floats(op, "z", z)
    _check_dtype(op, "dictionary", dictionary, torch.float32)
    _check_dtype(op, "bias", bias, torch.float32)
    _check_device(op, z, dictionary=dictionary, bias=bias)
    needed = f"the last dimension of z must be contiguous (stride 1), but its stride is {z.stride(3)}"
    _check(op, depth <= 1 or z.stride(3) == 1, needed)
    _check(op, threshold >= 0, f"threshold must be 0 or more, not {threshold:g}")


def _check_train_topk(
    x: Tensor, encoder: Tensor, decoder: Tensor, bias: Tensor, k: int, epochs: int, lr: float
) -> None:
    op = "train_topk"
    _check(op, x.ndim == 3, f"x must be [heads, rows, d], not of shape {_shape(x)}")
    _check_rows(op, x, 2)
    heads, rows, depth = x.shape
    _check(op, min(heads, rows, depth) >= 1, f"x has no rows to learn from, its shape is {_shape(x)}")
    features = encoder.shape[-1] if encoder.ndim else 0
    for name, matrix in (("encoder", encoder), ("decoder", decoder)):
        needed = f"{name} must be [heads, d, features] = [{heads}, {depth}, {features}], not of shape {_shape(matrix)}"
        _check(op, matrix.shape == (heads, depth, features), needed)
    _check_n_features(op, features)
    needed = f"bias must be [heads, features] = [{heads}, {features}], not of shape {_shape(bias)}"
    _check(op, bias.shape == (heads, features), needed)
    _check_floats(op, "x", x)
    for name, tensor in (("encoder", encoder), ("decoder", decoder), ("bias", bias)):
        _check_dtype(op, name, tensor, torch.float32)
    _check_device(op, x, encoder=encoder, decoder=decoder, bias=bias)
    _check(op, 1 <= k <= features, f"k must be between 1 and the number of features ({features}), not {k}")
    _check(op, epochs >= 0, f"epochs must be 0 or more, not {epochs}")
    _check_number(op, "lr", lr)


def _check_train_shared(
    x: Tensor, state: Tensor, n_features: int, step: int, epochs: int, l1: float, lr: float
) -> None:
    op = "train_shared"
    _check(op, x.ndim == 2, f"x must be [rows, d], not of shape {_shape(x)}")
    _check_rows(op, x, 1)
    _check(op, x.numel() >= 1, f"x has no numbers to learn from, its shape is {_shape(x)}")
    _check_n_features(op, n_features)
    size = 2 * n_features * x.shape[1] + n_features + x.shape[1]
    needed = f"state must be [3, parameters] = [3, {size}], not of shape {_shape(state)}"
    _check(op, state.shape == (3, size), needed)
    _check_dtype(op, "x", x, torch.float32)
    _check_dtype(op, "state", state, torch.float32)
    _check_device(op, x, state=state)
    _check(op, step >= 0, f"step must be 0 or more, not {step}")
    _check(op, epochs >= 0, f"epochs must be 0 or more, not {epochs}")
    _check_number(op, "l1", l1)
    _check_number(op, "lr", lr)
    finite = math.isfinite(float(torch.linalg.vector_norm(x, dtype=torch.float64)))
    _check(op, finite, "x must be finite, but has NaN or infinity")
