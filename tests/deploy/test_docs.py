"""What the docs name exists: files, make targets, Redis keys, topics, tables, and links between pages."""

import re
from pathlib import Path

import pytest

from services.common.eventlog import topics

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])
PATH = re.compile(r"`((?:protos|generated|edge|services|deploy|tests|bench|docs)/[\w./-]+)`")
WALKTHROUGH = (ROOT / "docs" / "booking-walkthrough.md").read_text()


def code(*folders: str) -> str:
    return "\n".join(
        file.read_text()
        for folder in folders
        for suffix in ("py", "lua", "sql")
        for file in sorted((ROOT / folder).rglob(f"*.{suffix}"))
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_and_link_exists(page: Path) -> None:
    text = page.read_text()
    missing = [path for path in PATH.findall(text) if not (ROOT / path).exists()]
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
    missing += [link for link in links if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = re.findall(r"(?:^|`)make ((?:[a-z-]+ ?)+)", page.read_text(), flags=re.MULTILINE)
    assert {target for names in named for target in names.split()} <= targets


def test_the_walkthrough_names_keys_that_the_stores_spell() -> None:
    stores = code("services/inventory", "services/queue")
    for service, name in re.findall(r"`(event|queue):\{42\}:(\w+)`", WALKTHROUGH):
        assert re.search(rf'"{name}"|^  \d+ {name} ', stores, flags=re.MULTILINE), f"{service}:…:{name}"


def test_the_docs_name_topics_that_exist() -> None:
    known = set(topics.TOPICS)
    for page in PAGES:
        named = set(
            re.findall(r"`((?:booking|queue|sale)\.(?:commands|events|progress)(?:\.dead)?)`", page.read_text())
        )
        assert named <= known, page


def test_the_docs_name_tables_that_exist() -> None:
    tables = set(re.findall(r"CREATE TABLE(?: IF NOT EXISTS)? (\w+)", code("services")))
    named = set(re.findall(r"`(tickets|bookings|payments|outbox|events|seat_maps|users|dummy_charges)`", WALKTHROUGH))
    assert named
    assert named <= tables


def test_every_decision_has_context_choice_and_cost() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    numbers = [record.name[:4] for record in records]
    assert len(set(numbers)) == len(numbers) > 10
    for record in records:
        text = record.read_text().lower()
        assert all(word in text for word in ("context", "choice", "cost")), record.name
