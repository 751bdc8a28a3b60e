"""The model on its way to the workers, and as each of their processes holds it: loaded on the driver, or once by each."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from runner.errors import ConfigError
from runner.predictor import weights
from runner.predictor.calling import LocalCaller, refuse_wrong_parts
from runner.predictor.vitals import private_bytes
from runner.predictor.weights import Parcel
from runner.process.overlap import background, run_into_future
from runner.process.signals import raise_from_user_code
from runner.process.threads import limit_threads
from runner.types import Predictor, Vitals

MOMENT_SECONDS = 1.0  # in which most inputs are looked at


def loaded(load: Callable[[], Predictor]) -> Predictor:
    """What the loader returns.

    Raises:
        TypeError: It is no function of a batch, or one with parts that are not what they must be.
        RuntimeError: The loader would have ended the process.
    """
    try:
        predictor = load()
    except BaseException as error:
        raise_from_user_code(error, "the loader")
    if not callable(predictor):
        method = "; return its method: `return m.predict`" if callable(getattr(predictor, "predict", None)) else ""
        raise TypeError(f"the loader returned {predictor!r:.60}; expected a function of a batch{method}")
    refuse_wrong_parts(predictor)
    return predictor


@dataclass(frozen=True)
class Shipment:
    """What is packed for the workers.

    Attributes:
        held: The predictor, or the loader.
        is_loader: Which of the two.
        load_seconds: What the loader took on the driver, if it ran there.
    """

    held: Callable[..., Any]
    is_loader: bool
    load_seconds: float = 0.0


def always_needed(_: float | None) -> None:
    """The model is needed, whatever the input is."""


class Shipper:
    """Where workers get the predictor.

    Attributes:
        load: The loader, bound to its arguments.
        on_driver: Whether the loader runs on the driver, and workers share what it returns.
    """

    def __init__(
        self,
        load: Callable[[], Predictor],
        *,
        on_driver: bool,
        needed: Callable[[float | None], None] = always_needed,
        during: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Take the loader; nothing is loaded yet.

        Args:
            load: The loader.
            on_driver: Whether it runs here.
            needed: Raises an error if the model is not needed: the input cannot be used, or has been predicted already. It waits at most
                this many seconds until that is known, or with `None` for as long as it takes.
            during: Returns a context in which people see what is being done.
        """
        self.load, self.on_driver, self._needed, self._during = partial(loaded, load), on_driver, needed, during
        self._coming: Future[Predictor] | None = None
        self._seconds = 0.0

    def begin(self) -> None:
        """Start to load on the driver, in the background; a moment is waited first, in which most inputs have been looked at."""
        self._needed(MOMENT_SECONDS)
        if self.on_driver and self._coming is None:
            self._coming = background(self._load)

    def obtain(self) -> LocalCaller:
        """What calls the predictor here."""
        return LocalCaller(self.predictor())

    def predictor(self) -> Predictor:
        """The predictor, loaded once in this process.

        Raises:
            Exception: Whatever the loader raises, each time.
        """
        if self._coming is None:
            self._needed(None)
            self._coming = Future()
            run_into_future(self._coming, self._load)
        return self._coming.result()

    def _load(self) -> Predictor:
        started = time.perf_counter()
        with self._during("loading the model"):
            predictor = self.load()
        self._seconds = time.perf_counter() - started
        return predictor

    def is_to_blame(self, error: Exception) -> bool:
        """Whether this is what the loader raised."""
        return self._coming is not None and self._coming.done() and self._coming.exception() is error

    def packed(self) -> Parcel:
        """A `Shipment` for the workers. This process then lets go of the predictor.

        Raises:
            ConfigError: It cannot be pickled.
            Exception: Whatever the loader raises.
        """
        self._needed(None)
        held = self.predictor() if self.on_driver else self.load
        try:
            parcel = weights.pack(Shipment(held, not self.on_driver, self._seconds))
        except Exception as error:
            remedy = "take predict.load_on=worker" if self.on_driver else "give plain values as the loader's arguments"
            raise ConfigError(
                f"predict.load_on: the model cannot be pickled to reach the workers ({error}); {remedy}"
            ) from error
        self._coming = None
        return parcel

    def portable(self) -> bytes:
        """The loader: nothing of this process is needed to call it again."""
        return pickle.dumps((True, self.load))

    def vitals(self) -> Vitals:
        """What the model costs this process."""
        return Vitals(private_bytes=private_bytes(), load_seconds=self._seconds)


class Delivered:
    """The model in a worker process. It is unpacked at its first use; if the loader was sent, the model is loaded then."""

    def __init__(self, arrival: Callable[[], Parcel], num_threads: int) -> None:
        """Nothing is unpacked yet.

        Args:
            arrival: Returns the parcel as it was sent, each time anew.
            num_threads: For the thread pools of native libraries.
        """
        self._arrival, self._num_threads = arrival, num_threads
        self._parcel: Parcel | None = None
        self._predictor: Predictor | None = None
        self._vitals = Vitals()
        self._private_before = 0

    def obtain(self) -> LocalCaller:
        """What calls the predictor, which is unpacked or loaded once.

        Raises:
            Exception: Whatever unpickling or the loader raises, each time.
        """
        if self._predictor is None:
            started = time.perf_counter()
            parcel = self._arrival()
            shipment: Shipment = parcel.unpack()
            self._predictor = shipment.held() if shipment.is_loader else shipment.held
            limit_threads(self._num_threads)  # once more: the model may have brought native libraries of its own
            self._note(parcel, shipment, time.perf_counter() - started)
        return LocalCaller(self._predictor)

    def _note(self, parcel: Parcel, shipment: Shipment, seconds: float) -> None:
        if shipment.is_loader:
            self._vitals = Vitals(load_seconds=seconds)
            return
        self._parcel, self._private_before = parcel, private_bytes() or 0
        self._vitals = Vitals(
            model_bytes=parcel.size, load_seconds=shipment.load_seconds, copied=parcel.mapping is None
        )

    def portable(self) -> bytes:
        """For a child of this process: as it arrived, without what this process has written to it since."""
        shipment: Shipment = self._arrival().unpack()
        return weights.portable((shipment.is_loader, shipment.held))

    def vitals(self) -> Vitals:
        """What the model costs this process now.

        The pages that this process has written to are counted only after its private memory has grown by an amount that is worth telling:
        counting reads an entry for each page of the model.
        """
        private = private_bytes()
        if self._parcel is not None and (private or 0) - self._private_before >= self._vitals.worth_telling > 0:
            self._private_before = private or 0
            self._vitals = replace(self._vitals, written_bytes=self._parcel.written())
        return replace(self._vitals, private_bytes=private)
