"""The keys of `predict`, `resources`, `errors`, `ray`, `plan` and `verify`; what wings hand to each other; the seams of kinds.

Nothing here does work: values are frozen dataclasses, seams are Protocols. Heavy packages appear in annotations only.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

# ---------------------------------------------------------------- values that a config spells in several ways


class AtLeast(NamedTuple):
    """A lower bound, inclusive, for a number in the config."""

    bound: float


class Bytes(NamedTuple):
    """Marks an integer that may be written as `128MiB`, `2GiB` or `500MB`."""


Count = Annotated[int, AtLeast(0)]
Positive = Annotated[int, AtLeast(1)]
ByteSize = Annotated[int, Bytes(), AtLeast(1)]
ByteCount = Annotated[int, Bytes(), AtLeast(0)]
Amount = Annotated[float, AtLeast(0)]
Seconds = Annotated[float, AtLeast(0)]
Auto = Literal["auto"]
Filters = list[Any] | None  # pyarrow's list of (column, operator, value), or a list of such lists

# ---------------------------------------------------------------- input


@dataclass(frozen=True, slots=True)
class Input:
    """One input file as it was listed.

    Attributes:
        name: Tells it from every other. Of a file the absolute path, or the URI for anything but the local disk.
        size: Bytes.
        version: What changes when the content does. Of a file the store's etag, else the modification time.
        folder: The folder below the source's root, `""` at the root; shards never mix folders.
    """

    name: str
    size: int
    version: str
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Fragment:
    """The smallest piece of an input that a source can read alone.

    Attributes:
        input: What it is a piece of.
        bytes: Stored size of this piece; what shards are balanced by.
        rows: Rows in this piece before filters, `None` if only reading tells.
        first_row: Number of its first row within the input, from 0.
        span: Which piece it is: plain values of JSON that only its source understands, `None` for the whole input or where
            `first_row` tells. Part of the shard's id and of the recorded plan.
        joinable: Whether `span` is a half-open range `(begin, end)` of numbered pieces of the input, from 0. Neighbours in a shard,
            where one ends where the next begins, then become one fragment, which is read at once. A text before the range,
            `("rows", begin, end)`, says what is numbered, if that is not what `Source.piece` says; only ranges of the same are joined.
        about_rows: An estimate where only reading tells the rows. It is not recorded.
    """

    input: Input
    bytes: int
    rows: int | None = None
    first_row: int = 0
    span: tuple[Any, ...] | None = None
    joinable: bool = False
    about_rows: int | None = field(default=None, compare=False)

    @property
    def probable_rows(self) -> int | None:
        """Its rows, or the estimate."""
        return self.about_rows if self.rows is None else self.rows


@dataclass(frozen=True, slots=True)
class Shard:
    """What is predicted, committed and retried as one.

    Attributes:
        sequence: Position in input order, from 0, counted on over all plans of a sink.
        id: 16 hex digits that name the fragments and the job's fingerprint.
        folder: The folder its fragments lie in.
        fragments: One or more, in input order.
    """

    sequence: int
    id: str
    folder: str
    fragments: tuple[Fragment, ...]

    @property
    def name(self) -> str:
        """The part's file name without its extension."""
        return f"part-{self.sequence:08d}-{self.id}"

    @property
    def bytes(self) -> int:
        """Stored size of the input."""
        return sum(fragment.bytes for fragment in self.fragments)

    @property
    def rows(self) -> int | None:
        """Rows before filters, `None` if only reading tells."""
        counts = [fragment.rows for fragment in self.fragments]
        return None if None in counts else sum(count for count in counts if count is not None)


RAW = "_raw"  # the column of a quarantine file that holds a row as it stands in a text file


class Unreadable(NamedTuple):
    """A row that cannot be parsed. A tolerant reader yields it between the tables, at its place in the input.

    Attributes:
        number: Its number within the input, from 0. Such rows are counted too.
        text: The row as it stands in the input.
        reason: Why it cannot be parsed, with its line, and its column if that is known.
    """

    number: int
    text: str
    reason: str

    @property
    def num_rows(self) -> int:
        """One, so that it counts like a table of one row."""
        return 1


