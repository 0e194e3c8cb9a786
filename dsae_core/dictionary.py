"""Sparse dictionaries of what attention heads write, and their training.

Two kinds: one dictionary shared by all heads in the residual stream's coordinates (O'Neill & Bui 2024), and
one small TopK dictionary a head in coordinates of d_head numbers (Gao et al. 2024, arXiv 2406.04093, for TopK).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dsae_core import ops, reference

EPOCHS_A_CALL = 50
"""Steps of the shared dictionary between two reports of progress."""


@dataclass(frozen=True)
class SharedDictionary:
    """The paper's dictionary: pre = encoder (x - offset) + encoder_bias, for x in R^D.

    Attributes:
        encoder: [F, D], unit rows.
        encoder_bias: [F].
        offset: [D], subtracted before encoding and added after decoding.
        loss: [epochs], the training loss before each step.
    """

    encoder: Tensor
    encoder_bias: Tensor
    offset: Tensor
    loss: Tensor


@dataclass(frozen=True)
class HeadDictionaries:
    """One TopK dictionary a head: pre = x encoder + bias, for x in R^d.

    Attributes:
        encoder: [H, d, F], unit columns.
        decoder: [H, d, F], unit columns: the direction that a feature stands for.
        bias: [H, F].
        loss: [epochs], mean squared error over the mean squared norm, before each step.
    """

    encoder: Tensor
    decoder: Tensor
    bias: Tensor
    loss: Tensor


def train_shared(
    x: Tensor,
    *,
    n_features: int,
    l1: float,
    epochs: int,
    learning_rate: float,
    generator: torch.Generator,
    report: Callable[[float], None] | None = None,
) -> SharedDictionary:
    """Train the paper's dictionary by full-batch Adam.

    loss = mean squared error + l1 * mean over rows of the L1 norm of the activations. The encoder's rows have unit
    norm. So have the decoder's rows, as in the authors' code; a row of the [D, F] decoder runs over features,
    so features' own directions are not normalised.

    Args:
        x: [n, D], what heads write, one row a head and prompt.
        n_features: F.
        l1: weight of the sparsity term.
        epochs: Adam steps.
        learning_rate: Adam's.
        generator: source of the starting weights; on the CPU.
        report: called every EPOCHS_A_CALL steps with the share of steps done; an exception it raises ends the training.
    """
    d_model = x.shape[1]

    def uniform(*shape: int, fan_in: int) -> Tensor:
        bound = fan_in**-0.5  # torch.nn.Linear's own start
        drawn: Tensor = torch.rand(shape, generator=generator) * 2 * bound - bound
        return drawn.flatten().to(x.device)

    encoder = uniform(n_features, d_model, fan_in=d_model)
    encoder_bias = uniform(n_features, fan_in=d_model)
    decoder = uniform(d_model, n_features, fan_in=n_features)
    start = torch.cat([encoder, encoder_bias, decoder, x.new_zeros(d_model)])
    state = torch.stack([start, torch.zeros_like(start), torch.zeros_like(start)])
    train = ops.train_shared if ops.runs_on(x.device) else reference.train_shared
    losses = [x.new_zeros(0)]
    for done in range(0, epochs, EPOCHS_A_CALL):
        if report is not None:
            report(done / epochs)
        state, loss = train(x, state, n_features, done, min(EPOCHS_A_CALL, epochs - done), l1, learning_rate)
        losses.append(loss)
    encoder, encoder_bias, _, offset = reference.shared_parameters(state[0], n_features, d_model)
    return SharedDictionary(
        encoder=normalize(encoder, dim=1), encoder_bias=encoder_bias, offset=offset, loss=torch.cat(losses)
    )


def fold(dictionary: SharedDictionary, w_o: Tensor) -> tuple[Tensor, Tensor]:
    """The shared dictionary as seen from each head's d numbers instead of the D it writes.

    pre = encoder (z W_O - offset) + encoder_bias = z (W_O encoder^T) + (encoder_bias - encoder offset): pooling
    and W_O commute, so encoding costs d instead of D multiplications a feature.

    Args:
        dictionary: the shared dictionary, F features in R^D.
        w_o: [H, d, D], each head's output weights.

    Returns:
        (matrix [H, d, F], bias [H, F]).
    """
    matrix = w_o @ dictionary.encoder.T
    # Row by row and in double precision: as a product, some processors round it differently with other threads.
    shift = (dictionary.encoder.double() * dictionary.offset.double()).sum(dim=1)
    bias = dictionary.encoder_bias - shift.to(dictionary.encoder_bias.dtype)
    return matrix, bias.expand(w_o.shape[0], -1).contiguous()


def isometry(w_o: Tensor) -> Tensor:
    """S of each head with |z S - z' S| = |z W_O - z' W_O|: the same distances in d numbers instead of D.

    S is the Cholesky factor of W_O W_O^T, whose diagonal is raised by a millionth of its mean: distances stay as they
    are to that precision, and a head that writes in fewer than d directions has a factor too.

    Args:
        w_o: [H, d, D].

    Returns:
        [H, d, d], lower triangular.
    """
    gram = (w_o @ w_o.transpose(1, 2)).double()
    size = gram.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    raised = gram + 1e-6 * size[:, None, None] * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    factor: Tensor = torch.linalg.cholesky(raised)
    return factor.to(w_o.dtype)


def start_from_rows(x: Tensor, n_features: int, generator: torch.Generator) -> Tensor:
    """Starting directions: for each head and feature a random row of its data, slightly perturbed, unit norm.

    Args:
        x: [H, n, d], rows a head.
        n_features: F.
        generator: on the CPU.

    Returns:
        [H, d, F].
    """
    n_heads, n_rows, d = x.shape
    picks = torch.randint(0, n_rows, (n_heads, n_features), generator=generator).to(x.device)
    rows = torch.gather(x, 1, picks.unsqueeze(-1).expand(-1, -1, d)).transpose(1, 2)
    noise = normalize(torch.randn(n_heads, d, n_features, generator=generator), dim=1).to(x.device)
    size = 0.05 * x.norm(dim=-1).mean(dim=1)
    return normalize(rows + noise * size[:, None, None], dim=1)


def train_per_head(
    x: Tensor, *, n_features: int, k: int, epochs: int, learning_rate: float, generator: torch.Generator
) -> HeadDictionaries:
    """Train one TopK dictionary a head by full-batch Adam, all heads at once.

    The decoder starts from data rows and the encoder as its transpose. Both are kept at unit norm a feature. See
    `dsae_core.ops.train_topk`.

    Args:
        x: [H, n, d], each head's rows, centred and scaled.
        n_features: F.
        k: features kept a row while training.
        epochs: Adam steps.
        learning_rate: Adam's.
        generator: source of the starting directions; on the CPU.
    """
    start = start_from_rows(x, n_features, generator)
    bias = x.new_zeros(x.shape[0], n_features)
    encoder, decoder, bias, loss = ops.train_topk(x.contiguous(), start, start, bias, k, epochs, learning_rate)
    return HeadDictionaries(encoder=encoder, decoder=decoder, bias=bias, loss=loss)
