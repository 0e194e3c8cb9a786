"""The Kernels page: its numbers by hand, and the page with a hand-made profile in place of a measurement."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from dsae_core import profiling, rivals, scaling
from dsae_core.errors import UserError
from dsae_core.models import LanguageModel
from dsae_core.profiling import Profile, StageTime
from dsae_core.prompts import PromptPairs
from dsae_core.rivals import RivalTime
from dsae_core.roofline import Ceilings, KernelTime
from dsae_core.scaling import Scaling
from dsae_core.ui import profiles
from dsae_core.ui.charts import kernels as charts
from dsae_core.ui.charts.style import Drawing
from dsae_core.ui.jobs import JobQueue
from dsae_core.ui.pages import kernels
from dsae_core.ui.profiles import Wanted
from dsae_core.ui.sections import machine as machine_section
from dsae_core.ui.sections import profile as profile_section

CPU = Ceilings("cpu", 100.0, 1000.0)
HOSTILE = "<b>gpu</b>"


def kernel(name: str = "encode_codes", *, device: str = "cpu", flops: int = 2 * 10**9, ms: float = 4.0) -> KernelTime:
    """An operator that moves 100 MB."""
    n_bytes = 10**8
    return KernelTime(
        name=name,
        device=device,
        shape="[2 x 3]",
        calls=1,
        ms=ms,
        bytes=n_bytes,
        flops=flops,
        intensity=flops / n_bytes,
        gflop_s=flops / ms / 1e6,
        gb_s=n_bytes / ms / 1e6,
        bound="compute" if flops > 10**9 else "memory",
        share=0.5,
    )


def profile(device: str = "cpu", **changes: Any) -> Profile:
    """A discovery of 2 s, half of it training, with two operators; pair_scores has no floating-point arithmetic."""
    found = Profile(
        settings={
            "method": "positional",
            "model": "tiny",
            "task": "ioi",
            "examples": 10,
            "repeats": 3,
            "date": "2026-11-22T17:00:00+00:00",
            "device": device,
        },
        machine=profiles.facts(),
        ceilings=(CPU,) if device == "cpu" else (CPU, Ceilings("cuda", 1000.0, 20000.0)),
        stages=(StageTime("collect", 0.8), StageTime("train", 1.0), StageTime("score", 0.2)),
        kernels=(kernel(device=device), kernel("pair_scores", flops=0)),
        rivals=(
            RivalTime("encode_codes", "fused", "[2 x 3]", 4.0, 0.5, ""),
            RivalTime("encode_codes", "eager", "[2 x 3]", 16.0, 90.0, ""),
            RivalTime("encode_codes", "compiled", "[2 x 3]", None, None, "torch.compile does not work here: <i>no"),
        ),
        scaling=(Scaling("pair_scores", "heads", ((10, 0.1), (100, 10.0)), 2.0, 2),),
    )
    return dataclasses.replace(found, **changes)


# --- numbers -----------------------------------------------------------------------------------------------


def test_stages_have_their_share_of_the_total() -> None:
    frame = charts.stage_frame([profile()])
    assert frame["stage"].tolist() == ["collect", "train", "score"]
    assert frame["share"].tolist() == pytest.approx([0.4, 0.5, 0.1])
    assert frame["label"].tolist() == ["0.8 s", "1.0 s", "0.2 s"]


def test_the_roof_is_the_lower_of_two_ceilings() -> None:
    """At 100 GB/s and 1000 GFLOP/s they meet at 10 FLOPs a byte."""
    assert [charts.roof_at(CPU, intensity) for intensity in (1.0, 10.0, 20.0)] == [100.0, 1000.0, 1000.0]
    frame = charts.roof_frame([CPU], [20.0, 40.0])
    assert frame["intensity"].tolist() == [2.0, 10.0, 200.0]
    assert frame["gflop_s"].tolist() == [200.0, 1000.0, 1000.0]
    assert frame["limit"].iloc[0] == "copy, 100 GB/s"
    assert frame["limit"].iloc[2] == "matrix product, 1,000 GFLOP/s"


def test_operators_of_two_profiles_are_listed_once_a_device() -> None:
    slower = profile("cuda", kernels=(kernel(device="cuda"), kernel("pair_scores", flops=0, ms=9.0)))
    frame = charts.kernel_frame([profile(), slower])
    assert list(zip(frame["name"], frame["device"], strict=True)) == [
        ("encode_codes", "CPU"),
        ("pair_scores", "CPU"),
        ("encode_codes", "CUDA"),
    ]
    assert frame["ms"].tolist() == [4.0, 4.0, 4.0]
    assert frame["roof"].tolist() == [1000.0, 0.0, 20000.0]
    assert [ceiling.device for ceiling in charts.ceilings_of([profile(), slower])] == ["cpu", "cuda"]


def test_rivals_are_set_against_the_slowest_and_the_fused() -> None:
    frame = charts.rivals_frame(profile().rivals)
    assert frame["share"].tolist() == [0.25, 1.0, 0.0]
    assert frame["ratio"].tolist()[:2] == [1.0, 4.0]
    assert math.isnan(frame["ratio"][2])
    assert frame["label"].tolist() == ["4.00 ms", f"16.0 ms · 4.0{charts.TIMES}", "did not run"]
    notes = profile_section.rival_notes(frame)
    assert notes == ["For encode_codes, torch.compile did not run: torch.compile does not work here: <i>no"]


def test_shortened_training_is_said() -> None:
    frame = charts.rivals_frame([RivalTime("train_topk", "fused", "", 1.0, None, "")])
    assert profile_section.rival_notes(frame)[0].startswith(f"Training runs {rivals.RIVAL_EPOCHS} epochs here")


def test_the_fitted_line_is_the_power_law() -> None:
    frame = charts.scaling_frame(profile().scaling[0])
    assert frame["fitted"].tolist() == pytest.approx([0.1, 10.0])
    flat = charts.scaling_frame(Scaling("x", "heads", ((1, 1.0), (2, 4.0)), 0.0, 1))
    assert flat["fitted"].tolist() == pytest.approx([2.0, 2.0])  # through the mean of the logarithms


@pytest.mark.parametrize(
    ("value", "said"), [(0.284, "0.28 ms"), (12.55, "12.6 ms"), (137.8, "138 ms"), (3328.8, "3.3 s"), (9.96, "10.0 ms")]
)
def test_times_in_words(value: float, said: str) -> None:
    assert charts.milliseconds(value) == said


def test_ratios_in_words() -> None:
    assert [charts.times(ratio)[:-1] for ratio in (0.614, 12.38, 977.3, 1977.3)] == ["0.61", "12.4", "977", "1,977"]


def test_stored_figures_without_an_eager_time() -> None:
    row = {"compiled_ms": 0.3, "eager_ms": None, "speedup": None, "compiled_extra_mib": 0.2, "eager_extra_mib": None}
    frame = charts.stored_frame([{"name": "pair_scores 20 examples x 270 heads, F 64", **row}])
    assert frame.loc[0, ["operator", "sizes"]].tolist() == [
        "pair_scores",
        f"20 examples {charts.TIMES} 270 heads, F 64",
    ]
    assert frame["eager_ms"].isna().all()


def drawings() -> dict[str, Drawing]:
    both = [profile(), profile("cuda")]
    found = {"scaling": charts.scaling_chart(profile().scaling[0])}
    for name, some in (("one", both[:1]), ("both", both)):
        drawn = charts.kernel_frame(some)
        drawn = drawn[drawn["flops"] > 0]
        roofs = charts.roof_frame(charts.ceilings_of(some), drawn["intensity"])
        found[f"roofline_{name}"] = charts.roofline(drawn, roofs)
        found[f"stages_{name}"] = charts.stage_chart(charts.stage_frame(some))
    found["rivals"] = charts.rivals_chart(charts.rivals_frame(profile().rivals))
    return found


@pytest.mark.parametrize("name", list(drawings()))
def test_charts_have_axes_tooltips_and_the_fields_they_draw(name: str) -> None:
    drawing = drawings()[name]
    layers = drawing.spec["layer"]
    assert drawing.spec["padding"] == {"bottom": 2}  # Streamlit leaves 20 pixels where there is none
    assert any("tooltip" in layer["encoding"] for layer in layers)
    for layer in layers:
        columns = drawing.data[layer["data"]["name"] if "data" in layer else drawing.spec["data"]["name"]].columns
        for channel, encoding in layer["encoding"].items():
            for part in encoding if isinstance(encoding, list) else [encoding]:
                assert part["field"] in columns
            if channel in ("x", "y") and encoding["field"] in ("intensity", "gflop_s", "seconds", "share", "value"):
                assert encoding["title"]


def test_names_stay_inside_the_roofline() -> None:
    many = [kernel(f"op{i}", flops=10 ** (9 + i)) for i in range(4)]
    frame = charts.kernel_frame([profile(kernels=tuple(many))])
    drawn = charts.roofline(frame, charts.roof_frame([CPU], frame["intensity"])).data["kernels"]
    assert drawn.set_index("name")["side"].to_dict() == {"op0": "right", "op1": "right", "op2": "left", "op3": "left"}
    close = charts.kernel_frame([profile(kernels=(kernel("a", ms=4.0), kernel("b", ms=4.01)))])
    heights = charts.roofline(close, charts.roof_frame([CPU], close["intensity"])).data["kernels"]["label_at"]
    assert heights.iloc[0] > 1.005 * heights.iloc[1]


# --- words and files ---------------------------------------------------------------------------------------


def test_the_sentence_names_the_longest_stage() -> None:
    assert (
        kernels.sentence([profile()])
        == "A discovery takes 2.0 s with the model on the CPU; the longest stage is train, 50 % of it."
    )
    assert "2.0 s with the model on the CPU and 2.0 s with the model on CUDA" in kernels.sentence(
        [profile(), profile("cuda")]
    )


@pytest.mark.parametrize(
    ("gpu", "built", "said"),
    [
        (None, "13.0", "no CUDA device, so only the CPU is measured; the operators are built for CUDA 13.0 as well"),
        (None, None, "no CUDA device, so only the CPU is measured; the operators are built without it"),
        ("H", None, "(H), but the operators are built without CUDA"),
        ("H", "13.0", "(H): Measure now measures it"),
    ],
)
def test_cuda_in_a_sentence(gpu: str | None, built: str | None, said: str) -> None:
    machine = {"gpu": gpu, "build": {"cuda_version": built}}
    assert said in kernels.cuda_sentence([profile()], machine)
    assert kernels.cuda_sentence([profile(), profile("cuda")], machine) == ""


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Wanted(), "About 5 minutes; 1 without the two extras under Settings; longer"),
        (Wanted(compile_twins=False), "About 4 minutes; 1 without the extra under Settings; longer"),
        (Wanted(growth=False), "About 2 minutes; 1 without the extra under Settings; longer"),
        (Wanted(compile_twins=False, growth=False), "About 1 minute; longer"),
    ],
)
def test_the_duration_follows_the_settings(wanted: Wanted, said: str) -> None:
    assert kernels.duration(wanted).startswith(said)


def test_the_machine_in_words() -> None:
    rows = dict(profiles.machine_rows(profiles.facts()))
    assert {"Processor", "Cores", "Threads of torch", "CUDA operators", "torch"} <= set(rows)
    assert dict(profiles.machine_rows({"build": {"cuda_version": "13.0", "cuda_archs": ["80", "90a"]}}))[
        "CUDA operators"
    ] == ("built with CUDA 13.0 for 80, 90a")
    names = {"vector_instructions": "AVX512", "build": {"isa": "avx512"}}
    assert [value for fact, value in profiles.machine_rows(names) if "instructions" in fact] == ["AVX-512", "AVX-512"]
    assert profiles.machine_rows({})  # an older profile may know less


def test_profiles_come_back_from_their_json() -> None:
    both = (profile(), profile("cuda", launches=({"name": "k", "registers": 32},)))
    text = json.dumps(profiles.document(both))
    assert profiles.parse(text) == both


def damaged(**changes: Any) -> str:
    document = json.loads(json.dumps(profiles.document([profile()])))
    document["profiles"][0].update(changes)
    return json.dumps(document)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"profiles": []}',
        '{"profiles": [3]}',
        damaged(schema=99),
        damaged(stages=[]),
        damaged(stages=[{"name": "a", "seconds": "1"}]),
        damaged(stages=[{"name": "a", "seconds": math.nan}]),
        damaged(ceilings=[{"device": "cpu", "copy_gb_s": 0.0, "matmul_gflop_s": 1.0}]),
        damaged(settings={"device": "cpu", "date": "yesterday"}),
        damaged(settings={"device": "cpu"}),
        damaged(rivals=[{"name": "a"}]),
        damaged(rivals=[{"name": "a", "variant": "other", "shape": "", "ms": 1.0, "mib": None, "note": ""}]),
        damaged(ceilings=[]),
        damaged(machine={"build": "gcc"}),
        damaged(
            scaling=[{"name": "a", "quantity": "heads", "points": [[1, 0.0]], "exponent": 1.0, "expected": 1}],
        ),
    ],
)
def test_a_damaged_profile_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(UserError, match="is damaged, or was made by another version"):
        profiles.parse(text)


def test_pages_do_not_import_the_profiler() -> None:
    code = (
        "import sys, dsae_core.ui.pages.discover, dsae_core.ui.pages.kernels; "
        "sys.exit('dsae_core.profiling' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- measuring ---------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tiny_model: LanguageModel, tiny_pairs: PromptPairs) -> LanguageModel:
    """The tiny model and its prompts in place of whatever is asked for."""
    monkeypatch.setattr(profiles, "loaded_model", lambda name, report: tiny_model)
    task = dataclasses.replace(profiles.TASKS["ioi"], make=lambda tokenizer, n, seed: tiny_pairs)
    monkeypatch.setattr(profiles, "TASKS", {**profiles.TASKS, "ioi": task})
    monkeypatch.setattr(profiles, "devices", lambda: ("cpu",))
    return tiny_model


def test_a_real_profile_is_kept_and_comes_back(tiny: LanguageModel) -> None:
    stages: list[str] = []
    measured = profiles.work(Wanted(compile_twins=False, growth=False))(lambda stage, _: stages.append(stage))
    assert measured.problem == ""
    assert {"timing discoveries", "timing the operators", "timing plain torch"} <= set(stages)
    (found,) = profiles.parse(profiles.kept_file().read_text())
    assert found == measured.profiles[0]
    assert found.settings["device"] == "cpu"
    assert {item.name for item in found.kernels} >= {"encode_codes", "train_topk"}
    assert {rival.variant for rival in found.rivals} == set(charts.VARIANTS)


def test_growth_is_measured_once_and_every_device_has_a_profile(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = profile().scaling
    asked: list[dict[str, Any]] = []

    def fake(model: Any, pairs: Any, **settings: Any) -> Profile:
        asked.append(settings)
        return profile(scaling=())

    monkeypatch.setattr(profiles, "devices", lambda: ("cpu", "cuda"))
    monkeypatch.setattr(profiles, "load_model", lambda name, device, progress: tiny)
    monkeypatch.setattr(profiling, "profile_discovery", fake)
    monkeypatch.setattr(scaling, "measure_scaling", lambda progress: grown)
    cpu, cuda = profiles.work(Wanted(method="paper"))(lambda *_: None).profiles
    assert (cpu.settings["device"], cuda.settings["device"]) == ("cpu", "cuda")
    assert (cpu.scaling, cuda.scaling) == (grown, ())
    assert [settings["method"] for settings in asked] == ["paper", "paper"]
    assert all(settings["compile_twins"] for settings in asked)


# --- the page ----------------------------------------------------------------------------------------------


def draw() -> None:
    """The page's script."""
    from dsae_core.ui.pages import kernels

    kernels.page()