class Reader(Protocol):
    """Reads fragments in a worker, several at once, each in its own thread. It is pickled with every call, so it must be small.

    Two attributes are optional. `left_out` names columns that `whole_rows` does not give, because the input holds them in the same
    place, and they are large: a row in quarantine has no pixels. `busy` says whether reading takes more work than waiting, as decoding
    does: then several fragments are read at once from a local disk, too.
    """

    def read(self, fragment: Fragment, columns: Sequence[str] | None = None) -> Iterator[pa.Table | Unreadable]:
        """Yield the fragment's rows that pass the filters, in the order of the input, never all in memory.

        The iterator may be closed before its end, and in another thread than the one that read from it.

        Only the reader of a source that was asked to be tolerant may yield an `Unreadable`.

        Args:
            fragment: What to read.
            columns: Only these, in this order; `None` for all that the reader was made for.
        """

    def whole_rows(self, fragment: Fragment, numbers: Sequence[int]) -> pa.Table:
        """The rows with these numbers (of `positions`, ascending), with every column that is stored, less those of `left_out`."""

    def positions(self, fragment: Fragment) -> Iterator[int]:
        """Yield the number of each row that `read` yields. It tells the row within its input; numbers ascend from fragment to fragment.

        In a file it is the row's place, from 0; in a table it may be a key.
        """


class Source(Protocol):
    """Where the observations are. Lives on the driver; workers get its `Reader`.

    A class of your own inherits from this one, and defines `inputs`, `inspect` and `reader`. The other methods do what is right for most.

    Attributes:
        piece: What people call the pieces that the span of a joinable fragment counts, such as `row group`.
    """

    piece: ClassVar[str] = "piece"

    @property
    def filtered(self) -> bool:
        """Whether it leaves out rows that its fragments count in `rows`."""
        return False

    def settings(self) -> Mapping[str, Any] | None:
        """Whatever decides which rows there are and what they hold, as plain data: each is a field `source.<name>` of the fingerprint.

        Leave out where the input lies, credentials, and what changes no row. `None` (default): all arguments count that it was made
        with, except `path`, `storage_options`, `allow_empty` and credentials. The code of a source that is not built in counts as
        `source.code`, unless `settings` gives a `code` of its own, such as a version.
        """
        return None

    @abstractmethod
    def inputs(self) -> list[Input]:
        """All inputs, listed cheaply, in input order.

        Raises:
            ConfigError: There is none, unless that is allowed.
        """

    def inputs_since(self, planned: Collection[Input]) -> list[Input]:  # noqa: ARG002
        """All inputs, where recorded plans cover some already: as `inputs` lists them, unless a source can tell better what is new.

        Such as one of a lake table, whose files are replaced by others that hold the same rows: it lists the planned inputs as they
        were planned, and beside them what has been added since.

        Args:
            planned: The inputs of all recorded plans of a sink, in the order in which they were planned. They may be of another source.
        """
        return self.inputs()

    @abstractmethod
    def inspect(
        self, inputs: Sequence[Input], needed: Mapping[str, str] | None = None
    ) -> tuple[list[Fragment], pa.Schema | None]:
        """The fragments of these inputs in the same order, and the schema they share (`None` if nothing tells one).

        Args:
            inputs: Of `inputs()`.
            needed: Column to the config key that asks for it; `None` for all columns.

        Raises:
            ConfigError: They cannot be read, or lack a needed column.
        """

    @abstractmethod
    def reader(self, schema: pa.Schema) -> Reader:
        """What workers read with; `schema` fixes column names, order and types."""

    def reading(self) -> AbstractContextManager[object]:
        """What the driver holds open from before it lists the inputs until workers have read them: such as a database's snapshot."""
        return nullcontext()

    def tolerant(self) -> Source:
        """The same source, which puts up with rows that cannot be parsed.

        Its `inspect` does not refuse an input for such rows, and its reader yields an `Unreadable` for each.
        """
        return self

    def divide(self, fragment: Fragment, most_bytes: int | None, most_rows: int | None) -> Sequence[Fragment]:  # noqa: ARG002
        """The fragment in pieces of about so many bytes or rows, whichever is reached first, in order; whole where it cannot be divided.

        Asked for fragments of `inspect` that are larger than a shard is to be, several at once, each in a thread.

        Args:
            fragment: Of `inspect`.
            most_bytes: Bytes of a piece; `None` if any number will do.
            most_rows: Rows of a piece; `None` if any number will do.
        """
        return [fragment]

    def how_to_split(self, fragment: Fragment) -> str:  # noqa: ARG002
        """What a person can do so that several workers share the work of this fragment."""
        return "let its source give it in several fragments"


