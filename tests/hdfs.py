"""A real HDFS on this machine, of one NameNode and one DataNode. By hand: `python tests/hdfs.py JARS` prints its URI and waits for Enter.

It runs Apache Hadoop 2.7.3 from the jars in the package `pyspark` 2.4.8, on Java 17. They are large, and so nothing else needs them:

    pip download --no-deps pyspark==2.4.8
    tar xzf pyspark-2.4.8.tar.gz --wildcards 'pyspark-2.4.8/deps/jars/*'
    HDFS_JARS=$PWD/pyspark-2.4.8/deps/jars pytest tests/test_hdfs.py
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from servers import HOST, ServerFailedError, ServerMissingError, _tail, free_ports, process_group

START_SECONDS = 90.0
USER = os.environ.setdefault("HADOOP_USER_NAME", "tester")
OPENED = [f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in ("java.lang", "java.nio", "java.net", "java.util")]
SETTINGS = {
    "dfs.replication": "1",
    "dfs.webhdfs.enabled": "false",
    "dfs.permissions.enabled": "true",
    "dfs.namenode.http-address": f"{HOST}:0",
    "dfs.datanode.address": f"{HOST}:0",
    "dfs.datanode.http.address": f"{HOST}:0",
    "dfs.datanode.ipc.address": f"{HOST}:0",
    "dfs.namenode.datanode.registration.ip-hostname-check": "false",
    "dfs.namenode.safemode.extension": "0",
    "dfs.heartbeat.interval": "1",
    "dfs.namenode.fs-limits.min-block-size": "1024",
}


NAMENODE = "org.apache.hadoop.hdfs.server.namenode.NameNode"
DATANODE = "org.apache.hadoop.hdfs.server.datanode.DataNode"


@dataclass
class Hdfs:
    """A running HDFS.

    Attributes:
        uri: Such as `hdfs://127.0.0.1:20001`.
        home: Where its data, settings and logs are.
        jars: The folder of Hadoop's jars.
        stack: Stops its servers.
        servers: Their processes, by the names of the programs.
    """

    uri: str
    home: Path
    jars: Path
    stack: contextlib.ExitStack
    servers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def command(self, program: str, *more: str) -> list[str]:
        """Return what runs a program of Hadoop."""
        return ["java", "-Xmx256m", *OPENED, "-cp", f"{self.home}/conf:{self.home}:{self.jars}/*", program, *more]

    def start(self, program: str) -> None:
        """Start a server; also one that was killed, again."""
        log = self.home / f"{program.rpartition('.')[2].lower()}.log"
        started = process_group(self.command(program), log=log, cwd=self.home, env=_environment())
        self.servers[program] = self.stack.enter_context(started)

    def kill(self, program: str) -> None:
        """SIGKILL."""
        os.killpg(self.servers[program].pid, signal.SIGKILL)
        self.servers[program].wait()

    def wait(self) -> None:
        """Wait until a file can be written, and read."""
        import fsspec

        deadline, last = time.monotonic() + START_SECONDS, ""
        while time.monotonic() < deadline and all(each.poll() is None for each in self.servers.values()):
            try:
                fs, _ = fsspec.core.url_to_fs(f"{self.uri}/", skip_instance_cache=True)
                with fs.open("/ready", "wb") as file:
                    file.write(b"yes")
                if fs.cat_file("/ready") == b"yes":
                    fs.rm_file("/ready")
                    return
            except Exception as error:
                last = str(error)
            time.sleep(0.3)
        logs = "\n".join(_tail(log) for log in sorted(self.home.glob("*.log")))
        raise ServerFailedError(f"no HDFS within {START_SECONDS:.0f} s: {last}; the logs end:\n{logs}")


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HADOOP_USER_NAME": USER}


def find_jars() -> Path:
    """Return the folder that the environment variable `HDFS_JARS` names.

    Raises:
        ServerMissingError: There is none, or no Java.
    """
    jars = os.environ.get("HDFS_JARS")
    if not jars or not [*Path(jars).glob("hadoop-hdfs-2.*.jar")]:
        raise ServerMissingError("HDFS_JARS names no folder with Hadoop's jars: see tests/hdfs.py")
    if shutil.which("java") is None:
        raise ServerMissingError("no Java: apt install openjdk-17-jre-headless")
    return Path(jars)


@contextlib.contextmanager
def hdfs_server(folder: Path) -> Iterator[Hdfs]:
    """Run an HDFS with nothing in it.

    Args:
        folder: Where its data and logs go, each server in a subfolder of its own.

    Yields:
        The HDFS, ready for reads and writes.
    """
    home = Path(tempfile.mkdtemp(prefix="hdfs-", dir=folder))
    uri = f"hdfs://{HOST}:{free_ports(1)[0]}"
    _write_settings(home, uri)
    with contextlib.ExitStack() as stack:
        found = Hdfs(uri, home, find_jars(), stack)
        format_it = found.command(NAMENODE, "-format", "-force", "-nonInteractive")
        subprocess.run(format_it, check=True, capture_output=True, env=_environment())
        found.start(NAMENODE)
        found.start(DATANODE)
        found.wait()
        yield found


def _write_settings(home: Path, uri: str) -> None:
    (home / "conf").mkdir()
    for server in ("hdfs", "datanode"):  # empty folders of web pages, without which it does not start
        (home / "webapps" / server / "WEB-INF").mkdir(parents=True)
    folders = {"dfs.namenode.name.dir": f"file://{home}/name", "dfs.datanode.data.dir": f"file://{home}/data"}
    for file, values in {
        "core": {"fs.defaultFS": uri, "hadoop.tmp.dir": f"{home}/tmp"},
        "hdfs": SETTINGS | folders,
    }.items():
        lines = [f"<property><name>{name}</name><value>{value}</value></property>" for name, value in values.items()]
        (home / "conf" / f"{file}-site.xml").write_text(f"<configuration>{''.join(lines)}</configuration>")


if __name__ == "__main__":
    os.environ["HDFS_JARS"] = sys.argv[1]
    with tempfile.TemporaryDirectory() as place, hdfs_server(Path(place)) as server:
        print(server.uri, flush=True)
        sys.stdin.readline()
