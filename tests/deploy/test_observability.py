"""Dashboard and alerts: typed by Grafana's schema, checked by Prometheus' own tool, true to the declared metrics."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY, Metric

import services.common.metrics  # noqa: F401 - declares every metric in the registry
from deploy.local.packages import PROMETHEUS, debian_environment, debian_packages
from edge.line import places
from services.queue.admission.lease import Standing
from services.queue.admission.pace import Reason
from tests.support import needed

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "observability"
DASHBOARD = FOLDER / "on-sale.dashboard.json"
TYPES = Path(__file__).parent / "grafana"
# JSON spells an enum as its value, which TypeScript accepts only as a template literal of the enum.
AS_JSON = """import type { Dashboard } from '@grafana/schema';
type AsJson<T> = T extends string ? `${T}` : T extends (infer U)[] ? AsJson<U>[]
  : T extends object ? { [K in keyof T]: AsJson<T[K]> } : T;
"""


def declared_series() -> set[str]:
    """Every series name that our processes can expose."""
    suffixes = {
        "counter": ("_total",),
        "histogram": ("_bucket", "_count", "_sum"),
        "gauge": ("",),
        "info": ("_info",),
    }
    return {
        family.name + suffix
        for family in REGISTRY.collect()
        if family.name.startswith("boxoffice_")
        for suffix in suffixes[family.type]
    }


def series_in(expression: str) -> set[str]:
    return set(re.findall(r"\bboxoffice_[a-z0-9_]+", expression))


def dashboard_expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    prefix = debian_packages(PROMETHEUS)
    return subprocess.run(
        [str(prefix / "usr/bin/promtool"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=debian_environment(prefix),
    )


def test_dashboard_and_alerts_use_only_declared_metrics() -> None:
    used = set().union(*map(series_in, dashboard_expressions()), *(series_in(rule["expr"]) for rule in rules()))
    assert used - declared_series() == set()
    assert len(used) > 15


def test_every_invariant_has_a_panel_and_an_alert() -> None:
    invariants = {family.name for family in REGISTRY.collect() if "must be 0" in family.documentation}
    assert len(invariants) == 5
    on_panels = set().union(*map(series_in, dashboard_expressions()))
    paging = set().union(*(series_in(r["expr"]) for r in rules() if r.get("labels") == {"severity": "page"}))
    assert invariants <= on_panels
    assert invariants <= paging


def test_every_alert_and_every_panel_link_has_its_runbook() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    for alert in alerts:
        assert (ROOT / alert["annotations"]["runbook"]).is_file(), alert["alert"]
    for url in re.findall(r"https://runbooks\.example\.com/([a-z-]+\.md)", DASHBOARD.read_text()):
        assert (ROOT / "docs" / "runbooks" / url).is_file(), url


def test_every_panel_links_to_a_runbook_and_those_of_an_alert_to_its_own() -> None:
    shown: dict[str, set[str]] = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        if panel["type"] != "row":
            (link,) = panel["links"]
            for name in set().union(*(series_in(target["expr"]) for target in panel["targets"])):
                shown.setdefault(link["url"].rpartition("/")[2], set()).add(name)
    for alert in (rule for rule in rules() if "alert" in rule):
        recorded = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
        series = set().union(*(series_in(recorded.get(part, part)) for part in alert["expr"].split()))
        assert series & shown[Path(alert["annotations"]["runbook"]).name], alert["alert"]


def test_labels_that_are_exposed_from_the_start_are_those_in_use() -> None:
    values = {family.name: labels_of(family) for family in REGISTRY.collect()}
    assert set(Reason) <= values["boxoffice_queue_slowed"]
    assert set(Standing) <= values["boxoffice_queue_leases"]
    assert {*places._AGES, places.UNKNOWN} <= values["boxoffice_line_lookups"]


def labels_of(family: Metric) -> set[str]:
    return {value for sample in family.samples for value in sample.labels.values()}


def test_every_alert_is_exercised_both_ways() -> None:
    tests = yaml.safe_load((FOLDER / "alerts.test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    for alert in (rule["alert"] for rule in rules() if "alert" in rule):
        outcomes = {bool(case["exp_alerts"]) for case in cases if case["alertname"] == alert}
        assert outcomes == {True, False}, alert


def test_alerts_do_what_their_cases_say() -> None:
    done = promtool("test", "rules", str(FOLDER / "alerts.test.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_control_a_wrong_threshold_fails_the_cases(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "alerts.test.yml", tmp_path)
    rules_text = (FOLDER / "alerts.yml").read_text()
    (tmp_path / "alerts.yml").write_text(
        rules_text.replace("boxoffice_oversold_tickets) > 0", "boxoffice_oversold_tickets) > 5")
    )
    assert promtool("test", "rules", str(tmp_path / "alerts.test.yml")).returncode != 0


def test_prometheus_accepts_its_configuration() -> None:
    done = promtool("check", "config", str(FOLDER / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def tsc() -> list[str]:
    if not (TYPES / "node_modules" / "typescript").is_dir():
        npm = needed("npm", "to install the types of Grafana's dashboards")
        subprocess.run([npm, "ci", "--ignore-scripts"], cwd=TYPES, check=True, capture_output=True, timeout=300)
    return [
        needed("node", "to run the TypeScript compiler"),
        str(TYPES / "node_modules" / "typescript" / "bin" / "tsc"),
    ]


def type_check(tsc: list[str], dashboard: str, folder: Path) -> subprocess.CompletedProcess[str]:
    source = folder / "dashboard.ts"
    source.write_text(AS_JSON + f"export const it: AsJson<Dashboard> = {dashboard};\n")
    return subprocess.run(
        [
            *tsc,
            "--noEmit",
            "--strict",
            "--skipLibCheck",
            "--moduleResolution",
            "bundler",
            "--module",
            "esnext",
            str(source),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ,
    )


def test_dashboard_has_the_types_of_grafana(tsc: list[str], tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(TYPES / "node_modules")
    done = type_check(tsc, DASHBOARD.read_text(), tmp_path)
    assert done.returncode == 0, done.stdout


def test_control_an_unknown_dashboard_field_fails(tsc: list[str], tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(TYPES / "node_modules")
    broken = DASHBOARD.read_text().replace('"gridPos"', '"gridPosition"', 1)
    done = type_check(tsc, broken, tmp_path)
    assert "gridPosition" in done.stdout
