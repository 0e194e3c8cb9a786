"""Scores from codes: worked out by hand, and what must always hold."""

from __future__ import annotations

import pytest
import torch

from dsae_core.contrast import code_contrast, decode, peaks, shared_mass

EYE = torch.eye(2).expand(1, 2, 2)


def rows(*values: float) -> torch.Tensor:
    """One example after another, each of one position and one head."""
    return torch.tensor(values).reshape(-1, 1, 1)


def test_decode_reads_codes_as_directions() -> None:
    directions = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]])
    codes, activations = torch.tensor([[1], [-1]]), torch.tensor([[2.0], [0.0]])
    assert torch.allclose(decode(codes, activations, directions)[:, 0], torch.tensor([[1.2, 1.6], [0.0, 0.0]]))


def test_contrast_worked_out_by_hand() -> None:
    # Pairs: 3 along the first direction against nothing; 1 along the first against 1 along the second.
    codes = rows(0, 0, -1, 1).long()
    activations = rows(3, 1, 0, 1)
    weight = torch.ones(2, 1, 1)
    within = (3 + 2**0.5) / 2
    common = ((4 / 2) ** 2 + (1 / 2) ** 2) ** 0.5
    found = code_contrast(codes, activations, EYE, 2, weight)
    assert found.item() == pytest.approx((within * common) ** 0.5)
    # A weight scales both lengths; a negative alone stands for every pair's.
    assert code_contrast(codes, activations, EYE, 2, weight / 2).item() == pytest.approx((within * common) ** 0.5 / 2)
    one = code_contrast(codes[:3], activations[:3], EYE, 2, weight)
    assert one.item() == pytest.approx(2.0)  # differences 3 and 1 along one direction: mean 2 either way


def test_contrast_takes_the_position_where_it_is_largest() -> None:
    codes = torch.tensor([[[0], [0]], [[0], [1]]])
    activations = torch.tensor([[[1.0], [3.0]], [[1.0], [4.0]]])
    weight = torch.ones(1, 2, 1)
    assert code_contrast(codes, activations, EYE, 1, weight).item() == pytest.approx(5)
    weight[0, 1] = 0
    assert code_contrast(codes, activations, EYE, 1, weight).item() == 0


def test_changes_that_differ_from_pair_to_pair_count_less_than_the_same_one() -> None:
    same = code_contrast(rows(0, 0, -1, -1).long(), rows(2, 2, 0, 0), EYE, 2, torch.ones(2, 1, 1))
    unlike = code_contrast(rows(0, 1, -1, -1).long(), rows(2, 2, 0, 0), EYE, 2, torch.ones(2, 1, 1))
    assert same.item() == pytest.approx(2)
    assert unlike.item() == pytest.approx((2 * 2**0.5) ** 0.5)


def test_peaks_count_unique_codes_only_and_pairs_share_the_smaller() -> None:
    codes = torch.tensor([[[0, 1]], [[1, 1]], [[1, 0]]])  # two positives, one negative, two heads
    activations = torch.tensor([[[2.0, 3.0]], [[5.0, 1.0]], [[1.0, 1.0]]])
    found = peaks(codes, activations, 2, torch.ones(2, 1, 2))
    assert found.tolist() == [[2.0, 3.0], [0.0, 1.0]]
    assert shared_mass(found).tolist() == [[1.0, 1.0], [1.0, 2.0]]
