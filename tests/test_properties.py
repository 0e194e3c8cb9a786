"""Properties that hold for all inputs: what is written is read back the same, and rows and positions stay aligned."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsae_core import documents
from dsae_core.circuits import Circuit, Edge, read_circuit
from dsae_core.errors import UserError
from dsae_core.models import LanguageModel, tokenize
from dsae_core.prompts import PromptPairs
from dsae_core.result import Discovery, read_discovery
from dsae_core.settings import PaperSettings, PositionalSettings
from dsae_core.tasks import TASKS, read_pairs_csv, write_pairs_csv
from dsae_core.ui.alignment import _differing
from dsae_core.ui.request import CUSTOM, MAX_SEED, RunRequest, changed_options, pack_pairs, unpack_pairs
from dsae_core.ui.sharing import carries_prompts

quick = settings(deadline=None, max_examples=60)

# --- strategies --------------------------------------------------------------------------------------------

# Commas, quotes and line ends on purpose, for chance would hardly bring them.
characters = st.one_of(
    st.sampled_from(list(",\"'\n\r|;\t =&%+\\é")), st.characters(codec="utf-8", exclude_characters="\x00")
)
texts = st.text(characters, max_size=12)
prompts = texts.filter(lambda text: text.strip() and text.strip().lower() != "nan")
answers = prompts.filter(lambda text: "|" not in text)
numbers = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | texts
plain = st.dictionaries(texts, st.recursive(scalars, lambda x: st.lists(x, max_size=3), max_leaves=5), max_size=4)


@st.composite
def pairs(draw: st.DrawFn) -> PromptPairs:
    n = draw(st.integers(1, 4))

    def column(of: st.SearchStrategy[Any]) -> tuple[Any, ...]:
        return tuple(draw(st.lists(of, min_size=n, max_size=n)))

    several = st.lists(answers, min_size=1, max_size=3).map(tuple)
    columns = (column(several), column(several)) if draw(st.booleans()) else ((), ())
    return PromptPairs(column(prompts), column(prompts), *columns)


@st.composite
def discoveries(draw: st.DrawFn) -> Discovery:
    L, heads, E, T = (draw(st.integers(1, 3)) for _ in range(4))

    def floats(*shape: int) -> torch.Tensor:
        size = torch.Size(shape).numel()
        values = draw(
            st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=size, max_size=size)
        )
        return torch.tensor(values, dtype=torch.float32).reshape(shape)

    H = L * heads
    codes = draw(st.lists(st.integers(-1, 2**31 - 1), min_size=E * T * H, max_size=E * T * H))
    return Discovery(
        node_scores=floats(L, heads),
        pair_scores=floats(H, H),
        codes=torch.tensor(codes, dtype=torch.int32).reshape(E, T, H),
        activations=floats(E, T, H),
        n_positive=draw(st.integers(0, E)),
        tokens=tuple(tuple(draw(st.lists(texts, min_size=T, max_size=T))) for _ in range(E)),
        settings=draw(plain),
        timings=draw(st.dictionaries(texts, numbers, max_size=3)),
        provenance=draw(plain),
        prompts=draw(st.none() | pairs()),
        warnings=tuple(draw(st.lists(texts, max_size=2))),
        edge_scores=floats(H, H) if draw(st.booleans()) else None,
    )


@st.composite
def circuits(draw: st.DrawFn) -> Circuit:
    L, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    places = st.tuples(st.integers(0, L - 1), st.integers(0, width - 1))
    heads = tuple(sorted(draw(st.sets(places))))
    measured = draw(st.booleans())
    row = st.lists(numbers, min_size=width, max_size=width).map(tuple)
    interval_row = st.lists(st.tuples(numbers, numbers), min_size=width, max_size=width).map(tuple)
    return Circuit(
        draw(texts),
        draw(texts),
        draw(texts),
        heads,
        roles=dict.fromkeys(draw(st.lists(texts, max_size=2)), heads),
        effects=tuple(draw(row) for _ in range(L)) if measured else (),
        intervals=tuple(draw(interval_row) for _ in range(L)) if measured else (),
        edges=tuple(draw(st.lists(st.builds(Edge, places, places, numbers, numbers, numbers), max_size=2))),
        provenance=draw(plain),
    )


# --- prompts -----------------------------------------------------------------------------------------------


@quick
@given(pairs())
def test_prompts_survive_csv(given_pairs: PromptPairs) -> None:
    assert read_pairs_csv(write_pairs_csv(given_pairs)) == given_pairs


@quick
@given(pairs(), st.permutations(["positive", "negative", "answer", "distractor", "note"]), st.data())
def test_rows_stay_together_however_a_table_is_written(
    given_pairs: PromptPairs, order: list[str], data: st.DataObject
) -> None:
    columns: dict[str, list[str]] = {"positive": list(given_pairs.positive), "negative": list(given_pairs.negative)}
    if given_pairs.has_answers:
        columns["answer"] = ["|".join(texts) for texts in given_pairs.answer]
        columns["distractor"] = ["|".join(texts) for texts in given_pairs.distractor]
    columns["note"] = [data.draw(texts) for _ in given_pairs.positive]
    names = [name for name in order if name in columns]
    file = io.StringIO(newline="")
    quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    writer = csv.writer(file, lineterminator="\r\n", quoting=quoting)
    writer.writerow([data.draw(st.sampled_from([name, name.upper(), f" {name}"])) for name in names])
    for row in zip(*(columns[name] for name in names), strict=True):
        writer.writerow(row)
        file.write(data.draw(st.sampled_from(["", "\r\n"])))  # blank lines are ignored
    assert read_pairs_csv(file.getvalue()) == given_pairs


@quick
@given(st.text(st.sampled_from(list('ab,"\n\r |')), max_size=30))
def test_what_is_read_of_any_table_is_written_and_read_back(body: str) -> None:
    try:
        found = read_pairs_csv("positive,negative,answer,distractor\n" + body)
    except UserError:
        return
    assert read_pairs_csv(write_pairs_csv(found)) == found


@quick
@given(pairs())
def test_prompts_survive_json_and_links(given_pairs: PromptPairs) -> None:
    assert PromptPairs.from_dict(json.loads(json.dumps(given_pairs.to_dict()))) == given_pairs
    assert unpack_pairs(pack_pairs(given_pairs)) == given_pairs


# --- documents ---------------------------------------------------------------------------------------------


@quick
@given(discoveries())
def test_a_discovery_survives_its_file(tmp_path_factory: pytest.TempPathFactory, found: Discovery) -> None:
    back = read_discovery(found.save(tmp_path_factory.getbasetemp() / "run.json"))
    assert back.to_dict() == found.to_dict()
    assert torch.equal(back.node_scores, found.node_scores)
    assert torch.equal(back.codes, found.codes)
    assert torch.equal(back.activations, found.activations)


@quick
@given(circuits())
def test_a_circuit_survives_its_file(tmp_path_factory: pytest.TempPathFactory, circuit: Circuit) -> None:
    assert read_circuit(circuit.save(tmp_path_factory.getbasetemp() / "circuit.json")) == circuit


@quick
@given(plain)
def test_plain_json_is_taken_as_it_is(value: dict[str, Any]) -> None:
    assert documents.plain(documents.parse_json(json.dumps(value)), "it") == value


@pytest.mark.parametrize("text", ["NaN", "[-Infinity]", "9" * 5000, "[" * 100_000, "{", '{"a": 1} x', "'a'"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        documents.parse_json(text)


@pytest.mark.parametrize(
    "value",
    [
        {"a": float("inf")},
        {"a": [10**400]},
        {"a": 2**64},
        {"a": [-(2**63) - 1]},
        {"\ud800": 1},
        {"a": "\udc00"},
        [],
        {"a": {1}},
        {"a": {2: 1}},
    ],
)
def test_what_is_not_plain_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="it "):
        documents.plain(value, "it")


def test_depth_is_bounded() -> None:
    value: Any = 0
    for _ in range(documents.MAX_DEPTH):
        value = [value]
    assert documents.plain({"a": value[0]}, "it")
    with pytest.raises(ValueError, match="too deeply"):
        documents.plain({"a": [value]}, "it")


@pytest.mark.parametrize("value", [[[True]], [[1.5]], [["1"]], [[2**31]], [[1], [2, 3]], [1], [[None]], "12", {"a": 1}])
def test_only_whole_numbers_become_codes(value: Any) -> None:
    with pytest.raises(ValueError, match="codes is no array"):
        documents.tensor(value, "codes", 2, whole=True)


# --- links -------------------------------------------------------------------------------------------------

options = st.one_of(
    st.builds(
        PositionalSettings,
        n_features=st.integers(8, 999),
        k=st.integers(1, 8),
        threshold=st.floats(0, 9),
        learning_rate=st.floats(1e-9, 9),
    ),
    st.builds(
        PaperSettings,
        pool=st.sampled_from(["mean", "last"]),
        l1=st.floats(0, 9),
        per_union=st.booleans(),
        epochs=st.integers(0, 999),
    ),
)


@quick
@given(
    st.sampled_from(sorted(TASKS)),
    options,
    st.integers(1, 100),
    st.integers(0, MAX_SEED),
    texts,
    pairs(),
    st.booleans(),
)
def test_a_link_opens_what_it_was_made_of(
    task: str,
    chosen: PositionalSettings | PaperSettings,
    examples: int,
    seed: int,
    model: str,
    given_pairs: PromptPairs,
    own: bool,
) -> None:
    method = "positional" if isinstance(chosen, PositionalSettings) else "paper"
    name = model.strip() or "smollm2-135m"
    picked = changed_options(method, vars(chosen))
    request = (
        RunRequest(name, CUSTOM, len(given_pairs), method, seed, picked, given_pairs)
        if own
        else RunRequest(name, task, examples, method, seed, picked)
    )
    assert carries_prompts(request)
    assert RunRequest.from_query(request.to_query(), TASKS) == (request, [])


# --- alignment ---------------------------------------------------------------------------------------------

words = st.lists(st.sampled_from("the cat dog saw ran and Mary John Anna gave".split()), min_size=1, max_size=8)


@quick
@given(st.lists(words.map(" ".join), min_size=1, max_size=5))
def test_prompts_are_aligned_at_their_ends(tiny_model: LanguageModel, given_prompts: list[str]) -> None:
    batch = tokenize(tiny_model, given_prompts)
    assert batch.ids.shape == batch.mask.shape == (len(given_prompts), max(len(p.split()) for p in given_prompts))
    for prompt, ids, mask, tokens in zip(given_prompts, batch.ids, batch.mask, batch.tokens, strict=True):
        alone = tokenize(tiny_model, [prompt])
        length = alone.ids.shape[1]
        assert mask.tolist() == [False] * (len(mask) - length) + [True] * length
        assert ids[mask].tolist() == alone.ids[0].tolist()
        assert tokens == ("",) * (len(mask) - length) + alone.tokens[0]


@quick
@given(words, words)
def test_what_does_not_differ_is_the_same_in_both_prompts(positive: list[str], negative: list[str]) -> None:
    in_positive, in_negative = _differing(positive, negative)
    rest = [token for t, token in enumerate(positive) if t not in in_positive]
    assert rest == [token for t, token in enumerate(negative) if t not in in_negative]
    if len(positive) == len(negative):
        assert all(positive[t] != negative[t] for t in in_positive)
