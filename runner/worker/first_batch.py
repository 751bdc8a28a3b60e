"""The first batch of a shard, kept between the call that learns from it and the call that commits its shard.

The output schema comes from a first batch, before any part can be written. Predicting is expensive, so that batch is not predicted
again: the worker that predicts it keeps the result in a file of the run, and the worker that later predicts the shard takes it from
there. Predictions do not pass through the driver. Nothing depends on the file: where it cannot be read, or is not of these rows, the
batch is predicted anew. It is deleted when the run ends, and no other run reads it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runner.arrow.isolate import Guilty, without
from runner.arrow.schemas import DoesNotFit
from runner.types import Store
from runner.words.secrets import hide
from runner.worker.sifting import Sifted

if TYPE_CHECKING:
    import pyarrow as pa

BATCHES = b"batches"  # the key in the file's metadata: for each batch its rows, and [row, type, text] of each bad one


def file_name(run: str, shard: str) -> str:
    """Path of what is kept of a shard, below the sink."""
    return f"_runner/runs/{run}/first-batch-{shard}.arrow"


def keep(store: Store, run: str, shard: str, batches: Sequence[tuple[int, Sifted]]) -> None:
    """Keep the first batches of a shard: those in which every row was bad, and the first with a good row, if there is one.

    Args:
        store: Of the sink.
        run: Its id.
        shard: Its id.
        batches: For each its rows, and what became of them, with the predictions as the model types them.
    """
    import pyarrow as pa

    said = [[rows, [_words(each) for each in sifted.bad]] for rows, sifted in batches]
    last = batches[-1][1]
    predictions = last.predictions if last.batch.num_rows else pa.table({})
    table = predictions.replace_schema_metadata({BATCHES: json.dumps(said)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    store.replace(file_name(run, shard), sink.getvalue())


class Kept:
    """What was kept of a shard. It is handed out batch by batch, in their order."""

    def __init__(self, batches: Sequence[tuple[int, list[Guilty]]] = (), predictions: Any = None) -> None:
        """Take for each batch its rows and its bad ones, and the predictions of the last one's good rows, as an Arrow table."""
        self._batches, self._predictions = list(batches), predictions

    @classmethod
    def read(cls, store: Store, run: str, shard: str) -> Kept:
        """What was kept; nothing where that cannot be read."""
        import pyarrow as pa

        try:
            table = pa.ipc.open_file(store.read(file_name(run, shard)) or b"").read_all()
            said = json.loads(table.schema.metadata[BATCHES])
            batches = [(rows, [Guilty(row, _raised(*words)) for row, *words in bad]) for rows, bad in said]
        except Exception:  # whatever is wrong with it: predicting anew is always right
            return cls()
        return cls(batches, table.replace_schema_metadata(None))

    def take(self, batch: pa.Table, hold: Callable[[pa.Table], pa.Table]) -> Sifted | None:
        """What became of the rows of this batch, the next of the shard; `None` where that is not known.

        Args:
            batch: As it was read again.
            hold: Returns predictions in the schema that is fixed by now, and raises where they do not fit.
        """
        if not self._batches:
            return None
        rows, bad = self._batches.pop(0)
        good = without(batch, bad)
        if rows == batch.num_rows and good.num_rows == (0 if self._batches else self._predictions.num_rows):
            with contextlib.suppress(ValueError):  # where they do not fit, predicting anew tells which row is to blame
                return Sifted(good, hold(self._predictions) if good.num_rows else None, bad)
        self._batches.clear()
        return None


def _words(guilty: Guilty) -> list[Any]:
    return [guilty.row, type(guilty.error).__name__, hide(str(guilty.error))]


def _raised(kind: str, text: str) -> Exception:
    """An error of that name and text; unpickling the error itself would execute whatever lies in the sink."""
    return DoesNotFit(text) if kind == DoesNotFit.__name__ else type(kind, (Exception,), {})(text)
