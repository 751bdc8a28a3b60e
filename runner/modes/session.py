"""The Ray session of this process: which Ray it joins or starts, and what the nodes offer."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runner.errors import ConfigError, Incomplete, Interrupted
from runner.modes.fit import demands, fit
from runner.types import Fit, RayOptions, Resources, Setup
from runner.words.credentials import is_secret
from runner.words.secrets import hide

WAIT_FOR_RESOURCES = 600.0  # seconds that an autoscaler gets on a joined cluster
KNOCK_SECONDS = 10.0  # that a cluster has to accept a connection
ASK_SECONDS = 2.0  # between two questions to a cluster about its nodes
TOKEN_LOGGER = (
    "ray._private.authentication.authentication_token_setup"  # tells at every start that Ray is as it is by default
)


@dataclass
class _Joined:
    """The session of this process.

    Attributes:
        private: Whether this process started it.
        start_seconds: What that took the present job.
        asked: The address and the runtime environment that it was joined with.
        name: Tells it from one that somebody else has joined since.
    """

    private: bool = False
    start_seconds: float = 0.0
    asked: tuple[str, Any] = "", None
    name: tuple[str, str] = "", ""


_joined = _Joined()


def connect(options: RayOptions, say: Callable[[str], None]) -> None:
    """Join or start Ray, once for all jobs of a process that ask for the same; a session that somebody else began is used as it is.

    Raises:
        Incomplete: The cluster at `ray.address` does not answer.
    """
    import ray

    _joined.start_seconds = 0.0
    address = options.address or os.environ.get("RAY_ADDRESS") or "local"
    if ray.is_initialized() and _serves(address, options.runtime_env, say):
        return
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    private = address == "local"
    if not private:
        named = "ray.address" if options.address else "RAY_ADDRESS"
        say(f"ray: joining the cluster at {address} ({named})")
    _knock(address)
    logging.getLogger(TOKEN_LOGGER).setLevel(logging.ERROR)
    secret, open_env = _parted(options.runtime_env)
    if secret and not private:
        say(
            f"ray.runtime_env.env_vars: Ray shows {', '.join(secret)} in its logs and in `ps`; set it where the nodes start"
        )
    disconnect()  # another job of this process may have asked for something else
    started = time.monotonic()
    try:
        with _environment(secret if private else {}):
            ray.init(address=address, **_init_options(open_env if private else options.runtime_env, private=private))
    except Exception as error:  # Ray raises a plain Exception where a node does not come up in time
        told = f"ray.address={address}: Ray does not start or answer there: {error}"
        raise Incomplete(told + ("" if private else _token_hint())) from error
    _joined.private, _joined.asked, _joined.name = private, (address, options.runtime_env), _name()
    _joined.start_seconds = time.monotonic() - started if private else 0.0


def _serves(address: str, runtime_env: Any, say: Callable[[str], None]) -> bool:
    """Whether the session serves this job: it is what the job asks for, or somebody else began it and we must not end it."""
    if _joined.name != _name():
        _joined.private = False
        if runtime_env:
            say("ray.runtime_env: has no effect, as this process had joined Ray before; give it to that `ray.init`")
        return True
    return _joined.asked == (address, runtime_env)


def _name() -> tuple[str, str]:
    import ray

    context = ray.get_runtime_context()
    return context.get_node_id(), context.get_job_id()


def _parted(runtime_env: Mapping[str, Any] | None) -> tuple[dict[str, str], dict[str, Any] | None]:
    """The credentials among a runtime environment's variables, and the environment without them.

    Ray writes what it is given to its logs and to the command line of a starting worker. What the driver's environment holds while
    a private Ray starts reaches the same processes, by inheritance. A value with a reference such as `${HOME}` is Ray's to expand.
    """
    variables = (runtime_env or {}).get("env_vars") or {}
    secret = {name: value for name, value in variables.items() if _is_credential(name, value)}
    rest = {name: value for name, value in variables.items() if name not in secret}
    parts = {**(runtime_env or {}), "env_vars": rest}
    return secret, {name: part for name, part in parts.items() if name != "env_vars" or part} or None


def _is_credential(name: str, value: Any) -> bool:
    return isinstance(value, str) and "${" not in value and (is_secret(f"env_vars.{name}") or hide(value) != value)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set these environment variables for the processes that are started within the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _knock(address: str) -> None:
    """Refuse an address at which nothing listens. Ray itself would try for over a minute.

    Raises:
        Incomplete: Nothing does.
    """
    host, mark, port = address.rpartition(":")
    if not mark or not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()
    except OSError as error:
        raise Incomplete(f"ray.address={address}: nothing answers there: {error}") from error


def _token_hint() -> str:
    """A hint on tokens: the error of a cluster that asks for one does not say so."""
    if os.environ.get("RAY_AUTH_MODE") == "token":
        return "; RAY_AUTH_MODE=token is set: is the token that of the cluster (RAY_AUTH_TOKEN, or ~/.ray/auth_token)?"
    return "; if the cluster asks for a token: set RAY_AUTH_MODE=token, and its token in RAY_AUTH_TOKEN or ~/.ray/auth_token"


def _init_options(runtime_env: dict[str, Any] | None, *, private: bool) -> dict[str, Any]:
    common: dict[str, Any] = {
        "configure_logging": False,
        "log_to_driver": False,
        "runtime_env": runtime_env,
    }
    return {**common, "include_dashboard": False} if private else common


def disconnect() -> None:
    """Leave Ray. A private Ray ends, with all its processes."""
    import sys

    ray: Any = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()


def is_private() -> bool:
    """Whether this process started its Ray. Such a Ray cannot grow."""
    return _joined.private


def start_seconds() -> float:
    """Seconds that it took to start a private Ray for this job; 0 if none was started."""
    return _joined.start_seconds


def nodes() -> list[dict[str, float]]:
    """The total resources of each living node, by name."""
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def wait_until_one_fits(setup: Setup) -> Fit:
    """Wait until at least one worker fits, and return how many do.

    Raises:
        ConfigError: None fits on a private Ray, whose size is final.
        Incomplete: None fitted on a joined cluster within ten minutes.
    """
    found = fit(nodes(), setup.resources)
    if found.count:
        return found
    message = f"resources: no worker fits ({found.arithmetic})"
    if is_private():
        raise ConfigError(f"{message}; ask for less: {', '.join(_too_much(setup.resources))}")
    return _wait_for_autoscaler(setup, message)


KEYS = {"CPU": "resources.num_cpus", "GPU": "resources.num_gpus", "memory": "resources.memory"}


def _too_much(resources: Resources) -> list[str]:
    """The config keys that ask for more than any node has."""
    there = nodes()
    short = [name for name, amount in demands(resources).items() if all(node.get(name, 0) < amount for node in there)]
    return [KEYS.get(name, f"resources.resources ({name})") for name in short] or ["together, no node has them all"]


def _wait_for_autoscaler(setup: Setup, message: str) -> Fit:
    resources, say = setup.resources, setup.say
    from ray.autoscaler.sdk import request_resources

    say(f"{message}; waiting up to {WAIT_FOR_RESOURCES:g} s for the cluster to grow")
    request_resources(bundles=[demands(resources)])
    deadline = time.monotonic() + WAIT_FOR_RESOURCES
    try:
        while not (found := fit(nodes(), resources)).count:
            if time.monotonic() > deadline:
                raise Incomplete(f"{message}, and the cluster did not grow within {WAIT_FOR_RESOURCES:g} s")
            if setup.signals.asked():
                break
            time.sleep(1.0)
    finally:
        request_resources(bundles=[])
    return found


class Watch:
    """Knows how many workers fit the cluster. It asks every few seconds, since nodes join and leave.

    Notices too when none fits any more: what is queued there would wait for ever.
    """

    def __init__(self, resources: Resources) -> None:
        """Take the resources of one worker."""
        self._resources = resources
        self._found = Fit(0, "not asked yet")
        self._next_question = 0.0
        self._since: float | None = None

    def fits(self) -> int:
        """How many workers fit at once, by the last answer."""
        return self._answer().count

    def _answer(self) -> Fit:
        now = time.monotonic()
        if now >= self._next_question:
            self._found, self._next_question = fit(nodes(), self._resources), now + ASK_SECONDS
        return self._found

    def refresh(self, *, progressed: bool) -> None:
        """Ask again if it is time.

        Raises:
            Incomplete: Nothing has fitted for as long as a cluster gets to grow; a private Ray, whose only node is gone, gets none.
        """
        if progressed or self._answer().count:
            self._since = None
            return
        if is_private():
            raise Incomplete("ray: the daemon (raylet) of this job's private Ray has died; nothing can run any more")
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since > WAIT_FOR_RESOURCES:
            waited = f"no worker has fitted for {WAIT_FOR_RESOURCES:g} s ({self._found.arithmetic})"
            raise Incomplete(f"resources: the cluster has shrunk, and {waited}")


def capacity(setup: Setup) -> Fit:
    """Connect to Ray, and return how many workers fit at once.

    Raises:
        ConfigError: No worker fits.
        Incomplete: No worker fits now, or the cluster at `ray.address` does not answer.
        Interrupted: SIGTERM came while Ray started.
    """
    try:
        with setup.during("starting Ray"):
            connect(setup.ray, setup.say)
    except SystemExit as left:  # by the handler that Ray puts in place first of all
        raise Interrupted(signal.SIGTERM) from left
    setup.signals.asked()  # ray.init has put a handler of its own in place
    if setup.relative_sink is not None and len(nodes()) > 1:
        raise ConfigError(
            f"sink.path={setup.relative_sink}: a relative path on a cluster of {len(nodes())} nodes is another folder on each; "
            "give a path or URI that all nodes share, e.g. sink.path=s3://bucket/out or /shared/out"
        )
    return wait_until_one_fits(setup)


def remote_options(resources: Resources) -> dict[str, Any]:
    """`resources` as the options of a Ray task or actor."""
    given = {
        "num_cpus": resources.num_cpus,
        "num_gpus": resources.num_gpus or None,
        "memory": resources.memory,
        "resources": resources.resources or None,
        "accelerator_type": resources.accelerator_type,
        "scheduling_strategy": resources.scheduling_strategy,
    }
    return {name: value for name, value in given.items() if value is not None}