@pytest.fixture
def measure() -> Callable[[Callable[[str, float], None]], Profile]:
    """What measuring does."""
    return lambda report: profile()


@pytest.fixture
def app(
    monkeypatch: pytest.MonkeyPatch, tiny: LanguageModel, measure: Callable[[Callable[[str, float], None]], Profile]
) -> AppTest:
    """The Kernels page, not yet opened; nothing is kept on its server."""
    queue = JobQueue()
    for module in (kernels, kernels.progress):
        monkeypatch.setattr(module, "shared_queue", lambda: queue)
    monkeypatch.setattr(profiling, "profile_discovery", lambda model, pairs, *, progress, **_: measure(progress))
    monkeypatch.setattr(scaling, "measure_scaling", lambda progress: profile().scaling)
    profiles.kept_file().unlink(missing_ok=True)
    return AppTest.from_function(draw, default_timeout=60)


def html(page: AppTest) -> str:
    """All of the page's own HTML but its style."""
    return "\n".join(element.proto.body for element in page.main.get("html") if "<style>" not in element.proto.body)


def keep(*kept: Profile) -> None:
    profiles.kept_file().parent.mkdir(parents=True, exist_ok=True)
    profiles.kept_file().write_text(json.dumps(profiles.document(kept)))


def finish(page: AppTest) -> AppTest:
    """Let a measurement that was started end, looking at it as the browser would."""
    end = time.monotonic() + 30
    while page.button(key="kernels_run").label == "Measuring":
        assert time.monotonic() < end, "the measurement did not end"
        time.sleep(0.05)
        page.run()
    assert not page.exception
    return page


