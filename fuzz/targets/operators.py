"""The compiled operators: any arguments at all are refused, or give what the plain-torch twin gives.

An argument list is read from the input: most arguments fit together, some have another shape, type, layout or value.
Numbers in head outputs and dictionaries are small whole ones, so that sums are exact in any order.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import Tensor

from dsae_core import ops, reference
from fuzz.choices import Choices
from fuzz.documents import mutate_text
from fuzz.target import Target, require

REFUSALS = (RuntimeError, TypeError, ValueError)

_LARGE = 1 << 16
"""Numbers; tensors with more are not copied, compared or laid out otherwise."""

_SIZES = (2, 1, 3, 5, 0, 7, 8, 9, 17, 33)
_WHOLE: tuple[Any, ...] = (
    -1,
    0,
    1,
    2,
    2**31 - 1,
    2**31,
    2**62,
    2**63 - 1,
    -(2**63),
    2**63,
    10**30,
    1.5,
    None,
    "3",
    True,
)
_FLOATS: tuple[Any, ...] = (-1.0, math.nan, math.inf, -math.inf, 1e300, 5e-324, -0.0, None, "1", 10**400, True)
_DTYPES = (
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.bool,
    torch.complex64,
    torch.uint8,
)

# --- arguments ---------------------------------------------------------------------------------------------


def _tensor(
    choices: Choices, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, *, fractions: bool = False
) -> Any:
    """A tensor of this shape, laid out in one of several ways; now and then another one, or none."""
    if choices.odd():
        shape = _other_shape(choices, shape)
    if math.prod(shape) > _LARGE:
        made = torch.zeros(1, dtype=dtype).expand(shape)
    else:
        generator = torch.Generator().manual_seed(choices.below(256))
        made = torch.randint(-2, 4, shape, generator=generator).to(dtype)
        made = made + 0.3 * torch.randn(shape, generator=generator).to(dtype) if fractions else made
        if choices.odd() and made.numel() and dtype.is_floating_point:
            made.view(-1)[choices.below(256) % made.numel()] = choices.pick(
                (math.nan, math.inf, -math.inf, 1e30, 1e-40)
            )
    return _laid_out(choices, made)


def _other_shape(choices: Choices, shape: tuple[int, ...]) -> tuple[int, ...]:
    sizes = list(shape)
    at = choices.below(len(sizes) + 1)
    if at == len(sizes):
        return choices.pick(((), (0,), tuple(sizes[1:]), (*sizes, 1), tuple(reversed(sizes))))
    sizes[at] = choices.pick((sizes[at] + 1, 0, 1, 2**40, 2**60))
    if sizes[at] >= 2**40:  # such a tensor holds nothing, or repeats one number more often than a memory could hold
        sizes[(at + 1) % len(sizes)] = choices.pick((0, 1))
    if choices.odd() and len(sizes) > 1:
        sizes[:2] = [2**31 - 1, 0]
    return tuple(sizes) if math.prod(max(size, 1) for size in sizes) < 2**61 else shape


def _laid_out(choices: Choices, made: Tensor) -> Any:
    if not choices.odd():
        kind = choices.below(6)
        small = made.numel() < _LARGE
        if kind == 1 and made.ndim > 1:
            return made.transpose(0, 1).contiguous().transpose(0, 1) if small else made
        if kind == 2 and small and made.ndim:
            return torch.stack([made, made], dim=-2 if made.ndim > 1 else 0).select(-2 if made.ndim > 1 else 0, 1)
        if kind == 3 and made.ndim and made.shape[0] > 1 and small:
            return made[:1].expand(made.shape)
        return made
    kind = choices.below(8)
    if kind == 0:
        return choices.pick((None, 3, "tensor", [1.0], (), torch.float32))
    if kind == 1 and made.numel() < _LARGE:
        return made.to(choices.pick(_DTYPES))
    if kind == 2:
        return torch.empty(made.shape, dtype=made.dtype, device="meta")
    if kind == 3 and made.ndim and made.numel() < _LARGE:
        return made.transpose(0, -1).contiguous().transpose(0, -1)  # the last dimension is not dense
    if kind == 4 and made.ndim > 1 and 0 < made.numel() < _LARGE:
        return made.to_sparse()
    if kind == 5 and made.is_floating_point():
        return torch._neg_view(made)
    if kind == 6 and made.is_floating_point():
        return made.detach().requires_grad_()
    return torch.as_strided(made, made.shape, (0,) * made.ndim) if made.numel() else made


def _codes(choices: Choices, shape: tuple[int, ...], n_features: int) -> Any:
    codes = _tensor(choices, shape, torch.int32)
    if isinstance(codes, Tensor) and codes.dtype == torch.int32 and codes.layout == torch.strided:
        if codes.device.type == "cpu" and codes.numel() < _LARGE and not choices.odd():
            return codes.clamp(-1, n_features - 1)
        if choices.odd() and codes.numel() and codes.numel() < _LARGE:
            return codes * choices.pick((-(2**31), 2**30, 1000))
    return codes


def _number(choices: Choices, fine: Any, odd: tuple[Any, ...]) -> Any:
    return choices.pick(odd) if choices.odd() else fine


# --- argument lists ----------------------------------------------------------------------------------------


def _encoding(choices: Choices) -> list[Any]:
    E, T, H, d, F = (choices.pick(_SIZES) for _ in range(5))
    dtype = choices.pick((torch.float32, torch.float32, torch.float16, torch.bfloat16))
    return [
        _tensor(choices, (E, T, H, d), dtype),
        _tensor(choices, (H, d, F)),
        _tensor(choices, (H, F)),
        _number(choices, choices.pick((0.0, 0.5, 2.0)), _FLOATS),
    ]


def _discovering(choices: Choices) -> list[Any]:
    arguments = _encoding(choices)
    z = arguments[0]
    shape = tuple(z.shape) if isinstance(z, Tensor) and z.ndim == 4 else (2, 2, 2, 2)
    mask = _tensor(choices, shape[:2], torch.bool) if choices.below(2) else None
    return [*arguments, _number(choices, choices.below(min(shape[0], 200) + 1), _WHOLE), mask]


def _scoring(choices: Choices) -> list[Any]:
    E, T, H = (choices.pick(_SIZES) for _ in range(3))
    n_features = choices.pick((4, 1, 3, 9, 40))
    codes = _codes(choices, (E, T, H), n_features)
    shape = tuple(codes.shape) if isinstance(codes, Tensor) else (E, T, H)
    n_positive = _number(choices, choices.below(E + 1), (*_WHOLE, shape[0] if shape else 0))
    return [codes, _tensor(choices, shape), n_positive, _number(choices, n_features, _WHOLE)]


def _pairing(choices: Choices) -> list[Any]:
    E, H = choices.pick(_SIZES), choices.pick((2, 1, 3, 5, 0, 7, 9))
    n_features = choices.pick((4, 1, 3, 9, 17))
    codes = _codes(choices, (E, H), n_features)
    return [codes, _number(choices, choices.below(E + 1), _WHOLE), _number(choices, n_features, _WHOLE)]


def _training_topk(choices: Choices) -> list[Any]:
    H, n, d, F = (choices.pick(_SIZES) for _ in range(4))
    dtype = choices.pick((torch.float32, torch.float32, torch.float16, torch.bfloat16))
    return [
        _tensor(choices, (H, n, d), dtype, fractions=True),
        *(_tensor(choices, shape, fractions=True) for shape in ((H, d, F), (H, d, F), (H, F))),
        _number(choices, 1 + choices.below(max(F, 1)), _WHOLE),
        _number(choices, choices.below(4), _EPOCHS),
        _number(choices, choices.pick((0.01, 0.0, 1.0)), _FLOATS),
    ]


def _training_shared(choices: Choices) -> list[Any]:
    n, D, F = (choices.pick(_SIZES) for _ in range(3))
    return [
        _tensor(choices, (n, D), fractions=True),
        _tensor(choices, (3, 2 * F * D + F + D), fractions=True),
        _number(choices, F, _WHOLE),
        _number(choices, choices.pick((0, 1, 100)), _WHOLE),
        _number(choices, choices.below(4), _EPOCHS),
        _number(choices, choices.pick((0.02, 0.0)), _FLOATS),
        _number(choices, choices.pick((0.01, 0.0, 1.0)), _FLOATS),
    ]


_ROOT_OF_LARGEST = 1e18
"""Squares of larger numbers, which lengths are made of, overflow float32."""
_EPOCHS = tuple(value for value in _WHOLE if value not in (2**31 - 1, 2**31))
"""Without numbers of epochs that could be wanted, and would be trained."""

# --- what is to hold ---------------------------------------------------------------------------------------


def _run(name: str, arguments_of: Callable[[Choices], list[Any]], data: bytes) -> None:
    arguments = arguments_of(Choices(data))
    before = [_kept(argument) for argument in arguments]
    try:
        result = getattr(ops, name)(*arguments)
    except REFUSALS:
        return
    results = result if isinstance(result, tuple) else (result,)
    if any(isinstance(argument, Tensor) and argument.device.type == "meta" for argument in arguments):
        return
    for argument, kept in zip(arguments, before, strict=True):
        if kept is not None:
            require(torch.equal(argument.nan_to_num(), kept.nan_to_num()), f"{name} changed its argument")
    if name.startswith("train"):
        _check_training(name, arguments, results)
        return
    if name in ("encode_codes", "discover_heads") and not _sums_exactly(*_wide(arguments[:3])):
        return
    twin = getattr(reference, name)(*_wide(arguments))
    expected = twin if isinstance(twin, tuple) else (twin,)
    for place, (found, wanted) in enumerate(zip(results, expected, strict=True)):
        require(found.shape == wanted.shape, f"{name}: result {place} has another shape than the twin's")
        same = torch.allclose(found.float(), wanted.float(), rtol=1e-5, atol=1e-6, equal_nan=True)
        require(same, f"{name}: result {place} is not the twin's")


def _kept(argument: Any) -> Tensor | None:
    dense = isinstance(argument, Tensor) and argument.layout == torch.strided and argument.device.type == "cpu"
    return argument.detach().clone() if dense and argument.numel() < _LARGE else None


def _wide(arguments: list[Any]) -> list[Any]:
    """The arguments in double precision, in which the twins give the truth; settings as float32 has them, True as 1."""
    plain = [a.detach().resolve_neg() if isinstance(a, Tensor) else a for a in arguments]
    plain = [float(torch.tensor(a)) if isinstance(a, float) else int(a) if isinstance(a, bool) else a for a in plain]
    return [a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in plain]


def _sums_exactly(z: Tensor, dictionary: Tensor, bias: Tensor) -> bool:
    """Whether float32 adds up these numbers without rounding in any order, those aside that are not finite."""
    finite = [numbers[torch.isfinite(numbers)] for numbers in (z, dictionary, bias)]
    if any(bool((numbers != numbers.round()).any()) for numbers in finite):
        return False
    z_most, dictionary_most, bias_most = (float(numbers.abs().max()) if numbers.numel() else 0.0 for numbers in finite)
    return z_most * dictionary_most * z.shape[-1] + bias_most < 2**24


def _check_training(name: str, arguments: list[Any], results: tuple[Tensor, ...]) -> None:
    """The loss before the first step is the twin's; how training goes on is for the operators' own tests."""
    epochs_at = 5 if name == "train_topk" else 4
    loss, epochs = results[-1], arguments[epochs_at]
    require(loss.shape == (epochs,), f"{name}: not a loss an epoch")
    first = _wide(arguments)
    first[epochs_at], first[-1] = 1, 0.0
    if epochs == 0 or (name == "train_topk" and not _is_certain(first[0], first[1], first[3], first[4])):
        return
    if any(isinstance(a, Tensor) and bool((a.abs() > _ROOT_OF_LARGEST).any()) for a in first):
        return
    expected = float(getattr(reference, name)(*first)[-1][0])
    if math.isfinite(expected) and expected < 1e6 and bool(torch.isfinite(loss[0])):
        same = math.isclose(float(loss[0]), expected, rel_tol=1e-3, abs_tol=1e-4)
        require(same, f"{name}: the first loss is not the twin's")


def _is_certain(x: Tensor, encoder: Tensor, bias: Tensor, k: int) -> bool:
    """Whether rounding cannot change which k features each row keeps."""
    unit = torch.nn.functional.normalize(encoder.double(), dim=1)
    activations = torch.relu(x.double() @ unit + bias.double()[:, None]).sort(dim=-1, descending=True).values
    last, next_ = activations[..., k - 1], activations[..., min(k, activations.shape[-1] - 1)]
    sure = (last == 0) | (last - next_ > 1e-4 * last) if k < activations.shape[-1] else last >= 0
    return bool(sure.all())


def _mutate(data: bytes, random: Random) -> bytes:
    """One decision or a few made otherwise, towards what is odd more often than by chance."""
    bytes_ = bytearray(data or b"\x00")
    for _ in range(random.choice((1, 1, 2, 3, 8))):
        at = random.randrange(len(bytes_) + 4)
        bytes_ += bytes(max(0, at + 1 - len(bytes_)))
        bytes_[at] = random.choice((15, 15, random.randrange(256)))
    return bytes(bytes_[:96]) if random.random() < 0.95 else mutate_text(bytes(bytes_), random)


_ARGUMENTS: dict[str, Callable[[Choices], list[Any]]] = {
    "encode_codes": _encoding,
    "unique_scores": _scoring,
    "discover_heads": _discovering,
    "pair_scores": _pairing,
    "train_topk": _training_topk,
    "train_shared": _training_shared,
}
_SEEDS = (bytes(40), bytes(range(40)), bytes(Random(0).randrange(256) for _ in range(48)))
TARGETS = {
    name: Target(functools.partial(_run, name, arguments), _SEEDS, _mutate) for name, arguments in _ARGUMENTS.items()
}
