"""Gendered pronouns (Mathwin et al. 2023, "Identifying a preliminary circuit for predicting gendered pronouns in
GPT-2 small").

"So Mary is a really great friend, isn't" -> " she". In the negative the name is one that men and women bear, so the
pronoun cannot be known.
"""

from __future__ import annotations

import random

from dsae_core.errors import UserError
from dsae_core.prompts import PromptPairs
from dsae_core.tasks.draw import Row, draw_pairs
from dsae_core.tasks.vocabulary import Tokenizer, single_token_words

TEMPLATES = (
    "So {name} is a really great {noun}, isn't",
    "Everyone says that {name} is a good {noun}, and I think that",
    "{lead} I met {name}, who is a {noun}, and I found that",
)
LEADS = ("Yesterday", "Recently", "Today")
WOMEN = """
    Mary Anna Patricia Jennifer Linda Elizabeth Barbara Susan Jessica Sarah Karen Lisa Nancy Sandra Emily Michelle
    Carol Amanda Melissa Laura Rebecca Sharon Amy Angela Helen Nicole Emma Kate Rachel Maria Diana Julia Alice Jane
""".split()
MEN = """
    John Tom James Robert Michael William David Richard Joseph Thomas Charles Daniel Matthew Anthony Mark Paul Steven
    Andrew George Edward Brian Kevin Jason Jeff Ryan Gary Eric Stephen Larry Scott Frank Jack Henry Peter Adam Simon
""".split()
NEUTRAL = "Alex Taylor Jordan Casey Morgan Robin Jamie Kim Lee Terry Pat Chris Sam Drew Kelly".split()
NOUNS = "friend teacher doctor singer writer student lawyer painter neighbour colleague manager cook driver".split()


def pronoun(tokenizer: Tokenizer, n: int, seed: int, templates: tuple[str, ...] = TEMPLATES) -> PromptPairs:
    """Draw n prompt pairs, women's and men's names in turn; the metric is one pronoun's logit less the other's.

    Args:
        tokenizer: the model's.
        n: number of pairs.
        seed: of the draw.
        templates: sentence frames with {name}, {noun} and, where wanted, {lead}.

    Raises:
        UserError: n is not positive, or the tokenizer splits nearly all of the words.
    """
    women, men, neutral, nouns = (single_token_words(tokenizer, words) for words in (WOMEN, MEN, NEUTRAL, NOUNS))
    if not (women and men and neutral and nouns):
        raise UserError("This model's tokenizer has too few one-token names for the pronoun task.")

    def make_row(rng: random.Random, number: int) -> Row:
        template, noun, lead = rng.choice(templates), rng.choice(nouns), rng.choice(LEADS)
        name, other = rng.choice(men if number % 2 else women), rng.choice(neutral)
        positive, negative = (template.format(name=who, noun=noun, lead=lead) for who in (name, other))
        answer, distractor = ((" he",), (" she",)) if number % 2 else ((" she",), (" he",))
        return positive, negative, answer, distractor

    return draw_pairs("pronoun", "logit_difference", n, seed, make_row)
