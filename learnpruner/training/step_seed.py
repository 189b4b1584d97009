"""The seed of a training step: a function of the run's seed and the batch, the same on every interpreter."""

from __future__ import annotations

MASK = 2**64 - 1
PRIME_1, PRIME_2, PRIME_5 = 11400714785074694791, 14029467366897019727, 2870177450012600261  # of xxHash64


def step_seed(seed: int, batch: int) -> int:
    """Mix the run's seed and a batch number into a seed for `torch.manual_seed`.

    The mixing is xxHash64's over the three words (seed, batch, 0), as CPython has hashed tuples since 3.8: runs of
    earlier versions, which called `hash`, drew the same numbers.

    Args:
        seed: of the run, 0 or more.
        batch: number of the batch among those of all processes.

    Returns:
        A number of 0 or more, below 2^63.
    """
    words = (seed, batch, 0)
    mixed = PRIME_5
    for word in words:
        mixed = (mixed + word * PRIME_2) & MASK
        mixed = (mixed << 31 | mixed >> 33) & MASK
        mixed = mixed * PRIME_1 & MASK
    mixed = (mixed + (len(words) ^ PRIME_5 ^ 3527539)) & MASK
    return (1546275796 if mixed == MASK else mixed) % 2**63
