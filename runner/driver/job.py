"""What a config decides, checked and built: the value that everything else starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from runner.fingerprint.fields import fingerprint_fields, source_settings
from runner.fingerprint.sealed import seal
from runner.types import Auto, Errors, Loader, Mode, Predict, RayOptions, Resources, Sink, Source


@dataclass(frozen=True)
class Job:
    """Everything that a config decides, checked and built.

    Attributes:
        batch_size: Rows per call of the predictor, counted from each shard's start.
        shard_bytes: Target size of a shard; `auto` goes by the input's size; `None` is one shard per file.
        source_made: Of a source that is not built in: its code, and the arguments it was made with.
        references: Texts that the environment gave, each with what refers to it.
        config: The resolved config, redacted, for the records.
        sink_path: The sink's path as it was given, `None` if it was not.
        command: What continues this job, for people.
    """

    source: Source
    model: Loader
    mode: Mode
    sink: Sink
    predict: Predict = field(default_factory=Predict)
    resources: Resources = field(default_factory=Resources)
    errors: Errors = field(default_factory=Errors)
    ray: RayOptions = field(default_factory=RayOptions)
    batch_size: int = 65_536
    shard_bytes: int | Auto | None = "auto"
    source_made: Mapping[str, Any] = field(default_factory=dict)
    references: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    sink_path: str | None = None
    command: str | None = None

    @property
    def num_threads(self) -> int:
        """Threads in a worker's native pools."""
        return self.predict.num_threads or max(1, int(self.resources.num_cpus))

    @property
    def accepted(self) -> list[str]:
        """The fields whose difference `sink.accept` lets pass; one that is named by a reference was resolved with the config."""
        return [
            spelled for name in self.sink.accept for spelled in dict.fromkeys((name, self.references.get(name, name)))
        ]

    @cached_property
    def fields(self) -> dict[str, Any]:
        """What the fingerprint is made of: artifacts are read once per job."""
        source = source_settings(self.source, self.source_made)
        fields = fingerprint_fields(
            self.model, self.predict, source, self.sink.settings(), self.batch_size, self.references
        )
        return seal(fields, self.references)
