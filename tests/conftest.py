"""What every test may rely on: no network beyond this machine, and one tiny model."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.needs import missing
from tests.tiny import make_tiny_model

if TYPE_CHECKING:
    from tests.stored import Stored

# Said in the environment as well, since processes that a test starts have no fixture.
for _name, _value in {
    "GOMP_SPINCOUNT": "10000",  # as the command line sets it: tests share a machine with whatever else runs
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "VLLM_HOST_IP": "127.0.0.1",  # else vLLM asks a public address for its own
    "VLLM_NO_USAGE_STATS": "1",
}.items():
    os.environ[_name] = _value


class NetworkBlockedError(ConnectionError):
    """A test tried to reach another machine."""


def _is_local(host: object) -> bool:
    """Whether an address or name stays on this machine."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(name)).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Refuse sockets to anything but loopback and this machine's own files."""

    def guarded(name: str, at: int) -> Callable[..., object]:
        original = getattr(socket.socket, name)

        def call(self: socket.socket, *args: Any) -> object:
            address = args[at]
            if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
                raise NetworkBlockedError(f"tests run offline: a connection to {address[0]}:{address[1]} was refused")
            return original(self, *args)

        return call

    find = socket.getaddrinfo

    def getaddrinfo(host: bytes | str | None, *args: Any, **kwargs: Any) -> object:
        if not (_is_local(host) or host == socket.gethostname()):
            raise NetworkBlockedError(f"tests run offline: looking up {host!r} was refused")
        return find(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        for name, at in (("connect", 0), ("connect_ex", 0), ("sendto", -1)):
            patch.setattr(socket.socket, name, guarded(name, at))
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Llama; treat it as read-only."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def bundled_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the bundled real model, converted for this session; for slow tests."""
    from harness.errors import MachineError
    from harness.models.resolve import resolve

    try:
        return resolve("smollm2-135m-instruct", tmp_path_factory.mktemp("cache")).folder
    except MachineError as error:
        missing("model", str(error))


@pytest.fixture(scope="session")
def benchmark_rows() -> None:
    """The rows of the public benchmarks, in the folder that HARNESS_BENCHMARKS names."""
    if not os.environ.get("HARNESS_BENCHMARKS"):
        missing("benchmarks", "HARNESS_BENCHMARKS is not set: no benchmark rows")


@pytest.fixture
def gate(tmp_path: Path) -> Stored:
    """A project with one student's scores stored, and blessed."""
    from tests.stored import write_stored

    stored = write_stored(tmp_path)
    stored.bless()
    return stored
