"""Fixtures: a tiny random model that loads at once, and the default model, loaded once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dsae_core.models import LanguageModel, adapt, last_logits, load_model, tokenize
from dsae_core.prompts import PromptPairs
from dsae_core.tasks import answer_tokens, task_metric

WORDS = ["<unk>", *"the cat dog saw ran and Mary John Anna gave to it a b c d".split()]


@pytest.fixture(scope="session")
def _all_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(autouse=True)
def _data_of_its_own(_all_data: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that a test finishes are kept away from the user's own, and from another test's."""
    monkeypatch.setenv("DSAE_DATA", str(_all_data / f"{abs(hash(request.node.nodeid)):x}"))


@pytest.fixture(autouse=True)
def _promise(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> None:
    """The promise a test proves goes into the JUnit report, where `make trust` reads it."""
    marker = request.node.get_closest_marker("promise")
    if marker is not None:
        record_property("promise", marker.args[0])


@pytest.fixture(scope="session")
def tiny_model() -> LanguageModel:
    """Two layers of four heads, random weights, one token a word."""
    fast = FastTokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    fast.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="<unk>")
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    module = LlamaForCausalLM(config)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return adapt(module, tokenizer, "tiny")


@pytest.fixture(scope="session")
def tiny_pairs() -> PromptPairs:
    """Three pairs whose negatives change the third word."""
    return PromptPairs(
        positive=("Mary and Mary gave it to", "John and John gave it to", "Anna and Anna gave it to"),
        negative=("Mary and John gave it to", "John and Anna gave it to", "Anna and Mary gave it to"),
        answer=((" Mary",), (" John",), (" Anna",)),
        distractor=((" John",), (" Anna",), (" Mary",)),
    )


@pytest.fixture(scope="session")
def solved_pairs(tiny_model: LanguageModel, tiny_pairs: PromptPairs) -> PromptPairs:
    """The same with answers such that the metric is higher on positives than on negatives, as for a solved task."""
    batch = tokenize(tiny_model, [*tiny_pairs.positive, *tiny_pairs.negative])
    metric = task_metric(
        last_logits(tiny_model, batch.ids, batch.mask), answer_tokens(tiny_model.tokenizer, tiny_pairs)
    )
    if metric[:3].mean() > metric[3:].mean():
        return tiny_pairs
    return PromptPairs(tiny_pairs.positive, tiny_pairs.negative, tiny_pairs.distractor, tiny_pairs.answer)


@pytest.fixture(scope="session")
def smollm2() -> LanguageModel:
    """The default model."""
    return load_model("smollm2-135m")
