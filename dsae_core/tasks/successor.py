"""Successor: the day or month that follows (Gould et al. 2023, "Successor heads", arXiv 2312.09230).

"If today is Monday, then tomorrow is" -> " Tuesday". In the negative a word that has no successor stands there.
"""

from __future__ import annotations

import random

from dsae_core.errors import UserError
from dsae_core.prompts import PromptPairs
from dsae_core.tasks.draw import Row, draw_pairs
from dsae_core.tasks.vocabulary import Tokenizer, single_token_words

DAY_TEMPLATES = (
    "If today is {item}, then tomorrow is",
    "They left on a {item} and arrived the day after, on a",
)
MONTH_TEMPLATES = (
    "If this month is {item}, then next month is",
    "They began in {item} and finished one month later, in",
)
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
OTHERS = "special cold quiet normal free lovely great holiday vacation secret busy sunny".split()


def successor(
    tokenizer: Tokenizer,
    n: int,
    seed: int,
    day_templates: tuple[str, ...] = DAY_TEMPLATES,
    month_templates: tuple[str, ...] = MONTH_TEMPLATES,
) -> PromptPairs:
    """Draw n prompt pairs, days and months in turn; the metric is the next one's logit less the best other one's.

    Args:
        tokenizer: the model's.
        n: number of pairs.
        seed: of the draw.
        day_templates: sentence frames with {item} for days.
        month_templates: likewise for months.

    Raises:
        UserError: n is not positive, or the tokenizer splits a day or a month.
    """
    others = single_token_words(tokenizer, OTHERS)
    if not others or len(single_token_words(tokenizer, DAYS + MONTHS)) < len(DAYS + MONTHS):
        raise UserError("This model's tokenizer splits days or months, so the successor task cannot be drawn.")

    def make_row(rng: random.Random, number: int) -> Row:
        items, templates = (MONTHS, month_templates) if number % 2 else (DAYS, day_templates)
        template, at = rng.choice(templates), rng.randrange(len(items))
        answer = items[(at + 1) % len(items)]
        rest = tuple(f" {item}" for item in items if item != answer)
        return template.format(item=items[at]), template.format(item=rng.choice(others)), (f" {answer}",), rest

    return draw_pairs("successor", "logit_difference", n, seed, make_row)
