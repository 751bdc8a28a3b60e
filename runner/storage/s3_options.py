"""Translates fsspec's options for S3 into obstore's, or says which of them obstore has no counterpart for."""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

# Options of fsspec and s3fs that tune only their own caches and connections: obstore reads and writes the same bytes without them.
WITHOUT_EFFECT = frozenset(
    {"use_listings_cache", "listings_expiry_time", "max_paths", "skip_instance_cache", "default_cache_type"}
    | {"default_fill_cache", "max_concurrency", "cache_regions", "asynchronous", "loop"}
)
# Options with values that say what obstore does anyway.
ANYWAY: Mapping[str, tuple[Any, ...]] = {
    "use_ssl": (True,), "version_aware": (False,), "s3_additional_kwargs": ({},), "fixed_upload_size": (False,),
    "client_kwargs.use_ssl": (True,), "client_kwargs.verify": (True,), "config_kwargs.signature_version": ("s3v4",),
    "config_kwargs.s3": ({}, {"addressing_style": "path"}, {"addressing_style": "auto"}),
}  # fmt: skip
# Environment variables and keys of ~/.aws/config that change how botocore connects.
NOT_IN_ENVIRONMENT = ("AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT")
CERTIFICATES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
VARIABLES = (
    *NOT_IN_ENVIRONMENT,
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"),
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", "AWS_CONFIG_FILE"),
    *CERTIFICATES,
)  # all that `translated` looks at
NOT_IN_CONFIG_FILE = ("endpoint_url", "services", "s3", "use_fips_endpoint", "use_dualstack_endpoint")
NO_COUNTERPART = "obstore has no counterpart for"
BLOCK_BYTES = 16 * 1024**2  # of an upload: a larger file is sent in blocks of this size
RETRIES = 5
CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
WHOLE_REQUEST_SECONDS = 3600.0  # a slow request is not an error: what stalls is found by the two timeouts above
RETRIES_SECONDS = 60.0  # after this time since its beginning, no request is tried again


@dataclass(frozen=True)
class S3Options:
    """How an S3 is reached, whichever bucket.

    Attributes:
        key: The access key; `None` if botocore is to find credentials.
        secret: The secret of that key.
        token: The session token that belongs to them.
        anonymous: Whether requests are sent without a signature.
        endpoint: The server's URL; `None` for AWS.
        region: Its region, if it is known.
        ca_bundle: A file of certificates that are trusted beside the system's own; `None` for none.
        profile: The profile in ~/.aws whose credentials count.
        requester_pays: Whether requests are at the expense of whoever sends them.
        block_bytes: How large the blocks of a large upload are.
        retries: How often a request that fails by a transient error is sent again.
        connect_seconds: Time for connecting.
        read_seconds: Time in which an answer must begin, and in which more of it must come.
    """

    key: str | None = None
    secret: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    anonymous: bool = False
    endpoint: str | None = None
    region: str | None = None
    ca_bundle: str | None = None
    profile: str | None = None
    requester_pays: bool = False
    block_bytes: int = BLOCK_BYTES
    retries: int = RETRIES
    connect_seconds: float = CONNECT_SECONDS
    read_seconds: float = READ_SECONDS

    def client(self) -> dict[str, Any]:
        """Return obstore's options for its HTTP client."""
        plain = bool(self.endpoint and self.endpoint.startswith("http://"))
        trusted = {} if plain or not self.ca_bundle else {"root_certificate": Path(self.ca_bundle).read_bytes()}
        return {
            **trusted,
            "allow_http": plain,
            "connect_timeout": timedelta(seconds=self.connect_seconds),
            "read_timeout": timedelta(seconds=self.read_seconds),
            "timeout": timedelta(seconds=WHOLE_REQUEST_SECONDS),
        }

    def retrying(self) -> dict[str, Any]:
        """Return obstore's options for sending a request again."""
        wait = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=3), "base": 2}
        return {
            "max_retries": self.retries,
            "backoff": wait,
            "retry_timeout": timedelta(seconds=RETRIES_SECONDS),
        }


