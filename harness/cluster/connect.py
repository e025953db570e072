"""A Ray cluster, joined for one command and left at its end."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.config.cluster import Cluster
from harness.core.text import one_line
from harness.errors import MachineError, UsageError, first_line

TOKEN = Path.home() / ".ray/auth_token"  # where Ray keeps it
ANSWER_S = 10.0  # until a cluster's address is given up
INSTALL = ".venv/bin/pip install --no-deps --require-hashes -r locks/cluster.txt"
# Ray's own defaults: it sends usage to its makers, and prints what workers print among what the command says
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}


@contextmanager
def connected(cluster: Cluster | None, say: Callable[[str], None]) -> Iterator[None]:
    """Joined to a cluster inside the block, or to none.

    Raises UsageError without Ray, and MachineError where no cluster answers.
    """
    if cluster is None:
        yield
        return
    for name, value in (ENVIRONMENT | authentication()).items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise UsageError(f"cluster: Ray is not installed: {INSTALL}") from error
    already = ray.is_initialized()
    context: Any = None
    if not already:
        try:
            _require_answer(cluster.address)
            with _signals_kept():
                context = ray.init(**where(cluster.address), log_to_driver=False, configure_logging=False)
        except (OSError, RuntimeError, ValueError) as error:
            token = "; it may want the token of its head (RAY_AUTH_TOKEN)" if "client connection" in str(error) else ""
            raise MachineError(f"cluster.address {cluster.address}: {one_line(first_line(error))}{token}") from error
    dashboard = getattr(context, "dashboard_url", "")
    say(_seen(ray.nodes(), ray.cluster_resources()) + (f"; dashboard http://{dashboard}" if dashboard else ""))
    try:
        yield
    finally:
        if not already:
            ray.shutdown()


def authentication() -> dict[str, str]:
    """What has Ray send the token that `ray start` made, where one is. A node does so by itself and talks about it at
    length, a client of ray:// does not.
    """
    there = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ or TOKEN.is_file()
    return {"RAY_AUTH_MODE": "token"} if there else {}


def where(address: str) -> dict[str, Any]:
    """What `ray.init` is told of an address. Raises UsageError for one that is none."""
    if address == "local":
        return {"address": "local", "include_dashboard": False}
    if address != "auto" and not address.startswith("ray://") and ":" not in address:
        raise UsageError(f"cluster.address {address}: local, auto, HOST:PORT or ray://HOST:PORT")
    return {"address": address}


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


def _require_answer(address: str) -> None:
    """Raises OSError where nobody listens at an address: Ray would try for minutes. ValueError for a wrong port."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()


def _seen(nodes: list[dict[str, Any]], resources: dict[str, float]) -> str:
    """What the cluster has, in words."""
    alive = [node for node in nodes if node.get("Alive")]
    amounts = ", ".join(f"{resources.get(kind, 0):g} {name}" for kind, name in (("CPU", "CPUs"), ("GPU", "GPUs")))
    return f"cluster: {len(alive)} node{'s' if len(alive) != 1 else ''}, {amounts}"
