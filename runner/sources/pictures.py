"""Reads pictures (JPEG, PNG and whatever else Pillow knows), each as one row: its path and its pixels."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from runner.errors import ConfigError
from runner.sources.formats import FileContents, Items
from runner.sources.opening import read_whole
from runner.sources.signature import HEAD, kind_of
from runner.storage.locations import install
from runner.types import Fragment, Input, Unreadable
from runner.words.plain import first_line

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

Colours = Literal["L", "RGB", "RGBA"]
CHANNELS: Mapping[Colours, int] = {"L": 1, "RGB": 3, "RGBA": 4}


@dataclass(frozen=True)
class Images:
    """Decodes a picture into one row: `path`, and in `image` its pixels, by rows from the top, each with its channels.

    With a `size`, `image` is a tensor of the shape (height, width, channels). Without one it is a list, with its `shape` beside it. A
    picture whose EXIF data says that it lies on its side is turned upright. Of several frames the first one is taken.

    Attributes:
        mode: What each pixel becomes.
        size: Height and width that each picture is stretched or shrunk to; `None` leaves it as it is.
        tolerant: Whether a picture that cannot be decoded is yielded as `Unreadable`; else it is an error of the file.
    """

    left_out: ClassVar[tuple[str, ...]] = ("image", "shape")  # of a row that is put aside, whose file stays where it is
    busy: ClassVar[bool] = True

    mode: Colours = "RGB"
    size: Sequence[int] | None = None
    tolerant: bool = False

    def __post_init__(self) -> None:
        """Refuse a size that is none, and a machine that cannot decode."""
        if find_spec("PIL") is None:
            raise ConfigError(f"source.format=images: needs Pillow: {install('images')}")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ConfigError(f"source.size={list(self.size)}: expected [height, width] in pixels, such as [224, 224]")

    def inspect(self, file: Input, options: Mapping[str, Any]) -> FileContents:  # noqa: ARG002
        """Return one row. Nothing is read, since there may be very many files."""
        import pyarrow as pa

        return FileContents([Fragment(file, file.size, 1)], pa.schema([("path", pa.string()), *self._pixels().items()]))

    def _pixels(self) -> dict[str, Any]:
        """Return the types of the columns that hold a picture."""
        import pyarrow as pa

        if self.size is None:
            return {"image": pa.large_list(pa.uint8()), "shape": pa.list_(pa.int32(), 3)}
        return {"image": pa.fixed_shape_tensor(pa.uint8(), [*self.size, CHANNELS[self.mode]])}

    def read(
        self,
        fragment: Fragment,
        schema: pa.Schema,
        options: Mapping[str, Any],
        keep: pa.Expression | None,  # noqa: ARG002
    ) -> Items:
        """Decode the picture, unless only its path is asked for."""
        import pyarrow as pa

        name = fragment.input.name
        columns: dict[str, Any] = {"path": pa.array([name])}
        if not set(self._pixels()).isdisjoint(schema.names):
            data = read_whole(fragment.input, options)
            try:
                columns |= self._columns(self._decoded(data))
            except MemoryError:
                raise
            except Exception as error:  # whatever a decoder makes of bytes that somebody else wrote
                problem = _problem(data, error)
                if not self.tolerant:
                    raise ValueError(problem) from error
                yield 0, Unreadable(0, name, problem)
                return
        yield 0, pa.table(columns)

    def _columns(self, pixels: np.ndarray[Any, Any]) -> dict[str, Any]:
        import pyarrow as pa

        values = pa.array(pixels.reshape(-1))
        if self.size is None:
            held = pa.LargeListArray.from_arrays([0, len(values)], values)
            return {"image": held, "shape": pa.array([pixels.shape], pa.list_(pa.int32(), 3))}
        kind = self._pixels()["image"]
        return {"image": pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(values, len(values)))}

    def _decoded(self, data: bytes) -> np.ndarray[Any, Any]:
        """Return the pixels of a picture, of the shape (height, width, channels)."""
        import numpy as np
        from PIL import Image, ImageOps

        with Image.open(io.BytesIO(data)) as stored:
            if stored.mode.startswith(("I", "F")):  # which Pillow would clip to 255
                raise ValueError(
                    f"its pixels have more than 8 bits for each channel (Pillow calls this {stored.mode}); convert it first"
                )
            ImageOps.exif_transpose(stored, in_place=True)
            upright = stored.convert(self.mode)
        if self.size is not None:
            upright = upright.resize((self.size[1], self.size[0]))
        return np.asarray(upright).reshape(upright.height, upright.width, CHANNELS[self.mode])


def _problem(data: bytes, error: Exception) -> str:
    """Return why a picture cannot be decoded, and what its file looks like."""
    found = kind_of(data[:HEAD])
    if not data:
        return "the file is empty"
    if type(error).__name__ == "UnidentifiedImageError":
        looks = f"; it begins like {found[0]}" if found else ""
        return f"is no picture that Pillow knows{looks}"
    return f"the picture cannot be decoded: {first_line(error)}"