# ---------------------------------------------------------------- models

Predictor = Callable[[Any], Any]
"""`batch -> predictions`: any callable. The batch is what `predict.input` says, the predictions are one value per row in any of the forms
that `arrow.predictions.to_table` takes, or a `Rejected`. These parts are optional:

- a method `prepare(batch)`: what it returns is given to the predictor in place of the batch;
- an `async def __call__` (or an `async def` function): it is awaited, always on the same event loop;
- beside that a number `concurrency`, 1 by default: the rows of a batch are divided among so many calls, which are awaited at once."""


@dataclass(frozen=True)
class Rejected:
    """What a predictor returns when it refuses some rows of its batch: no row is predicted twice to find them.

    With `errors=quarantine` these rows go to quarantine, each with its error; with `errors=strict` the first one fails the job.

    Attributes:
        predictions: As any predictor returns them, one value for every row of the batch. What stands at a rejected row is not looked at;
            it may be null.
        errors: The number of each rejected row within the batch, from 0, with the reason.
    """

    predictions: Any
    errors: Mapping[int, Exception]


class Raised(NamedTuple):
    """What a call of the predictor raised: a value, so that what other calls returned is kept."""

    error: BaseException


class Caller(Protocol):
    """Calls the predictor, wherever that is."""

    @property
    def concurrency(self) -> int:
        """How many batches the predictor may be given at once."""

    @property
    def columns(self) -> list[str] | None:
        """The columns that the predictor says it wants, if it does."""

    def __call__(self, batches: Sequence[Any]) -> list[Any]:
        """For each batch what the predictor returned, or a `Raised` that holds an `Exception`."""


BatchKind = Literal["pandas", "arrow", "numpy", "torch"]


@dataclass(frozen=True)
class Loader:
    """A model loader bound to its arguments.

    Attributes:
        call: Returns the predictor.
        target: Its dotted path, for people and for the fingerprint.
        arguments: What it will be called with, as plain data.
        code: Digests of the code that it runs and of the values that this uses, by name.
    """

    call: Callable[[], Predictor]
    target: str
    arguments: Mapping[str, Any]
    code: Mapping[str, str]


@dataclass(frozen=True)
class Predict:
    """How the predictor is fed.

    Attributes:
        input: What one batch looks like.
        columns: The columns the model needs, `None` for all.
        rename: Input columns that the model gets under another name.
        load_on: `driver` loads once and shares; `worker` loads once per worker process.
        output_schema: Column name to Arrow type name (`double`, `string`, `list<float>[384]`); `None` probes.
        version: Stands for the loader's code in the fingerprint.
        artifacts: Files whose checksum counts; `None` means the loader's `path`.
        num_threads: Threads per worker; `None` follows `resources.num_cpus`.
    """

    input: BatchKind = "pandas"
    columns: list[str] | None = None
    rename: dict[str, str] = field(default_factory=dict)
    load_on: Literal["driver", "worker"] = "driver"
    output_schema: dict[str, str] | None = None
    version: str | None = None
    artifacts: list[str] | None = None
    num_threads: Positive | None = None


