"""The golden run: scores that the tests compare with what the program gives today.

    python benchmarks/golden.py              write tests/data/golden/*.json anew
    python benchmarks/golden.py --show tiny  print one record, for a process under other conditions to compare

Writing them anew is saying that the scores were meant to change.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dsae_core.discovery import discover
from dsae_core.files import write_atomic
from dsae_core.models import LanguageModel, adapt, load_model
from dsae_core.prompts import PromptPairs
from dsae_core.settings import METHODS
from dsae_core.tasks import TASKS

FOLDER = Path(__file__).parents[1] / "tests" / "data" / "golden"
NAMES = ("tiny", "smollm2-135m")
OPTIONS: dict[str, dict[str, int]] = {"positional": {}, "paper": {"epochs": 5}}
"""The paper's 500 steps carry a difference in the last digit to other codes (docs/method.md); five do not."""
NAME_WORDS = "Mary John Anna Paul Rosa Omar".split()
TOLERANCE = {"tiny": 5e-2, "smollm2-135m": 1e-2}
"""How far a score may be off, as a share of the largest one.

Another instruction set changes sums in their last digits, and a row that lies between two features falls to the other.
Measured: 2.4 % of the largest score in the tiny model, 0.2 % in the default one; another seed changes 20 % and 4 %.
"""


def golden_model() -> LanguageModel:
    """Three layers of four heads whose weights come from a seeded generator, one token a word."""
    words = ["<unk>", *NAME_WORDS, *"and met so gave a drink to".split()]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        attn_implementation="eager",
    )
    module = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in sorted(module.named_parameters()):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return adapt(module, PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>"), "tiny")


def golden_pairs() -> PromptPairs:
    """Six pairs whose negatives name a third person."""
    trios = [(NAME_WORDS[i], NAME_WORDS[(i + 1) % 6], NAME_WORDS[(i + 3) % 6]) for i in range(6)]
    return PromptPairs(
        positive=tuple(f"{a} and {b} met so {b} gave a drink to" for a, b, _ in trios),
        negative=tuple(f"{a} and {b} met so {c} gave a drink to" for a, b, c in trios),
    )


def golden_case(name: str) -> tuple[LanguageModel, PromptPairs]:
    """The model and the prompts of a golden run: the tiny ones, or the default model's IOI, 10 + 10, seed 0."""
    if name == "tiny":
        return golden_model(), golden_pairs()
    model = load_model(name)
    return model, TASKS["ioi"].make(model.tokenizer, 10, 0)


def golden_record(name: str, model: LanguageModel, pairs: PromptPairs, *, seed: int = 0) -> dict[str, Any]:
    """What is stored of a golden run: every head's score of both methods, to the digits that a float32 has."""
    prompts = json.dumps(pairs.to_dict(), sort_keys=True).encode()
    runs = {method: discover(model, pairs, method=method, seed=seed, **OPTIONS[method]) for method in METHODS}
    return {
        "name": name,
        "model_digest": model.digest,
        "prompts_sha256": hashlib.sha256(prompts).hexdigest(),
        "tolerance": TOLERANCE[name],
        "settings": {method: dict(run.settings) for method, run in runs.items()},
        "scores": {method: run.to_dict()["node_scores"] for method, run in runs.items()},
        "versions": dict(next(iter(runs.values())).provenance["versions"]),
    }


def main() -> None:
    """Write the records, or print one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", choices=NAMES, help="print this record and write nothing")
    shown = parser.parse_args().show
    for name in NAMES if shown is None else (shown,):
        record = golden_record(name, *golden_case(name))
        if shown is not None:
            json.dump(record, sys.stdout)
        else:
            print(f"written: {write_atomic(FOLDER / f'{name}.json', json.dumps(record, indent=1) + chr(10))}")


if __name__ == "__main__":
    main()
