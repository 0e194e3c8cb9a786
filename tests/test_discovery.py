"""Both methods, on cases worked out by hand and on planted heads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dsae_core import discovery
from dsae_core.dictionary import HeadDictionaries, SharedDictionary, fold, isometry, train_per_head, train_shared
from dsae_core.discovery import discover, discover_from_activations
from dsae_core.errors import UserError
from dsae_core.flow import Surroundings
from dsae_core.models import LanguageModel
from dsae_core.prompts import PromptPairs

# Six examples (three positives, three negatives) of three heads A, B, C; -1 is inactive.
#            A  B   C
HAND_CODES = [
    [1, 4, -1],
    [2, 4, 7],
    [2, 5, -1],
    [1, 6, 7],
    [3, 5, 9],
    [3, 6, 8],
]
# Unique codes: A has {1, 2} against {1, 3}: 2 is unique. B {4, 5} against {5, 6}: 4. C {7} against {7, 8, 9}: none.
HAND_NODE = [1, 1, 0]
# AB: (1,4) (2,4) (2,5), none among (1,6) (3,5) (3,6): 3. AC: only (2,7) is active in a positive, and new: 1.
# BC: (4,7): 1.
HAND_PAIR = [[1, 3, 1], [3, 1, 1], [1, 1, 0]]
# With the inactive as code 0, C has {0, 7} against {7, 8, 9}: 0 is unique, and every pair with C is new.
ZERO_NODE = [1, 1, 1]
ZERO_PAIR = [[1, 3, 3], [3, 1, 3], [3, 3, 1]]
# Codes used in all: A {1, 2, 3}, B {4, 5, 6}, C {7, 8, 9}.
UNION = [3, 3, 3]


def one_hot(codes: list[list[int]], width: int = 10) -> Tensor:
    """[E, 1, 1, H, width]: a head output that an identity dictionary encodes as the wanted code."""
    z = torch.zeros(len(codes), 1, 1, len(codes[0]), width)
    for e, row in enumerate(codes):
        for h, code in enumerate(row):
            if code >= 0:
                z[e, 0, 0, h, code] = 2.0
    return z


@pytest.fixture
def identity_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the paper's training by a dictionary whose feature f is coordinate f."""
    eye = SharedDictionary(torch.eye(10), torch.zeros(10), torch.zeros(10), torch.zeros(0))
    monkeypatch.setattr(discovery, "train_shared", lambda *_, **__: eye)


def run_paper(codes: list[list[int]], **options: object) -> discovery.Discovery:
    z = one_hot(codes)
    w_o = torch.eye(10).expand(1, 3, 10, 10)
    return discover_from_activations(z[:3], z[3:], w_o, method="paper", n_features=10, **options)


@pytest.mark.usefixtures("identity_dictionary")
def test_paper_scores_worked_out_by_hand() -> None:
    found = run_paper(HAND_CODES)
    assert found.codes[:, 0].tolist() == HAND_CODES
    assert found.node_scores.tolist() == [HAND_NODE]
    assert found.pair_scores.tolist() == HAND_PAIR


@pytest.mark.usefixtures("identity_dictionary")
def test_paper_with_inactive_rows_as_code_zero() -> None:
    found = run_paper(HAND_CODES, inactive="zero")
    assert found.node_scores.tolist() == [ZERO_NODE]
    assert found.pair_scores.tolist() == ZERO_PAIR


@pytest.mark.usefixtures("identity_dictionary")
def test_paper_per_union() -> None:
    found = run_paper(HAND_CODES, per_union=True)
    expected = torch.tensor([HAND_NODE]) / torch.tensor([UNION])
    assert torch.allclose(found.node_scores, expected)


