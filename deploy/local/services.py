"""Boxoffice's own processes, declared as data: what each is started with, and after what."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence

from deploy.local import readiness
from deploy.local.paths import ROOT
from deploy.local.site import ProcessSpec, Site, draw_secret, hmac_key_ring, rsa_key

# Separate numbered databases: one service cannot come to lean on another's keys unnoticed.
_REDIS_DATABASES = {"auth": 0, "queue": 1, "inventory": 2, "notify": 3, "edge": 4}

Environment = Callable[[Site], Mapping[str, str]]


def _common(site: Site, process: str) -> dict[str, str]:
    """Returns what every process of Boxoffice is given. Secrets are given only to those that need them."""
    service = process.partition("-")[0]
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT / "generated"),
        "BOXOFFICE_GRPC_LISTEN": site.address(process, "grpc"),
        "BOXOFFICE_METRICS_LISTEN": site.address(process, "metrics"),
        "BOXOFFICE_REDIS_URL": site.redis_url(_REDIS_DATABASES[service]),
        "BOXOFFICE_EVENTLOG_URL": site.eventlog_url(),
        "BOXOFFICE_AUTH_TARGET": site.address("auth", "grpc"),
        "BOXOFFICE_QUEUE_TARGET": site.address("queue", "grpc"),
        "BOXOFFICE_INVENTORY_TARGET": site.address("inventory", "grpc"),
        "BOXOFFICE_NOTIFY_TARGET": site.address("notify", "grpc"),
    }


def _auth(site: Site) -> dict[str, str]:
    return {
        "BOXOFFICE_MYSQL_URL": site.mysql_url("boxoffice_auth"),
        "BOXOFFICE_SIGNING_KEY_FILE": str(site.secret("signing-key.pem", rsa_key)),
    }


def _admission_keys(site: Site) -> dict[str, str]:
    return {"BOXOFFICE_ADMISSION_KEYS": site.secret("admission-keys", hmac_key_ring).read_text()}


def _queue(site: Site) -> dict[str, str]:
    return {
        **_admission_keys(site),
        "BOXOFFICE_PLACE_KEYS": site.secret("place-keys", hmac_key_ring).read_text(),
        "BOXOFFICE_DRAW_SECRET": site.secret("draw-secret", draw_secret).read_text(),
        # A ring of 32-byte keys is one of Ed25519 seeds, too.
        "BOXOFFICE_RECEIPT_KEYS": site.secret("receipt-keys", hmac_key_ring).read_text(),
    }


def _inventory(site: Site) -> dict[str, str]:
    return {**_admission_keys(site), "BOXOFFICE_MYSQL_URL": site.mysql_url("boxoffice_inventory")}


def _notify(site: Site) -> dict[str, str]:
    return {
        "BOXOFFICE_SNS_ENDPOINT_URL": f"http://{site.address('sns', 'http')}",
        "BOXOFFICE_PUBLIC_URL": f"http://{site.address('edge', 'http')}",
        # The stand-in for SNS takes any credentials, but the client insists on having some.
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": "ap-northeast-2",
    }


def _edge(site: Site) -> dict[str, str]:
    return {
        "BOXOFFICE_HTTP_LISTEN": site.address("edge", "http"),
        # The demo and the bench are crowds of one machine; each buyer says by X-Forwarded-For which address they have.
        "BOXOFFICE_TRUSTED_PROXIES": "127.0.0.0/8",
    }


def _edge_ready(site: Site) -> None:
    readiness.http_ok(site.port("edge", "http"), "/readyz")


def _process(
    name: str,
    arguments: Sequence[str],
    own: Environment,
    after: tuple[str, ...],
    ready: Callable[[Site], None] | None = None,
) -> ProcessSpec:
    return ProcessSpec(
        name,
        command=lambda _: [sys.executable, "-m", *arguments],
        environment=lambda site: {**_common(site, name), **own(site), **site.settings},
        ready=ready or (lambda site: readiness.grpc_serving(site.port(name, "grpc"))),
        after=after,
    )


_LOG = ("valkey", "kafka")  # whichever of the two carries the event log

SERVICES = (
    _process("auth", ["services.auth"], _auth, ("mariadb", "valkey")),
    _process("inventory", ["services.inventory"], _inventory, (*_LOG, "mariadb", "auth")),
    # After the API: both migrate the same database, and the first one does the work.
    _process("inventory-worker", ["services.inventory", "worker"], _inventory, (*_LOG, "mariadb", "inventory")),
    _process("queue", ["services.queue"], _queue, (*_LOG, "auth", "inventory")),
    _process("notify", ["services.notify"], _notify, (*_LOG, "sns", "auth")),
    _process("edge", ["edge"], _edge, ("auth", "queue", "inventory", "notify"), _edge_ready),
)
