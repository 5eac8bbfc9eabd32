"""Rules of the house that no single module can keep: contracts, imports, generated code, names of metrics."""

import ast
import filecmp
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import pytest
from boxoffice.errors.v1 import reason_pb2
from boxoffice.options.v1 import options_pb2
from google.protobuf import descriptor_pb2

from services.common import errors
from services.common.grpc_channel import RETRY_POLICY
from services.common.interceptors import interceptors

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "generated"
REASONS = [name.removeprefix("REASON_") for name in reason_pb2.Reason.keys() if name != "REASON_UNSPECIFIED"]  # noqa: SIM118 - an enum wrapper is no mapping

# Domain modules by name, wherever they are: values, rules and errors. Beside them, everything in a `domain` folder.
DOMAIN_MODULES = {
    "domain.py",
    "policy.py",
    "refusals.py",
    "transitions.py",
    "seatmap.py",
    "picker.py",
    "draw.py",
    "forecast.py",
    "odds.py",
    "throughput.py",
    "snapshot.py",
    "place_in_digest.py",
}
# Repeating these is not harmless: each makes a session, an account, or spends a token.
NEVER_RETRIED = {"SignUp", "Login", "Refresh"}


def _contracts() -> descriptor_pb2.FileDescriptorSet:
    return descriptor_pb2.FileDescriptorSet.FromString((GENERATED / "boxoffice/descriptors.binpb").read_bytes())


def _rpcs() -> Iterator[tuple[str, descriptor_pb2.MethodDescriptorProto]]:
    for file in _contracts().file:
        for service in file.service:
            for method in service.method:
                yield f"{file.package}.{service.name}", method


RPCS = [pytest.param(service, method, id=f"{service}/{method.name}") for service, method in _rpcs()]


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_mapped_to_codes_that_fit_each_other(reason: str) -> None:
    told = errors.mapping(reason)
    assert told.title
    assert told.grpc_code in {code.value[0] for code in grpc.StatusCode} - {grpc.StatusCode.OK.value[0]}
    assert 400 <= told.http_status <= 599
    faults = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
    assert (told.http_status >= 500) == (told.grpc_code in {code.value[0] for code in faults})


def test_reasons_have_names_and_titles_of_their_own() -> None:
    titles = [errors.mapping(reason).title for reason in REASONS]
    assert len(set(REASONS)) == len(REASONS)
    assert len(set(titles)) == len(titles)


def _reasons_in_code() -> Iterator[tuple[Path, str]]:
    for path in _sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                yield from ((path, value) for value in _class_reasons(node))


def _class_reasons(node: ast.ClassDef) -> Iterator[str]:
    for statement in node.body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        value = getattr(statement, "value", None)
        if isinstance(target, ast.Name) and target.id == "reason" and isinstance(value, ast.Constant):
            yield str(value.value)


def test_every_typed_error_names_a_reason_of_the_catalogue() -> None:
    # The outcome of a call is no error; it begins as "OK".
    unknown = [(str(path), reason) for path, reason in _reasons_in_code() if reason not in {*REASONS, "OK"}]
    assert unknown == []


# --- contracts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("service", "method"), RPCS)
def test_every_rpc_says_who_may_call_it(service: str, method: descriptor_pb2.MethodDescriptorProto) -> None:
    policy = method.options.Extensions[options_pb2.policy]
    assert policy.access != options_pb2.ACCESS_UNSPECIFIED, f"{service}/{method.name} can be called by nobody"


@pytest.mark.parametrize(("service", "method"), RPCS)
def test_what_takes_an_idempotency_key_has_a_field_for_it(
    service: str, method: descriptor_pb2.MethodDescriptorProto
) -> None:
    policy = method.options.Extensions[options_pb2.policy]
    fields = {field.name: field for field in _message(method.input_type).field}
    if policy.idempotency == options_pb2.IDEMPOTENCY_KEY_REQUIRED:
        assert fields["idempotency_key"].options.Extensions[options_pb2.field].header == "Idempotency-Key", service
    else:
        assert "idempotency_key" not in fields, service