@pytest.mark.usefixtures("identity_dictionary")
def test_paper_pooling() -> None:
    # Two positions: the first is feature 3, the last feature 5 and stronger: the mean and the last token both give 5.
    z = torch.zeros(2, 2, 1, 1, 10)
    z[0, 0, ..., 3], z[0, 1, ..., 5] = 1.0, 2.0
    z[1, 0, ..., 3], z[1, 1, ..., 5] = 3.0, 2.0  # here the mean gives 3
    w_o = torch.eye(10).expand(1, 1, 10, 10)
    mean = discover_from_activations(z[:1], z[1:], w_o, method="paper", n_features=10, pool="mean")
    last = discover_from_activations(z[:1], z[1:], w_o, method="paper", n_features=10, pool="last")
    assert mean.codes.flatten().tolist() == [5, 3]
    assert last.codes.flatten().tolist() == [5, 5]
    # With the first position of the second example masked as padding, its mean is its last token.
    mask = torch.tensor([[True, True], [False, True]])
    masked = discover_from_activations(z[:1], z[1:], w_o, mask, method="paper", n_features=10)
    assert masked.codes.flatten().tolist() == [5, 5]


def test_folding_equals_not_folding() -> None:
    g = torch.Generator().manual_seed(0)
    z, w_o = torch.randn(7, 5, 8, generator=g), torch.randn(5, 8, 24, generator=g)
    x = torch.einsum("ehd,hdm->ehm", z, w_o)
    made = train_shared(x.flatten(0, 1), n_features=11, l1=0.01, epochs=20, learning_rate=1e-2, generator=g)
    unfolded = (x - made.offset) @ made.encoder.T + made.encoder_bias
    matrix, bias = fold(made, w_o)
    folded = torch.einsum("ehd,hdf->ehf", z, matrix) + bias
    assert torch.allclose(folded, unfolded, atol=1e-4)
    assert made.loss[-1] < made.loss[0]
    assert torch.allclose(made.encoder.norm(dim=1), torch.ones(11), atol=1e-5)


def test_isometry_keeps_distances() -> None:
    g = torch.Generator().manual_seed(0)
    w_o, z = torch.randn(3, 6, 20, generator=g), torch.randn(3, 9, 6, generator=g)
    written, small = z @ w_o, z @ isometry(w_o)
    assert torch.allclose(torch.cdist(small, small), torch.cdist(written, written), atol=1e-4)
    # So it does for a head that writes in two directions only, and for one that writes nothing.
    w_o[0, 2:], w_o[1] = w_o[0, :1], 0
    written, small = z @ w_o, z @ isometry(w_o)
    assert torch.allclose(torch.cdist(small, small), torch.cdist(written, written), rtol=1e-2, atol=1e-2)


def test_per_head_training_lowers_the_loss_and_keeps_unit_norms() -> None:
    g = torch.Generator().manual_seed(0)
    made = train_per_head(
        torch.randn(3, 50, 8, generator=g), n_features=12, k=2, epochs=30, learning_rate=1e-2, generator=g
    )
    assert made.loss[-1] < 0.9 * made.loss[0]
    assert torch.allclose(made.encoder.norm(dim=1), torch.ones(3, 12), atol=1e-5)


def test_positional_scores_worked_out_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # One head, d = 2, two positions, identity dictionary. Rows: positive (4, 0) (0, 4); negative (0, 4) (0, 4).
    z = torch.tensor([[[4.0, 0.0], [0.0, 4.0]], [[0.0, 4.0], [0.0, 4.0]]]).reshape(2, 2, 1, 1, 2)
    eye = torch.eye(2).expand(1, 2, 2)
    made = HeadDictionaries(eye, eye, torch.zeros(1, 2), torch.zeros(0))
    monkeypatch.setattr(discovery, "train_per_head", lambda *_, **__: made)
    w_o = torch.eye(2).reshape(1, 1, 2, 2)
    found = discover_from_activations(z[:1], z[1:], w_o, n_features=2, threshold=0.1)
    # Less the mean at each position: (2, -2) and (-2, 2) at the first, nothing at the last. Mean norm sqrt 2.
    # Activations 2 / sqrt 2: feature 0 in the positive, feature 1 in the negative.
    assert found.codes.flatten().tolist() == [0, -1, 1, -1]
    assert torch.allclose(found.activations.flatten(), torch.tensor([2**0.5, 0, 2**0.5, 0]))
    # The codes differ by sqrt 2 along each of two directions, in units of sqrt 2; the one layer has all layers to come.
    assert found.node_scores.item() == pytest.approx(2 * 2**0.5)
    assert found.unique().flatten().tolist() == [True, False]
    assert found.pair_scores.item() == pytest.approx(2)
    # Above threshold 1.5 no row has a code.
    strict = discover_from_activations(z[:1], z[1:], w_o, n_features=2, threshold=1.5)
    assert strict.codes.flatten().tolist() == [-1] * 4
    assert strict.node_scores.item() == 0


