"""Kubernetes and Istio manifests: valid, unknown fields failing, and the mesh allows what the design draws."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grpc_health.v1.health import OVERALL_HEALTH

from services.common.health import LIVENESS

with warnings.catch_warnings():
    # The schema packages themselves warn at import; what they say about our files is what counts.
    warnings.simplefilter("ignore")
    import kubernetes_validate
    from cloudcoil.models.istio.networking import v1 as networking
    from cloudcoil.models.istio.security import v1 as security

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES_VERSION = "1.34"
PROCESSES = {"edge", "auth", "queue", "inventory", "inventory-worker", "notify"}
MODELS = {
    "security.istio.io/v1": security,
    "networking.istio.io/v1": networking,
}

Document = dict[str, Any]


def documents(folder: str) -> Iterator[tuple[str, Document]]:
    for file in sorted((DEPLOY / folder).glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            if document["kind"] != "Kustomization":
                yield f"{file.name}:{document['kind']}:{document['metadata']['name']}", document


def of_kind(folder: str, kind: str) -> dict[str, Document]:
    return {d["metadata"]["name"]: d for _, d in documents(folder) if d["kind"] == kind}


def parametrized(folder: str) -> pytest.MarkDecorator:
    found = list(documents(folder))
    return pytest.mark.parametrize("document", [d for _, d in found], ids=[name for name, _ in found])


def unknown_fields(given: Any, known: Any, at: str = "") -> list[str]:
    """Paths of `given` that the model dropped: it ignores what it does not know."""
    if isinstance(given, dict):
        if not isinstance(known, dict):
            return [at]
        return [
            path
            for key, value in given.items()
            for path in (unknown_fields(value, known[key], f"{at}.{key}") if key in known else [f"{at}.{key}"])
        ]
    if isinstance(given, list):
        return [
            path
            for number, (mine, theirs) in enumerate(zip(given, known, strict=True))
            for path in unknown_fields(mine, theirs, f"{at}[{number}]")
        ]
    return []


def check_istio(document: Document) -> list[str]:
    model = getattr(MODELS[document["apiVersion"]], document["kind"])
    parsed = model.model_validate(document)
    return unknown_fields(document, parsed.model_dump(by_alias=True, exclude_none=True, mode="json"))


def check_kubernetes(document: Document) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the validator's own imports
        # A missing schema is a warning there; the suite turns that into a failure here.
        kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)


@parametrized("k8s")
def test_kubernetes_manifest_is_valid(document: Document) -> None:
    check_kubernetes(document)
    assert document["apiVersion"]


def test_control_an_unknown_kubernetes_field_fails() -> None:
    deployment = of_kind("k8s", "Deployment")["edge"]
    deployment["spec"]["replica"] = 3
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        check_kubernetes(deployment)


@parametrized("istio")
def test_istio_manifest_is_valid(document: Document) -> None:
    assert check_istio(document) == []


def test_control_an_unknown_istio_field_fails() -> None:
    rule = of_kind("istio", "DestinationRule")["edge"]
    rule["spec"]["trafficPolicy"]["loadBalancr"] = {"simple": "LEAST_REQUEST"}
    assert check_istio(rule) == [".spec.trafficPolicy.loadBalancr"]


@pytest.mark.parametrize("folder", ["k8s", "istio"])
def test_kustomization_names_every_file(folder: str) -> None:
    kustomization = yaml.safe_load((DEPLOY / folder / "kustomization.yaml").read_text())
    files = {f.name for f in (DEPLOY / folder).glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files


def test_every_process_is_deployed_with_probes_resources_and_no_privileges() -> None:
    deployments = of_kind("k8s", "Deployment")
    assert set(deployments) == PROCESSES
    for name, deployment in deployments.items():
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container), name
        assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
        assert container["securityContext"]["readOnlyRootFilesystem"], name
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["serviceAccountName"] == name


def test_a_pod_is_restarted_for_its_own_faults_only_and_used_while_all_it_needs_answers() -> None:
    for name, deployment in of_kind("k8s", "Deployment").items():
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        alive, ready = container["livenessProbe"], container["readinessProbe"]
        if name == "edge":
            assert (alive["httpGet"]["path"], ready["httpGet"]["path"]) == ("/livez", "/readyz")
        else:
            assert (alive["grpc"]["service"], ready["grpc"].get("service", "")) == (LIVENESS, OVERALL_HEALTH), name


def test_the_worker_role_is_what_the_process_understands() -> None:
    deployment = of_kind("k8s", "Deployment")["inventory-worker"]
    assert deployment["spec"]["template"]["spec"]["containers"][0]["args"] == ["services.inventory", "worker"]


def test_plain_text_is_refused_in_the_namespace() -> None:
    assert of_kind("istio", "PeerAuthentication")["default"]["spec"]["mtls"]["mode"] == "STRICT"


def arrows() -> set[tuple[str, str]]:
    """(caller, callee) pairs that the mesh allows."""
    found = set()
    for policy in of_kind("istio", "AuthorizationPolicy").values():
        spec = policy["spec"]
        callee = spec.get("selector", {}).get("matchLabels", {}).get("app.kubernetes.io/name", "*")
        for rule in spec.get("rules", []):
            for source in rule["from"]:
                found |= {(p.rsplit("/", 1)[1], callee) for p in source["source"]["principals"]}
    return found


def test_the_mesh_allows_the_arrows_of_the_architecture_and_no_others() -> None:
    assert of_kind("istio", "AuthorizationPolicy")["default-deny"]["spec"] == {}
    assert arrows() == {
        ("istio-ingressgateway-service-account", "edge"),
        ("edge", "auth"),
        ("edge", "queue"),
        ("edge", "inventory"),
        ("edge", "notify"),
        ("queue", "auth"),
        ("inventory", "auth"),
        ("notify", "auth"),
        ("queue", "inventory"),
        ("prometheus", "*"),
    }


def test_only_the_edge_may_reserve_in_batches() -> None:
    rules = of_kind("istio", "AuthorizationPolicy")["inventory"]["spec"]["rules"]
    for rule in rules:
        callers = rule["from"][0]["source"]["principals"]
        paths = rule["to"][0]["operation"]["paths"]
        if callers != ["cluster.local/ns/boxoffice/sa/edge"]:
            assert paths == [
                "/boxoffice.inventory.v1.EventService/GetEvent",
                "/boxoffice.inventory.v1.ShopService/GetShopHealth",
            ]


def test_every_callee_is_balanced_by_least_request_and_retries_stay_with_the_clients() -> None:
    rules = of_kind("istio", "DestinationRule")
    assert set(rules) == PROCESSES - {"inventory-worker"}
    assert {r["spec"]["trafficPolicy"]["loadBalancer"]["simple"] for r in rules.values()} == {"LEAST_REQUEST"}
    for service in of_kind("istio", "VirtualService").values():
        assert {route["retries"]["attempts"] for route in service["spec"]["http"]} == {0}


def test_the_gateway_checks_access_tokens() -> None:
    (authentication,) = of_kind("istio", "RequestAuthentication").values()
    assert authentication["spec"]["jwtRules"][0]["issuer"] == "boxoffice"
