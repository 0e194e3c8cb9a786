"""Single tokens as text: whole characters as they are, and bytes of broken ones written out."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from dsae_core.models.token_text import token_text


def byte_level(*merges: tuple[str, str]) -> PreTrainedTokenizerFast:
    """GPT-2's kind: every byte is a token, and so is what merges make."""
    tokens = [*pre_tokenizers.ByteLevel.alphabet(), *("".join(merge) for merge in merges)]
    fast = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, list(merges)))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=fast)


def sentence_piece() -> PreTrainedTokenizerFast:
    """Llama 2's kind: words with their space before them, bytes for everything else."""
    pieces = [("<unk>", 0.0), ("▁a", -1.0), ("▁", -2.0), *((f"<0x{byte:02X}>", -9.0) for byte in range(256))]
    fast = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    fast.pre_tokenizer = pre_tokenizers.Metaspace()
    fast.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="<unk>")


def texts(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    return [token_text(tokenizer, token) for token in tokenizer(text)["input_ids"]]


def test_whole_characters_are_themselves() -> None:
    assert texts(byte_level(("Ã", "©"), ("Ġ", "a")), "é a\n") == ["é", " a", "\n"]
    assert texts(sentence_piece(), "a a") == [" a", " a"]


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_that_is_no_character_is_written_out(byte: int) -> None:
    tokenizer = byte_level()
    expected = chr(byte) if byte < 128 else f"⟨{byte:02X}⟩"
    assert token_text(tokenizer, tokenizer.convert_tokens_to_ids(bytes_to_unicode()[byte])) == expected
    fallback = sentence_piece()
    assert token_text(fallback, fallback.convert_tokens_to_ids(f"<0x{byte:02X}>")).strip() == expected.strip()


def test_bytes_beside_one_another_and_beside_text() -> None:
    assert texts(byte_level(("â", "Ģ")), "\u201ca\u201d") == ["⟨E2 80⟩", "⟨9C⟩", "a", "⟨E2 80⟩", "⟨9D⟩"]
    assert texts(byte_level(("Ġ", "â")), " \u201c") == [" ⟨E2⟩", "⟨80⟩", "⟨9C⟩"]
    assert texts(byte_level(("ľ", "a")), "\u201ca") == ["⟨E2⟩", "⟨80⟩", "⟨9C⟩a"]


def test_a_replacement_character_that_somebody_wrote_stays() -> None:
    assert texts(byte_level(("ï", "¿"), ("ï¿", "½")), "\ufffd") == ["\ufffd"]