def planted(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """8 + 8 examples of 2 x 3 heads at 4 positions; heads (0, 1) and (1, 2) write something new in positives."""
    g = torch.Generator().manual_seed(seed)
    shared = torch.randn(1, 4, 2, 3, 8, generator=g)
    z = shared + 0.1 * torch.randn(16, 4, 2, 3, 8, generator=g)
    z[:8, 3, 0, 1] = 3 * torch.randn(8, generator=g) + 0.1 * torch.randn(8, 8, generator=g)
    z[:8, 2, 1, 2] = 3 * torch.randn(8, generator=g) + 0.1 * torch.randn(8, 8, generator=g)
    w_o = torch.randn(2, 3, 8, 24, generator=g) / 24**0.5
    return z[:8], z[8:], w_o


@pytest.mark.parametrize("seed", range(3))
def test_positional_ranks_planted_heads_first(seed: int) -> None:
    found = discover_from_activations(*planted(seed), n_features=16, seed=seed)
    assert set(found.ranking()[:2]) == {(0, 1), (1, 2)}
    # Each planted head's codes are new in nearly every positive, at the position it was planted at.
    assert found.unique()[:, 3, 1].sum() >= 7
    assert found.unique()[:, 2, 5].sum() >= 7
    assert torch.equal(found.pair_scores, found.pair_scores.T)


@pytest.mark.parametrize("method", ["positional", "paper"])
def test_same_seed_same_scores(method: str, tiny_model: LanguageModel, tiny_pairs: PromptPairs) -> None:
    runs = [discover(tiny_model, tiny_pairs, method=method, seed=s, epochs=5) for s in (3, 3, 4)]
    assert torch.equal(runs[0].node_scores, runs[1].node_scores)
    assert torch.equal(runs[0].codes, runs[1].codes)
    assert not torch.equal(runs[0].activations, runs[2].activations)


def test_discover_equals_discovery_from_its_activations(tiny_model: LanguageModel, tiny_pairs: PromptPairs) -> None:
    from dsae_core.models import collect_head_outputs, output_weights, tokenize

    direct = discover(tiny_model, tiny_pairs)
    batch = tokenize(tiny_model, [*tiny_pairs.positive, *tiny_pairs.negative])
    z = collect_head_outputs(tiny_model, batch).z
    w_o = output_weights(tiny_model)
    around = Surroundings.of(collect_head_outputs(tiny_model, batch, routes=True), w_o, 3)
    cached = discover_from_activations(z[:3], z[3:], w_o, batch.mask, surroundings=around)
    assert torch.allclose(direct.node_scores, cached.node_scores, rtol=1e-4)
    blind = discover_from_activations(z[:3], z[3:], w_o, batch.mask)
    assert not torch.allclose(direct.node_scores, blind.node_scores, rtol=0.05)
    assert direct.tokens[0] == ("Mary", "and", "Mary", "gave", "it", "to")
    assert direct.provenance["model"] == "tiny"
    assert set(direct.timings) == {"tokenize", "collect", "follow", "train", "encode", "score"}


def test_pairs_of_different_length_are_pooled_with_a_warning(tiny_model: LanguageModel) -> None:
    pairs = PromptPairs(("the cat saw the dog", "the dog ran"), ("the cat ran", "the dog ran"))
    with pytest.warns(UserWarning, match="differ in length"):
        found = discover(tiny_model, pairs)
    assert found.codes.shape == (4, 1, 8)
    assert "pooled" in found.warnings[0]


def test_padding_never_has_a_code(tiny_model: LanguageModel) -> None:
    pairs = PromptPairs(("the cat ran", "the dog saw the cat"), ("the dog ran", "the cat saw the cat"))
    found = discover(tiny_model, pairs, threshold=0.0)
    assert (found.codes[0, :2] == -1).all()
    assert found.tokens[0][:2] == ("", "")
    assert (found.codes[1] >= 0).any()


def test_progress_names_the_stages_and_can_cancel(tiny_model: LanguageModel, tiny_pairs: PromptPairs) -> None:
    seen: list[str] = []
    discover(tiny_model, tiny_pairs, progress=lambda stage, _: seen.append(stage))
    assert list(dict.fromkeys(seen)) == ["tokenize", "collect", "follow", "train", "encode", "score"]

    def cancel(stage: str, fraction: float) -> None:
        if stage == "train" and (fraction > 0.5 or method == "positional"):
            raise KeyboardInterrupt

    for method in ("positional", "paper"):
        with pytest.raises(KeyboardInterrupt):
            discover(tiny_model, tiny_pairs, method=method, progress=cancel)


def test_wrong_arguments_are_refused_with_a_sentence(tiny_model: LanguageModel, tiny_pairs: PromptPairs) -> None:
    z, w_o = one_hot(HAND_CODES), torch.eye(10).expand(1, 3, 10, 10)
    with pytest.raises(UserError, match="no method 'magic'"):
        discover(tiny_model, tiny_pairs, method="magic")
    with pytest.raises(UserError, match="no setting 'wings'"):
        discover(tiny_model, tiny_pairs, wings=2)
    with pytest.raises(UserError, match="at least one positive and one negative"):
        discover_from_activations(z[:0], z, w_o)
    with pytest.raises(UserError, match="not finite"):
        discover_from_activations(z[:3] * float("nan"), z[3:], w_o)
    with pytest.raises(UserError, match="w_o"):
        discover_from_activations(z[:3], z[3:], w_o[:, :2])
    with pytest.raises(UserError, match="mask"):
        discover_from_activations(z[:3], z[3:], w_o, torch.ones(5, 1))
    with pytest.raises(UserError, match="without any token"):
        discover_from_activations(z[:3], z[3:], w_o, torch.zeros(6, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "positive"),
        ({"k": 100}, "cannot exceed"),
        ({"epochs": 1.5}, "without a fraction"),
        ({"threshold": float("nan")}, "positive"),
        ({"threshold": True}, "number"),
        ({"learning_rate": "fast"}, "number"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, object], message: str) -> None:
    z = one_hot(HAND_CODES)
    with pytest.raises(UserError, match=message):
        discover_from_activations(z[:3], z[3:], torch.eye(10).expand(1, 3, 10, 10), **options)


def test_result_survives_saving(tmp_path: object, tiny_model: LanguageModel, tiny_pairs: PromptPairs) -> None:
    from pathlib import Path

    from dsae_core.result import read_discovery

    found = discover(tiny_model, tiny_pairs)
    path = found.save(Path(str(tmp_path)) / "run.json")
    back = read_discovery(path)
    for name in ("node_scores", "pair_scores", "codes", "activations", "edge_scores"):
        assert torch.equal(getattr(back, name), getattr(found, name)), name
    assert replace(back, node_scores=found.node_scores) is not None
    assert (back.prompts, back.settings, back.tokens) == (found.prompts, found.settings, found.tokens)
    assert back.to_dict() == found.to_dict()
