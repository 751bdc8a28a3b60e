"""The model on its way to the workers: loaded on the driver while workers start, or by the loader in each of them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from threading import Thread

from runner.types import Predictor


def loaded(load: Callable[[], Predictor]) -> Predictor:
    """What the loader returns.

    Raises:
        TypeError: It is no function of a batch.
    """
    predictor = load()
    if not callable(predictor):
        raise TypeError(f"the loader returned {predictor!r:.60}; expected a function of a batch")
    return predictor


class ModelSource:
    """Where workers get the predictor.

    Attributes:
        load: The loader, bound to its arguments.
        on_driver: Whether modes call `obtain` on the driver and share what it returns.
    """

    def __init__(self, load: Callable[[], Predictor], *, on_driver: bool) -> None:
        """Take the loader; nothing is loaded yet."""
        self.load, self.on_driver = partial(loaded, load), on_driver
        self._coming: Future[Predictor] | None = None

    def begin(self) -> None:
        """Start to load on the driver, beside whatever it does next."""
        if self.on_driver and self._coming is None:
            self._coming = Future()
            Thread(target=self._fulfil, args=[self._coming], name="model", daemon=True).start()

    def obtain(self) -> Predictor:
        """The predictor, loaded once in this process.

        Raises:
            Exception: Whatever the loader raises, each time.
        """
        if self._coming is None:
            self._coming = Future()
            self._fulfil(self._coming)
        return self._coming.result()

    def _fulfil(self, coming: Future[Predictor]) -> None:
        try:
            coming.set_result(self.load())
        except BaseException as error:
            coming.set_exception(error)

    def is_to_blame(self, error: Exception) -> bool:
        """Whether this is what the loader raised."""
        return self._coming is not None and self._coming.done() and self._coming.exception() is error

    def portable(self) -> bytes:
        """The loader: nothing of this process is needed to call it again."""
        return pickle.dumps((True, self.load))
