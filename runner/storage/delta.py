"""Opens tables of Delta Lake: storage options in deltalake's words, its errors in ours, and what its log says of files."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from runner.errors import ConfigError
from runner.storage.locations import install, is_local
from runner.storage.transience import retrying

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
REFUSED = re.compile(r"\b40[13]\b|Unauthorized|Forbidden|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch")
# fsspec's names of options, by scheme, and what deltalake calls them.
IDLE = frozenset(
    {"default_block_size", "default_cache_type", "default_fill_cache", "max_concurrency", "use_listings_cache"}
    | {"config_kwargs", "skip_instance_cache", "fixed_upload_size", "project", "asynchronous", "block_size"}
)  # change only how fsspec reads and writes
S3 = {
    "key": "aws_access_key_id", "secret": "aws_secret_access_key", "token": "aws_session_token", "anon": "aws_skip_signature",
    "endpoint_url": "aws_endpoint_url", "region_name": "aws_region", "username": "aws_access_key_id",
    "password": "aws_secret_access_key",
}  # fmt: skip
GCS = {"token": "google_service_account", "anon": "google_skip_signature", "endpoint_url": "google_base_url"}
AZURE = {name: f"azure_storage_{name}" for name in ("account_name", "account_key")} | {
    "sas_token": "azure_storage_sas_key", "anon": "azure_skip_signature", "client_id": "azure_client_id",
    "client_secret": "azure_client_secret", "tenant_id": "azure_tenant_id",
}  # fmt: skip
SCHEMES: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(["s3", "s3a"], S3), **dict.fromkeys(["gs", "gcs"], GCS), **dict.fromkeys(["abfs", "abfss", "az"], AZURE),
}  # fmt: skip
# deltalake would try for three minutes before it says that a server does not answer; we try again around it.
PATIENCE = {"max_retries": "2", "retry_timeout": "20s"}


def missing_package() -> str | None:
    """Return why no table can be opened, and the command that installs what is missing; `None` if nothing is."""
    from importlib.util import find_spec

    return None if find_spec("deltalake") else f"needs deltalake: {install('delta')}"


def log_options(root: str, options: Mapping[str, Any], key: str) -> dict[str, str]:
    """Return fsspec's storage options in deltalake's words.

    Args:
        root: The table.
        options: fsspec's. Those that begin with `aws_`, `azure_` or `google_` are deltalake's own words.
        key: What the config calls them, for messages.

    Raises:
        ConfigError: There is no word for one of them, or the storage is none that deltalake knows.
    """
    if is_local(root):
        return {}
    scheme = root.partition("://")[0]
    if scheme not in SCHEMES:
        raise ConfigError(
            f"{key.partition('.')[0]}.path={root}: a Delta table cannot lie on {scheme}://, but on {', '.join(SCHEMES)}"
        )
    words = SCHEMES[scheme]
    given = {**options, **(options.get("client_kwargs") or {})}
    given.pop("client_kwargs", None)
    unknown = [
        name
        for name in given
        if name not in words and name not in IDLE and not name.startswith(("aws_", "azure_", "google_"))
    ]
    if unknown:
        raise ConfigError(
            f"{key}.{unknown[0]}: has no counterpart for the log of a Delta table, which deltalake reads and writes; "
            f"translated are {', '.join(words)}; others it takes from the environment"
        )
    told = {
        words.get(name, name): _text(value) for name, value in given.items() if name not in IDLE and value is not None
    }
    if "://anonymous@" in root:
        told[words["anon"]] = "true"
    if words is S3:
        told = {
            "aws_region": "us-east-1",
            "aws_allow_http": _text(told.get("aws_endpoint_url", "").startswith("http:")),
            **told,
        }
    return {**PATIENCE, **told}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def opened(root: str, options: Mapping[str, str], version: int | None = None) -> Any:
    """Return a table at a version, the newest by default; `None` if no table is there.

    Args:
        root: The table.
        options: Of `log_options`.
        version: Which.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    def load() -> Any:
        with log_errors(root):
            return DeltaTable(spelled(root), version=version, storage_options=dict(options) or None)

    try:
        return retrying(load)
    except TableNotFoundError:
        return None


def spelled(root: str) -> str:
    """Return the root as deltalake takes it."""
    return root.replace("://anonymous@", "://", 1).replace("gcs://", "gs://", 1)


@contextlib.contextmanager
def log_errors(root: str) -> Iterator[None]:
    """Raise what deltalake says of the storage in the block as an error of a storage that tells whether it may pass.

    Raises:
        PermissionError: Access was refused.
        ConnectionError: The storage did not answer. deltalake tells no more than a text, so this is also raised where it may not pass.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        text = " ".join(COLOURS.sub("", str(error)).split())
        kind = (
            PermissionError
            if REFUSED.search(text)
            else FileNotFoundError
            if "not found" in text.lower()
            else ConnectionError
        )
        raise kind(f"{root}: {text}") from error


def active_files(table: Any) -> list[str]:
    """Return the paths of the files that a version of the table consists of, below its root."""
    import pyarrow as pa

    paths: list[str] = pa.table(table.get_add_actions()).column("path").to_pylist()
    return paths


def arrow_schema(schema: Any) -> Any:
    """Return the schema of a table, or another one of deltalake, as pyarrow's."""
    import pyarrow as pa

    return pa.schema(schema.to_arrow())
