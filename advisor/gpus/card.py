"""One card told from another without naming it: what may be published and compared."""

from __future__ import annotations

import hashlib

_SALT = b"batchwave card"
_PREFIX = "card-"


def card_key(uuid: str) -> str:
    """A salted hash of a card's UUID (GPU-... or MIG-...): equal for equal cards, and of no other use.

    The salt is public and the same everywhere, so that records of one card made at different times agree. A UUID has
    122 random bits (RFC 9562, version 4): it cannot be searched for. A key is its own key.
    """
    if uuid.startswith(_PREFIX):
        return uuid
    return _PREFIX + hashlib.blake2b(uuid.lower().encode(), key=_SALT, digest_size=8).hexdigest()
