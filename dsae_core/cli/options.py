"""What the commands share: their options, and how options become models, prompts and targets."""

from __future__ import annotations

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

ModelOption = Annotated[str, typer.Option("--model", help="A known name, a hub name, or a local folder.")]
TaskOption = Annotated[
    str | None,
    typer.Option("--task", help="A built-in task: ioi, greater_than, docstring, induction, pronoun, successor."),
]
PromptsOption = Annotated[
    Path | None,
    typer.Option("--prompts", help="CSV: positive,negative[,answer,distractor], in place of a task."),
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


def prompt_pairs(model: LanguageModel, task: str | None, prompts: Path | None, examples: int, seed: int) -> PromptPairs:
    from dsae_core.tasks import TASKS, read_pairs_csv

    if (task is None) == (prompts is None):
        raise UserError("Give either --task or --prompts.")
    if prompts is not None:
        return read_pairs_csv(read_text(prompts, "the prompts file"))
    if task is None or task not in TASKS:
        raise UserError(f"There is no task {task!r}; choose one of {', '.join(TASKS)}.")
    return TASKS[task].make(model.tokenizer, examples, seed)


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
