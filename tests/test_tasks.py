"""Prompts: the IOI draw, CSV reading, and what counts as an answer."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsae_core.errors import UserError
from dsae_core.models import LanguageModel, tokenize
from dsae_core.prompts import PromptPairs
from dsae_core.tasks import (
    TASKS,
    answer_tokens,
    docstring,
    greater_than,
    induction,
    ioi,
    pronoun,
    read_pairs_csv,
    successor,
    task_metric,
    write_pairs_csv,
)
from dsae_core.tasks.answers import AnswerTokens
from dsae_core.tasks.indirect_object import NAMES
from dsae_core.tasks.pronoun import MEN, NEUTRAL, WOMEN
from dsae_core.tasks.successor import DAYS, MONTHS


class Words:
    """A tokenizer with one token a word, but for those with an x, which are two."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        ids: list[int] = []
        for word in text.split(" "):
            ids += [hash(word), 1] if "x" in word else [hash(word)]
        return ids


def test_ioi_negatives_differ_in_the_repeated_name_only() -> None:
    pairs = ioi(Words(), 40, seed=0)
    for positive, negative, (answer,), (distractor,) in zip(
        pairs.positive, pairs.negative, pairs.answer, pairs.distractor, strict=True
    ):
        a, b = positive.replace(",", "").replace(".", "").split(), negative.replace(",", "").replace(".", "").split()
        (differs,) = [i for i, (u, v) in enumerate(zip(a, b, strict=True)) if u != v]
        names = [w for w in a if w in NAMES]
        assert Counter(names) == {distractor.strip(): 2, answer.strip(): 1}
        assert a[differs] == distractor.strip()
        assert b[differs] not in names
        assert Counter(w for w in b if w in NAMES).most_common(1)[0][1] == 1


def test_ioi_is_balanced_and_follows_its_seed() -> None:
    pairs = ioi(Words(), 40, seed=0)
    first = [next(w for w in p.replace(",", "").split() if w in NAMES) for p in pairs.positive]
    recipient_first = [f" {name}" == answer for name, (answer,) in zip(first, pairs.answer, strict=True)]
    assert sum(recipient_first) == 20
    assert pairs == ioi(Words(), 40, seed=0)
    assert pairs != ioi(Words(), 40, seed=1)


def test_ioi_uses_single_token_words_only() -> None:
    text = " ".join(ioi(Words(), 100, seed=0).positive)
    assert "Max" not in text  # two tokens for this tokenizer
    assert "Alex" not in text

    class Splitting(Words):
        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            return [i for i in super().encode(text) for _ in range(2)]

    with pytest.raises(UserError, match="too few one-token names"):
        ioi(Splitting(), 2, seed=0)
    with pytest.raises(UserError, match="at least 1"):
        ioi(Words(), 0, seed=0)


@pytest.mark.model
def test_ioi_is_aligned_and_solved_by_the_default_model(smollm2: LanguageModel) -> None:
    from dsae_core.models import last_logits

    pairs = ioi(smollm2.tokenizer, 16, seed=5)
    batch = tokenize(smollm2, [*pairs.positive, *pairs.negative])
    lengths = batch.mask.sum(dim=1)
    assert torch.equal(lengths[:16], lengths[16:])
    answers = answer_tokens(smollm2.tokenizer, pairs)
    metric = task_metric(last_logits(smollm2, batch.ids, batch.mask), answers)
    assert (metric[:16] > 0).double().mean() >= 0.9
    assert metric[:16].mean() > 3
    assert metric[16:].mean().abs() < 1.5


def test_csv_reads_and_writes_back() -> None:
    text = 'negative,positive,answer,distractor,note\n"A, b",B c, x| y, z,hello\nd,e, f, g,\n'
    pairs = read_pairs_csv(text)
    assert pairs.positive == ("B c", "e")
    assert pairs.negative == ("A, b", "d")
    assert pairs.answer == ((" x", " y"), (" f",))
    assert pairs.distractor == ((" z",), (" g",))
    assert read_pairs_csv(write_pairs_csv(pairs)) == pairs
    plain = PromptPairs(("a",), ("b",))
    assert read_pairs_csv(write_pairs_csv(plain)) == plain


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_spreadsheets_separators_are_known_by_the_header(separator: str) -> None:
    text = 'Negative;positive;answer;distractor;note\r\n"A; b";B, c; x| y; z;\r\nd;e; f; g;h\r\n'
    pairs = read_pairs_csv("\r\n" + text.replace(";", separator))
    assert pairs.positive == ("B, c", "e")
    assert pairs.negative == (f"A{separator} b", "d")
    assert pairs.answer == ((" x", " y"), (" f",))
    assert read_pairs_csv(write_pairs_csv(pairs)) == pairs


