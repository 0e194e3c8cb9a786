"""What the CUDA operators are given: the heads of models, and a case of every operator on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from dsae_core import ops, reference

Inputs = tuple[Any, ...]


@dataclass(frozen=True)
class Model:
    """The heads of a model, and how many prompts of how many positions they are looked at on.

    Attributes:
        shared_features: of the paper's dictionary, which is trained on a row for each head of ten prompts.
        shared_epochs: of its training, in the call that is timed.
        discovery_pairs: prompt pairs of a whole discovery; 0 where none is timed.
        encoding_only: whether encode_codes and discover_heads are all that is looked at.
    """

    name: str
    layers: int
    heads: int
    d: int
    d_model: int
    examples: int = 20
    positions: int = 17
    features: int = 64
    pair_examples: int = 500
    shared_features: int = 200
    shared_epochs: int = 50
    discovery_pairs: int = 0
    encoding_only: bool = False

    @property
    def shared_rows(self) -> int:
        return 10 * self.heads


MODELS = [
    Model("GPT-2 small", 12, 144, 64, 768, discovery_pairs=200),
    Model("GPT-2 XL", 48, 1200, 64, 1600, discovery_pairs=20),
    Model("Llama 70B", 80, 5120, 128, 8192, pair_examples=100, shared_epochs=5),
    Model("SmolLM2-135M", 30, 270, 64, 576, examples=500, positions=20, encoding_only=True),
]


REHEARSED = [
    Model(
        "rehearsal",
        1,
        3,
        8,
        16,
        examples=4,
        positions=3,
        features=8,
        pair_examples=12,
        shared_features=6,
        shared_epochs=2,
        discovery_pairs=12,
    )
]


@dataclass(frozen=True)
class Case:
    """An operator on a model's heads.

    Attributes:
        inputs: makes a set of random inputs, whose tensors have input_bytes together.
        call: the operator.
        eager: the same in plain torch, where that is worth timing.
        flops: of the dense arithmetic that defines the operator; None for operators on whole numbers.
        bytes: arguments read once and results written once: nothing can move less.
        eager_bytes: about what plain torch needs beyond its arguments.
    """

    operator: str
    model: str
    shape: str
    inputs: Callable[[torch.device], Inputs]
    call: Callable[..., Any]
    eager: Callable[..., Any] | None
    flops: int | None
    bytes: int
    input_bytes: int
    eager_bytes: int = 0

    @property
    def name(self) -> str:
        return f"{self.operator}, {self.model}, {self.shape}"


def encode_case(model: Model, dtype: torch.dtype, operator: str) -> Case:
    E, T, H, d, F = model.examples, model.positions, model.heads, model.d, model.features

    def inputs(device: torch.device) -> Inputs:
        z = torch.randn(E, T, H, d, device=device).to(dtype)
        dictionary, bias = torch.randn(H, d, F, device=device) / d**0.5, torch.randn(H, F, device=device) / 10
        return (z, dictionary, bias, 1.0, *((E // 2,) if operator == "discover_heads" else ()))

    itemsize = torch.empty(0, dtype=dtype).element_size()
    rows = E * T * H
    input_bytes = rows * d * itemsize + 4 * H * (d + 1) * F
    return Case(
        operator,
        model.name,
        f"E {E}, T {T}, H {H}, d {d}, F {F}, {str(dtype).removeprefix('torch.')}",
        inputs,
        getattr(ops, operator),
        getattr(reference, operator) if dtype == torch.float32 else None,
        2 * rows * d * F,
        input_bytes + 8 * rows + (8 * H if operator == "discover_heads" else 0),
        input_bytes,
        eager_bytes=rows * F * 4 * 4,
    )


def unique_case(model: Model) -> Case:
    E, T, H, F = model.examples, model.positions, model.heads, model.features

    def inputs(device: torch.device) -> Inputs:
        codes = torch.randint(ops.INACTIVE, F, (E, T, H), dtype=torch.int32, device=device)
        return codes, torch.rand(E, T, H, device=device), E // 2, F

    return Case(
        "unique_scores",
        model.name,
        f"E {E}, T {T}, H {H}, F {F}",
        inputs,
        ops.unique_scores,
        reference.unique_scores,
        None,
        8 * E * T * H + 8 * H,
        8 * E * T * H,
        eager_bytes=4 * E * T * H * F,
    )


def pair_case(model: Model) -> Case:
    E, H, F = model.pair_examples, model.heads, 200

    def inputs(device: torch.device) -> Inputs:
        return torch.randint(ops.INACTIVE, F, (E, H), dtype=torch.int32, device=device), E // 2, F

    shape = f"E {E}, H {H}, F {F}"
    return Case("pair_scores", model.name, shape, inputs, ops.pair_scores, None, None, 4 * E * H + 4 * H * H, 4 * E * H)


def train_case(model: Model, k: int = 2, epochs: int = 60) -> Case:
    H, n, d, F = model.heads, model.examples * model.positions, model.d, model.features

    def inputs(device: torch.device) -> Inputs:
        x = torch.randn(H, n, d, device=device)
        picks = torch.randint(0, n, (H, F, 1), device=device).expand(-1, -1, d)
        start = torch.nn.functional.normalize(x.gather(1, picks).transpose(1, 2), dim=1)
        return x, start, start.clone(), torch.zeros(H, F, device=device), k, epochs, 0.01

    x_bytes, weight_bytes = 4 * H * n * d, 4 * H * (2 * d + 1) * F
    return Case(
        "train_topk",
        model.name,
        f"H {H}, n {n}, d {d}, F {F}, k {k}, {epochs} epochs",
        inputs,
        ops.train_topk,
        None,
        epochs * H * n * (2 * d * F + 8 * d * k),
        x_bytes + 2 * weight_bytes,
        x_bytes + weight_bytes,
    )


def shared_case(model: Model) -> Case:
    n, D, F, epochs = model.shared_rows, model.d_model, model.shared_features, model.shared_epochs
    parameters = 2 * F * D + F + D

    def inputs(device: torch.device) -> Inputs:
        x = torch.randn(n, D, device=device)
        state = torch.zeros(3, parameters, device=device)
        state[0].normal_(std=D**-0.5)
        return x, state, F, 0, epochs, 0.02, 1e-3

    input_bytes = 4 * (n * D + 3 * parameters)
    return Case(
        "train_shared",
        model.name,
        f"n {n}, D {D}, F {F}, {epochs} epochs",
        inputs,
        ops.train_shared,
        reference.train_shared,
        epochs * 10 * n * D * F,
        input_bytes + 12 * parameters,
        input_bytes,
        eager_bytes=4 * n * (4 * D + 6 * F),
    )


def all_cases(models: list[Model]) -> Iterator[Case]:
    for model in models:
        for dtype in (torch.float32, torch.bfloat16):
            yield encode_case(model, dtype, "encode_codes")
            yield encode_case(model, dtype, "discover_heads")
        if model.encoding_only:
            continue
        yield unique_case(model)
        yield pair_case(model)
        yield train_case(model)
        yield shared_case(model)


def training_cases(model: Model) -> list[Case]:
    small = replace(model, heads=min(model.heads, 16), shared_epochs=min(model.shared_epochs, 30))
    return [train_case(small, epochs=30), shared_case(small)]
