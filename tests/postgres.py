"""A real PostgreSQL server for the tests, from the programs that `pgserver` installs. It asks for a password, and listens on loopback."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
from servers import HOST, ServerFailedError, ServerMissingError, free_ports

NOBODY = 65534  # PostgreSQL refuses to run as root
START_SECONDS = 60.0
SETTINGS = {"fsync": "off", "max_connections": "30", "log_min_messages": "fatal", "superuser_reserved_connections": "0"}


@dataclass
class PostgresServer:
    """A running server.

    Attributes:
        port: On loopback.
        password: Of the user `postgres`, different for every server.
        home: Its folder.
        process: The server.
    """

    port: int
    password: str
    home: Path
    process: subprocess.Popen[Any] | None = field(default=None, repr=False)

    @property
    def uri(self) -> str:
        """With the password."""
        return self.uri_of("postgres")

    def uri_of(self, database: str, user: str = "postgres", password: str | None = None) -> str:
        """Another database of it, or as another user."""
        return f"postgresql://{user}:{password or self.password}@{HOST}:{self.port}/{database}"

    def start(self) -> None:
        """Begin to listen; ready when this returns."""
        settings = [each for name, value in SETTINGS.items() for each in ("-c", f"{name}={value}")]
        command: list[str | Path] = [
            _programs(self.home) / "postgres",
            "-D",
            self.home / "data",
            "-p",
            str(self.port),
            "-h",
            HOST,
            "-k",
            "",
        ]
        with (self.home / "log").open("ab") as log:
            process = self.process = subprocess.Popen(
                [*command, *settings], **_run_as(self.home), stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServerFailedError((self.home / "log").read_text()[-2_000:])
            time.sleep(0.02)

    def _ready(self) -> bool:
        from adbc_driver_postgresql import dbapi

        with contextlib.suppress(Exception), dbapi.connect(self.uri):
            return True
        return False

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT breaks all connections and stops cleanly, SIGKILL leaves everything as after a crash."""
        assert self.process is not None
        children = psutil.Process(self.process.pid).children(recursive=True)
        ending: list[Any] = [*children, self.process] if how == signal.SIGKILL else [self.process]
        for each in ending:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(how)
        self.process.wait(START_SECONDS)
        psutil.wait_procs(children, START_SECONDS)


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Run a server with the databases `postgres` and whatever tests create.

    Its folder lies directly below the system's folder for temporary files, since a server that root starts runs as somebody else, who may
    not enter the folders of tests.

    Raises:
        ServerMissingError: `pgserver` is not installed.
    """
    home = Path(tempfile.mkdtemp(prefix="pg-"))
    server = PostgresServer(free_ports(1)[0], f"pw-{secrets.token_hex(8)}", home)
    try:
        _initialize(server)
        server.start()
        yield server
    finally:
        if server.process and server.process.poll() is None:
            server.stop()
        shutil.rmtree(home, ignore_errors=True)


def _initialize(server: PostgresServer) -> None:
    (server.home / "password").write_text(server.password)
    if os.geteuid() == 0:
        os.chown(server.home, NOBODY, NOBODY)
    command: list[str | Path] = [
        _programs(server.home) / "initdb",
        "-D",
        server.home / "data",
        "-U",
        "postgres",
        "--auth=scram-sha-256",
        "-N",
    ]
    more = [f"--pwfile={server.home / 'password'}", "--encoding=utf8", "--locale=C"]
    made = subprocess.run([*command, *more], **_run_as(server.home), capture_output=True, text=True, check=False)
    if made.returncode:
        raise ServerFailedError(made.stdout + made.stderr)


def _run_as(home: Path) -> dict[str, Any]:
    who: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    return {
        **who,
        "cwd": home,
        "env": {"PATH": os.defpath, "HOME": str(home), "LC_ALL": "C"},
        "start_new_session": True,
    }


def _programs(home: Path) -> Path:
    """The folder of the server's programs; a copy of it, where somebody else may not enter it."""
    found = find_spec("pgserver")
    if found is None or found.origin is None:
        raise ServerMissingError("no PostgreSQL: pip install pgserver")
    installed = Path(found.origin).parent / "pginstall"
    if os.geteuid() or all(each.stat().st_mode & 0o001 for each in (installed / "bin").parents):
        return installed / "bin"
    copy = home / "pgserver/pginstall"
    if not copy.exists():
        shutil.copytree(installed, copy)
        libraries = installed.parent.with_name(
            "pgserver.libs"
        )  # where the programs look for their libraries, seen from themselves
        shutil.copytree(libraries, home / libraries.name)
    return copy / "bin"