def translated(options: Mapping[str, Any], environment: Mapping[str, str]) -> S3Options | str:
    """Return the options for obstore; or the reason why only fsspec's own client understands them.

    Args:
        options: fsspec's storage options.
        environment: The environment variables, of those in `VARIABLES`.
    """
    profile = options.get("profile") or environment.get("AWS_PROFILE") or environment.get("AWS_DEFAULT_PROFILE")
    in_file = _config_file(profile, environment)
    if unknown := [*filter(environment.get, NOT_IN_ENVIRONMENT), *filter(in_file.get, NOT_IN_CONFIG_FILE)]:
        return f"{NO_COUNTERPART} {unknown[0]}"
    rest = {name: value for name, value in options.items() if value is not None and name not in WITHOUT_EFFECT}
    rest |= _nested(rest, "client_kwargs") | _nested(rest, "config_kwargs")
    retries = rest.pop("config_kwargs.retries", None) or {}
    static = _credentials(rest, options.get("profile"), environment)
    made = S3Options(
        **static,
        anonymous=bool(rest.pop("anon", False)),
        endpoint=_first(
            rest.pop("client_kwargs.endpoint_url", None),
            rest.pop("endpoint_url", None),
            environment.get("AWS_ENDPOINT_URL_S3"),
            environment.get("AWS_ENDPOINT_URL"),
        ),
        region=_first(
            rest.pop("client_kwargs.region_name", None), environment.get("AWS_DEFAULT_REGION"), in_file.get("region")
        ),
        ca_bundle=_first(*map(environment.get, CERTIFICATES), in_file.get("ca_bundle")),
        profile=rest.pop("profile", None) and profile,
        requester_pays=bool(rest.pop("requester_pays", False)),
        block_bytes=int(rest.pop("default_block_size", BLOCK_BYTES)),
        retries=_retries(retries),
        connect_seconds=float(rest.pop("config_kwargs.connect_timeout", CONNECT_SECONDS)),
        read_seconds=float(rest.pop("config_kwargs.read_timeout", READ_SECONDS)),
    )
    rest.pop("config_kwargs.max_pool_connections", None)
    rest = {name: value for name, value in rest.items() if value not in ANYWAY.get(name, ())}
    if bool(made.key) != bool(made.secret):
        return "it has a key without a secret, or a secret without a key"
    return f"{NO_COUNTERPART} storage_options.{next(iter(rest))}" if rest else made


def _nested(options: dict[str, Any], name: str) -> dict[str, Any]:
    """Take a mapping out of the options, and return its entries under dotted names."""
    return {f"{name}.{key}": value for key, value in (options.pop(name, None) or {}).items() if value is not None}


def _credentials(rest: dict[str, Any], profile: str | None, environment: Mapping[str, str]) -> dict[str, str | None]:
    """Take the credentials out of the options, or the environment's, which count where neither a key nor a profile is given."""
    key = _first(rest.pop("key", None), rest.pop("username", None), rest.pop("client_kwargs.aws_access_key_id", None))
    secret = _first(
        rest.pop("secret", None), rest.pop("password", None), rest.pop("client_kwargs.aws_secret_access_key", None)
    )
    token = _first(rest.pop("token", None), rest.pop("client_kwargs.aws_session_token", None))
    found = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if key is None and not profile and all(found):
        key, secret, token = *found, environment.get("AWS_SESSION_TOKEN")
    return {"key": key, "secret": secret, "token": token}


def _first(*values: Any) -> str | None:
    return next((str(value) for value in values if value), None)


def _retries(asked: Mapping[str, Any]) -> int:
    """Return how often to try again, given botocore's `retries`: `total_max_attempts` counts the first try, `max_attempts` does not."""
    if "total_max_attempts" in asked:
        return max(0, int(asked["total_max_attempts"]) - 1)
    return int(asked.get("max_attempts", RETRIES))


def _config_file(profile: str | None, environment: Mapping[str, str]) -> Mapping[str, str]:
    """Return what ~/.aws/config holds for a profile."""
    read = configparser.RawConfigParser(strict=False)
    path = Path(environment.get("AWS_CONFIG_FILE") or "~/.aws/config").expanduser()
    try:
        read.read_string(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, configparser.Error):
        return {}
    section = f"profile {profile}" if profile and profile != "default" else "default"
    return dict(read.items(section)) if read.has_section(section) else {}