def test_a_comma_in_the_header_leaves_other_separators_to_the_cells() -> None:
    assert read_pairs_csv("positive,negative\na;b,c\td\n").positive == ("a;b",)
    assert read_pairs_csv("positive,negative,a;positive;negative\nb,c,d\n").positive == ("b",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "header row"),
        ("positive;negative\na;b;c\n", "Row 1 has 3 cells for 2 columns; put a prompt that has a semicolon in quotes"),
        ("positive\tnegative\na\tb\tc\n", "put a prompt that has a tab in quotes"),
        ("positive;negative\na;\n", "Row 1, column negative: the cell is empty"),
        ("positive;answer\na;b\n", "exactly one column 'positive'"),
        ("positive,negative\n", "no rows"),
        ("positive\nhello\n", "exactly one column 'negative'"),
        ("positive,positive,negative\na,b,c\n", "exactly one column 'positive'"),
        ("positive,negative\na,b\nc,\n", "Row 2, column negative: the cell is empty"),
        ("positive,negative\na,b\nc\n", "Row 2, column negative: the cell is empty"),
        ("positive,negative\na,NaN\n", "Row 1, column negative: the cell is NaN"),
        ("positive,negative,answer\na,b,c\n", "both columns answer and distractor"),
        ("positive,negative\nOne, two,b\n", "Row 1 has 3 cells for 2 columns"),
        ("positive,negative,answer,distractor\na,b,c,\n", "Row 1, column distractor"),
        ('positive,negative\n"a,b\n', "line 2"),
        ("positive,negative\na,b\x00\n", "NUL"),
    ],
)
def test_bad_csv_names_row_and_column(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_pairs_csv(text)


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        pairs = read_pairs_csv("positive,negative\n" + text)
    except UserError:
        return
    assert len(pairs) >= 1
    assert all(p.strip() for p in (*pairs.positive, *pairs.negative))


def test_pairs_must_be_complete() -> None:
    with pytest.raises(UserError, match="no prompt pairs"):
        PromptPairs((), ())
    with pytest.raises(UserError, match="2 positive prompts but 1 negative"):
        PromptPairs(("a", "b"), ("c",))
    with pytest.raises(UserError, match="Row 2, column positive"):
        PromptPairs(("a", " "), ("b", "c"))
    with pytest.raises(UserError, match="both columns"):
        PromptPairs(("a",), ("b",), answer=((" x",),))
    with pytest.raises(UserError, match="2 rows for 1"):
        PromptPairs(("a",), ("b",), ((" x",), (" y",)), ((" z",), (" w",)))


def test_answers_must_be_one_token() -> None:
    pairs = PromptPairs(("a b", "a c"), ("a d", "a e"), ((" ok",), (" two-xtokens",)), ((" no",), (" no",)))
    with pytest.raises(UserError, match="Row 2, column answer: ' two-xtokens' is 2 separate tokens"):
        answer_tokens(Words(), pairs)
    with pytest.raises(UserError, match="no answers"):
        answer_tokens(Words(), PromptPairs(("a",), ("b",)))


def test_long_prompts_are_refused_by_row(tiny_model: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"[Rr]ow 2"):
        tokenize(tiny_model, ["the cat", "the cat " * 5000])


def test_a_long_prompt_of_a_pair_is_named_by_row_and_column(tiny_model: LanguageModel) -> None:
    from dsae_core.discovery import discover

    pairs = PromptPairs(("the cat", "the dog"), ("the dog", "the cat " * 5000))
    with pytest.raises(UserError, match="Row 2, column negative: the prompt has 10000 tokens"):
        discover(tiny_model, pairs)


def test_metrics_worked_out_by_hand() -> None:
    logits = torch.tensor([[0.0, 1.0, 3.0, 2.0], [2.0, 0.0, 0.0, 0.0]])
    difference = AnswerTokens(((2,), (0,)), ((1, 3), (1, 2)), "logit_difference")
    assert task_metric(logits, difference).tolist() == [1.0, 2.0]  # 3 - max(1, 2); 2 - max(0, 0)
    assert task_metric(logits.repeat(2, 1), difference).tolist() == [1.0, 2.0, 1.0, 2.0]
    uniform = AnswerTokens(((0, 1),), ((2,),), "probability_difference")
    assert task_metric(torch.zeros(1, 4), uniform).item() == pytest.approx(0.25)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_follows_its_seed_and_aligns_its_pairs(name: str) -> None:
    task, tokenizer = TASKS[name], Digits()
    pairs = task.make(tokenizer, 12, 4)
    assert pairs == task.make(tokenizer, 12, 4)
    assert pairs != task.make(tokenizer, 12, 5)
    assert pairs.task == name
    answers = answer_tokens(tokenizer, pairs)
    for row in range(12):
        assert len(tokenizer.encode(pairs.positive[row])) == len(tokenizer.encode(pairs.negative[row]))
        assert pairs.positive[row] != pairs.negative[row]
        assert not set(answers.answer[row]) & set(answers.distractor[row])
    with pytest.raises(UserError, match="at least 1"):
        task.make(tokenizer, 0, 0)


class Digits(Words):
    """One token a word, one token a digit, punctuation apart."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [hash(piece) for piece in re.findall(r"\d|[^\W\d]+|[^\w\s]|\n", text)]


class TwoDigits(Words):
    """The last two digits of a year are one token, as in GPT-2."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [hash(piece) for piece in re.findall(r"\d\d|\d|[^\W\d]+|[^\w\s]|\n", text)]


def test_greater_than_by_digit_and_by_two_digits() -> None:
    by_digit = greater_than(Digits(), 20, 0)
    for positive, negative, answer, distractor in zip(
        by_digit.positive, by_digit.negative, by_digit.answer, by_digit.distractor, strict=True
    ):
        start, century = re.findall(r"\d+", positive)
        assert start[:2] == century
        assert {int(a) for a in answer} == set(range(int(start[2]) + 1, 10))
        assert {int(d) for d in distractor} == set(range(int(start[2])))
        assert re.findall(r"\d+", negative) == [f"{century}0{start[3]}", century]
    by_two = greater_than(TwoDigits(), 20, 0)
    for positive, answer, distractor in zip(by_two.positive, by_two.answer, by_two.distractor, strict=True):
        year = int(re.findall(r"\d+", positive)[0][2:])
        assert min(map(int, answer)) == year + 1
        assert max(map(int, distractor)) == year


def test_docstring_asks_for_the_third_argument() -> None:
    pairs = docstring(Digits(), 20, 0)
    for positive, negative, (answer,), distractor in zip(
        pairs.positive, pairs.negative, pairs.answer, pairs.distractor, strict=True
    ):
        declared = re.search(r"self, (.*)\)", positive)
        assert declared is not None
        first, second, third, fourth = declared.group(1).split(", ")
        assert re.findall(r":param (\w+)", positive) == [first, second]
        assert answer == f" {third}"
        assert distractor == (f" {first}", f" {second}", f" {fourth}")
        assert third not in negative.split()
        assert negative.split("\n")[1:] == positive.split("\n")[1:]


def test_induction_repeats_in_the_positive_only() -> None:
    pairs = induction(Digits(), 20, 0, length=6)
    for positive, negative, (answer,) in zip(pairs.positive, pairs.negative, pairs.answer, strict=True):
        words, others = positive.split(), negative.split()
        assert words[6:] == words[:3] == others[6:]
        assert answer == f" {words[3]}"
        assert not set(others[:6]) & set(words)


def test_pronouns_follow_the_name_and_the_negative_has_none_to_follow() -> None:
    pairs = pronoun(Digits(), 20, 0)
    for positive, negative, (answer,), (distractor,) in zip(
        pairs.positive, pairs.negative, pairs.answer, pairs.distractor, strict=True
    ):
        own, other = re.findall(r"\w+", positive), re.findall(r"\w+", negative)
        ((name, neutral),) = [(a, b) for a, b in zip(own, other, strict=True) if a != b]
        assert (name in WOMEN) == (answer == " she")
        assert (name in MEN) == (answer == " he")
        assert {answer, distractor} == {" he", " she"}
        assert neutral in NEUTRAL
    assert not set(NEUTRAL) & (set(WOMEN) | set(MEN))
    assert [a for (a,) in pairs.answer] == [" she", " he"] * 10


def test_successor_asks_for_the_next_day_or_month_and_goes_round() -> None:
    pairs = successor(Digits(), 60, 0)
    seen = set()
    for number, (positive, negative, (answer,), distractor) in enumerate(
        zip(pairs.positive, pairs.negative, pairs.answer, pairs.distractor, strict=True)
    ):
        items = MONTHS if number % 2 else DAYS
        ((item, other),) = [(a, b) for a, b in zip(positive.split(), negative.split(), strict=True) if a != b]
        assert items[(items.index(item.strip(",")) + 1) % len(items)] == answer.strip()
        assert other.strip(",") not in DAYS + MONTHS
        assert set(distractor) | {answer} == {f" {name}" for name in items}
        seen.add(item.strip(","))
    assert {"Sunday", "December"} <= seen


@pytest.mark.model
@pytest.mark.parametrize(
    ("name", "share"),
    [("greater_than", 0.9), ("docstring", 0.9), ("induction", 0.6), ("pronoun", 0.9), ("successor", 0.7)],
)
def test_the_default_model_solves_positives_and_not_negatives(name: str, share: float, smollm2: LanguageModel) -> None:
    from dsae_core.models import last_logits

    pairs = TASKS[name].make(smollm2.tokenizer, 16, 5)
    batch = tokenize(smollm2, [*pairs.positive, *pairs.negative])
    metric = task_metric(last_logits(smollm2, batch.ids, batch.mask), answer_tokens(smollm2.tokenizer, pairs))
    assert (metric[:16] > 0).double().mean() >= share
    # A name that says nothing leaves a choice of two; every other negative leaves more.
    assert (metric[16:] > 0).double().mean() <= (0.7 if name == "pronoun" else 0.25)
    assert metric[:16].mean() > metric[16:].mean() + 0.5
