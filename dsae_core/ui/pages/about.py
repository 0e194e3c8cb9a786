"""About: what the method computes, what it cannot do, where it comes from."""

from __future__ import annotations

import streamlit as st

from dsae_core.benchmark import ALL_METHODS
from dsae_core.limits import demo_limits
from dsae_core.ui import theme
from dsae_core.ui.comparison import explained

TEXT = """
# What this computes

You give pairs of prompts. A **positive** shows a behaviour: *When Mary and John went to the store, John gave a
drink to* is completed with *Mary*. Its **negative** is a near-copy for which the behaviour cannot happen: with
*Anna* in place of the second *John*, no name is repeated, so none can be ruled out. The question is which
attention heads of the model do the work.

1. **Collect.** The model reads all prompts once, forward only, and what every head writes is kept.
2. **Learn a dictionary.** A small sparse autoencoder learns the few directions that head outputs are made of.
3. **Encode.** Each head output becomes one integer, its **code**: the number of its strongest direction.
4. **Score.** A code that positives produce and no negative does is **unique**. Heads are ranked by how differently
   their codes read on the two sides, and by how much of that reaches the prediction.

No gradients, no ablations, and nobody needs to know the right answers.

## Two methods

**Positional** keeps all positions of a prompt, gives every head a dictionary of its own, and compares codes position
by position. A code stands for a direction, so two codes have a distance: a head scores by the distance between what its
codes say on a positive and on its negative, in each pair and on average over pairs. That counts as far as attention
carries it to the last position, and more the larger the head's share of the change there. **Edges** say how much of
that change passes straight from one head to a later one.

**Paper** is the method of O'Neill & Bui as published: a prompt's positions are pooled, all heads share one dictionary,
and a head's score is the number of its unique codes; its edges are pairs of heads whose unique codes come together. It
needs more prompts for the same accuracy.

## How to read a result

The **measured circuit** comes from exact patching: one head's output on the positive is replaced by its output on the
negative, and the change of the answer's score is measured with a bootstrap interval. Scores never see it.
**Precision** is the share of found heads that are in it, **recall** the share of it that was found.
The **threshold** starts where an estimated 20 % of the found heads are there by chance, their **false discovery
rate** (FDR); move it to trade precision for recall. The estimate needs no circuit: most heads have no part in a
behaviour, and the lower half of all scores says what such ordinary heads score. It is off where the two sides differ
in more than the behaviour.

## Comparing, keeping, sharing

**Compare** runs methods and baselines on the same prompts. Where a circuit was measured, ROC AUC is the chance that a
head of it outscores one outside it, and average precision the area under the precision-recall curve; elsewhere methods
are compared by the rank correlation of their scores. Two finished runs can be set against each other, head by head.
What each method scores a head by:

{methods}

**Runs** keeps every finished run {kept}. A run leaves
through *Share* (a link, or Python that repeats it) and *Export* (its data, its circuit, its charts), and comes back
through *Import*.

## Limits

- A score says that a head behaves differently on positives, not that the answer depends on it. Patch it to know.
- Heads that act the same on positives and negatives are invisible, however much the behaviour needs them.
- Anything else that differs between the two sides is found as well. Change as little as you can between them.
- Positive and negative must match token by token. Where they do not, positions are pooled and accuracy drops.
- Edges are shares of the change, not effects: path patching (`dsae ground-truth --edges`) measures those.
- MLP layers are not looked at.
- Few prompts give noisy codes. Another seed shows how much of a ranking is chance.

## Source

Charles O'Neill and Thang Bui, *Sparse Autoencoders Enable Scalable and Reliable Circuit Identification in Language
Models*, 2024, [arXiv 2405.12522](https://arxiv.org/abs/2405.12522).
"""


KEPT = "in one file on the computer that serves this page, for all who use it"
KEPT_DEMO = "for as long as your visit lasts, for you alone"


def page() -> None:
    """Draw the page."""
    theme.hide_sidebar()
    with st.container(key="prose"):
        kept = KEPT if demo_limits() is None else KEPT_DEMO
        st.markdown(TEXT.format(kept=kept, methods=explained(ALL_METHODS)))