def _message(name: str) -> descriptor_pb2.DescriptorProto:
    messages = {
        f".{file.package}.{message.name}": message for file in _contracts().file for message in file.message_type
    }
    return messages[name]


def test_the_retry_policy_names_every_method_that_may_be_repeated_and_no_other() -> None:
    (config,) = json.loads(RETRY_POLICY.read_text())["methodConfig"]
    assert config["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    named = {(name["service"], name.get("method")) for name in config["name"]}
    retried = {(service, rpc.name) for service, rpc in _rpcs() if {(service, rpc.name), (service, None)} & named}
    assert {name for _, name in set(_all_names()) - retried} == NEVER_RETRIED
    assert all(method is None or (service, method) in _all_names() for service, method in named)
    assert {service for service, _ in named} <= {service for service, _ in _all_names()}


def _all_names() -> list[tuple[str, str]]:
    return [(service, rpc.name) for service, rpc in _rpcs()]


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "protos/generate.py", "--out", tmp_path], check=True, timeout=110)
    fresh = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    committed = {
        path.relative_to(GENERATED)
        for path in (GENERATED / "boxoffice").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != "py.typed"
    }
    assert fresh == committed
    _, different, missing = filecmp.cmpfiles(tmp_path, GENERATED, map(str, fresh), shallow=False)
    assert (different, missing) == ([], [])


# --- code --------------------------------------------------------------------------------------------------------


def _sources() -> list[Path]:
    return sorted(path for folder in ("services", "edge") for path in (ROOT / folder).rglob("*.py"))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def _is_domain(path: Path) -> bool:
    return path.parts[-3:-2] != ("common",) and (path.name in DOMAIN_MODULES or "domain" in path.parts)


def test_domain_modules_import_only_the_standard_library_and_each_other() -> None:
    domain = [path for path in _sources() if _is_domain(path)]
    assert domain
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in domain}
    foreign = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in domain
        for name in _imports(path)
        if name.split(".")[0] not in sys.stdlib_module_names and name not in names
    ]
    assert foreign == []


def test_layers_and_neighbours_are_kept_apart() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr


def test_services_does_not_shadow_the_standard_library() -> None:
    code = "import queue, sys; print(queue.__file__); print(*sys.path, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    file, *path = done.stdout.splitlines()
    assert not Path(file).is_relative_to(ROOT / "services")
    assert str(ROOT / "services") not in path


def _metrics_made_in(path: Path) -> Iterator[str]:
    text = path.read_text()
    if "prometheus_client" in text:
        calls = (node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
        names = {func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "") for func in calls}
        yield from names & {"Counter", "Gauge", "Histogram", "Summary", "Info", "Enum"}


def test_metrics_are_declared_in_one_module_only() -> None:
    declaring = {path.relative_to(ROOT) for path in _sources() if [*_metrics_made_in(path)]}
    assert declaring == {Path("services/common/metrics.py")}


def test_every_metric_says_what_it_means_under_a_name_of_the_house() -> None:
    text = (ROOT / "services/common/metrics.py").read_text()
    lines = text.splitlines()
    declared = [
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
    ]
    assert len(declared) > 30
    for node in declared:
        assert lines[node.lineno - 2].startswith("# "), f"line {node.lineno} has no comment"
        assert isinstance(node.value, ast.Call)
        name = node.value.args[0]
        assert isinstance(name, ast.Constant)
        assert re.fullmatch(r"boxoffice_[a-z0-9_]+", str(name.value))


def test_modules_of_generated_code_are_imported_as_modules() -> None:
    offending = [
        f"{path}: {name}"
        for path in _sources()
        for name in _imports(path)
        if re.match(r"boxoffice\..*_pb2(_grpc)?$", name)
    ]
    assert offending == []


def test_interceptors_stand_in_their_order() -> None:
    names: Mapping[int, str] = dict(enumerate(type(layer).__name__ for layer in interceptors({}, None)))
    order = ("Compose", "TraceLayer", "MetricsLayer", "ErrorLayer", "AccessLayer", "ValidationLayer")
    assert tuple(names.values()) == order
