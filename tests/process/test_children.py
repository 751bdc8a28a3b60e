"""Processes of our own: whose signals they heed."""

from __future__ import annotations

import signal
import time

import pytest

from runner.process import children


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_does_not_reach_a_process_that_is_starting(number: signal.Signals) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    child = children.start("runner.predictor.child")
    try:
        for _ in range(20):
            child.process.send_signal(number)
            time.sleep(0.02)
        assert child.process.poll() is None
    finally:
        child.stop()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
