"""`Job`: everything that a config decides, checked and built. Every action starts from this value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from runner.fingerprint.fields import fingerprint_fields, sink_settings, source_settings
from runner.fingerprint.sealed import seal
from runner.types import Auto, Errors, Loader, Mode, Predict, RayOptions, Resources, Sink, Source


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes:
        batch_size: Rows per call of the predictor, counted from each shard's start.
        shard_bytes: Target size of a shard; `auto` goes by the input's size; `None` is one shard per file.
        shard_rows: Target rows of a shard; `None` for any number.
        source_made: Of a source that is not built in: its code, and the arguments it was made with.
        references: Values that came from environment variables, each with the interpolation that named it.
        config: The resolved config, redacted, for the records.
        sink_path: The sink's path as it was given, `None` if it was not.
        command: What continues this job, for people.
        columns_key: What asks for the columns of `predict.columns`, for people.
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
    shard_rows: int | None = None
    source_made: Mapping[str, Any] = field(default_factory=dict)
    references: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    sink_path: str | None = None
    command: str | None = None
    columns_key: str = "predict.columns"

    @property
    def num_threads(self) -> int:
        """Threads in a worker's native pools."""
        return self.predict.num_threads or max(1, int(self.resources.num_cpus))

    @property
    def accepted(self) -> list[str]:
        """The fingerprint fields of `sink.accept`, also under the interpolations that their names came from."""
        return [
            spelled for name in self.sink.accept for spelled in dict.fromkeys((name, self.references.get(name, name)))
        ]

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The fields of the fingerprint. Artifacts are checksummed when they are first asked for, once per job."""
        source = source_settings(self.source, self.source_made)
        fields = fingerprint_fields(
            self.model, self.predict, source, sink_settings(self.sink), self.batch_size, self.references
        )
        return seal(fields, self.references)
