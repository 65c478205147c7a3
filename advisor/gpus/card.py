"""One card told from another without naming it: what may be published and compared."""

from __future__ import annotations

import hashlib
import re


def card_key(uuid: str) -> str:
    """A salted hash of a card's UUID: equal for equal cards, and of no other use.

    NVML writes GPU-<uuid>, PyTorch the bare one, and a MIG slice has its own (MIG-...). The salt is public and the
    same everywhere, so that one card has one key in all shared records; that is safe as long as the 122 random bits of
    a UUID (RFC 9562, version 4) cannot be tried out. A key is its own key.
    """
    if re.fullmatch(r"card-[0-9a-f]{16}", uuid):
        return uuid
    bare = uuid.strip().lower().removeprefix("gpu-")
    return "card-" + hashlib.blake2b(bare.encode(), digest_size=8, salt=b"batchwave", person=b"card").hexdigest()
