"""An attention-only transformer as TransformerLens defines it, in the form that transformers' models have."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class HookedConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """Sizes and variants of a `HookedModule`, under the names that transformers uses."""

    model_type = "hooked_transformer"
    vocab_size: int = 1
    hidden_size: int = 1
    num_hidden_layers: int = 1
    num_attention_heads: int = 1
    head_dim: int = 1
    max_position_embeddings: int = 1
    normalization: str | None = "LN"  # or "LNPre", which has no weights, or None
    layer_norm_eps: float = 1e-5
    attention_scale: float = 1.0  # what attention scores are divided by
    shortformer: bool = False  # whether positions reach only queries and keys


class HookedModule(PreTrainedModel):  # type: ignore[no-untyped-call]
    """Embedding, attention blocks, final norm and unembedding; no MLPs.

    Source: HookedTransformer of TransformerLens 2.18 with ``attn_only=True``. Weights are used as they are stored:
    nothing is folded or centred, so logits may differ from those of its ``from_pretrained`` by a constant at each
    position, and probabilities do not.
    """

    config_class = HookedConfig

    def __init__(self, config: HookedConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(HookedBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = make_norm(config)
        self.unembed = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> CausalLMOutput:
        """Logits [B, K, V] at the last K = `logits_to_keep` positions, or at all T of them where it is 0.

        Args:
            input_ids: token ids [B, T].
            attention_mask: [B, T], 0 on padding; everything counts where it is None.
            position_ids: [B, T]; the number of a prompt's own tokens before each one where it is None.
            logits_to_keep: K.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if position_ids is None:
            position_ids = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
        positions = self.embed_positions(position_ids)
        length = input_ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=input_ids.device).tril()
        allowed = causal & mask.bool()[:, None, None, :]  # [B, 1, T, T]
        hidden_states = self.embed_tokens(input_ids)
        if not self.config.shortformer:
            hidden_states, positions = hidden_states + positions, None
        for block in self.blocks:
            hidden_states = block(hidden_states, positions, allowed)
        hidden_states = self.norm(hidden_states[:, -logits_to_keep:])
        return CausalLMOutput(logits=self.unembed(hidden_states))


class HookedBlock(nn.Module):
    """residual + attention(norm(residual))."""

    def __init__(self, config: HookedConfig) -> None:
        super().__init__()
        self.norm = make_norm(config)
        self.self_attn = HookedAttention(config)

    def forward(self, hidden_states: Tensor, positions: Tensor | None, allowed: Tensor) -> Tensor:
        """The residual stream after the block, [B, T, D] like `hidden_states` before it.

        `positions` [B, T, D] are those of a shortformer, which adds them after the norm and only for queries and
        keys (Press et al. 2021, https://arxiv.org/abs/2012.15832, as TransformerLens does it); else None.
        `allowed` [B, 1, T, T] says which position (last axis) each position may attend to.
        """
        values = self.norm(hidden_states)
        queries_and_keys = values if positions is None else values + positions
        written: Tensor = self.self_attn(queries_and_keys, values, allowed)
        return hidden_states + written


class HookedAttention(nn.Module):
    """Multi-head attention whose output projection reads the heads' z side by side."""

    dsae_observe_attention: Callable[[Tensor, Tensor], None] | None = None
    """What `dsae_core.models.attention.OBSERVER` names: given weights [B, heads, T, T] and values [B, heads, T, d]."""

    def __init__(self, config: HookedConfig) -> None:
        super().__init__()
        self.n_heads: int = config.num_attention_heads
        self.scale: float = config.attention_scale
        width = config.num_attention_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width)
        self.k_proj = nn.Linear(config.hidden_size, width)
        self.v_proj = nn.Linear(config.hidden_size, width)
        self.o_proj = nn.Linear(width, config.hidden_size)

    def forward(self, queries_and_keys: Tensor, values: Tensor, allowed: Tensor) -> Tensor:
        """What all heads write together, [B, T, D], for inputs [B, T, D] and a mask [B, 1, T, T]."""
        q, k, v = (
            projection(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # [B, heads, T, d]
            for projection, x in (
                (self.q_proj, queries_and_keys),
                (self.k_proj, queries_and_keys),
                (self.v_proj, values),
            )
        )
        scores = q.float() @ k.float().mT / self.scale
        # Minus infinity would make the rows of padding NaN, which spreads through 0 * NaN to the tokens after it.
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=-1)
        if self.dsae_observe_attention is not None:
            self.dsae_observe_attention(weights, v)
        z = weights.to(v.dtype) @ v
        written: Tensor = self.o_proj(z.transpose(1, 2).flatten(-2))
        return written


def make_norm(config: HookedConfig) -> nn.Module:
    """LN centres, scales and applies weights; LNPre is the same without weights; None is nothing."""
    if config.normalization is None:
        return nn.Identity()
    affine = config.normalization == "LN"
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps, elementwise_affine=affine)