TITLES = ("Stages", "Roofline", "Operators", "Compiled against plain torch", "Extra memory", "pair_scores by heads")


def test_a_first_visit_measures_nothing_and_shows_what_is_known(app: AppTest) -> None:
    app.run()
    assert not app.exception
    said = html(app)
    assert "What does a discovery cost on this machine?" in said
    assert profiles.facts()["processor"] in said
    assert "CUDA" in said
    assert "Not measured here" in said
    assert "encode_codes" in said
    assert not app.get("vega_lite_chart")
    assert app.button(key="kernels_run").label == "Measure now"


def test_without_stored_figures_the_page_does_without(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_section, "STORED", Path("nowhere.json"))
    app.run()
    assert not app.exception
    assert "Not measured here" not in html(app)


@pytest.mark.parametrize("text", ["{", "{}", '{"results": [{}]}', '{"results": [], "threads": 2}'])
def test_stored_figures_that_cannot_be_read_are_left_out(
    app: AppTest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    (tmp_path / "figures.json").write_text(text)
    monkeypatch.setattr(machine_section, "STORED", tmp_path / "figures.json")
    app.run()
    assert not app.exception
    assert "Not measured here" not in html(app)


def test_the_last_profile_of_the_server_is_shown(app: AppTest) -> None:
    keep(profile())
    app.run()
    assert not app.exception
    said = html(app)
    assert "A discovery takes 2.0 s with the model on the CPU; the longest stage is train, 50 % of it." in said
    assert "Measured here 22 Nov 2026, 17:00 UTC · tiny · ioi · 10 + 10 prompts · positional · median of 3" in said
    assert "Machine or versions changed since" not in said
    assert "only in the table: pair_scores" in said
    assert "&lt;i&gt;no" in said
    assert len(app.get("vega_lite_chart")) == 4
    for title in TITLES:
        assert f'd-title">{title}' in said


def test_words_are_explained_and_used_alike(app: AppTest) -> None:
    keep(profile())
    app.run()
    said = html(app)
    assert "ceilings, measured with the profile" in said
    assert "each fused: one pass" in said
    assert "(eager)" in said
    for other in ("Fused", "eager torch", "Eager", "not recorded", " x "):
        assert other not in said
    assert list(charts.VARIANTS.values()) == ["compiled", "plain torch (eager)", "torch.compile"]


def test_tables_can_be_scrolled_by_keys(app: AppTest) -> None:
    keep(profile(), profile("cuda", launches=({"name": "k", "registers": 32},)))
    app.run()
    said = html(app)
    assert said.count('class="d-scroll"') == said.count('class="d-scroll" tabindex="0" role="region" aria-label="') == 6
    for title in ("Operators", "Extra memory on CPU", "CUDA kernels", "Facts"):
        assert f'aria-label="{title}"' in said


def test_another_machine_s_profile_is_marked(app: AppTest) -> None:
    keep(profile(machine={**profiles.facts(), "torch": "1.0", "processor": HOSTILE}))
    app.run()
    assert "Machine or versions changed since" in html(app)
    assert HOSTILE not in html(app)


def test_a_profile_of_other_settings_is_marked(app: AppTest) -> None:
    keep(profile())
    app.run()
    assert app.selectbox(key="kernels_model").value == "tiny"  # what was measured is what is measured again
    assert "Settings changed since" not in html(app)
    app.toggle(key="kernels_growth").set_value(False).run()  # more or less of the same discovery
    assert "Settings changed since" not in html(app)
    app.selectbox(key="kernels_method").set_value("paper").run()
    assert '<span class="d-tag stale">Settings changed since</span>' in html(app)
    app.selectbox(key="kernels_method").set_value("positional").run()
    assert "Settings changed since" not in html(app)
    app.selectbox(key="kernels_model").set_value("smollm2-135m").run()
    assert "Settings changed since" in html(app)
    assert "Machine or versions changed since" not in html(app)


def test_cpu_and_cuda_stand_side_by_side(app: AppTest) -> None:
    keep(profile(), profile("cuda", launches=({"name": "score_head", "registers": 40},)))
    app.run()
    assert not app.exception
    said = html(app)
    assert "Compiled against plain torch on CPU" in said
    assert "Compiled against plain torch on CUDA" in said
    assert "score_head" in said
    assert "no CUDA device" not in said


def test_a_profile_of_stages_alone_is_shown(app: AppTest) -> None:
    keep(profile(kernels=(), rivals=(), scaling=(), ceilings=()))
    app.run()
    assert not app.exception
    assert "No operator that does floating-point arithmetic was called." in html(app)
    assert "Not measured: turn" in html(app)


def test_measuring_shows_and_keeps_a_profile(app: AppTest) -> None:
    app.run()
    app.button(key="kernels_run").click().run()
    finish(app)
    assert "A discovery takes 2.0 s" in html(app)
    again = AppTest.from_function(draw, default_timeout=60).run()
    assert "A discovery takes 2.0 s" in html(again)


def test_a_measurement_that_ends_while_the_page_is_drawn_is_shown(
    app: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is under way when the page looks for a profile, and over when the page would draw its progress."""
    running = iter([False, True, False])
    monkeypatch.setattr(kernels, "_job_runs", lambda: next(running, False))
    app.run()
    assert not app.get("vega_lite_chart")
    original = kernels.latest
    monkeypatch.setattr(kernels, "latest", lambda: (original(), keep(profile()))[0])
    app.run()
    assert len(app.get("vega_lite_chart")) == 4


def test_every_control_has_a_help(app: AppTest) -> None:
    keep(profile())
    app.run()
    widgets = [*app.selectbox, *app.button, *app.toggle]
    assert len(widgets) == 5
    assert [widget.label for widget in widgets if not widget.proto.help] == []


def test_settings_are_measured(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Wanted] = []
    original = kernels.work
    monkeypatch.setattr(kernels, "work", lambda wanted: (seen.append(wanted), original(wanted))[1])
    app.run()
    app.toggle(key="kernels_growth").set_value(False).run()
    app.selectbox(key="kernels_method").set_value("paper").run()
    app.button(key="kernels_run").click().run()
    finish(app)
    assert seen == [Wanted(method="paper", growth=False)]
    assert "About 2 minutes; 1 without the extra under Settings;" in html(app)


def test_a_profile_that_cannot_be_kept_is_shown_all_the_same(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise UserError("Cannot write it: <b>disk full</b>.")

    monkeypatch.setattr(profiles, "write_atomic", full)
    app.run()
    app.button(key="kernels_run").click().run()
    finish(app)
    assert "A discovery takes 2.0 s" in html(app)
    assert "not kept for later visits. Cannot write it: &lt;b&gt;disk full" in html(app)


def test_a_damaged_file_is_a_sentence_and_not_the_end(app: AppTest) -> None:
    keep(profile())
    profiles.kept_file().write_text("{")
    app.run()
    assert not app.exception
    assert "The last profile is damaged" in html(app)
    assert "What does a discovery cost" in html(app)


class TestFailures:
    @pytest.fixture
    def measure(self) -> Callable[[Callable[[str, float], None]], Profile]:
        def fail(report: Callable[[str, float], None]) -> Profile:
            raise UserError("There is no model *x*.")

        return fail

    def test_a_failure_is_an_error(self, app: AppTest) -> None:
        app.run()
        app.button(key="kernels_run").click().run()
        finish(app)
        assert app.error[0].value == r"There is no model \*x\*\."
        assert "What does a discovery cost" in html(app)


class TestSlow:
    release = threading.Event()

    @pytest.fixture
    def measure(self) -> Callable[[Callable[[str, float], None]], Profile]:
        self.release.clear()

        def wait(report: Callable[[str, float], None]) -> Profile:
            while not self.release.wait(0.02):
                report("stages", 0.25)
            return profile()

        return wait

    def test_progress_and_cancel(self, app: AppTest) -> None:
        keep(profile())
        try:
            app.run()
            app.toggle(key="kernels_compile").set_value(False).run()
            app.button(key="kernels_run").click().run()
            assert app.button(key="kernels_run").disabled
            assert "A discovery takes 2.0 s" in html(app)  # the last one stays
            end = time.monotonic() + 30
            while not app.get("progress")[0].proto.text.startswith("Timing discoveries"):
                assert time.monotonic() < end, "the stage is not named"
                app.run()
            app.toggle(key="kernels_growth").set_value(False).run()  # other settings do not lose sight of it
            assert app.button(key="kernels_run").label == "Measuring"
            app.button(key="cancel_kernels").click().run()
            finish(app)
        finally:
            self.release.set()
        assert "The measurement was cancelled; nothing of it was kept." in html(app)
