"""Files that are wrong, and what is told of them: each job must end with its code and exactly these lines.

Jobs read the folder `in` in place, double the column `x`, and write to `out`; `HERE` stands for the place.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import pickle
import unicodedata
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
from predictors import Predictor, doubling


class Link(NamedTuple):
    """A symbolic link."""

    to: str


class Folder(NamedTuple):
    """An empty folder."""


Content = bytes | str | Link | Folder


class Case(NamedTuple):
    """Files below the place, a job over them, and all that it is told."""

    name: str
    files: Mapping[str, Content]
    argv: tuple[str, ...]
    told: tuple[str, ...]
    code: int = 2


def make(place: Path, files: Mapping[str, Content]) -> None:
    """Write the files."""
    for name, content in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            path.symlink_to(content.to)
        elif isinstance(content, Folder):
            path.mkdir()
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)


def case(name: str, files: Mapping[str, Content], options: str, *told: str, code: int = 2) -> Case:
    """Files in the folder `in`."""
    return Case(name, {f"in/{path}": content for path, content in files.items()}, tuple(options.split()), told, code)


def unread(name: str, kind: str, why: str) -> str:
    """What is told of a file before anything runs."""
    return f"source.path: HERE/in/{name} cannot be read as {kind}: {why}; mend it, or leave it out: errors.skip_files=[{name}]"


def broken(name: str, why: str) -> str:
    """What is told of a file that a worker cannot read."""
    return f"HERE/in/{name} cannot be read: {why}; mend it, or leave it out: errors.skip_files=[{name}]"


def unloaded(kind: str, why: str) -> str:
    """What is told of a model's file."""
    return f"model._target_=models.{kind}.load: the model cannot be loaded: ValueError: model.path={why}"


# ---------------------------------------------------------------- contents


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


class _Keys(pe.KmsClient):  # type: ignore[misc]
    def wrap_key(self, key: bytes, _: str) -> bytes:
        return base64.b64encode(key)


def encrypted(table: pa.Table, *, plaintext_footer: bool) -> bytes:
    keys = pe.EncryptionConfiguration("f", column_keys={"c": ["x"]}, plaintext_footer=plaintext_footer)
    factory = pe.CryptoFactory(lambda _: _Keys())
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), keys)
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    return sink.getvalue()


