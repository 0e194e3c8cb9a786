"""benchmarks/truth_agreement.py: two measurements of one circuit compared."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dsae_core.circuits import Circuit, Head
from dsae_core.errors import UserError
from dsae_core.models import LanguageModel, last_logits, tokenize
from dsae_core.prompts import PromptPairs
from dsae_core.tasks import Task, answer_tokens, task_metric

PATH = Path(__file__).parents[1] / "benchmarks" / "truth_agreement.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("truth_agreement", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def circuit(effects: list[list[float]], *heads: Head) -> Circuit:
    return Circuit("measured", "tiny", "toy", heads, effects=tuple(map(tuple, effects)))


def test_agreement_worked_out_by_hand(script: ModuleType) -> None:
    one = circuit([[0.9, 0.1], [-0.5, 0.0]], (0, 0), (1, 0))
    other = circuit([[0.8, 0.3], [0.2, 0.1]], (0, 0), (0, 1))
    found = script.agreement(one, other)
    assert (found["heads_first"], found["heads_second"], found["heads_shared"]) == (2, 2, 1)
    assert found["overlap"] == pytest.approx(1 / 3)
    # Ranks 4 3 1 2 and 4 3 2 1: 1 - 6 * 2 / (4 * 15).
    assert found["spearman_all_heads"] == pytest.approx(0.8)
    assert found["spearman_members"] == pytest.approx(1.0)
    # |.9 .1 .5 .0| against heads 0 and 1: 3 of the 4 pairs of a member and another are in order.
    assert found["auc_first_on_second"] == pytest.approx(0.75)
    # |.8 .3 .2 .1| against heads 0 and 2: head 1 beats head 2.
    assert found["auc_second_on_first"] == pytest.approx(0.75)
    assert found["average_precision_first_on_second"] == pytest.approx((1 + 2 / 3) / 2)
    same = script.agreement(one, one)
    assert (same["overlap"], same["auc_first_on_second"]) == (1.0, 1.0)
    none = script.agreement(one, circuit([[0.0, 0.1], [0.0, 0.2]]))
    assert none["auc_first_on_second"] is None
    assert none["auc_second_on_first"] is not None
    assert none["spearman_members"] is None


def test_halves_have_no_prompt_in_common(script: ModuleType) -> None:
    texts = tuple("abcabdefgh")
    answers = tuple((f" {text}",) for text in texts)
    pairs = PromptPairs(texts, tuple(f"not {text}" for text in texts), answers, answers, task="toy")
    first, second = script.halves(pairs, 4)
    assert (first.positive, second.positive) == (tuple("abcd"), tuple("efgh"))
    assert second.negative[0] == "not e"
    assert second.answer[0] == (" e",)
    assert first.task == "toy"
    with pytest.raises(UserError, match="Only 8 of the 10"):
        script.halves(pairs, 5)
    assert script.distinct(pairs, 3, {"a", "not c"}).positive == ("b", "d", "e")
    crossed = PromptPairs(("a", "b"), ("b", "c"))  # one's negative is the other's positive
    with pytest.raises(UserError, match="Only 1"):
        script.halves(crossed, 1)


def solved_by(model: LanguageModel) -> PromptPairs:
    """Eight different pairs, with answers such that the metric is higher on each positive than on its negative."""
    texts = [
        (f"{word} Mary and Mary gave to", f"{word} Mary and John gave to") for word in "the cat dog a b c d it".split()
    ]
    positive, negative = zip(*texts, strict=True)
    answer, distractor = ((" Mary",),) * 8, ((" John",),) * 8
    batch = tokenize(model, [*positive, *negative])
    answers = answer_tokens(model.tokenizer, PromptPairs(positive, negative, answer, distractor))
    metric = task_metric(last_logits(model, batch.ids, batch.mask), answers)
    right = (metric[:8] > metric[8:]).tolist()
    names = ((" John",), (" Mary",))
    return PromptPairs(
        positive, negative, tuple(names[r] for r in right), tuple(names[not r] for r in right), task="toy"
    )


def test_tasks_are_measured_twice_and_written(
    script: ModuleType, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def make(_tokenizer: object, n: int, _seed: int) -> PromptPairs:
        assert n == 16
        return solved_by(tiny_model)

    monkeypatch.setattr(script, "TASKS", {"toy": Task("toy", "Toy", "", make)})
    monkeypatch.setattr(script, "load_model", lambda _: tiny_model)
    target = tmp_path / "agreement.json"
    command = ["truth_agreement.py", "--tasks", "toy", "--prompts", "4", "--json", str(target)]
    monkeypatch.setattr(sys, "argv", command)
    script.main()
    document = json.loads(target.read_text())
    assert document["settings"]["model"] == "tiny"
    task = document["tasks"]["toy"]
    circuits = [Circuit.from_dict(data) for data in task["circuits"]]
    assert circuits[0].effects != circuits[1].effects
    assert script.agreement(*circuits) == {key: value for key, value in task.items() if key != "circuits"}
    monkeypatch.setattr(sys, "argv", [*command, "--tasks", "juggling"])
    with pytest.raises(SystemExit) as stop:
        script.main()
    assert stop.value.code == 2
