"""The choice of one session among those of a model or a run."""

from collections.abc import Sequence

from ldmfilter.errors import InputError


def find_one(tiers: Sequence[Sequence[int]], what: str, whose: str) -> int:
    """The session that is meant.

    Args:
        tiers: positions of the sessions that fit, by one test each, the surest first; the first test that any session
            passes decides.
        what: the name of what was asked for.
        whose: the sessions to choose from, in words.

    Raises:
        InputError: no session fits, or several.
    """
    found = next((tier for tier in tiers if tier), [])
    if len(found) != 1:
        raise InputError(f"{what}: is {f'like {len(found)}' if found else 'none'} of {whose}; name one of them")
    return found[0]
