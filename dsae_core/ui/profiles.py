"""Profiles of this machine: what is measured for one, and the last one, which the server keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_origin, get_type_hints

import torch

from dsae_core import _native
from dsae_core.errors import UserError
from dsae_core.files import read_text, write_atomic
from dsae_core.limits import demo_limits
from dsae_core.models import load_model
from dsae_core.settings import METHODS
from dsae_core.tasks import TASKS
from dsae_core.ui import faults, state
from dsae_core.ui.charts import kernels as charts
from dsae_core.ui.jobs import Report, Work
from dsae_core.ui.library import data_dir
from dsae_core.ui.runs import loaded_model

if TYPE_CHECKING:
    from dsae_core.profiling import Profile

TASK, EXAMPLES, SEED = "ioi", 10, 0
"""What is discovered to be measured."""

WORDS = {
    "stages": "timing discoveries",
    "kernels": "timing the operators",
    "rivals": "timing plain torch",
    "scaling": "measuring how time grows",
}

NAME = "kernels"
"""Of the session's slot for the side job that measures."""

NOT_HERE = "Measuring takes minutes, in which nobody else could run anything, so this public demo does not do it."

T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """What to measure.

    Attributes:
        model: as load_model takes it.
        method: of the discovery.
        compile_twins: also run plain torch through torch.compile.
        growth: also measure how time grows with heads and examples.
    """

    model: str = "smollm2-135m"
    method: str = "positional"
    compile_twins: bool = True
    growth: bool = True

    @classmethod
    def of(cls, profile: Profile) -> Wanted:
        """What measures a profile's discovery again."""
        model, method = (profile.settings.get(name) for name in ("model", "method"))
        return cls(str(model or cls.model), str(method) if method in METHODS else cls.method)

    def measured_in(self, profile: Profile) -> bool:
        """Whether a profile is of this model's discovery by this method."""
        return (self.model, self.method) == (profile.settings.get("model"), profile.settings.get("method"))


@dataclass(frozen=True)
class Measured:
    """What was measured, a profile a device, and why it could not be kept, "" where it was."""

    profiles: tuple[Profile, ...]
    problem: str = ""


def devices() -> tuple[str, ...]:
    """What can be measured here: the CPU, and CUDA where there is a device and the operators are built for it."""
    cuda = torch.cuda.is_available() and _native.build_info()["cuda_version"] is not None
    return ("cpu", "cuda") if cuda else ("cpu",)


def facts() -> dict[str, Any]:
    """The machine and how the operators were built; nothing is measured."""
    from dsae_core.machine import machine_facts

    return {**machine_facts(), "vector_instructions": torch.backends.cpu.get_cpu_capability()}


def work(wanted: Wanted) -> Work[Measured]:
    """Profile a discovery on each device, and keep the result for later visits.

    The work raises a UserError where the model cannot be loaded or used.
    """

    def measure(report: Report) -> Measured:
        if demo_limits() is not None:
            raise UserError(NOT_HERE)
        from dsae_core.profiling import profile_discovery
        from dsae_core.scaling import measure_scaling

        def follow(stage: str, fraction: float) -> None:
            report(WORDS.get(stage, stage), fraction)

        profiles = []
        for device in devices():
            model = _model_on(device, wanted.model, report)
            pairs = TASKS[TASK].make(model.tokenizer, EXAMPLES, SEED)
            profile = profile_discovery(
                model,
                pairs,
                method=wanted.method,
                seed=SEED,
                compile_twins=wanted.compile_twins,
                progress=follow,
            )
            profiles.append(replace(profile, settings={**profile.settings, "device": device}, machine=facts()))
        if wanted.growth:
            profiles[0] = replace(profiles[0], scaling=measure_scaling(progress=follow))
        return Measured(tuple(profiles), _keep(profiles))

    return measure


def _model_on(device: str, name: str, report: Report) -> Any:
    return loaded_model(name, report) if device == "cpu" else load_model(name, device=device, progress=report)


def document(profiles: Sequence[Profile]) -> dict[str, Any]:
    """The JSON form of what was measured."""
    return {"schema": 1, "profiles": [profile.to_dict() for profile in profiles]}


def kept_file() -> Path:
    """Where the last profile of this server is."""
    return data_dir() / "profile.json"


def _keep(profiles: Sequence[Profile]) -> str:
    """Keep the profiles in place of the last ones; "" or a sentence on why that was not possible."""
    try:
        kept_file().parent.mkdir(parents=True, exist_ok=True)
        write_atomic(kept_file(), json.dumps(document(profiles)) + "\n")
    except (OSError, UserError) as error:
        return f"This profile was not kept for later visits. {error}"
    return ""


