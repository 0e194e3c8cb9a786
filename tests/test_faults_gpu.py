"""A GPU that is lost, broken or full: work goes on on the CPU, and its results say so."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_faults import long_pairs
from test_models import tiny_module, tiny_tokenizer

from dsae_core import discovery as discovery_module
from dsae_core import looking
from dsae_core.benchmark import score_heads
from dsae_core.discovery import discover
from dsae_core.errors import UserError
from dsae_core.faithfulness import faithfulness_report
from dsae_core.measurement import Plan, Target, measure_circuit
from dsae_core.models import LanguageModel, load_model
from dsae_core.models import loading as model_loading
from dsae_core.models.memory import is_device_failure
from dsae_core.prompts import PromptPairs
from dsae_core.ui import probes, runs
from dsae_core.ui.sections import header
from dsae_core.ui.view import View

FAILURES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB"),
    torch.AcceleratorError("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
]


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A saved tiny model."""
    monkeypatch.setenv("DSAE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "saved"
    tiny_module("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def as_if_on_gpu(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one model say that it is on a GPU."""
    real = LanguageModel.device.fget
    assert real is not None
    monkeypatch.setattr(
        LanguageModel, "device", property(lambda self: torch.device("cuda") if self is model else real(self))
    )


@pytest.mark.promise("Where a GPU is lost or out of memory in mid-run, the run ends on the CPU with the same scores.")
@pytest.mark.parametrize("failure", FAILURES, ids=["full", "lost", "no cuBLAS"])
@pytest.mark.parametrize("method", ["positional", "paper"])
def test_a_gpu_that_fails_in_mid_run(
    failure: Exception, method: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, pairs = load_model(str(saved)), long_pairs(3, 8)
    expected = discover(model, pairs, method=method, epochs=3)
    assert expected.warnings == ()
    as_if_on_gpu(model, monkeypatch)
    collect = looking.collect_head_outputs

    def fail(used: LanguageModel, *args: Any, **options: Any) -> Any:
        if used is model:
            raise failure
        return collect(used, *args, **options)

    monkeypatch.setattr(looking, "collect_head_outputs", fail)
    with pytest.warns(UserWarning, match=r"The device cuda failed \(CUDA .*\)\. The model ran on the CPU\."):
        found = discover(model, pairs, method=method, epochs=3)
    assert torch.equal(found.node_scores, expected.node_scores)
    assert len(found.warnings) == 1
    assert "\n" not in found.warnings[0]
    assert found.provenance["model_digest"] == expected.provenance["model_digest"]


@pytest.mark.promise("Where a GPU is lost or out of memory in mid-run, the run ends on the CPU with the same scores.")
@pytest.mark.parametrize("failure", FAILURES, ids=["full", "lost", "no cuBLAS"])
@pytest.mark.parametrize(
    ("method", "operator"),
    [
        ("positional", "train_per_head"),
        ("positional", "encode_codes"),
        ("positional", "code_contrast"),
        ("paper", "train_shared"),
        ("paper", "encode_codes"),
        ("paper", "unique_scores"),
    ],
)
def test_a_gpu_that_fails_in_an_operator(
    failure: Exception, method: str, operator: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forward passes went well, and what they gave is lost with the device."""
    model, pairs = load_model(str(saved)), long_pairs(3, 8)
    expected = discover(model, pairs, method=method, epochs=3)
    real, calls = getattr(discovery_module, operator), []

    def fail(*args: Any, **options: Any) -> Any:
        calls.append(operator)
        if len(calls) == 1:
            as_if_on_gpu(model, monkeypatch)  # not before: there is none that the forward passes could be done on
            raise failure
        return real(*args, **options)

    monkeypatch.setattr(discovery_module, operator, fail)
    with pytest.warns(UserWarning, match=r"The device cuda failed \(CUDA .*\)\. The model ran on the CPU\."):
        found = discover(model, pairs, method=method, epochs=3)
    assert len(calls) == 2
    assert torch.equal(found.node_scores, expected.node_scores)
    assert torch.equal(found.pair_scores, expected.pair_scores)


def test_a_model_that_cannot_be_loaded_again_is_moved(
    tiny_model: LanguageModel, tiny_pairs: PromptPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = discover(tiny_model, tiny_pairs)
    as_if_on_gpu(tiny_model, monkeypatch)
    collect = looking.collect_head_outputs

    def fail(used: LanguageModel, *args: Any, **options: Any) -> Any:
        if used is tiny_model:
            raise FAILURES[0]
        return collect(used, *args, **options)

    monkeypatch.setattr(looking, "collect_head_outputs", fail)
    with pytest.warns(UserWarning, match="The device cuda failed"):
        found = discover(tiny_model, tiny_pairs)
    assert torch.equal(found.node_scores, expected.node_scores)


@pytest.mark.promise("Where a GPU fails while a model is loaded, it is loaded on the CPU, and its results say so.")
@pytest.mark.parametrize("failure", FAILURES, ids=["full", "lost", "no cuBLAS"])
def test_a_gpu_that_fails_while_a_model_is_loaded(
    failure: Exception, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**12, 10**12))
    move = torch.nn.Module.to

    def fail(module: torch.nn.Module, *args: Any, **options: Any) -> torch.nn.Module:
        if args and torch.device(args[0]).type == "cuda":
            raise failure
        return move(module, *args, **options)

    monkeypatch.setattr(torch.nn.Module, "to", fail)
    model = load_model(str(saved), device="cuda")
    assert model.device.type == "cpu"
    assert len(model.notes) == 1
    assert "was loaded on the CPU" in model.notes[0]
    assert discover(model, long_pairs(2, 6), epochs=2).warnings == model.notes


@pytest.mark.promise("Where a GPU fails while a model is loaded, it is loaded on the CPU, and its results say so.")
def test_gpus_that_fail_while_a_model_is_spread(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = model_loading._read

    def fail(*arguments: Any) -> Any:
        if arguments[-1] == "auto":
            raise FAILURES[0]
        return read(*arguments)

    monkeypatch.setattr(model_loading, "_read", fail)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model = load_model(str(saved), device="auto")
    assert model.device.type == "cpu"
    assert "was loaded on the CPU" in model.notes[0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(type(FAILURES[0])):  # no GPU took part, so there is nothing to go back to
        load_model(str(saved), device="auto")


def test_a_gpu_too_small_for_a_model(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1, 10**12))
    assert "GiB are free on cuda" in load_model(str(saved), device="cuda").notes[0]


def test_a_machine_without_a_gpu_refuses_one(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="No CUDA device can be used here; choose the device cpu"):
        load_model(str(saved), device="cuda")


def test_a_mistake_on_a_gpu_is_no_failure_of_it(
    tiny_model: LanguageModel, tiny_pairs: PromptPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_if_on_gpu(tiny_model, monkeypatch)

    def fail(*args: Any, **options: Any) -> Any:
        raise RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")

    monkeypatch.setattr(looking, "collect_head_outputs", fail)
    with pytest.raises(RuntimeError, match="must match"):
        discover(tiny_model, tiny_pairs)
    assert not is_device_failure(dataclasses.FrozenInstanceError("x"))
    assert model_loading.device_failed(torch.device("cuda"), FAILURES[1]).count("\n") == 0


# --- what else is asked of a model -------------------------------------------------------------------------


def fail_once(
    model: LanguageModel, failure: Exception, monkeypatch: pytest.MonkeyPatch, at: int = 2
) -> list[Exception]:
    """Have one forward pass of a model fail, the second from now on; what was raised comes to the list."""
    real, calls, raised = model.module.forward, [], []

    @functools.wraps(real)  # it is asked for its parameters
    def forward(*args: Any, **options: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == at:
            as_if_on_gpu(model, monkeypatch)  # not before: there is none that the first could be done on
            raised.append(failure)
            raise failure
        return real(*args, **options)

    monkeypatch.setattr(model.module, "forward", forward)
    return raised


def patching(model: LanguageModel, pairs: PromptPairs) -> list[Any]:
    circuit = measure_circuit(
        model, pairs, Plan(seed=0, edges=True), Target("tiny", "custom", None), notice=lambda said: None
    )
    return [circuit.heads, circuit.effects, circuit.edges]


def rival(model: LanguageModel, pairs: PromptPairs) -> list[Any]:
    return score_heads(model, pairs, method="ig5").tolist()


def faithfulness(model: LanguageModel, pairs: PromptPairs) -> list[Any]:
    scores = torch.rand(model.n_layers, model.n_heads, generator=torch.Generator().manual_seed(0))
    return faithfulness_report(model, pairs, scores, seeds=range(1)).points().to_numpy().tolist()


@pytest.mark.promise(
    "Where a GPU is lost or out of memory in a measurement of a circuit, in a rival or in ablations, they are done on "
    "the CPU with the same result."
)
@pytest.mark.parametrize("failure", FAILURES, ids=["full", "lost", "no cuBLAS"])
@pytest.mark.parametrize("work", [patching, rival, faithfulness])
def test_a_gpu_that_fails_in_other_work(
    work: Callable[[LanguageModel, PromptPairs], list[Any]],
    failure: Exception,
    tiny_model: LanguageModel,
    solved_pairs: PromptPairs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = work(tiny_model, solved_pairs)
    raised = fail_once(tiny_model, failure, monkeypatch)
    with pytest.warns(UserWarning, match=r"The device cuda failed \(.*\)\. The model ran on the CPU\."):
        assert work(tiny_model, solved_pairs) == expected
    assert raised == [failure]


ASKED: dict[str, Callable[[Any, PromptPairs], Any]] = {
    "check": lambda found, pairs: probes.check_work("tiny", pairs),
    "patch": lambda found, pairs: probes.patch_work(found, pairs, (1, 2)),
    "direct effect": lambda found, pairs: probes.output_work(found, pairs, (1, 2)),
    "validation": lambda found, pairs: probes.validation_work(found, pairs, 0, 2),
}


@pytest.mark.promise(
    "Where a GPU is lost or out of memory while the page asks a model something, the CPU answers, and the page says so."
)
@pytest.mark.parametrize("failure", FAILURES, ids=["full", "lost", "no cuBLAS"])
@pytest.mark.parametrize("asked", ASKED)
def test_a_gpu_that_fails_under_a_page(
    asked: str,
    failure: Exception,
    tiny_model: LanguageModel,
    solved_pairs: PromptPairs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shelf = runs.ModelShelf()
    shelf.put(tiny_model)
    monkeypatch.setattr(runs, "_shelf", lambda: shelf)
    found = discover(tiny_model, solved_pairs, epochs=2)
    told: list[str] = []
    texts: list[str] = []
    monkeypatch.setattr(header.st, "html", texts.append)

    def work() -> Any:
        return ASKED[asked](found, solved_pairs)(lambda stage, share: told.append(stage))

    expected = work()
    header.headline(View.of(found), 1.0)
    assert "failed" not in texts[-1]
    only = asked == "direct effect"  # it takes one pass
    raised = fail_once(tiny_model, failure, monkeypatch, at=1 if only else 2)
    with pytest.warns(UserWarning, match="The device cuda failed"):
        answer = work()
    assert raised == [failure]
    assert repr(answer) == repr(expected)
    served = shelf.peek(tiny_model.name)
    assert served is not None
    assert served.device.type == "cpu"
    header.headline(View.of(found), 1.0)
    assert texts[-1].count("The device cuda failed") == 1
    assert repr(work()) == repr(expected)  # and nothing fails any more
