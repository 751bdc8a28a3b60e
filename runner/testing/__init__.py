"""Conformance checks for the tests of whoever writes a source, a sink, a mode or a model loader.

Each raises an `AssertionError` that says which promise is broken. The built-in kinds run the same checks.
"""

from runner.testing.loaders import check_loader
from runner.testing.modes import check_mode
from runner.testing.sinks import check_sink
from runner.testing.sources import check_source

__all__ = ["check_loader", "check_mode", "check_sink", "check_source"]