# ---------------------------------------------------------------- execution


@dataclass(frozen=True)
class Resources:
    """What one worker asks Ray for; names and meanings are Ray's own.

    Attributes:
        num_cpus: CPUs (may be a fraction).
        num_gpus: GPUs (may be a fraction).
        memory: Bytes of heap memory to reserve; Ray reserves, it does not enforce.
        resources: Custom resources by name.
        accelerator_type: Such as `A100`.
        scheduling_strategy: `DEFAULT` or `SPREAD`.
    """

    num_cpus: Amount = 1.0
    num_gpus: Amount = 0.0
    memory: ByteSize | None = None
    resources: dict[str, Amount] = field(default_factory=dict)
    accelerator_type: str | None = None
    scheduling_strategy: Literal["DEFAULT", "SPREAD"] | None = None


@dataclass(frozen=True)
class Errors:
    """What is done when something goes wrong.

    Attributes:
        on_bad_rows: `fail` the job, or put the guilty rows into `quarantine`.
        max_bad_rows: Budget for quarantine: a count (integer) or a fraction of the rows seen.
        on_nan: Whether a row whose prediction is NaN is kept, or bad.
        on_new_input: Whether input that no recorded plan covers is a note, or fails a `resume`.
        skip_files: Input files to leave out, by path or pattern: a loss that is accepted by name and recorded.
        stop_after_failed_shards: Stop submitting after this many shards have failed for good.
        max_retries: Further tries per shard after transient storage errors.
        max_lost_workers: Further tries per shard after its worker died.
        shard_timeout: Seconds without an answer after which a call is given up; `None` waits.
        grace_period: Seconds that in-flight shards get after a first signal.
    """

    on_bad_rows: Literal["fail", "quarantine"] = "fail"
    max_bad_rows: int | float = 0.01
    on_nan: Literal["keep", "quarantine"] = "keep"
    on_new_input: Literal["note", "fail"] = "note"
    skip_files: list[str] = field(default_factory=list)
    stop_after_failed_shards: Positive = 1
    max_retries: Count = 4
    max_lost_workers: Count = 3
    shard_timeout: Seconds | None = None
    grace_period: Seconds = 20.0


@dataclass(frozen=True)
class Plan:
    """What `action=plan` does besides showing what would run.

    Attributes:
        tune_batch: Whether the model is measured at several batch sizes.
    """

    tune_batch: bool = False


@dataclass(frozen=True)
class Verify:
    """How `action=verify` checks.

    Attributes:
        deep: Whether the inputs are read again, and their rows counted.
    """

    deep: bool = False


@dataclass(frozen=True)
class RayOptions:
    """Which Ray to use.

    Attributes:
        address: `None`: the cluster that `RAY_ADDRESS` names, else a private Ray; `local`, `auto` or an address say it outright.
        runtime_env: Ray's own, for code that a cluster must have.
    """

    address: str | None = None
    runtime_env: dict[str, Any] | None = None


@dataclass(frozen=True)
class Fit:
    """How many workers fit.

    Attributes:
        count: At once, over all nodes.
        arithmetic: Why, for people.
    """

    count: int
    arithmetic: str


