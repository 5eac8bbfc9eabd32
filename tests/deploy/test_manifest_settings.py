"""Every process of the manifests gets all the settings that it needs, and none that only a developer's machine has."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local.site import draw_secret, hmac_key_ring, rsa_key
from edge.app import backends_of
from edge.settings import settings_for
from edge.transcode import contract
from services.auth.settings import AuthSettings
from services.common.settings import CommonSettings
from services.inventory.settings import InventorySettings
from services.notify.settings import NotifySettings
from services.queue.settings import QueueSettings

K8S = Path(__file__).parents[2] / "deploy" / "k8s"
SETTINGS: dict[str, type[CommonSettings]] = {
    "edge": settings_for(backends_of(contract.load(contract.read_descriptors()))),
    "auth": AuthSettings,
    "queue": QueueSettings,
    "inventory": InventorySettings,
    "inventory-worker": InventorySettings,
    "notify": NotifySettings,
}
# What an installation keeps in its secret, by the keys of README.md.
SECRETS = {
    "redis-url": "redis://user:password@redis:6379/0",
    "lease-urls": "redis://a:6379/0,redis://b:6379/0,redis://c:6379/0",
    "auth-mysql-url": "mysql://user:password@mysql:3306/boxoffice_auth",
    "inventory-mysql-url": "mysql://user:password@mysql:3306/boxoffice_inventory",
    "place-keys": hmac_key_ring(),
    "draw-secret": draw_secret(),
    "receipt-keys": hmac_key_ring(),
    "admission-keys": hmac_key_ring(),
}
PREFIX = "BOXOFFICE_"
every_process = pytest.mark.parametrize("name", SETTINGS)


def documents(kind: str) -> dict[str, Any]:
    found: Iterator[Any] = (each for file in K8S.glob("*.yaml") for each in yaml.safe_load_all(file.read_text()))
    return {each["metadata"]["name"]: each for each in found if each["kind"] == kind}


def environment(name: str) -> dict[str, str]:
    """What the process finds in its environment."""
    (container,) = documents("Deployment")[name]["spec"]["template"]["spec"]["containers"]
    maps = documents("ConfigMap")
    given = {key: value for source in container["envFrom"] for key, value in maps[_map(source)]["data"].items()}
    return given | {entry["name"]: _value(entry) for entry in container["env"]}


def _map(source: dict[str, Any]) -> str:
    return str(source["configMapRef"]["name"])


def _value(entry: dict[str, Any]) -> str:
    return str(entry["value"]) if "value" in entry else SECRETS[entry["valueFrom"]["secretKeyRef"]["key"]]


def missing(name: str, given: dict[str, str]) -> set[str]:
    """Settings without a default that the environment lacks."""
    required = {key for key, field in SETTINGS[name].model_fields.items() if field.is_required()}
    return {PREFIX + key.upper() for key in required} - set(given)


@every_process
def test_every_setting_without_a_default_is_given(name: str) -> None:
    assert missing(name, environment(name)) == set()


@every_process
def test_control_a_setting_that_is_not_given_is_found(name: str) -> None:
    given = environment(name)
    del given["BOXOFFICE_AUTH_TARGET" if name != "auth" else "BOXOFFICE_MYSQL_URL"]
    assert len(missing(name, given)) == 1


@pytest.fixture
def loaded(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CommonSettings:
    """The settings as the process reads them, with all their checks."""
    for key, value in environment(name).items():
        monkeypatch.setenv(key, value)
    (tmp_path / "keys.pem").write_text(rsa_key())
    if name == "auth":
        monkeypatch.setenv("BOXOFFICE_SIGNING_KEY_FILE", str(tmp_path / "keys.pem"))
    return SETTINGS[name]()


@every_process
def test_the_settings_pass_their_checks_and_none_points_to_the_machine_itself(
    name: str, loaded: CommonSettings
) -> None:
    local = {key for key, value in loaded if "127.0.0.1" in str(value) or "localhost" in str(value)}
    # The edge serves no gRPC.
    assert local == ({"grpc_listen"} if name == "edge" else set())


def test_secrets_are_the_ones_that_the_readme_names() -> None:
    readme = (K8S / "README.md").read_text()
    assert [key for key in SECRETS if f"`{key}`" not in readme] == []


def test_the_edge_believes_its_sidecar_alone_about_addresses() -> None:
    """Behind it is the gateway, and nobody else: a whole network of pods could each claim any address."""
    assert environment("edge")["BOXOFFICE_TRUSTED_PROXIES"] == "127.0.0.6, ::6"
    policies = yaml.safe_load_all((K8S.parent / "istio" / "authorization.yaml").read_text())
    (edge,) = (each for each in policies if each["metadata"]["name"] == "edge")
    sources = [
        principal
        for rule in edge["spec"]["rules"]
        for each in rule["from"]
        for principal in each["source"]["principals"]
    ]
    assert sources == ["cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account"]


def test_links_in_messages_lead_to_the_gateway() -> None:
    gateway = yaml.safe_load_all((K8S.parent / "istio" / "gateway.yaml").read_text())
    hosts = {host for each in gateway if each["kind"] == "VirtualService" for host in each["spec"]["hosts"]}
    assert environment("notify")["BOXOFFICE_PUBLIC_URL"] in {f"https://{host}" for host in hosts}