def arrow(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pyarrow.feather.write_feather(table, sink, compression="uncompressed")
    return sink.getvalue()


def stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def orc(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pyarrow.orc.write_table(table, sink)
    return sink.getvalue()


def zipped(content: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("a.csv", content)
    return sink.getvalue()


def damaged(content: bytes, at: int, by: bytes) -> bytes:
    return content[:at] + by + content[at + len(by) :]


def lines(rows: int, **more: Any) -> str:
    return "".join(json.dumps({"x": i, **more}) + "\n" for i in range(rows))


TABLE = pa.table({"x": range(30), "id": [f"r{i}" for i in range(30)]})
NUMBERS = pa.table({"x": range(1000)})
TEXTS = pa.table({"x": range(100), "id": ["a" * 100] * 100})
OTHERS = pa.table({"x": ["a"], "id": ["r"]})
CSV = "x,id\n1,a\n2,b\n"
BLOCKS = "x,id\n" + "".join(f"{i},{i:0>500}\n" for i in range(10_000))  # more than is read at once
HTML = "<!DOCTYPE html>\n<html><body>502 Bad Gateway</body></html>\n"
OFFSETS = bytes([100, 0, 0, 0, 200, 0, 0, 0])  # of the first two texts of TEXTS
ALLOWED = "(source.allow_empty=true makes an empty input a success)"
HEADER = json.dumps({"weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
SAFETENSORS = len(HEADER).to_bytes(8, "little") + HEADER + bytes(8)
DECOMPOSED = unicodedata.normalize("NFD", "größe")


# ---------------------------------------------------------------- models


def removing(path: str) -> Predictor:
    """The input is gone once the model is loaded."""
    Path(path).unlink()
    return doubling()


def replacing(path: str) -> Predictor:
    """The input is another once the model is loaded."""
    Path(path).write_bytes(parquet(NUMBERS))
    return doubling()


def pickled_elsewhere() -> bytes:
    """A pickle of an object of a package that is not here."""
    return b"\x80\x04cnowhere.models\nThing\n)\x81."


# ---------------------------------------------------------------- the corpus

WRONG: tuple[Case, ...] = (
    # ---- what is not there
    case(
        "a missing file",
        {},
        "source=csv source.path=in/nope.csv",
        f"source.path=in/nope.csv: no files match; HERE exists, what should be below it does not {ALLOWED}",
    ),
    case(
        "a missing folder",
        {},
        "source=csv source.path=nowhere/at/all",
        f"source.path=nowhere/at/all: no files match; HERE exists, what should be below it does not {ALLOWED}",
    ),
    case(
        "a glob without a match",
        {"a.csv": CSV},
        "source=parquet source.path=in/*.parquet",
        f"source.path=in/*.parquet: no files match; HERE/in exists, what should be below it does not {ALLOWED}",
    ),
    case(
        "one file of a list is missing",
        {"a.csv": CSV},
        "source=csv source.path=[in/a.csv,in/b.csv]",
        f"source.path=in/b.csv: no files match; HERE/in exists, what should be below it does not {ALLOWED}",
    ),
    case(
        "an empty folder",
        {"empty": Folder()},
        "source=csv source.path=in/empty",
        f"source.path=in/empty: no files match; the folder holds no file, or only names that begin with _ or . {ALLOWED}",
    ),
    *(
        case(
            f"a {kind} file of no bytes, as an upload leaves that was cut off",
            {f"b.{kind}": b""},
            f"source={kind}",
            f"source.path: HERE/in/b.{kind} is empty, which no {kind} file is: was its upload cut off; "
            f"mend it, or leave it out: errors.skip_files=[b.{kind}]",
        )
        for kind in ("parquet", "arrow", "orc")
    ),
    case(
        "only hidden names",
        {"_SUCCESS": "", ".a.csv": CSV},
        "source=csv",
        f"source.path=in: no files match; the folder holds no file, or only names that begin with _ or . {ALLOWED}",
    ),
    case(
        "an empty folder named like a file",
        {"a.parquet": Folder()},
        "source=parquet source.path=in/a.parquet",
        f"source.path=in/a.parquet: no files match; the folder holds no file, or only names that begin with _ or . {ALLOWED}",
    ),
    case(
        "a link to nothing",
        {"a.csv": CSV, "b.csv": Link("gone.csv")},
        "source=csv",
        "source.path=HERE/in: HERE/in/b.csv is a link to nothing: mend or remove it",
    ),
    case(
        "a link to itself",
        {"a.csv": CSV, "b.csv": Link("b.csv")},
        "source=csv",
        "source.path=in: cannot be listed: OSError: [Errno 40] Too many levels of symbolic links: 'HERE/in/b.csv'",
    ),
    case(
        "a file that vanishes",
        {"a.parquet": parquet(TABLE)},
        "source=parquet model._target_=wrong_files.removing model.path=in/a.parquet predict.artifacts=[]",
        "HERE/in/a.parquet cannot be read (gone since it was listed): FileNotFoundError: [Errno 2] Failed to "
        "open local file 'HERE/in/a.parquet'. Detail: [errno 2] No such file or directory",
        code=1,
    ),
    case(
        "a file that changes",
        {"a.parquet": parquet(TABLE)},
        "source=parquet model._target_=wrong_files.replacing model.path=in/a.parquet predict.artifacts=[]",
        "HERE/in/a.parquet cannot be read: it changed since it was listed; sink.save_mode=overwrite starts "
        "over with what is there now",
        code=1,
    ),
    # ---- what is something else, or was cut short
    case(
        "a Parquet file without its end",
        {"a.parquet": parquet(TABLE)[:-20]},
        "source=parquet",
        unread(
            "a.parquet",
            "parquet",
            "Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet "
            "file; it begins as Parquet does, so it was cut short or damaged",
        ),
    ),
    case(
        "a Parquet file without its start",
        {"a.parquet": parquet(TABLE)[50:]},
        "source=parquet",
        broken("a.parquet", "row groups 0 to 0: Couldn't deserialize thrift: TProtocolException: Invalid data"),
        code=1,
    ),
    case(
        "a Parquet file without its middle",
        {"a.parquet": parquet(TABLE)[:100] + parquet(TABLE)[200:]},
        "source=parquet",
        broken("a.parquet", "row groups 0 to 0: Corrupt snappy compressed data"),
        code=1,
    ),
    case(
        "a few bytes of Parquet",
        {"a.parquet": "PA"},
        "source=parquet",
        unread(
            "a.parquet",
            "parquet",
            "Parquet file size is 2 bytes, smaller than the minimum file footer (8 bytes); it begins like plain "
            "text: source=csv or source=jsonl reads text",
        ),
    ),
    case(
        "text named Parquet",
        {"a.parquet": CSV, "b.parquet": parquet(TABLE)},
        "source=parquet",
        unread(
            "a.parquet",
            "parquet",
            "Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet "
            "file; it begins like plain text: source=csv or source=jsonl reads text",
        ),
    ),
    case(
        "ORC named Parquet",
        {"a.parquet": orc(TABLE)},
        "source=parquet",
        unread(
            "a.parquet",
            "parquet",
            "Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet "
            "file; it begins like ORC: source=orc reads it",
        ),
    ),
    case(
        "a Parquet page with a wrong checksum",
        {
            "a.parquet": damaged(
                parquet(NUMBERS, write_page_checksum=True, compression="none", use_dictionary=False), 400, b"????"
            )
        },
        "source=parquet",
        broken(
            "a.parquet",
            "rows 0 to 62: could not verify page integrity, CRC checksum verification failed for page_ordinal 0",
        ),
        code=1,
    ),
    case(
        "a Parquet page that does not decompress",
        {"a.parquet": damaged(parquet(TABLE), 30, b"?" * 40)},
        "source=parquet",
        broken("a.parquet", "row groups 0 to 0: Corrupt snappy compressed data"),
        code=1,
    ),
    case(
        "encrypted Parquet",
        {"a.parquet": encrypted(TABLE, plaintext_footer=False)},
        "source=parquet",
        unread(
            "a.parquet",
            "parquet",
            "Could not read encrypted metadata, no decryption found in reader's properties; it begins like "
            "encrypted Parquet: decrypt it first",
        ),
    ),
    case(
        "encrypted columns of Parquet",
        {"a.parquet": encrypted(TABLE, plaintext_footer=True)},
        "source=parquet",
        unread("a.parquet", "parquet", "it holds encrypted columns; decrypt it first"),
    ),
    case(
        "an Arrow file without its end",
        {"a.arrow": arrow(TABLE)[:-20]},
        "source=arrow",
        unread("a.arrow", "arrow", "Not an Arrow file; it begins as Arrow does, so it was cut short or damaged"),
    ),
    case(
        "an Arrow stream without its end",
        {"a.arrow": stream(TABLE)[:-100]},
        "source=arrow",
        broken("a.arrow", "Expected to be able to read 448 bytes for message body, got 356"),
        code=1,
    ),
    case(
        "Parquet named Arrow",
        {"a.arrow": parquet(TABLE)},
        "source=arrow",
        unread(
            "a.arrow",
            "arrow",
            "Expected to read 827474256 metadata bytes, but only read 989; it begins like Parquet: "
            "source=parquet reads it",
        ),
    ),
    case(
        "a web page named Arrow",
        {"a.arrow": HTML},
        "source=arrow",
        unread(
            "a.arrow",
            "arrow",
            "Expected to read 1329865020 metadata bytes, but only read 54; it begins like a web page: what was "
            "fetched was a server's answer, not the file",
        ),
    ),
    case(
        "texts of Arrow that lie nowhere",
        {"a.arrow": damaged(arrow(TEXTS), arrow(TEXTS).index(OFFSETS), b"\xff\xff\xff\x7f")},
        "source=arrow sink.keep_columns=[id]",
        broken(
            "a.arrow",
            "rows 0 to 99: column 'id': Offset invariant failure: offset for slot 1 out of bounds: 2147483647 > 10000",
        ),
        code=1,
    ),
    case(
        "an ORC file without its end",
        {"a.orc": orc(TABLE)[:-5]},
        "source=orc",
        unread(
            "a.orc",
            "orc",
            "Failed to parse the postscript from ArrowInputFile; it begins as ORC does, so it was cut short or damaged",
        ),
    ),
    case(
        "an ORC file without its start",
        {"a.orc": orc(TABLE)[30:]},
        "source=orc",
        broken("a.orc", "bad StripeFooter from ArrowInputFile from 148 for 71"),
        code=1,
    ),
    case(
        "Parquet named ORC",
        {"a.orc": parquet(TABLE)},
        "source=orc",
        unread("a.orc", "orc", "Not an ORC file; it begins like Parquet: source=parquet reads it"),
    ),
    case(
        "a web page named .csv.gz",
        {"a.csv.gz": HTML},
        "source=csv",
        unread("a.csv.gz", "csv", "it begins like a web page: what was fetched was a server's answer, not the file"),
    ),
    case(
        "a web page named .csv",
        {"a.csv": HTML},
        "source=csv",
        unread("a.csv", "csv", "it begins like a web page: what was fetched was a server's answer, not the file"),
    ),
    case(
        "plain text named .csv.gz",
        {"a.csv.gz": CSV},
        "source=csv",
        unread("a.csv.gz", "csv", "it begins like plain text, not like gzip: its extension says otherwise, rename it"),
    ),
    case(
        "plain text named .jsonl.zst",
        {"a.jsonl.zst": lines(2)},
        "source=jsonl",
        unread(
            "a.jsonl.zst", "jsonl", "it begins like plain text, not like zstd: its extension says otherwise, rename it"
        ),
    ),
    case(
        "gzip named .csv",
        {"a.csv": gzip.compress(CSV.encode(), mtime=0)},
        "source=csv",
        unread("a.csv", "csv", "it begins like gzip: name it .gz"),
    ),
    case(
        "gzip named .csv.zst",
        {"a.csv.zst": gzip.compress(CSV.encode(), mtime=0)},
        "source=csv",
        unread("a.csv.zst", "csv", "it begins like gzip: name it .gz"),
    ),
    case(
        "a zip archive",
        {"a.csv.zip": zipped(CSV.encode())},
        "source=csv",
        unread("a.csv.zip", "csv", "it begins like a zip archive: unpack it"),
    ),
    case(
        "Parquet named .csv",
        {"a.csv": parquet(TABLE)},
        "source=csv",
        unread("a.csv", "csv", "it begins like Parquet: source=parquet reads it"),
    ),
    case(
        "Parquet named .jsonl",
        {"a.jsonl": parquet(TABLE)},
        "source=jsonl",
        unread("a.jsonl", "jsonl", "it begins like Parquet: source=parquet reads it"),
    ),
    case(
        "gzip without its end",
        {"a.csv.gz": gzip.compress(CSV.encode(), mtime=0)[:-8]},
        "source=csv",
        unread("a.csv.gz", "csv", "Truncated compressed stream"),
    ),
    case(
        "gzip with something behind it",
        {"a.csv.gz": gzip.compress(CSV.encode(), mtime=0) + b"more"},
        "source=csv",
        unread("a.csv.gz", "csv", "zlib inflate failed: incorrect header check"),
    ),
    case(
        "zstd without its end",
        {"a.jsonl.zst": pa.compress(lines(9).encode(), "zstd", asbytes=True)[:-3]},
        "source=jsonl",
        unread("a.jsonl.zst", "jsonl", "Truncated compressed stream"),
    ),
    case(
        "bz2 without its end",
        {"a.csv.bz2": bz2.compress(CSV.encode())[:-9]},
        "source=csv",
        unread("a.csv.bz2", "csv", "Truncated compressed stream"),
    ),
    # ---- CSV
    case(
        "a row with a cell too many",
        {"a.csv": CSV + "3,c,d\n"},
        "source=csv",
        unread("a.csv", "csv", "line 4: Expected 2 columns, got 3: 3,c,d"),
    ),
    case(
        "a row with a cell too few",
        {"a.csv": CSV + "3\n"},
        "source=csv",
        unread("a.csv", "csv", "line 4: Expected 2 columns, got 1: 3"),
    ),
    case(
        "a row with a cell too many, late",
        {"a.csv": BLOCKS + "3,c,d\n"},
        "source=csv",
        broken("a.csv", "line 10002: Expected 2 columns, got 3: 3,c,d"),
        code=1,
    ),
    case(
        "a quote that nothing closes",
        {"a.csv": CSV + '3,"c\n4,d\n'},
        "source=csv",
        broken("a.csv", "line 4: a quote is opened that nothing closes; it took in the rest of the file"),
        code=1,
    ),
    case(
        "a quote that nothing closes, in the only column",
        {"a.csv": 'x\n1\n"2\n3\n'},
        "source=csv",
        broken("a.csv", "line 3: a quote is opened that nothing closes; it took in the rest of the file"),
        code=1,
    ),
    case(
        "a quote that nothing closes, long before the end",
        {"a.csv": CSV + '3,"c\n' + BLOCKS},
        "source=csv",
        broken(
            "a.csv",
            "line 4: a quote is opened that nothing closes; it took in the rest of the file; if these quotes are closed "
            "behind the range, start over with shard_bytes=null: a file stays whole",
        ),
        code=1,
    ),
    case(
        "UTF-16",
        {"a.csv": CSV.encode("utf-16")},
        "source=csv",
        unread("a.csv", "csv", "it begins like UTF-16 text: convert it to UTF-8"),
    ),
    case(
        "zeros behind the last line",
        {"a.csv": CSV.encode() + bytes(9)},
        "source=csv",
        unread(
            "a.csv",
            "csv",
            "line 4: Expected 2 columns, got 1: \\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00",
        ),
    ),
    case(
        "another encoding",
        {"a.csv": "x,id\n1,é\n".encode("latin-1")},
        "source=csv sink.keep_columns=[id]",
        "source.path: HERE/in/a.csv: column 'id' is not UTF-8: convert the file, or give "
        "source.column_types={id: binary}",
    ),
    case(
        "another encoding, late",
        {"a.csv": BLOCKS.replace("x,id\n", "x,id\n0,a\n").encode() + "1,é\n".encode("latin-1")},
        "source=csv sink.keep_columns=[id]",
        broken(
            "a.csv",
            "line 10003: column 'id': CSV conversion error to string: invalid UTF8 data (types come from a "
            "file's first block; source.column_types={name: type} fixes them)",
        ),
        code=1,
    ),
    case(
        "names in another encoding",
        {"a.csv": "x,é\n1,a\n".encode("latin-1")},
        "source=csv",
        unread("a.csv", "csv", "the names of its columns are not UTF-8: convert the file"),
    ),
    case(
        "no header",
        {"a.csv": "1,a\n2,b\n"},
        "source=csv",
        "predict.columns: there is no column 'x' in HERE/in/a.csv; it has 1, a",
    ),
    case(
        "another delimiter",
        {"a.csv": CSV.replace(",", ";")},
        "source=csv",
        "predict.columns: there is no column 'x' in HERE/in/a.csv; it has x;id; is it delimited by ';'? "
        "source.delimiter=';'",
    ),
    case(
        "a fraction among whole numbers, late",
        {"a.csv": BLOCKS + "1.5,a\n"},
        "source=csv",
        broken(
            "a.csv",
            "line 10002: column 'x': CSV conversion error to int64: invalid value '1.5' (types come from a "
            "file's first block; source.column_types={name: type} fixes them)",
        ),
        code=1,
    ),
    case(
        "text among numbers, late",
        {"a.csv": BLOCKS + "oops,a\n"},
        "source=csv",
        broken(
            "a.csv",
            "line 10002: column 'x': CSV conversion error to int64: invalid value 'oops' (types come from "
            "a file's first block; source.column_types={name: type} fixes them)",
        ),
        code=1,
    ),
    # ---- JSON lines
    case(
        "a line that is no JSON",
        {"a.jsonl": lines(2) + '{"x":\n'},
        "source=jsonl",
        unread("a.jsonl", "jsonl", "line 3: Invalid value"),
    ),
    case(
        "a line that is no JSON, late",
        {"a.jsonl": lines(10_000, id="a" * 500) + '{"x": oops}\n'},
        "source=jsonl",
        broken("a.jsonl", "line 10001: Invalid value"),
        code=1,
    ),
    case(
        "one array for all",
        {"a.jsonl": json.dumps([{"x": 1}])},
        "source=jsonl",
        unread(
            "a.jsonl",
            "jsonl",
            "line 1: Column() changed from object to array; expected one JSON object per line",
        ),
    ),
    case(
        "numbers in place of objects",
        {"a.jsonl": "1\n2\n"},
        "source=jsonl",
        unread(
            "a.jsonl",
            "jsonl",
            "line 1: Column() changed from object to number; expected one JSON object per line",
        ),
    ),
    case(
        "commas between lines",
        {"a.jsonl": '{"x": 1},\n{"x": 2},\n'},
        "source=jsonl",
        unread("a.jsonl", "jsonl", "line 1: The document is empty; expected one JSON object per line"),
    ),
    case(
        "values of two types",
        {"a.jsonl": lines(2) + '{"x": "a"}\n'},
        "source=jsonl",
        unread(
            "a.jsonl",
            "jsonl",
            "JSON parse error: Column(/x) changed from number to string in row 2 (types come from a file's first "
            "block; source.column_types={name: type} fixes them)",
        ),
    ),
    case(
        "a fraction among whole numbers of JSON, late",
        {"a.jsonl": lines(10_000, id="a" * 500) + '{"x": 1.5}\n'},
        "source=jsonl",
        broken(
            "a.jsonl",
            "line 10001: Failed to convert JSON to int64, couldn't parse:1.5 (types come from a file's first block; "
            "source.column_types={name: type} fixes them)",
        ),
        code=1,
    ),
    case(
        "a key twice",
        {"a.jsonl": '{"x": 1, "x": 2}\n'},
        "source=jsonl",
        unread("a.jsonl", "jsonl", "line 1: Column(/x) was specified twice"),
    ),
    case(
        "JSON in another encoding",
        {"a.jsonl": '{"x": 1, "id": "é"}\n'.encode("latin-1")},
        "source=jsonl sink.keep_columns=[id]",
        broken("a.jsonl", "line 1: column 'id': Invalid UTF8 sequence at string index 0"),
        code=1,
    ),
    case(
        "JSON nested beyond sense",
        {"a.jsonl": '{"x": 1, "id": ' + "[" * 20_000 + "]" * 20_000 + "}\n"},
        "source=jsonl",
        unread("a.jsonl", "jsonl", "line 1: a line is nested more than 5000 deep"),
    ),
    # ---- columns
    case(
        "a column that one file lacks",
        {"a.parquet": parquet(TABLE), "b.parquet": parquet(TABLE.select(["id"]))},
        "source=parquet",
        "predict.columns: there is no column 'x' in HERE/in/b.parquet; it has id",
    ),
    case(
        "a column that one file has",
        {"a.parquet": parquet(TABLE), "b.parquet": parquet(TABLE.select(["x"]))},
        "source=parquet predict.columns=null",
        "source.path: the schemas differ: 'id' only in HERE/in/a.parquet (predict.columns can leave columns out)",
    ),
    case(
        "a name in another case",
        {"a.csv": CSV.upper()},
        "source=csv",
        "predict.columns: there is no column 'x' in HERE/in/a.csv (did you mean 'X'?); it has X, ID",
    ),
    case(
        "a name with a blank",
        {"a.csv": CSV.replace("x", "x ")},
        "source=csv",
        "predict.columns: there is no column 'x' in HERE/in/a.csv (did you mean 'x ', which only looks the "
        "same?); it has x , id",
    ),
    case(
        "a name in other characters that look the same",
        {"a.parquet": parquet(TABLE.rename_columns(["x", DECOMPOSED]))},
        'source=parquet sink.keep_columns=["größe"]',
        "sink.keep_columns: there is no column 'größe' in HERE/in/a.parquet (did you mean 'gro\\u0308\\xdfe', "
        "which only looks the same?); it has x, größe",
    ),
    case(
        "two columns of one name",
        {"a.csv": CSV.replace("id", "x")},
        "source=csv",
        "source.path: HERE/in/a.csv has several columns named 'x'; give each a name of its own, or leave the "
        "file out (errors.skip_files)",
    ),
    case(
        "text in one file, numbers in another",
        {"a.parquet": parquet(TABLE), "b.parquet": parquet(OTHERS)},
        "source=parquet",
        "source.path: the schemas differ: 'x' is int64 in HERE/in/a.parquet, string in HERE/in/b.parquet "
        "(source.column_types={x: string} casts them, and refuses or puts aside what does not fit; "
        "predict.columns can leave columns out)",
    ),
    case(
        "fractions in one file, whole numbers in another",
        {"a.parquet": parquet(TABLE), "b.parquet": parquet(pa.table({"x": [1.5]}))},
        "source=parquet",
        "source.path: the schemas differ: 'x' is int64 in HERE/in/a.parquet, double in HERE/in/b.parquet "
        "(source.column_types={x: double} casts them, and refuses or puts aside what does not fit; "
        "predict.columns can leave columns out)",
    ),
    case(
        "times in other units",
        {u: parquet(pa.table({"x": pa.array([1], pa.timestamp(u))})) for u in ("ms", "us")},
        "source=parquet",
        "source.path: the schemas differ: 'x' is timestamp[ms] in HERE/in/ms, timestamp[us] in HERE/in/us "
        "(source.column_types={x: timestamp[us]} casts them, and refuses or puts aside what does not fit; "
        "predict.columns can leave columns out)",
    ),
    case(
        "nothing but nulls",
        {"a.parquet": parquet(pa.table({"x": pa.nulls(3)}))},
        "source=parquet",
        "the predictions 'twice' are all null in the first batch, or empty lists, so their type is not "
        "known; declare it: predict.output_schema={twice: double, ...} (all columns)",
        code=1,
    ),
    case(
        "a kept column that is not there",
        {"a.csv": CSV},
        "source=csv sink.keep_columns=[idd]",
        "sink.keep_columns: there is no column 'idd' in HERE/in/a.csv (did you mean 'id'?); it has x, id",
    ),
    case(
        "a kept column that is not there, of all",
        {"a.csv": CSV},
        "source=csv predict.columns=null sink.keep_columns=[idd]",
        "sink.keep_columns: there is no column 'idd' in the input (did you mean 'id'?); it has x, id",
    ),
    case(
        "a column of the model that is not there",
        {"a.csv": CSV},
        "source=csv predict.columns=[id,xx]",
        "predict.columns: there is no column 'xx' in HERE/in/a.csv (did you mean 'x'?); it has x, id",
    ),
    # ---- partitions
    case(
        "a file without the partition's key",
        {"k=1/a.csv": CSV, "b.csv": CSV},
        "source=csv predict.columns=[x,k]",
        "predict.columns: there is no column 'k' in HERE/in/b.csv; it has x, id",
    ),
    case(
        "a partition in one file, a column in another",
        {"k=1/a.csv": CSV, "b.csv": CSV.replace("id", "k")},
        "source=csv predict.columns=[x,k]",
        "source.path: the schemas differ: 'k' is string in HERE/in/b.csv, int64 in HERE/in/k=1/a.csv "
        "(source.column_types={k: string} casts them, and refuses or puts aside what does not fit; "
        "predict.columns can leave columns out)",
    ),
    case(
        "two values of one key",
        {"k=1/k=2/a.csv": CSV},
        "source=csv",
        "source.path: HERE/in/k=1/k=2/a.csv cannot be read as csv: its folders give k two values, 1 and 2; "
        "source.partitioning=null ignores both; mend it, or leave it out: errors.skip_files=[a.csv]",
    ),
    case(
        "a filter that the partition's type does not hold",
        {"k=1/a.csv": CSV},
        'source=csv source.filters=[[k,"=",abc]]',
        "source.filters=[['k', '=', 'abc']]: Failed to parse string: 'abc' as a scalar of type int64",
    ),
    case(
        "a filter on no column",
        {"k=1/a.csv": CSV},
        'source=csv source.filters=[[kk,"=",1]]',
        "source.filters: there is no column 'kk' in HERE/in/k=1/a.csv (did you mean 'k'?); it has x, id, k",
    ),
    case(
        "a filter that excludes all",
        {"k=1/a.csv": CSV},
        'source=csv source.filters=[[k,"=",2]]',
        f"source.filters=[['k', '=', 2]]: exclude all 1 files of source.path=in {ALLOWED}",
    ),
    # ---- rows and models
    case(
        "too many bad rows",
        {"a.csv": CSV},
        "source=csv errors=quarantine errors.max_bad_rows=1 model._target_=predictors.poisoned model.values=[1,2]",
        "2 of 2 rows are bad; errors.max_bad_rows=1 allows 1: HERE/in/a.csv row 0: ArithmeticError: cannot "
        "predict 1; HERE/in/a.csv row 1: ArithmeticError: cannot predict 2",
        code=1,
    ),
    case(
        "a joblib file without its end",
        {"m.joblib": pickle.dumps([1.5] * 99)[:-9], "a.csv": CSV},
        "source=csv source.path=in/a.csv model=sklearn model.path=in/m.joblib",
        unloaded(
            "sklearn",
            "in/m.joblib cannot be read as joblib: pickle exhausted before end of frame; save or fetch it again",
        ),
        code=1,
    ),
    case(
        "a web page named .joblib",
        {"m.joblib": HTML, "a.csv": CSV},
        "source=csv source.path=in/a.csv model=sklearn model.path=in/m.joblib",
        unloaded(
            "sklearn",
            "in/m.joblib cannot be read as joblib: KeyError: 60; it begins like a web page; save or fetch it again",
        ),
        code=1,
    ),
    case(
        "a joblib file of another package",
        {"m.joblib": pickled_elsewhere(), "a.csv": CSV},
        "source=csv source.path=in/a.csv model=sklearn model.path=in/m.joblib",
        unloaded("sklearn", "in/m.joblib needs the package nowhere, which is not installed here: install it"),
        code=1,
    ),
    case(
        "a skops file that is none",
        {"m.skops": HTML, "a.csv": CSV},
        "source=csv source.path=in/a.csv model=sklearn model.path=in/m.skops",
        unloaded(
            "sklearn",
            "in/m.skops cannot be read as skops: File is not a zip file; it begins like a web page; save or "
            "fetch it again",
        ),
        code=1,
    ),
    case(
        "a model's file that is missing",
        {"a.csv": CSV},
        "source=csv source.path=in/a.csv model=sklearn model.path=in/m.joblib",
        "model.path=in/m.joblib: there is no such file",
    ),
    case(
        "a type for a column that is not there",
        {"a.csv": CSV},
        "source=csv source.column_types={idd:string}",
        "source.column_types: there is no column 'idd' in HERE/in/a.csv (did you mean 'id'?); it has x, id",
    ),
    case(
        "a filter of a column that is not there, where all columns are read",
        {"a.csv": CSV},
        'source=csv predict.columns=null source.filters=[[idd,">",3]]',
        "source.filters=[['idd', '>', 3]]: there is no column 'idd' (did you mean 'id'?); the data has x, id",
    ),
    case(
        "a filter with an unknown operator",
        {"a.csv": CSV},
        'source=csv source.filters=[[x,"=>",1]]',
        "source.filters=[['x', '=>', 1]]: '=>' is no operator; expected one of =, ==, !=, <, <=, >, >=, in, not in",
    ),
    case(
        "a model's file that is a folder",
        {"m.joblib": Folder(), "a.csv": CSV},
        "source=csv source.path=in/a.csv model=sklearn model.path=in/m.joblib",
        "model._target_=models.sklearn.load: the model cannot be loaded: IsADirectoryError: "
        "model.path=in/m.joblib: is a folder; name the file in it",
        code=1,
    ),
    case(
        "a safetensors file without its end",
        {"m.safetensors": SAFETENSORS[:-4], "a.csv": CSV},
        "source=csv source.path=in/a.csv model=torch model.path=in/m.safetensors model.module=torch.nn.Identity model.columns=[x]",
        unloaded(
            "torch",
            "in/m.safetensors cannot be read as safetensors: Error while deserializing header: incomplete "
            "metadata, file not fully covered; save or fetch it again",
        ),
        code=1,
    ),
    case(
        "a web page named .pt",
        {"m.pt": HTML, "a.csv": CSV},
        "source=csv source.path=in/a.csv model=torch model.path=in/m.pt model.module=torch.nn.Identity model.columns=[x]",
        unloaded(
            "torch",
            "in/m.pt cannot be read as a file of torch.save: Unsupported operand 60; it begins like a web page; "
            "save or fetch it again",
        ),
        code=1,
    ),
    case(
        "an empty checkpoint",
        {"m.pt": "", "a.csv": CSV},
        "source=csv source.path=in/a.csv model=torch model.path=in/m.pt model.module=torch.nn.Identity model.columns=[x]",
        unloaded(
            "torch", "in/m.pt cannot be read as a file of torch.save: the file ends early; save or fetch it again"
        ),
        code=1,
    ),
)
