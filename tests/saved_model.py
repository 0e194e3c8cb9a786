"""A small model in a folder that does the IOI task after a fashion, for what runs in processes of its own."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dsae_core.tasks.indirect_object import NAMES, PLACES, TEMPLATES, THINGS


def save_model(folder: Path, *, layers: int = 2, heads: int = 4, seed: int = 0) -> Path:
    """Write the model and its tokenizer, one token a word, as transformers does."""
    words = re.findall(r"\w+|[^\w\s]+", " ".join(re.sub(r"{\w+}", "", template) for template in TEMPLATES))
    vocabulary = list(dict.fromkeys(["<unk>", "and", *words, *NAMES, *PLACES, *THINGS]))
    fast = FastTokenizer(WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    fast.pre_tokenizer = Whitespace()
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=8 * heads,
        intermediate_size=16 * heads,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=64,
    )
    torch.manual_seed(seed)
    module = LlamaForCausalLM(config)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    attention = module.model.layers[0].self_attn
    with torch.no_grad():
        module.model.embed_tokens.weight.normal_()
        module.lm_head.weight.copy_(module.model.embed_tokens.weight)
        for norm in (module.model.layers[0].input_layernorm, module.model.norm):
            norm.weight.fill_(1.0)
        # Layer 0 looks everywhere alike and takes away what it finds, so a name that was said twice is less likely.
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.zero_()
        attention.v_proj.weight += torch.eye(config.hidden_size)
        attention.o_proj.weight -= 4 * torch.eye(config.hidden_size)
    module.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="<unk>").save_pretrained(folder)
    return folder
