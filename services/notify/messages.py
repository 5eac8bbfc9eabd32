"""Facts into messages: the text from templates/, the link from the public address of Boxoffice."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from services.notify.domain import Fact, Kind, Language, Message

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Template:
    """The text of one kind of message in one language."""

    title: str
    body: str
    call_to_action: str


class Messages:
    """Writes messages. Every kind exists in every language, or construction fails."""

    def __init__(self, public_url: str, folder: Path = TEMPLATES) -> None:
        self._public_url = public_url.rstrip("/")
        self._templates = {language: _read(folder / f"{language}.toml") for language in Language}

    def write(self, fact: Fact, language: Language) -> Message:
        """What a person who reads `language` is told about a fact."""
        template = self._templates[language][fact.kind]
        return Message(
            kind=fact.kind,
            title=template.title.format_map(fact.details),
            body=template.body.format_map(fact.details),
            call_to_action=template.call_to_action,
            url=self._link(fact),
            fact_id=fact.fact_id,
            stale_time=fact.stale_time,
        )

    def _link(self, fact: Fact) -> str:
        """Re-enters at the seats of the event; with a booking, at that booking."""
        query = {"event": str(fact.event_id)}
        if "booking_id" in fact.details:
            query["booking"] = fact.details["booking_id"]
        return f"{self._public_url}/?{urlencode(query)}"


def _read(file: Path) -> Mapping[Kind, Template]:
    tables = tomllib.loads(file.read_text(encoding="utf-8"))
    return {kind: Template(**tables[kind]) for kind in Kind}
