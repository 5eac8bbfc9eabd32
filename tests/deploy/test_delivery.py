"""Image and pipeline: the Dockerfile is linted, and the Jenkinsfile runs, against the steps that it may use."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.local.paths import PACKAGES
from tests.support import needed

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
JENKINSFILE = ROOT / "deploy" / "jenkins" / "Jenkinsfile"
STUB = Path(__file__).parent / "jenkins"


def hadolint(dockerfile: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / "hadolint"), str(dockerfile)], capture_output=True, text=True, check=False
    )


def test_dockerfile_has_no_findings() -> None:
    done = hadolint(DOCKERFILE)
    assert done.returncode == 0, done.stdout


def test_control_a_careless_dockerfile_has_findings(tmp_path: Path) -> None:
    careless = tmp_path / "Dockerfile"
    careless.write_text("FROM python:latest\nRUN cd /srv && pip install boxoffice\n")
    assert "DL3007" in hadolint(careless).stdout


def test_what_the_image_copies_is_let_through_to_the_build() -> None:
    copied = {
        source.removeprefix("./")
        for source in re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE.read_text(), flags=re.MULTILINE)
    }
    passed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == passed
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_runs_without_privileges() -> None:
    assert re.search(r"^USER \d+:\d+$", DOCKERFILE.read_text(), flags=re.MULTILINE)


@pytest.fixture(scope="module")
def groovy() -> Path:
    jars = PACKAGES / "groovy-4.0.28"
    if not jars.is_dir():
        maven = [
            needed("mvn", "to fetch Groovy, which runs the Jenkinsfile"),
            "-q",
            "-B",
            "-f",
            str(STUB / "pom.xml"),
            "dependency:copy-dependencies",
        ]
        unfinished = jars.with_name("groovy.unfinished")
        subprocess.run([*maven, f"-DoutputDirectory={unfinished}"], check=True, timeout=300)
        shutil.move(unfinished, jars)
    return jars


def run_pipeline(groovy: Path, jenkinsfile: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            needed("java", "to run the Jenkinsfile"),
            "-cp",
            f"{groovy}/*",
            "groovy.ui.GroovyMain",
            str(STUB / "Steps.groovy"),
            str(jenkinsfile),
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def stages(groovy: Path) -> list[dict[str, Any]]:
    done = run_pipeline(groovy, JENKINSFILE)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["stages"]
    return found


def test_the_pipeline_calls_only_make_targets_that_exist(groovy: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    commands = [step for stage in stages(groovy) for step in stage["steps"]]
    called = [re.fullmatch(r"make ([a-z-]+)( [A-Z]+=\S+)*", command) for command in commands]
    assert all(called), commands
    assert {match.group(1) for match in called if match} <= targets
    assert {"lint", "test"} <= {match.group(1) for match in called if match}


def test_production_is_asked_for_and_only_from_main(groovy: Path) -> None:
    deploy = next(stage for stage in stages(groovy) if "make deploy" in stage["steps"])
    assert deploy["branch"] == "main"
    assert deploy["asks"]


def test_control_a_misspelt_step_ends_the_run(groovy: Path, tmp_path: Path) -> None:
    broken = tmp_path / "Jenkinsfile"
    broken.write_text(JENKINSFILE.read_text().replace("sh 'make lint'", "shell 'make lint'"))
    done = run_pipeline(groovy, broken)
    assert done.returncode != 0
    assert "unknown here: shell" in done.stderr
