"""The loaders of docs/extending.md in whole jobs, and what `check_loader` finds in others."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from foreign import endpoint, lengths, loaders, moods

from runner import Rejected
from runner.__main__ import main
from runner.testing import check_loader

TEXTS = pd.DataFrame({"text": ["good and fine", "what a bad day", "", "nothing known", "Good"]})


class Server(BaseHTTPRequestHandler):
    """Scores a text by its length, and refuses an empty one."""

    def do_POST(self) -> None:
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answers = [{"score": len(text) / 10} if text else {"error": "no text"} for text in texts]
        body = json.dumps(answers).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def target(url: str, request: pytest.FixtureRequest) -> list[str]:
    more = [f"model.url={url}"] if request.param == "endpoint" else []
    return [f"model._target_=foreign.{request.param}.load", "model.column=text", *more]


EXPECTED = {
    "lengths": ("score", [13 / 80, 14 / 80, 0, 13 / 80, 4 / 80], []),
    "moods": ("mood", [0.75, -1.0, 1.0], [2, 3]),
    "endpoint": ("score", [1.3, 1.4, 1.3, 0.4], [2]),
}


@pytest.mark.parametrize(
    ("target", "name"), [(name, name) for name in EXPECTED], indirect=["target"], ids=list(EXPECTED)
)
def test_the_loaders_of_the_page_predict(target: list[str], name: str) -> None:
    TEXTS.to_parquet("in.parquet")
    given = ["source=parquet", "source.path=in.parquet", "model=custom", *target, "mode=inline", "sink.path=out"]
    assert main([*given, "errors=quarantine", "errors.max_bad_rows=3"]) == 0
    column, values, put_aside = EXPECTED[name]
    [part] = Path("out").glob("part-*")
    assert pq.read_table(part)[column].to_pylist() == pytest.approx(values)
    rows = [row for file in Path("out/_runner").glob("quarantine/*") for row in pq.read_table(file).to_pylist()]
    assert [row["_row"] for row in rows] == put_aside
    assert {row["_error_type"] for row in rows} <= {"ValueError"}


def test_the_loaders_of_the_page_keep_the_promises(url: str) -> None:
    check_loader(partial(lengths.load, column="text"), TEXTS)
    check_loader(partial(moods.load, column="text"), TEXTS)
    check_loader(partial(endpoint.load, url=url, column="text"), TEXTS)


@pytest.mark.parametrize("concurrency", [0, 1, 4])
def test_a_loader_with_all_parts_keeps_the_promises(concurrency: int) -> None:
    rows = pd.DataFrame({"x": range(10)})
    check_loader(partial(loaders.load, refused=[3, 4], concurrency=concurrency), rows)


# ---------------------------------------------------------------- promises that are broken

ROWS = pd.DataFrame({"a": [1.0, 2.0, 4.0]})


def loading(predictor: Any) -> Callable[[], Any]:
    return lambda: predictor


def changing(batch: Any) -> Any:
    batch["a"] *= 2
    return batch["a"]


def choosy(batch: Any) -> Any:
    return [1] if batch.empty else batch["a"]


def other_columns(batch: Any) -> Any:
    return {"none": []} if batch.empty else batch["a"]


def locked() -> Any:
    lock = threading.Lock()

    def predict(batch: Any) -> Any:
        with lock:
            return batch["a"]

    return predict


class Forgetful:
    """Keeps what it has prepared in one place."""

    def prepare(self, batch: Any) -> None:
        self.batch = batch.copy()

    def __call__(self, _: None) -> Any:
        return self.batch["a"].to_numpy()


class Idle:
    concurrency = 4

    def __call__(self, batch: Any) -> Any:
        return batch["a"]


@pytest.mark.parametrize(
    ("load", "told"),
    [
        (loading(3), "the loader returned 3; expected a function of a batch"),
        (loading(lambda _: [1]), "returned 1 predictions for a batch of 3 rows"),
        (loading(lambda _: "text"), "expected a DataFrame"),
        (loading(lambda batch: [None] * len(batch)), "are all null"),
        (loading(lambda batch: batch["b"]), "must predict the batch: WrongColumns"),
        (loading(lambda batch: batch["a"] / batch["a"].sum()), "must not depend on the rows beside it"),
        (loading(lambda batch: Rejected(batch["a"], {9: ValueError()})), "names the row 9"),
        (loading(lambda batch: Rejected(batch["a"], dict.fromkeys(range(len(batch)), ValueError()))), "must not reject every row"),
        (loading(changing), "must not change its batch"),
        (loading(choosy), "an empty batch must give empty predictions, or raise"),
        (loading(other_columns), r"an empty batch must give the columns that others give, \['a'\], or raise: \['none'\]"),
        (locked, "predict.load_on=worker; then give this check load_on='worker'"),
        (Forgetful, "(must not depend on|must predict the batch)"),
        (Idle, "`concurrency` has no effect where `__call__` is not `async def`"),
    ],
    ids=[
        "no function", "too few", "no predictions", "null", "columns", "neighbours", "wrong row", "rejects all", "changes", "empty",
        "empty columns", "unpicklable", "forgetful", "idle",
    ],
)  # fmt: skip
def test_what_breaks_a_promise_is_told(load: Callable[[], Any], told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        check_loader(load, ROWS)


def test_what_is_meant_can_be_said() -> None:
    check_loader(locked, ROWS, load_on="worker")
    check_loader(loading(lambda batch: batch["a"] / batch["a"].sum()), ROWS, repeatable=False)
    check_loader(loading(lambda batch: batch["a"]), ROWS, kind="arrow")
    check_loader(loading(lambda batch: {"p": batch["a"] * 2}), ROWS, kind="numpy")
