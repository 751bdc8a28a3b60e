"""fsspec and its faster stand-ins: where a URI lies, atomic publishing, which errors pass."""
