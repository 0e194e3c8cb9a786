"""Profiles: what was called, what it must cost at least, and the files that are written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dsae_core import cli, machine, ops, reference, rivals, roofline
from dsae_core.discovery import discover
from dsae_core.errors import UserError
from dsae_core.models import LanguageModel
from dsae_core.profiling import Profile, profile_discovery, profile_kernels, record_calls, write_trace
from dsae_core.prompts import PromptPairs
from dsae_core.rivals import extra_mib, profile_rivals
from dsae_core.roofline import Ceilings, OperatorCall, flops_of, kernel_time
from dsae_core.scaling import fitted_exponent, measure_scaling
from dsae_core.ui.charts.kernels import rivals_frame


def encode_call() -> OperatorCall:
    """Two examples, three positions, five heads; d = 4, F = 7."""
    arguments = torch.randn(2, 3, 5, 4), torch.randn(5, 4, 7), torch.randn(5, 7), 0.5
    return record_calls(lambda: ops.encode_codes(*arguments))[1][0]


@pytest.fixture(scope="module")
def profile(tiny_model: LanguageModel, tiny_pairs: PromptPairs) -> Profile:
    return profile_discovery(tiny_model, tiny_pairs, repeats=1, compile_twins=False, epochs=3)


def test_a_call_is_recorded_with_its_bytes_and_flops() -> None:
    call = encode_call()
    assert call.name == "encode_codes"
    assert call.bytes == 4 * (2 * 3 * 5 * 4 + 5 * 4 * 7 + 5 * 7 + 2 * (2 * 3 * 5))  # in, then codes and values
    assert flops_of(call) == 2 * (2 * 3 * 5) * 4 * 7


def test_flops_of_training() -> None:
    x, matrix, bias = torch.randn(3, 10, 4), torch.randn(3, 4, 6), torch.zeros(3, 6)
    call = record_calls(lambda: ops.train_topk(x, matrix, matrix, bias, 2, 5, 0.1))[1][0]
    encoder, the_rest = 2 * 3 * 10 * 4 * 6, 4 * 2 * 3 * 10 * 4 * 2
    assert flops_of(call) == 5 * (encoder + the_rest)
    rows, state = torch.randn(10, 4), torch.randn(3, 2 * 6 * 4 + 6 + 4).abs()
    call = record_calls(lambda: ops.train_shared(rows, state, 6, 0, 5, 0.1, 0.1))[1][0]
    assert flops_of(call) == 5 * 5 * (2 * 10 * 4 * 6)
    call = record_calls(lambda: ops.pair_scores(torch.zeros(4, 3, dtype=torch.int32), 2, 5))[1][0]
    assert flops_of(call) == 0


def test_the_roofline() -> None:
    """At 100 GB/s and 1000 GFLOP/s the two limits meet at 10 FLOPs a byte."""
    ceilings = Ceilings("cpu", 100.0, 1000.0)
    call = encode_call()
    flops = flops_of(call)
    low = kernel_time([OperatorCall(call.name, call.arguments, flops)], 1e-6, ceilings)  # one FLOP a byte
    assert low.bound == "memory"
    assert low.share == pytest.approx(flops / 1e-6 / 1e9 / 100)
    high = kernel_time([OperatorCall(call.name, call.arguments, flops // 40)], 1e-6, ceilings)
    assert high.bound == "compute"
    assert high.share == pytest.approx(flops / 1e-6 / 1e9 / 1000)
    both = kernel_time([call, call], 1e-6, ceilings)
    assert (both.calls, both.flops, both.bytes) == (2, 2 * flops, 2 * call.bytes)
    assert both.gflop_s == pytest.approx(2 * flops / 1e-6 / 1e9)


def test_ceilings_are_plausible() -> None:
    found = roofline.measure_ceilings(torch.device("cpu"))
    assert 0.1 < found.copy_gb_s < 5000
    assert 0.1 < found.matmul_gflop_s < 1e6


@pytest.mark.parametrize(
    ("method", "operators"),
    [
        ("positional", ["train_topk", "encode_codes"]),
        ("paper", ["train_shared", "encode_codes", "unique_scores", "pair_scores"]),
    ],
)
def test_every_operator_of_a_discovery_is_seen(
    method: str, operators: list[str], tiny_model: LanguageModel, tiny_pairs: PromptPairs
) -> None:
    found, calls = record_calls(lambda: discover(tiny_model, tiny_pairs, method=method, epochs=2))
    assert [name for name in dict.fromkeys(call.name for call in calls) if name in operators] == operators
    assert torch.equal(found.node_scores, discover(tiny_model, tiny_pairs, method=method, epochs=2).node_scores)
    kernels, ceilings = profile_kernels(calls)
    assert [kernel.name for kernel in kernels] == list(dict.fromkeys(call.name for call in calls))
    assert all(kernel.ms > 0 and kernel.share > 0 for kernel in kernels)
    assert [ceiling.device for ceiling in ceilings] == ["cpu"]


def test_a_profile_has_stages_kernels_and_rivals(profile: Profile) -> None:
    stages = [stage.name for stage in profile.stages]
    assert {"tokenize", "collect", "train", "encode", "score"} <= set(stages)
    assert profile.seconds == pytest.approx(sum(stage.seconds for stage in profile.stages))
    assert profile.settings["method"] == "positional"
    assert profile.settings["epochs"] == 3
    assert profile.machine["build"]["compiler"] in ("gcc", "clang")
    by_variant = {(rival.name, rival.variant): rival for rival in profile.rivals}
    for kernel in profile.kernels:
        assert (by_variant[kernel.name, "fused"].ms or 0) > 0
        assert (by_variant[kernel.name, "eager"].ms or 0) > 0
        assert by_variant[kernel.name, "compiled"].ms is None
        assert by_variant[kernel.name, "compiled"].note == "It was not asked for."


def test_the_json_form_is_versioned_and_plain(profile: Profile) -> None:
    document = json.loads(json.dumps(profile.to_dict()))
    assert document["schema"] == 1
    assert {"settings", "machine", "ceilings", "stages", "kernels", "rivals", "scaling", "launches"} <= set(document)
    assert document["kernels"][0]["bound"] in ("memory", "compute")


def test_tables_name_everything(profile: Profile) -> None:
    text = profile.markdown()
    for name in ("collect", "train_topk", "encode_codes", "eager", "Ceilings on cpu"):
        assert name in text
    for table in text.split("\n\n"):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_rivals_are_shortened_and_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both variants must be asked for the same work."""
    x, matrix, bias = torch.randn(2, 9, 4), torch.randn(2, 4, 6), torch.zeros(2, 6)
    calls = record_calls(lambda: ops.train_topk(x, matrix, matrix, bias, 2, 50, 0.1))[1]
    asked: list[tuple[str, int]] = []
    for home, variant in ((ops, "fused"), (reference, "eager")):
        original = home.train_topk
        monkeypatch.setattr(
            home,
            "train_topk",
            lambda *a, original=original, variant=variant: (asked.append((variant, a[5])), original(*a))[1],
        )
    profile_rivals(calls, compile_twins=False)
    assert {variant for variant, _ in asked} == {"fused", "eager"}
    assert {epochs for _, epochs in asked} == {rivals.RIVAL_EPOCHS}


