"""The recipe that a sink records: what determines its parts, and their schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from runner.fingerprint import compare
from runner.fingerprint.sealed import revive

if TYPE_CHECKING:
    import pyarrow as pa


FIELDS = b'"fields"'  # the key that comes after what identifies a recipe


@dataclass(frozen=True)
class Recorded:
    """The recipe as a sink has it.

    Attributes:
        fields: What the fingerprint is made of, by name.
        source_schema: Of all source columns that are offered.
        output_schema: Of the predictions; `None` while no row has been seen.
        config: The resolved config, redacted.
        versions: Of the packages that wrote it.
        accepted: Differences that `sink.accept` has let pass, oldest first.
        replaced: Whether a run has begun to delete this output, to put another in its place.
        run: The run that created it; empty in what earlier versions wrote.
    """

    fields: Mapping[str, Any]
    source_schema: pa.Schema | None
    output_schema: pa.Schema | None
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    accepted: Sequence[Mapping[str, Any]] = ()
    replaced: bool = False
    run: str = ""

    @property
    def fingerprint(self) -> str:
        """16 hex digits over `fields`."""
        return compare.fingerprint(self.fields)

    def accepting(self, fields: Mapping[str, Any]) -> Recorded:
        """The recipe of another job whose differences are accepted: with a note of them, if there are any."""
        different = compare.differences(self.fields, fields)
        if not different:
            return self
        note = {name: {"was": was, "now": now} for name, (was, now) in different.items()}
        return replace(self, fields=fields, accepted=[*self.accepted, note])

    def to_json(self) -> bytes:
        """For people and for `from_json`."""
        content = {
            "fingerprint": self.fingerprint,
            "run": self.run,
            "fields": self.fields,
            "source_schema": _spelled(self.source_schema),
            "output_schema": _spelled(self.output_schema),
            "accepted": list(self.accepted),
            "replaced": self.replaced,
            "versions": self.versions,
            "config": self.config,
            "arrow": {
                "source_schema": _encoded(self.source_schema),
                "output_schema": _encoded(self.output_schema),
            },
        }
        return json.dumps(content, indent=2, default=str).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Recorded:
        """Read what `to_json` wrote."""
        content = json.loads(text)
        schemas = {name: _decoded(encoded) for name, encoded in content["arrow"].items()}
        return cls(
            revive(content["fields"]),
            **schemas,
            config=content["config"],
            versions=content["versions"],
            accepted=content["accepted"],
            replaced=content.get("replaced", False),
            run=content.get("run", ""),
        )


def seal(text: bytes) -> bytes:
    """The beginning of a recorded recipe: its fingerprint and the run that created it, by which it is told from any other."""
    return text[: text.find(FIELDS)]


def _spelled(schema: pa.Schema | None) -> dict[str, str] | None:
    return None if schema is None else {column.name: str(column.type) for column in schema}


def _encoded(schema: pa.Schema | None) -> str | None:
    return None if schema is None else schema.serialize().to_pybytes().hex()


def _decoded(encoded: str | None) -> pa.Schema | None:
    import pyarrow as pa

    return None if encoded is None else pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(encoded)))
