"""Addresses, keys and proxies: what cannot be used is refused by name, and no secret is shown."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config.load import load_run
from harness.engines.openai import OpenAIEngine
from harness.errors import UsageError
from harness.models.endpoint import address_problem, api_key, check_proxies, endpoint_path
from tests.project import write_project

SECRET = "pw-SECRET9"
BAD = [
    f"htp://alice:{SECRET}@127.0.0.1:9/v1",
    f"http://alice:{SECRET}@127.0.0.1:9/v1",
    f"http://alice@127.0.0.1/{SECRET}",
    f"http://alice:{SECRET}",
    f"alice:{SECRET}@127.0.0.1/v1",
    f"http://alice:{SECRET}@127.0.0.1:x/v1",
    f"http://127.0.0.1:99999/{SECRET}",
    f"http://[::1/{SECRET}",
    f"http://a b/{SECRET}",
    f"{SECRET}:8000",
    SECRET,
]


@pytest.mark.parametrize("address", BAD)
def test_an_address_that_cannot_be_used_is_refused_at_load_and_not_shown(address: str, tmp_path: Path) -> None:
    teacher = {"model": "t", "engine": "openai", "base_url": address}
    path = write_project(tmp_path, "nobody", teacher=teacher)
    with pytest.raises(UsageError, match=r"shop\.yaml:\d+: teacher: base_url") as written:
        load_run(path)
    path = write_project(tmp_path, "nobody", teacher=teacher | {"base_url": "http://127.0.0.1/v1"})
    with pytest.raises(UsageError, match="teacher") as overridden:
        load_run(path, [f"teacher.base_url={address}"])
    with pytest.raises(UsageError, match=r"teacher\.base_url") as opened:
        OpenAIEngine(address, None)
    assert all(SECRET not in str(caught.value) for caught in (written, opened))
    assert SECRET not in str(overridden.value) or not ("://" in address or "@" in address)


@given(st.text(max_size=20))
def test_no_address_breaks_the_check(text: str) -> None:
    for address in (text, f"http://{text}", f"http://h/{text}"):
        if not address_problem(address):
            assert httpx2.URL(address).host


@pytest.mark.parametrize("address", ["http://h:1/v1", "http://h:1/v1/", "https://h/a/b?x=1&y=%2F", "http://[::1]:8/v1"])
def test_paths_go_between_the_address_and_its_query(address: str) -> None:
    assert not address_problem(address)
    before, mark, query = address.partition("?")
    assert str(endpoint_path(httpx2.URL(address), "models")) == before.rstrip("/") + "/models" + mark + query


@given(st.text(max_size=12) | st.text(st.characters(codec="ascii"), max_size=12))
def test_a_key_is_sent_as_it_is_or_refused(key: str) -> None:
    if all("!" <= character <= "~" for character in key):
        assert (api_key({"KEY_NAME": key}, "KEY_NAME") or "") == key
        assert httpx2.Headers({"Authorization": f"Bearer {key}"})["authorization"] == f"Bearer {key}"
        return
    with pytest.raises(UsageError, match="the key in KEY_NAME has") as caught:
        api_key({"KEY_NAME": key}, "KEY_NAME")
    assert len(key) < 4 or key not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-ab\u201cc", "sk-ab\u200b", "sk-abc\n", "  ", "sk-\u00e9", "sk a"])
def test_what_cannot_be_sent_as_a_key_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match="the key in KEY_NAME has"):
        api_key({"KEY_NAME": key}, "KEY_NAME")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks://127.0.0.1:7897/"),
        ("https_proxy", f"ftp://me:{SECRET}@h:1"),
        ("HTTP_PROXY", f"http://me:{SECRET}@h:port"),
        ("HTTP_PROXY", "http://[::1"),
    ],
)
def test_a_broken_proxy_variable_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"the environment variable {name} ") as caught:
        OpenAIEngine("http://192.0.2.1:9/v1", None)
    assert SECRET not in str(caught.value)


def test_proxies_that_can_be_used_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    usable = {"HTTP_PROXY": "proxy.example:3128", "HTTPS_PROXY": "", "all_proxy": "http://u:p@h:1"}
    for name, value in (usable | {"NO_PROXY": "localhost,::1,[::1],.example.com"}).items():
        monkeypatch.setenv(name, value)
    check_proxies()
    httpx2.Client().close()
