"""Load a language model, find its heads, collect and edit what they put out."""

from dsae_core.models.adapter import adapt, output_weights
from dsae_core.models.collect import (
    HeadOutputs,
    Routes,
    TokenBatch,
    collect_head_outputs,
    edit_head_outputs,
    last_logits,
    tokenize,
)
from dsae_core.models.language_model import HeadSite, LanguageModel, ModelTokenizer
from dsae_core.models.loading import load_model, stored_tokenizer
from dsae_core.models.registry import ModelInfo, available_models, fetch_model
from dsae_core.models.resume import record_block_outputs, resume_at

__all__ = [
    "HeadOutputs",
    "HeadSite",
    "LanguageModel",
    "ModelInfo",
    "ModelTokenizer",
    "Routes",
    "TokenBatch",
    "adapt",
    "available_models",
    "collect_head_outputs",
    "edit_head_outputs",
    "fetch_model",
    "last_logits",
    "load_model",
    "output_weights",
    "record_block_outputs",
    "resume_at",
    "stored_tokenizer",
    "tokenize",
]
