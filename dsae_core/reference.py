"""The operators of `dsae_core.ops` in plain torch.

Written to be read and believed, not to be fast: tests compare the compiled operators with these, and what a docstring
in `ops` says in words stands here in a few lines. They run on any device and in any floating type, so float64 inputs
give the truth that float32 results are measured against.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dsae_core.codes import INACTIVE


def encode_codes(z: Tensor, dictionary: Tensor, bias: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """See `dsae_core.ops.encode_codes`. Materialises all activations, [E, T, H, F]."""
    activations = torch.relu(torch.einsum("ethd,hdf->ethf", z, dictionary) + bias)
    activations = torch.where(activations.isnan(), 0, activations)
    values, features = activations.max(dim=-1)  # the first of equal values
    return torch.where(values > threshold, features, INACTIVE).int(), values


def unique_scores(codes: Tensor, values: Tensor, n_positive: int, n_features: int) -> tuple[Tensor, Tensor]:
    """See `dsae_core.ops.unique_scores`."""
    present = _one_hot(codes, n_features)
    in_positive, in_negative = present[:n_positive].any(0), present[n_positive:].any(0)
    unique = in_positive & ~in_negative  # [T, H, F]
    counts = unique.sum(dim=(0, 2)).int()

    is_unique = (present[:n_positive] & unique).any(-1)  # [P, T, H]
    strength = torch.where(is_unique & (values[:n_positive] > 0), values[:n_positive], 0)
    if strength.numel() == 0:
        return counts, values.new_zeros(codes.shape[2])
    return counts, strength.amax(1).mean(0)


def discover_heads(
    z: Tensor, dictionary: Tensor, bias: Tensor, threshold: float, n_positive: int, mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `dsae_core.ops.discover_heads`."""
    codes, values = encode_codes(z, dictionary, bias, threshold)
    if mask is not None:
        codes = codes.masked_fill(~mask[:, :, None], INACTIVE)
    return codes, values, *unique_scores(codes, values, n_positive, dictionary.shape[-1])


def pair_scores(codes: Tensor, n_positive: int, n_features: int) -> Tensor:
    """See `dsae_core.ops.pair_scores`. Materialises all pairs of codes, [H, H, F, F]."""
    present = _one_hot(codes, n_features).float()
    in_positive = torch.einsum("ehf,egk->hgfk", present[:n_positive], present[:n_positive]) > 0
    in_negative = torch.einsum("ehf,egk->hgfk", present[n_positive:], present[n_positive:]) > 0
    return (in_positive & ~in_negative).sum(dim=(2, 3)).int()


def train_topk(
    x: Tensor,
    encoder: Tensor,
    decoder: Tensor,
    bias: Tensor,
    k: int,
    epochs: int,
    lr: float,
    *,
    loss_of: Callable[..., Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `dsae_core.ops.train_topk`. The same training with autograd and `torch.optim.Adam`.

    loss_of: topk_loss, or torch.compile's version of it.
    """
    loss_of = loss_of or topk_loss
    encoder, decoder = encoder.clone().requires_grad_(), decoder.clone().requires_grad_()
    bias = bias[:, None].clone().requires_grad_()
    optimizer = torch.optim.Adam([encoder, decoder, bias], lr=lr)
    mean_square = (x**2).sum(-1).mean()
    scale = torch.where(mean_square > 0, mean_square, 1)
    losses = []
    for _ in range(epochs):
        loss = loss_of(x, encoder, decoder, bias, k) / scale
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
    loss_by_epoch = torch.stack(losses) if losses else x.new_empty(0)
    unit_encoder, unit_decoder = normalize(encoder.detach(), dim=1), normalize(decoder.detach(), dim=1)
    return unit_encoder, unit_decoder, bias.detach()[:, 0], loss_by_epoch


def topk_loss(x: Tensor, encoder: Tensor, decoder: Tensor, bias: Tensor, k: int) -> Tensor:
    """Mean of |x_hat - x|² over all rows of all heads."""
    activations = torch.relu(torch.bmm(x, normalize(encoder, dim=1)) + bias)
    sparse = activations * _largest(activations, k)
    reconstruction = torch.bmm(sparse, normalize(decoder, dim=1).transpose(1, 2))
    return ((reconstruction - x) ** 2).sum(-1).mean()


def train_shared(
    x: Tensor,
    state: Tensor,
    n_features: int,
    step: int,
    epochs: int,
    l1: float,
    lr: float,
    *,
    loss_of: Callable[..., Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """See `dsae_core.ops.train_shared`. The same training with autograd and `torch.optim.Adam`.

    loss_of: shared_loss, or torch.compile's version of it.
    """
    loss_of = loss_of or shared_loss
    parameters = state[0].clone().requires_grad_()
    optimizer = torch.optim.Adam([parameters], lr=lr)
    moments = {"step": torch.tensor(float(step)), "exp_avg": state[1].clone(), "exp_avg_sq": state[2].clone()}
    optimizer.state[parameters] = moments
    losses = []
    for _ in range(epochs):
        loss = loss_of(x, *shared_parameters(parameters, n_features, x.shape[1]), l1)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
    trained = torch.stack([parameters.detach(), moments["exp_avg"], moments["exp_avg_sq"]])
    return trained, torch.stack(losses) if losses else x.new_empty(0)


def shared_loss(x: Tensor, encoder: Tensor, encoder_bias: Tensor, decoder: Tensor, offset: Tensor, l1: float) -> Tensor:
    """Mean squared error over all numbers, plus l1 times the mean over rows of the sum of activations."""
    activations = torch.relu((x - offset) @ normalize(encoder, dim=1).T + encoder_bias)
    rebuilt = activations @ normalize(decoder, dim=1).T + offset
    return (rebuilt - x).square().mean() + l1 * activations.sum(dim=1).mean()


def shared_parameters(flat: Tensor, n_features: int, d_model: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Encoder [F, D], encoder_bias [F], decoder [D, F] and offset [D] in one row of train_shared's state; views."""
    size = n_features * d_model
    encoder, bias, decoder, offset = torch.split(flat, [size, n_features, size, d_model])
    return encoder.view(n_features, d_model), bias, decoder.view(d_model, n_features), offset


def _largest(numbers: Tensor, k: int) -> Tensor:
    """True at the k largest numbers of each row, the first ones among equals."""
    rest = numbers.detach().clone()
    for _ in range(k):
        rest.scatter_(-1, rest.max(dim=-1, keepdim=True).indices, float("-inf"))
    return rest.isneginf()


def _one_hot(codes: Tensor, n_features: int) -> Tensor:
    """[..., F], bool; an inactive code has no True."""
    return codes[..., None] == torch.arange(n_features, device=codes.device)
