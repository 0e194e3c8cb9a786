"""What the commands share: their options, and how options become models, prompts and targets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from tqdm import tqdm

from dsae_core.errors import UserError
from dsae_core.files import read_text
from dsae_core.stages import Progress

if TYPE_CHECKING:
    from dsae_core.interventions import Ablation
    from dsae_core.models import LanguageModel
    from dsae_core.prompts import PromptPairs
    from dsae_core.tasks.vocabulary import Tokenizer

    PairsSource = Callable[[Tokenizer, int, int], PromptPairs]

TASK_NAMES = "ioi, greater_than, docstring, induction, pronoun, successor"
METHOD_NAMES = (
    "positional, paper, random, norm, paired_pooled, paired, paired_scaled, paired_flow, hisp, attribution, ig5, ig10, "
    "eap, subnetwork, acdc, patching"
)
"""What help says; the tables of tasks and of methods themselves would import torch."""

ModelOption = Annotated[str, typer.Option("--model", help="A known name, a hub name, or a local folder.")]
TaskOption = Annotated[
    str | None,
    typer.Option("--task", help=f"A built-in task: {TASK_NAMES}."),
]
PromptsOption = Annotated[
    Path | None,
    typer.Option("--prompts", help="In place of a task, a CSV file: positive,negative[,answer,distractor]."),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of the prompts and of the dictionary.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, or auto: spread over all GPUs, then the CPU.")]


class ProgressBar:
    """A terminal progress bar that follows stages; silent where standard error is no terminal."""

    def __enter__(self) -> ProgressBar:
        self._bar = tqdm(total=100, disable=None, leave=False, bar_format="{desc:<12}{bar} {percentage:3.0f} %")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, stage: str, fraction: float) -> None:
        self._bar.set_description_str(stage, refresh=False)
        self._bar.n = round(100 * fraction)
        self._bar.refresh()


def load(name: str, device: str, progress: Progress) -> LanguageModel:
    from dsae_core.models import load_model

    return load_model(name, device=device, progress=progress)


def pairs_source(task: str | None, prompts: Path | None) -> PairsSource:
    """What draws a command's prompt pairs: the task, or the file's pairs whatever is asked for.

    Anything wrong with them is said here, before torch is imported and a model is loaded.
    """
    check_one_source(task, prompts)
    if prompts is not None:
        pairs = read_prompts(prompts)
        return lambda *_: pairs
    from dsae_core.tasks import TASKS

    name = task or ""
    check_task(name)
    return TASKS[name].make


def check_one_source(tasks: str | None, prompts: Path | None) -> None:
    if (tasks is None) == (prompts is None):
        raise UserError("Give either --task or --prompts.")


def check_task(name: str) -> None:
    from dsae_core.tasks import TASKS

    if name not in TASKS:
        raise UserError(f"There is no task {name!r}; choose one of {', '.join(TASKS)}.")


def read_prompts(path: Path) -> PromptPairs:
    from dsae_core.tasks import read_pairs_csv

    return read_pairs_csv(read_text(path, "the prompts file"))


def ablation_named(name: str) -> Ablation:
    from dsae_core.interventions import ABLATIONS

    kind = next((known for known in ABLATIONS if known == name), None)
    if kind is None:
        raise UserError(f"There is no ablation {name!r}; choose one of {', '.join(ABLATIONS)}.")
    return kind


def check_target(path: Path | None) -> None:
    """Refuse a file that could not be written before any work is done for it."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise UserError(f"Cannot write {path}: it is a folder, or its folder does not exist.")


def check_figure(path: Path | None) -> None:
    """The same for a figure, whose name must end in .svg."""
    if path is not None:
        from dsae_core.figures import require_svg

        require_svg(path)
        check_target(path)


def listed(text: str) -> list[str]:
    """The names in text, separated by commas, each once."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UserError(f"{text!r} names nothing; give one or more names, separated by commas.")
    return names
