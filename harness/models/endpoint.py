"""What a person sets for an endpoint: address, key, proxies. Checked before anything is sent. No secret is shown."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec

import httpx2

from harness.errors import UsageError

EXAMPLE = "write it like http://127.0.0.1:8000/v1"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
LARGEST_PORT = 65535


def address_problem(base_url: str) -> str:
    """What is wrong with an endpoint's address, or ''. The address is not repeated: a password may be in it."""
    try:
        address = httpx2.URL(base_url)
    except httpx2.InvalidURL:
        return f"is not an address; {EXAMPLE}"
    if address.userinfo:
        return "holds a user or a password; a key belongs into the environment variable that api_key_env names"
    usable = address.scheme in ("http", "https") and address.host and not set(" %\\") & set(address.host)
    if not usable or (address.port or 0) > LARGEST_PORT:
        return f"is not an address; {EXAMPLE}"
    return ""


def endpoint_path(address: httpx2.URL, path: str) -> httpx2.URL:
    """The URL of one of an endpoint's paths. The query of its address (Azure's api-version) stays behind the path."""
    base, mark, query = address.raw_path.partition(b"?")
    return address.copy_with(raw_path=base.rstrip(b"/") + b"/" + path.encode() + mark + query, fragment=None)


def api_key(environ: Mapping[str, str], name: str, place: str = "teacher") -> str | None:
    """The key that the environment variable `name` holds, or None without one. `place` is where a run file names it.

    Raises UsageError, which names the variable and never the key, for what cannot be sent in a header.
    """
    key = environ.get(name)
    if not key:
        return None
    for position, character in enumerate(key, start=1):
        if not "!" <= character <= "~":
            what = {" ": "a blank", "\n": "a line end", "\r": "a line end"}.get(character, f"U+{ord(character):04X}")
            raise UsageError(
                f"{place}.api_key_env: the key in {name} has {what} as character {position} of {len(key)};"
                " keys are letters, digits and marks of ASCII: set the variable again without it"
            )
    return key


def check_proxies() -> None:
    """Raises UsageError naming the environment's proxy variable that an HTTP client cannot use."""
    for name, value in os.environ.items():
        if name.upper() in PROXIES and value and (problem := _proxy_problem(value)):
            raise UsageError(f"the environment variable {name} {problem}; correct or unset it")


def _proxy_problem(value: str) -> str:
    try:
        scheme = httpx2.Proxy(value if "://" in value else f"http://{value}").url.scheme
    except httpx2.InvalidURL:
        return "is not the address of a proxy"
    except ValueError:
        return "is a proxy of an unknown kind; allowed: http://, https://, socks5://"
    if scheme.startswith("socks") and find_spec("socksio") is None:
        return "is a SOCKS proxy, for which the package socksio is not installed (pip install socksio)"
    return ""