def test_a_twin_that_needs_too_much_memory_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = torch.zeros(4, 30, dtype=torch.int32)
    calls = record_calls(lambda: ops.pair_scores(codes, 2, 8))[1]
    monkeypatch.setattr(rivals, "available_memory", lambda device: 3 * 4 * (30 * 8) ** 2)
    fused, eager, compiled = profile_rivals(calls, compile_twins=True)
    assert (fused.variant, eager.variant, compiled.variant) == ("fused", "eager", "compiled")
    assert fused.ms is not None
    assert eager.ms is None
    assert "GiB" in eager.note == compiled.note


def test_plain_torch_is_not_called_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "compiled", False)
    fused, eager, _ = profile_rivals([encode_call()], compile_twins=False)
    assert (fused.variant, fused.ms) == ("fused", None)
    assert "not compiled" in fused.note
    assert eager.ms is not None
    frame = rivals_frame((fused, eager))
    assert frame["ratio"].isna().all()


def test_without_a_working_torch_compile_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> object:
        def fail(*_: object) -> None:
            raise RuntimeError("no compiler\nat all")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    fused, eager, compiled = profile_rivals([encode_call()])
    assert fused.ms is not None
    assert eager.ms is not None
    assert (compiled.ms, compiled.note) == (None, "torch.compile does not work here: no compiler")


def test_where_plain_torch_fails_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate more")

    monkeypatch.setattr(reference, "encode_codes", fail)
    fused, eager, _ = profile_rivals([encode_call()], compile_twins=False)
    assert fused.ms is not None
    assert (eager.ms, eager.note) == (None, "Plain torch failed here: CUDA out of memory.")