def latest() -> tuple[Measured | None, str]:
    """What to show, and a sentence on what is wrong, "" where nothing is.

    That is the last profile of this server, or this session's where that could not be kept; None before the first.
    """
    own: Measured | None = state.latest_side(NAME)
    if own is not None and own.problem:
        return own, own.problem
    if not kept_file().exists():
        return None, ""
    try:
        return Measured(parse(read_text(kept_file(), "the last profile"))), ""
    except UserError as error:
        return own, f"{faults.told(error)} Measure now writes it anew."


def parse(text: str) -> tuple[Profile, ...]:
    """The profiles of document(), back from JSON.

    Raises:
        UserError: it is not such a document, or one of another version.
    """
    try:
        found = tuple(_profile(fields) for fields in json.loads(text, parse_constant=_refuse)["profiles"])
        if not found:
            raise ValueError("it is empty")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError("The last profile is damaged, or was made by another version of dsae-core.") from error
    return found


def _profile(fields: Mapping[str, Any]) -> Profile:
    from dsae_core import profiling, rivals, roofline, scaling

    if fields["schema"] != profiling.SCHEMA:
        raise ValueError("another version")
    scalings = ({**item, "points": tuple((int(n), float(t)) for n, t in item["points"])} for item in fields["scaling"])
    found = profiling.Profile(
        settings=dict(fields["settings"]),
        machine=dict(fields["machine"]),
        ceilings=tuple(_made(roofline.Ceilings, item) for item in fields["ceilings"]),
        stages=tuple(_made(profiling.StageTime, item) for item in fields["stages"]),
        kernels=tuple(_made(roofline.KernelTime, item) for item in fields["kernels"]),
        rivals=tuple(_made(rivals.RivalTime, item) for item in fields["rivals"]),
        scaling=tuple(_made(scaling.Scaling, item) for item in scalings),
        launches=tuple(dict(item) for item in fields["launches"]),
    )
    _check(found)
    return found


def _check(found: Profile) -> None:
    """That the page can draw it: ValueError, TypeError or KeyError where it cannot."""
    rates = [rate for ceiling in found.ceilings for rate in (ceiling.copy_gb_s, ceiling.matmul_gflop_s)]
    rates += [rate for kernel in found.kernels if kernel.flops for rate in (kernel.gflop_s, kernel.intensity)]
    if not found.stages or min(rates, default=1.0) <= 0:
        raise ValueError("nothing can take no time")
    datetime.fromisoformat(found.settings["date"])
    charts.kernel_frame([found])
    charts.rivals_frame(found.rivals)
    for item in found.scaling:
        charts.scaling_frame(item)
    machine_rows(found.machine)


def _made(kind: type[T], fields: Mapping[str, Any]) -> T:
    """A dataclass whose fields have the types that it says."""
    made = kind(**fields)
    for name, hint in get_type_hints(kind).items():
        if get_origin(hint) is not tuple and not isinstance(getattr(made, name), hint):
            raise TypeError(f"{name} has the wrong type")
    return made


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no measurement")


def machine_rows(machine: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(fact, value) of machine_facts(), in words."""
    build = machine.get("build") or {}
    cuda = build.get("cuda_version")
    archs = ", ".join(map(str, build.get("cuda_archs") or ()))
    rows = [
        ("Processor", machine.get("processor")),
        ("Cores", machine.get("cores")),
        ("Threads of torch", machine.get("threads")),
        ("Vector instructions of torch", _instructions(machine.get("vector_instructions"))),
        ("Memory", f"{machine['memory_gib']} GiB" if "memory_gib" in machine else None),
        ("CUDA device", machine.get("gpu") or "none"),
        ("CUDA operators", f"built with CUDA {cuda} for {archs}" if cuda else "not built"),
        (
            "Operators compiled by",
            f"{build.get('compiler')} {build.get('compiler_version')}, {build.get('build_type')}",
        ),
        ("Vector instructions of the operators", _instructions(build.get("isa") or machine.get("isa"))),
        ("torch", machine.get("torch")),
        ("Python", machine.get("python")),
        ("System", machine.get("system")),
    ]
    return [(fact, str(value)) for fact, value in rows if value is not None]


def _instructions(name: Any) -> Any:
    """An instruction set as its makers write it; torch and the operators have names of their own for them."""
    return {"avx512": "AVX-512", "avx2": "AVX2"}.get(str(name).lower(), name)
