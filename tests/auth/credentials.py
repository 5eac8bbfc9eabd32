"""What the tests of auth sign in with."""

import argon2

PASSWORD = "correct horse"


def cheap_hasher(passes: int = 1) -> argon2.PasswordHasher:
    """Hashing that costs next to nothing, for tests that are not about its cost."""
    return argon2.PasswordHasher(time_cost=passes, memory_cost=64, parallelism=1)