@pytest.mark.parametrize("name", ["train_topk", "train_shared"])
def test_the_compiled_twin_of_training_computes_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only its loss goes through torch.compile; here that is replaced by something that counts."""
    counted = []
    monkeypatch.setattr(torch, "compile", lambda f, **_: lambda *a: (counted.append(f.__name__), f(*a))[1])
    if name == "train_topk":
        matrix = torch.randn(2, 4, 6)
        arguments = (torch.randn(2, 9, 4), matrix, matrix, torch.zeros(2, 6), 2, 3, 0.1)
    else:
        arguments = (torch.randn(9, 4), torch.cat([torch.randn(1, 58), torch.zeros(2, 58)]), 6, 0, 3, 0.1, 0.1)
    compiled = rivals._compiled_twin(name)(*arguments)
    for ours, plain in zip(compiled, getattr(reference, name)(*arguments), strict=True):  # type: ignore[call-overload]
        assert torch.equal(ours, plain)
    assert counted == [name.split("_")[1] + "_loss"] * 3


def test_launches_have_their_occupancy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel of 256 threads, of which two blocks fit on a processor that can hold 2048 threads."""
    kernel = {"name": "encode", "threads": 256, "registers": 64, "blocks_per_processor": 2}
    build = {"cuda_version": "13.0"}
    native = SimpleNamespace(build_info=lambda: build, kernel_attributes=lambda: [kernel])
    monkeypatch.setattr(machine, "_native", native)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    limits = SimpleNamespace(max_threads_per_multi_processor=2048)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: limits)
    assert machine.cuda_launches() == ({**kernel, "occupancy": 0.25},)
    monkeypatch.setitem(build, "cuda_version", None)
    assert machine.cuda_launches() == ()


def test_extra_memory_sees_a_large_tensor() -> None:
    grown = extra_mib(lambda: torch.ones(16 * 2**20).sum(), torch.device("cpu"))
    if grown is None:
        pytest.skip("only on Linux")
    assert 56 < grown < 96


def test_exponents() -> None:
    assert fitted_exponent([(2, 12.0), (4, 48.0), (16, 768.0)]) == pytest.approx(2)
    assert fitted_exponent([(10, 0.3), (20, 0.6)]) == pytest.approx(1)


def test_scaling_has_the_points_that_were_asked_for() -> None:
    heard: list[float] = []
    found = measure_scaling(
        heads=(2, 4), examples=(4, 6), pair_heads=(8, 16), repeats=1, progress=lambda _, share: heard.append(share)
    )
    assert [(s.name, s.quantity, s.expected) for s in found] == [
        ("positional discovery", "heads", 1),
        ("positional discovery", "examples", 1),
        ("pair_scores", "heads", 2),
    ]
    assert [[value for value, _ in s.points] for s in found] == [[2, 4], [4, 6], [8, 16]]
    assert all(seconds > 0 for s in found for _, seconds in s.points)
    assert heard == pytest.approx([n / 6 for n in range(7)])


def test_the_trace_has_the_stages_and_operators(
    tiny_model: LanguageModel, tiny_pairs: PromptPairs, tmp_path: Path
) -> None:
    path = write_trace(
        lambda follow: discover(tiny_model, tiny_pairs, epochs=2, progress=follow), tmp_path / "trace.json"
    )
    events = json.loads(path.read_text())["traceEvents"]
    spans = {event["name"]: event for event in events if event.get("ph") == "X"}
    assert {"stage: collect", "stage: train", "dsae::train_topk", "dsae::encode_codes"} <= set(spans)
    train, kernel = spans["stage: train"], spans["dsae::train_topk"]
    assert train["ts"] <= kernel["ts"]
    assert kernel["ts"] + kernel["dur"] <= train["ts"] + train["dur"]


def test_a_trace_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Cannot write"):
        write_trace(lambda follow: None, tmp_path / "nowhere" / "trace.json")


def test_progress_is_heard_and_can_end_the_run(tiny_model: LanguageModel, tiny_pairs: PromptPairs) -> None:
    heard: list[str] = []

    def follow(stage: str, share: float) -> None:
        heard.append(stage)
        if stage == "kernels":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile_discovery(tiny_model, tiny_pairs, repeats=1, progress=follow, epochs=2)
    assert heard == ["stages", "stages", "kernels"]


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["dsae", "profile", *arguments])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_command_writes_json_and_trace(
    tiny_model: LanguageModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("dsae_core.models.load_model", lambda *_, **__: tiny_model)
    prompts, target, trace = (tmp_path / name for name in ("pairs.csv", "profile.json", "trace.json"))
    prompts.write_text("positive,negative\nMary and Mary gave it to,Mary and John gave it to\n")
    options = ["--prompts", str(prompts), "--no-rivals", "--json", str(target), "--trace", str(trace)]
    assert run_cli(monkeypatch, *options) == 0
    assert "train_topk" in capfd.readouterr().out
    document = json.loads(target.read_text())
    assert (document["schema"], document["settings"]["task"]) == (1, "custom")
    assert document["rivals"] == document["scaling"] == []
    assert json.loads(trace.read_text())["traceEvents"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "guess"], "There is no method 'guess'"),
        (["--json", "/nowhere/profile.json"], "Cannot write /nowhere/profile.json"),
        (["--trace", "/nowhere/trace.json"], "Cannot write /nowhere/trace.json"),
    ],
)
def test_the_command_refuses_in_one_sentence(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any model is loaded."""
    monkeypatch.setattr("dsae_core.models.load_model", lambda *_, **__: pytest.fail("it was loaded"))
    assert run_cli(monkeypatch, *options) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
