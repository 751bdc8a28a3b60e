"""Files as rows: their bytes, and pictures as arrays; a picture that cannot be decoded is a bad row, and is told."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import Runs
from PIL import Image
from sources.test_source_seam import typed
from test_job import digests, job, manifest, predicted
from test_quarantine import quarantined

from runner import ConfigError, JobFailed, run
from runner.__main__ import main
from runner.arrow.batches import to_input
from runner.sources import pictures
from runner.sources.files import Files
from runner.testing import check_source
from runner.types import Fragment, Input
from runner.worker.predict_shards import fragments_of


def picture(grey: int, size: tuple[int, int] = (8, 6), kind: str = "PNG", mode: str = "RGB", **more: Any) -> bytes:
    """A picture of one grey, `size` pixels wide and high."""
    content = io.BytesIO()
    Image.new("L", size, grey).convert(mode).save(content, kind, **more)
    return content.getvalue()


def write_pictures(folder: Path, count: int = 30, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        (folder / f"{i:03}.png").write_bytes(picture(i, (8 + i % 3, 6)))


def images_job(tmp_path: Path, loader: str = "brightness", /, **more: Any) -> dict[str, Any]:
    return job(tmp_path, loader, source="images", shard_bytes="1MiB", **{"source.size": [6, 8], **more})


def batch_of(source: Files) -> pa.Table:
    fragments, schema = source.inspect(source.inputs())
    assert schema is not None
    return pa.concat_tables(table for each in fragments for table in source.reader(schema).read(each))


@pytest.mark.parametrize("size", [None, [6, 8]], ids=["as they are", "of one size"])
def test_pictures_keep_the_promises_of_a_source(tmp_path: Path, size: list[int] | None) -> None:
    write_pictures(tmp_path / "set=a", 3)
    check_source(Files(str(tmp_path), "images", size=size))


def test_files_of_any_kind_keep_the_promises_of_a_source(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.bin").write_bytes(bytes([i]) * i)  # one is empty
    source = Files(str(tmp_path), "binary")
    check_source(source)
    assert batch_of(source)["bytes"].to_pylist() == [b"", b"\1", b"\2\2"]


@pytest.mark.parametrize("kind", ["pandas", "numpy", "torch", "arrow"])
def test_a_batch_of_one_size_is_one_tensor(tmp_path: Path, kind: Any) -> None:
    write_pictures(tmp_path, 4)
    table = batch_of(Files(str(tmp_path), "images", size=[6, 8])).select(["image"])
    for rows in (table, table.slice(1, 2), table.slice(0, 0)):
        given = to_input(rows, kind)["image"]
        if kind in {"numpy", "torch"}:
            assert tuple(given.shape) == (rows.num_rows, 6, 8, 3)
        elif kind == "pandas":
            assert [each.shape for each in given] == [(6, 8, 3)] * rows.num_rows
        assert [int(np.asarray(each)[0, 0, 0]) for each in given if kind != "arrow"] == [
            *range(4)[1 if rows.num_rows == 2 else 0 :][: rows.num_rows if kind != "arrow" else 0]
        ]


def test_pictures_as_they_are_come_with_their_shape(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3)
    (tmp_path / "grey.jpg").write_bytes(picture(200, (2, 5), "JPEG", "L"))
    batch = to_input(batch_of(Files(str(tmp_path), "images")), "pandas")
    assert [image.reshape(shape).shape for image, shape in zip(batch["image"], batch["shape"], strict=True)] == [
        (6, 8, 3), (6, 9, 3), (6, 10, 3), (5, 2, 3)
    ]  # fmt: skip
    assert batch["image"][3].tolist() == [200] * 30


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
@pytest.mark.parametrize("stored", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_pixels_become_what_is_asked_for(tmp_path: Path, mode: Any, channels: int, stored: str) -> None:
    (tmp_path / "a.tiff").write_bytes(picture(255, kind="TIFF", mode=stored))
    image = to_input(batch_of(Files(str(tmp_path), "images", mode=mode, size=[3, 4])), "numpy")["image"]
    assert image.shape == (1, 3, 4, channels)
    assert (image == 255).all()


def test_a_picture_that_lies_on_its_side_is_turned_upright(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees
    (tmp_path / "a.jpg").write_bytes(picture(9, (8, 6), "JPEG", exif=turned))
    assert batch_of(Files(str(tmp_path), "images"))["shape"].to_pylist() == [[8, 6, 3]]


BAD = {
    "bomb.png": (b"", "could be decompression bomb"),
    "cut.png": (picture(1, (400, 400), "BMP")[:5_000], "the picture cannot be decoded: image file is truncated"),
    "deep.png": (b"", "its pixels have more than 8 bits for each channel"),
    "empty.png": (b"", "the file is empty"),
    "page.png": (b"<!doctype html><p>Not found", "is no picture that Pillow knows; it begins like a web page"),
    "text.png": (b"not a picture", "is no picture that Pillow knows; it begins like plain text"),
}


def write_bad(folder: Path) -> None:
    for name, (content, _) in BAD.items():
        (folder / name).write_bytes(content)
    deep = io.BytesIO()
    Image.fromarray(np.full((4, 4), 60_000, np.uint16)).save(deep, "PNG")
    (folder / "deep.png").write_bytes(deep.getvalue())
    header = bytearray(picture(1))
    header[16:24] = (50_000).to_bytes(4, "big") * 2  # width and height
    crc = __import__("zlib").crc32(bytes(header[12:29]))
    header[29:33] = crc.to_bytes(4, "big")
    (folder / "bomb.png").write_bytes(bytes(header))


def test_what_cannot_be_decoded_is_put_aside_in_every_mode(executor: Runs, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 8)
    write_bad(tmp_path / "in")
    (tmp_path / "in/lies.png").write_bytes(picture(100, kind="JPEG"))  # which is a picture, whatever its name says
    more = {"errors": "quarantine", "errors.max_bad_rows": 20, "model.darkest": 3, "sink.keep_columns": ["path"]}
    report = executor(images_job(tmp_path, **more))
    assert (report.rows_out, report.rows_quarantined) == (6, len(BAD) + 3)
    assert predicted(tmp_path, "mean") == [3, 4, 5, 6, 7, 100]
    assert [Path(each).name for each in predicted(tmp_path, "path")][-1] == "lies.png"
    rows = quarantined(tmp_path).to_pylist()
    assert [Path(row["_source"]).name for row in rows] == ["000.png", "001.png", "002.png", *sorted(BAD)]
    assert [Path(row["path"] or row["_raw"]).name for row in rows] == ["000.png", "001.png", "002.png", *sorted(BAD)]
    assert "image" not in rows[0], "pixels stay where they are"
    for row, (_, told) in zip(rows[3:], BAD.values(), strict=True):
        assert told in row["_error"]
    assert main([*typed(images_job(tmp_path, **more)), "action=verify", "verify.deep=true"]) == 0


def test_a_strict_job_names_the_first_that_cannot_be_decoded(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 3)
    (tmp_path / "in/page.png").write_bytes(b"<html>")
    with pytest.raises(
        JobFailed, match=r"page.png cannot be read: is no picture that Pillow knows.*errors.skip_files=\[page.png\]"
    ):
        run(images_job(tmp_path, mode="inline"))
    run(images_job(tmp_path, mode="inline", **{"errors.skip_files": ["page.png"]}))
    assert len(predicted(tmp_path, "mean")) == 3


def test_new_pictures_are_appended(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 5)
    run(images_job(tmp_path, mode="inline"))
    before = digests(tmp_path)
    write_pictures(tmp_path / "in", 3, first=5)
    run(images_job(tmp_path, mode="inline", **{"sink.save_mode": "append"}))
    assert before.items() < digests(tmp_path).items()
    assert predicted(tmp_path, "mean") == [*range(8)]
    assert len(manifest(tmp_path)["parts"]) == 2


def test_small_files_share_a_shard(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(40):
        (tmp_path / f"in/{i:02}.bin").write_bytes(bytes(i))
    run(job(tmp_path, "sizing", source="binary", mode="inline", shard_bytes="auto"))
    assert predicted(tmp_path, "length") == [*range(40)]
    assert len(manifest(tmp_path)["parts"]) == 2


@pytest.mark.slow
def test_pictures_of_the_next_batch_are_decoded_while_one_is_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path / "in", 40)
    decoded, while_predicting = list[str](), list[int]()
    plain = pictures.Images._decoded

    def noted(self: Any, data: bytes) -> Any:
        decoded.append(threading.current_thread().name)
        return plain(self, data)

    def predict(batch: Any) -> Any:
        time.sleep(0.5)
        while_predicting.append(len(decoded))
        return {"n": range(len(batch))}

    monkeypatch.setattr(pictures.Images, "_decoded", noted)
    config = {**images_job(tmp_path, mode="inline", batch_size=10), "predict.version": "1"}
    run({key: value for key, value in config.items() if not key.startswith("model")}, model=predict)
    first, second, *_ = while_predicting
    assert first == 10, "the batch that shows what predictions look like"
    assert 30 <= second - first < 40, "while the second one is predicted, the third one is decoded, and no more"
    assert "MainThread" not in decoded[10:]


def test_as_many_files_are_read_ahead_as_make_a_batch() -> None:
    def fragments(*rows: int | None) -> list[Fragment]:
        return [Fragment(Input(str(i), 1, ""), 1, each) for i, each in enumerate(rows)]

    assert fragments_of(10, fragments(*[1] * 50)) == 10
    assert fragments_of(100, fragments(*[1] * 50)) == 50, "a batch never goes beyond its shard"
    assert fragments_of(100, fragments(10, 30, 80)) == 3
    assert fragments_of(100, fragments(1_000, 3_000)) == 1
    assert fragments_of(100, fragments(None, 3)) == fragments_of(100, []) == fragments_of(100, fragments(0)) == 1


def test_what_is_wrong_with_the_options_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "in", 1)
    for size in ([224], [0, 5]):
        with pytest.raises(ConfigError, match=r"source.size=.*expected \[height, width\]"):
            run(images_job(tmp_path, **{"source.size": size}))
    monkeypatch.setattr(pictures, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"source.format=images: needs Pillow: pip install .*\[images\]"):
        run(images_job(tmp_path))