class Stages(NamedTuple):
    """Seconds that a worker spent in each stage."""

    read: float = 0.0
    predict: float = 0.0
    write: float = 0.0

    def plus(self, other: Stages) -> Stages:
        """Add stage by stage."""
        return Stages(*(a + b for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Vitals:
    """What a model costs its worker process: of one process, or the worst of several.

    Attributes:
        private_bytes: Resident memory that a process shares with nobody; `None` where the system does not tell.
        model_bytes: Size of the model as it was shared; 0 where each process loads its own.
        load_seconds: What the loader took, on the driver or in a process.
        copied: Whether a process had to copy the shared model, because this system does not let it map it.
        written_bytes: Of the shared model, what a process holds copies of because it wrote to it.
        halved: How often a batch was halved for want of memory: summed.
    """

    private_bytes: int | None = None
    model_bytes: int = 0
    load_seconds: float = 0.0
    copied: bool = False
    written_bytes: int = 0
    halved: int = 0

    def plus(self, other: Vitals) -> Vitals:
        """The larger value of each field, and the sum of those that count events."""
        return Vitals(
            private_bytes=max(self.private_bytes or 0, other.private_bytes or 0) or None,
            model_bytes=max(self.model_bytes, other.model_bytes),
            load_seconds=max(self.load_seconds, other.load_seconds),
            copied=self.copied or other.copied,
            written_bytes=max(self.written_bytes, other.written_bytes),
            halved=self.halved + other.halved,
        )

    @property
    def worth_telling(self) -> int:
        """Bytes of the model that a process may hold copies of before people are told."""
        return self.model_bytes // 8


@dataclass(frozen=True)
class Receipt:
    """What a worker reports about a committed part. Predictions themselves never travel to the driver.

    Attributes:
        shard: The shard's id.
        rows_in: Rows read, after filters.
        rows_out: Rows in the part.
        rows_quarantined: Rows in the quarantine file.
        bytes_out: Size of the part.
        checksum: `sha256:...` of the part.
        stages: Seconds per stage.
        worker: `host:pid` it ran in.
        complaints: The first few quarantined rows, for people.
        vitals: Of the worker's process, after the call.
        quarantine: `sha256:...` of the quarantine file; empty where there is none.
    """

    shard: str
    rows_in: int
    rows_out: int
    rows_quarantined: int
    bytes_out: int
    checksum: str
    stages: Stages
    worker: str
    complaints: tuple[str, ...] = ()
    vitals: Vitals = Vitals()
    quarantine: str = ""


FailureKind = Literal["data", "model", "transient", "storage", "lost", "memory", "timeout"]


@dataclass(frozen=True)
class Failure:
    """A shard that was not committed: a value, not an exception.

    Attributes:
        shard: The shard's id, `""` when the failure is of the worker as a whole (the model does not load).
        kind: `data` and `model` repeat on a rerun; `transient` and `lost` are tried again; `storage` is not.
        message: For people: file, row, error, remedy.
        details: The traceback, if there is one.
        where: The places in the user's code that the error came through, a line for each.
    """

    shard: str
    kind: FailureKind
    message: str
    details: str = ""
    where: str = ""


Outcome = Receipt | Failure


@dataclass(frozen=True)
class Probe:
    """The schema of a first batch's predictions.

    Attributes:
        schema: Serialized Arrow; `None` if there was no row to learn it from.
        seen: Whether a row was predicted; without one, the schema is that of an empty batch's predictions.
        kept: Whether what was predicted is kept for the shard; if not, it is predicted again.
        stages: What it took.
    """

    schema: bytes | None
    seen: bool = True
    kept: bool = False
    stages: Stages = field(default_factory=Stages)


Answer = list[Outcome] | Probe | Failure
"""What one call to a worker returns: an outcome for each of its shards, what a probe saw, or why it could do nothing at all."""


@dataclass(frozen=True)
class Lost:
    """What became of a call whose worker died or cannot be reached.

    Attributes:
        reason: For people.
        counted: Whether the shard may be to blame: a call that was only queued on a dead worker is not.
        memory: Whether it was killed for its memory: then less is tried at once.
    """

    reason: str
    counted: bool = True
    memory: bool = False


class Done(NamedTuple):
    """A finished call: its ticket, and the answer or what became of the worker."""

    ticket: int
    result: Answer | Lost


class Work(Protocol):
    """One call: what a worker does. It does not know who executes it."""

    def run(self, model: Model) -> Answer:
        """Do it. Errors are part of the answer; the predictor is obtained when it is needed."""


class Pool(Protocol):
    """Workers that execute calls. The dispatcher drives it and never sees Ray."""

    def room(self) -> int:
        """How many more calls may be submitted now; the pool is full at 0 or below."""

    def grow(self) -> None:
        """Start more workers if that is possible: work is waiting, and there is no room for it."""

    def submit(self, ticket: int, work: Work) -> None:
        """Start a call, or queue it on a worker."""

    def wait(self, timeout: float) -> list[Done]:
        """Return what has finished, waiting at most `timeout` seconds for something."""

    def running(self) -> list[int]:
        """The tickets of calls that are being worked on, not queued behind another."""

    def abandon(self, ticket: int) -> None:
        """Stop the worker that holds this call, by force; `wait` never returns it."""

    def workers(self) -> int:
        """How many workers there are now."""

    def close(self) -> None:
        """Leave no process behind."""


class Mode(Protocol):
    """Who executes the calls.

    A class of your own inherits from this one, and defines `open`. The other methods do what is right for most. What is wrong with
    its arguments it raises when it is made, as a `ConfigError`: that is told with all other problems of the config.
    """

    @abstractmethod
    def open(self, model: ModelSource, setup: Setup) -> Pool:
        """Start workers that each can obtain the model."""

    def fits(self, setup: Setup) -> Fit | None:  # noqa: ARG002
        """How many workers fit at once; `None` (default) where nothing limits them."""
        return None

    def ignored(self) -> Collection[str]:
        """The keys of `resources` and `errors` that have no effect here, such as `resources.memory`: whoever sets one is told so."""
        return ()


class Model(Protocol):
    """The model as a worker process holds it."""

    def obtain(self) -> Caller:
        """What calls the predictor, which is loaded once per process."""

    def portable(self) -> bytes:
        """A pickled pair of (is it a loader, the loader or predictor), for a process without Ray."""

    def vitals(self) -> Vitals:
        """What the model costs this process now."""


class ModelSource(Protocol):
    """Where workers get the model: what a mode is given to hand on."""

    @property
    def on_driver(self) -> bool:
        """Whether the loader runs on the driver, and workers share what it returns."""

    def begin(self) -> None:
        """Start to load on the driver, if it is loaded there, beside whatever the mode does next."""

    def obtain(self) -> Caller:
        """What calls the predictor, which is loaded once in this process."""

    def predictor(self) -> Predictor:
        """The predictor itself."""

    def packed(self) -> Any:
        """A parcel for the workers (`predictor.weights.Parcel`); it unpacks to a `Shipment`."""

    def portable(self) -> bytes:
        """The pickled loader, for a process without Ray."""

    def vitals(self) -> Vitals:
        """What the model costs this process."""


class StopRequest(Protocol):
    """Whether somebody asked the job to stop, by a signal."""

    def asked(self) -> bool:
        """Whether it was asked to."""

    def expired(self) -> bool:
        """Whether the time that work in flight gets after that is over."""


def unseen(_: int) -> None:
    """Ignore how many rows the calls in flight have predicted."""


@dataclass(frozen=True)
class Setup:
    """What a mode is told besides the model.

    Attributes:
        resources: What one worker asks for.
        ray: Which Ray to use.
        num_threads: Threads in a worker's native pools.
        relative_sink: The sink's path as given, if it is relative: only one node can see it.
        say: Where notices for people go.
        signals: Whether somebody asked the job to stop; to be looked at again after whatever replaces signal handlers.
        packages: What workers will import; they may begin while the model is loaded.
        during: Returns a context in which people see what is being done.
        moved: Is told how many rows the calls in flight have predicted so far, as far as that is known.
    """

    resources: Resources
    ray: RayOptions
    num_threads: int
    relative_sink: str | None
    say: Callable[[str], None]
    signals: StopRequest
    packages: tuple[str, ...] = ()
    during: Callable[[str], AbstractContextManager[object]] = nullcontext
    moved: Callable[[int], object] = unseen


# ---------------------------------------------------------------- output


class Written(NamedTuple):
    """What was written.

    Attributes:
        bytes: Size.
        checksum: `sha256:...`, or whatever else tells the content from any other.
        rows: Of a part; `None` for what is no part.
    """

    bytes: int
    checksum: str
    rows: int | None = None


@dataclass(frozen=True)
class Seal:
    """A file that a store must still hold, recognized by its first bytes.

    Attributes:
        name: Path below the store's root.
        begins: Its first bytes.
    """

    name: str
    begins: bytes


class Publication(Protocol):
    """A binary file that is being written. It appears under its name when it is complete."""

    def write(self, data: Any) -> int:
        """Write all of a bytes-like object; returns its size in bytes."""

    def written(self) -> Written:
        """Size and checksum so far."""


class Store(Protocol):
    """Where records are kept: names with content, each published in one atomic step.

    What goes wrong is an `OSError` that names the path.

    Attributes:
        key: The key of the config that says where it is, for messages.
    """

    key: ClassVar[str] = "sink.path"

    @property
    def root(self) -> str:
        """Absolute path or URI, for people."""

    @property
    def place(self) -> str:
        """The key and the root: what a message begins with."""
        return f"{self.key}={self.root}"

    def path(self, name: str = "") -> str:
        """Full path of a name below the root, for people."""

    def names(self, below: str = "") -> dict[str, int]:
        """Every name, with its size in bytes, -1 where that is unknown: one fresh listing, whole or an error."""

    def read(self, name: str) -> bytes | None:
        """The content, `None` if there is no such name."""

    def opened(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A file to read the content from, piece by piece."""

    def holds(self, seal: Seal) -> bool:
        """Whether what the seal names is there and begins as it says: one small read."""

    def delete(self, name: str) -> None:
        """Delete a name; none is fine."""

    def publish(self, name: str) -> AbstractContextManager[Publication]:
        """A file to write that appears under its name, replacing what was there, only when the block ends well.

        Right before it appears, `runner.storage.publishing.confirm` is called: what that raises keeps it back.
        """

    def replace(self, name: str, data: bytes) -> None:
        """Publish these bytes."""

    def create(self, name: str, data: bytes) -> bool:
        """Publish these bytes unless the name is taken, and return whether they were.

        `False` need not mean that somebody else took the name: a try whose answer was lost may have taken it.
        """


SaveMode = Literal["resume", "append", "overwrite", "error"]


class Sink(Protocol):
    """Where predictions go: parts, one for each shard, and beside them the records of the runs that wrote these.

    A class of your own inherits from this one. It defines `records`, `settings`, `committed`, `write`, `examine` and `remove`; the other
    methods do what is right for most. It is pickled and sent to the workers. What goes wrong with the storage is raised as an `OSError`; in
    `write`, a `ConnectionError` or a `TimeoutError` is tried again.
    """

    save_mode: SaveMode = "resume"
    """What to do with what is there: an argument of the class, so that a config can give it."""

    keep_columns: Sequence[str] | Literal["all"] = ()
    """Input columns that go with the predictions; likewise."""

    accept: Sequence[str] = ()
    """Fields of the fingerprint whose difference is accepted on resume; likewise."""

    own_place: ClassVar[bool] = False
    """Whether it knows where to write if `sink.path` is not given. Otherwise that is the run's own output directory."""

    @property
    @abstractmethod
    def records(self) -> Store:
        """Where the recipe, the plans, the receipts, the quarantine, the manifest and `_SUCCESS` are kept.

        Whatever else lies there is taken for somebody else's, and refused, unless a segment of its name begins with `_` or `.`.
        """

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Whatever changes what a part holds, as plain data: each is a field `sink.<name>` of the fingerprint."""

    def check(self, schema: pa.Schema) -> None:  # noqa: ARG002
        """Raise `ConfigError` for a schema that it cannot hold: before the first part is written."""
        return

    def prepare(self, schema: pa.Schema) -> None:  # noqa: ARG002
        """Make ready for parts of this schema, such as by creating a table.

        The driver calls it in each run that has something to predict, after the recipe is recorded and before the first part: it must
        be harmless to call it again.
        """
        return

    def edition(self) -> str | None:
        """What is made part of the ids of new shards, where readers see parts only once `publish` shows them, as in a table format.

        Readers may then still hold files of an output that was replaced, so a new part must never get the name of an older one: return
        something that each `publish` changes, such as the table's version. What no plan names is then no stranger, since nobody reads it.
        `None` (default): readers see every part at once, and a new part may take the place of an older one.
        """
        return None

    def refused(self, table: pa.Table) -> Mapping[int, Exception]:  # noqa: ARG002
        """The rows that a part cannot hold, by their number in the table, each with its error: such as a text that is too long.

        A worker asks it about each batch before it writes that: these rows are bad rows, and the others are written. It is asked in the
        thread that predicts, so it should be quick where every row can be held.
        """
        return {}

    def part(self, shard: Shard) -> str:
        """What people and the manifest call the shard's part; where it lies among the records, its name there."""
        return shard.name

    @abstractmethod
    def committed(self, shards: Sequence[Shard], names: Mapping[str, int]) -> Mapping[str, int | None]:
        """Which of these shards have a part: by the shard's id its size in bytes, `None` where that is not known.

        What is there is done. Asked before `prepare` has ever been called, too: then nothing is there.

        Args:
            shards: All that are planned.
            names: A fresh listing of `records`, for a sink whose parts lie there too.
        """

    @abstractmethod
    def write(self, shard: Shard, schema: pa.Schema, tables: Iterator[pa.Table]) -> Written:
        """Write the part, which appears whole or not at all: in one atomic step, once `tables` ends. Nothing is left if that raises.

        A worker calls it, in several threads at once, each with a shard of its own. The same part may be written twice: after a
        worker seemed lost, or after it had committed and died before it could tell. Such a second part takes the place of the first,
        which has the same rows, or it is refused by the first (the primary key is taken): then return what `examine` says of that one.

        When `tables` ends, it is made sure that the sink is still this run's; if it is not, `tables` raises. If much is still to be
        done between that and the commit, call `runner.storage.publishing.confirm` right before the commit. A part that is published
        by a `runner.storage.folder.Folder` needs nothing of this: the folder asks.

        Args:
            shard: What was predicted.
            schema: Of each table.
            tables: The rows, in order; perhaps none.

        Returns:
            What `examine` would say of the part.
        """

    @abstractmethod
    def examine(self, shard: Shard, size: int | None = None) -> Written | None:
        """What a part holds, found out by reading all of it piece by piece; `None` if it is gone. Called in threads.

        Args:
            shard: Whose part.
            size: What `committed` said of it.

        Raises:
            ValueError: It is damaged; or any other error that is not an `OSError`.
        """

    @abstractmethod
    def remove(self, shards: Sequence[Shard]) -> None:
        """Delete the parts of these shards, which are committed; one that is gone is fine."""

    def rewritten(self, shards: Sequence[Shard]) -> Collection[str]:  # noqa: ARG002
        """Ids of those of these committed shards whose parts others have rewritten since `publish` showed them: compacted, for example.

        Their rows may well be there, but nothing can be proven of them by reading their parts. Asked rarely, for all shards at once.
        """
        return ()

    def strangers(self, shards: Sequence[Shard]) -> Iterable[str]:  # noqa: ARG002
        """What is there, and is neither a part of these shards, which are all that are planned, nor among the records."""
        return ()

    def publish(self, plan: int, parts: Iterable[tuple[Shard, Written]]) -> None:  # noqa: ARG002
        """Show readers all parts of a plan at once, such as by one commit of a table format.

        The driver calls it for each recorded plan, in order, after the manifest is written and before `_SUCCESS` is; again in each run
        that comes to its end after parts were added, or after one was stopped here: what is published already stays as it is. If much is
        to be read before the commit, call `runner.storage.publishing.confirm` right before it: another run may have taken over the sink.

        Args:
            plan: Number of the plan, from 0.
            parts: Its shards, and what their parts hold.
        """
        return
