"""Constructs auth: the only place that does."""

import argon2
from boxoffice.auth.v1 import auth_service_pb2_grpc as rpc

from services.auth.api import AuthApi
from services.auth.authentication import Authentication, Registration
from services.auth.keys import SigningKeys
from services.auth.passwords import Passwords
from services.auth.settings import AccountSettings, AuthSettings
from services.auth.store import MIGRATIONS, Accounts, Sessions
from services.common import grpc_server
from services.common.clock import SystemClock
from services.common.lifecycle import Lifecycle
from services.common.migrations import migrate
from services.common.mysql import Database, open_database
from services.common.redis import open_redis
from services.common.tokens import TokenVerifier


async def wire(lifecycle: Lifecycle, settings: AuthSettings) -> int:
    """Starts everything of one auth process; answers the bound port."""
    keys = SigningKeys.read(settings.signing_key_file)
    redis = await lifecycle.enter(open_redis(settings.redis_url))
    database = await lifecycle.enter(open_database(settings.mysql_url))
    await migrate(database, MIGRATIONS)
    passwords = open_passwords(settings)
    lifecycle.defer(passwords.close)

    authentication = Authentication(
        accounts=Accounts(database),
        sessions=Sessions(redis, settings.session_lifetime),
        passwords=passwords,
        keys=keys,
        clock=SystemClock(),
        access_lifetime=settings.access_lifetime,
    )

    async def redis_answers() -> None:
        await redis.ping()

    lifecycle.ready_when("redis", redis_answers)
    lifecycle.ready_when("mysql", database.ping)
    registrations = [(rpc.add_AuthServiceServicer_to_server, AuthApi(authentication))]
    return await grpc_server.serve(lifecycle, settings, registrations, own_verifier(keys))


def open_passwords(settings: AccountSettings) -> Passwords:
    """Password hashing with the parameters of the settings."""
    hasher = argon2.PasswordHasher(
        time_cost=settings.argon2_passes, memory_cost=settings.argon2_memory_kib, parallelism=settings.argon2_lanes
    )
    return Passwords(hasher, settings.argon2_threads, settings.argon2_waiting)


def own_verifier(keys: SigningKeys) -> TokenVerifier:
    """Verifies access tokens with the keys of this process, without asking itself over the network."""

    async def own_keys() -> list[dict[str, str]]:
        return keys.jwks()

    return TokenVerifier(own_keys)


def registration(database: Database, passwords: Passwords) -> Registration:
    """Making accounts without a running service."""
    return Registration(Accounts(database), passwords)
