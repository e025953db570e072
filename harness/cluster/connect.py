"""A Ray cluster, joined for one command and left at its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from harness.cluster.nodes import Nodes, amounts
from harness.config.cluster import Cluster
from harness.core.text import one_line
from harness.errors import MachineError, UsageError

CURRENT = Path("/tmp/ray/ray_current_cluster")  # where it keeps the address of the cluster of this machine
TOKEN = Path.home() / ".ray/auth_token"  # where Ray keeps it
ANSWER_S = 30.0  # until a cluster's address is given up
INSTALL = ".venv/bin/pip install --no-deps --require-hashes -r locks/cluster.txt"
# Ray's own defaults: it sends usage to its makers, and prints what workers print among what the command says
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}


@contextmanager
def joining(cluster: Cluster | None, root: Path, say: Callable[[str], None]) -> Iterator[Callable[[], Nodes]]:
    """What joins the cluster when it is first called, so that a command with nothing to do joins none.

    The cluster is left at the end of the block. Raises as `joined`.
    """
    with ExitStack() as stack:
        nodes: list[Nodes] = []

        def join() -> Nodes:
            if not nodes:
                assert cluster is not None
                assert cluster.address is not None
                stack.enter_context(joined(cluster.address, say))
                nodes.append(Nodes(root, say))
            return nodes[0]

        yield join


@contextmanager
def joined(address: str, say: Callable[[str], None]) -> Iterator[None]:
    """Joined to a cluster inside the block. `say` is told which, and what it has.

    Raises UsageError without Ray, and MachineError where no cluster answers.
    """
    for name, value in (ENVIRONMENT | authentication()).items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise UsageError(f"cluster: Ray is not installed: {INSTALL}") from error
    with ExitStack() as stack:
        dashboard = ""
        if not ray.is_initialized():
            options: dict[str, Any] = {"address": address}
            if address == "local":  # what Ray writes is removed again; a longer path than this is too long for sockets
                folder = tempfile.TemporaryDirectory(prefix="harness.ray.", dir="/tmp", ignore_cleanup_errors=True)
                options |= {"include_dashboard": False, "_temp_dir": stack.enter_context(folder)}
            try:
                _require_answer(_where_auto_leads() if address == "auto" else address)
                with _signals_kept(), warnings.catch_warnings(action="ignore"):  # what it warns of is said below
                    context = ray.init(**options, log_to_driver=False, configure_logging=False)
            except (OSError, RuntimeError, ValueError) as error:
                raise MachineError(f"cluster.address {address}: {_why_not_joined(address, error)}") from error
            stack.callback(ray.shutdown)
            _silence(ray)
            dashboard = getattr(context, "dashboard_url", "")
        say(_seen(ray) + (f"; dashboard http://{dashboard}" if dashboard else ""))
        yield


def authentication() -> dict[str, str]:
    """What has Ray send the token that `ray start` made, where one is. A node does so by itself and talks about it at
    length, a client of ray:// does not.
    """
    there = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ or TOKEN.is_file()
    return {"RAY_AUTH_MODE": "token"} if there else {}


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Give back the handlers that are set now: Ray takes SIGTERM for a crash, and a stop is none here."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in kept.items():
                signal.signal(number, handler)


def _silence(ray: Any) -> None:
    """Have Ray not print what it hears of lost workers: here each is said by name. Ray has no option for it."""
    worker = ray._private.worker.global_worker
    with suppress(AttributeError):  # a client of ray:// hears nothing
        worker.threads_stopped.set()
        worker.gcs_error_subscriber.close()


def _where_auto_leads() -> str:
    """The address that Ray takes for `auto`: of the environment, or of the last `ray start` here. Empty for neither."""
    with suppress(OSError):
        return os.environ.get("RAY_ADDRESS") or CURRENT.read_text(encoding="utf-8").strip()
    return ""


def _require_answer(address: str) -> None:
    """Raises OSError where no head of Ray answers at HOST:PORT: joining would take minutes, and print for itself."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:  # local, or auto where Ray finds out itself
        return
    socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    if address.startswith("ray://"):
        return
    ask = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]
    try:
        done = subprocess.run(ask, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except subprocess.TimeoutExpired:
        raise OSError(f"what listens there did not answer as a head of Ray within {ANSWER_S:.0f} s") from None
    if done.returncode:
        raise OSError(done.stdout + done.stderr)


def _why_not_joined(address: str, error: Exception) -> str:
    """Why no cluster was joined, and what to do, by what Ray printed."""
    said = str(error)
    port = address.rpartition(":")[2]
    if isinstance(error, ConnectionRefusedError) and address == "auto":
        return f"nobody listens at {_where_auto_leads()} (RAY_ADDRESS, or {CURRENT}): start Ray (`ray start --head`)"
    if isinstance(error, ConnectionRefusedError):
        return f"nobody listens there: start Ray's head there (`ray start --head --port={port}`), or name where it is"
    if address == "auto" and isinstance(error, ConnectionError):
        return "no Ray runs on this machine: start it (`ray start`, with --head or --address), or name where it is"
    if any(word in said for word in ("nauthenticated", "AuthToken", "AuthenticationError")):
        return (
            "it wants another token than this machine has: that of its head, in ~/.ray/auth_token or RAY_AUTH_TOKEN, or"
            " RAY_AUTH_MODE=disabled on both sides"
        )
    if "client connection" in said:
        return (
            "no client server of Ray answers there (by default port 10001), or it wants a token (RAY_AUTH_TOKEN): "
            + one_line(said)[:200]
        )
    if "Method not found" in said or "rpc_code: 12" in said:
        return f"that is not the port of Ray's head: is it ray://{address}?"
    return one_line(said)[:300] or type(error).__name__


def _seen(ray: Any) -> str:
    """Which cluster it is and what it has, in words."""
    alive = [node for node in ray.nodes() if node.get("Alive")]
    resources = ray.cluster_resources()
    with_these = amounts(resources.get("CPU", 0), resources.get("GPU", 0))
    return f"cluster {ray.get_runtime_context().gcs_address}: {len(alive)} node{'s' * (len(alive) != 1)}, {with_these}"
