"""Go on on the CPU where another device fails."""

from __future__ import annotations

import contextlib

import torch
from torch import nn

from dsae_core.errors import UserError
from dsae_core.models.adapter import adapt
from dsae_core.models.hub import first_line
from dsae_core.models.language_model import LanguageModel
from dsae_core.models.loading import load_model


def on_cpu(model: LanguageModel) -> LanguageModel:
    """The same weights on the CPU: loaded anew, as a lost device gives nothing back; else moved there.

    Raises:
        UserError: they cannot be loaded, and the device does not give them back.
    """
    if model.digest:
        with contextlib.suppress(UserError):
            again = load_model(model.name, dtype=model.module.dtype)
            if again.digest == model.digest:
                return again
    try:
        nn.Module.to(model.module, torch.device("cpu"))
    except RuntimeError as error:
        raise UserError(
            f"{model.name} was lost with its device ({first_line(error)}); load it again, with the device cpu."
        ) from error
    return adapt(model.module, model.tokenizer, model.name, model.digest)
