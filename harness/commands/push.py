"""An exported folder as a dataset or a model on the Hugging Face hub, private unless it is said otherwise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from httpx2 import HTTPError

from harness.errors import MachineError, UsageError, first_line
from harness.models.endpoint import check_proxies

NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
Kind = Literal["dataset", "model"]
COMMITS: dict[Kind, str] = {"dataset": "Rows and their card", "model": "A student and its card"}
TOKEN = "HF_TOKEN"  # the name of the variable


class Hub(Protocol):
    """What is needed of huggingface_hub.HfApi."""

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> Any:
        """Make a repository. One that is there already stays as it is."""
        ...

    def repo_info(self, repo_id: str, *, repo_type: str) -> Any:
        """What a repository is; `private` among it."""
        ...

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, repo_type: str, commit_message: str, allow_patterns: list[str]
    ) -> Any:
        """Upload the files of a folder that have one of these names, in one commit."""
        ...


def open_hub() -> Hub:
    """The hub with the token of this machine. Raises UsageError naming the variable where there is none."""
    try:
        from huggingface_hub import HfApi, get_token
    except ImportError as error:
        raise UsageError("--push-to-hub needs huggingface_hub, which is not installed: make setup") from error
    token = get_token()
    if not token:
        raise UsageError(
            f"--push-to-hub: the environment variable {TOKEN} is not set, and `hf auth login` has left no token here:"
            " set it to a token that may write (https://huggingface.co/settings/tokens)"
        )
    check_proxies()
    hub: Hub = HfApi(token=token)
    return hub


def require_named(public: bool, name: str) -> None:
    """Raises UsageError where an upload is to be public, and none is named."""
    if public and not name:
        raise UsageError("--public without --push-to-hub OWNER/NAME: nothing is uploaded")


def check_name(name: str) -> None:
    """Raises UsageError for a name that is not owner/name."""
    if not NAME.fullmatch(name):
        raise UsageError(f"--push-to-hub {name}: write OWNER/NAME, in letters, digits, dots and dashes")


def push(hub: Hub, kind: Kind, name: str, folder: Path, files: Sequence[str], public: bool) -> str:
    """Upload these files of a folder and return what to say of it.

    Raises UsageError before the upload for a repository that is there and public, unless `public` says that this is
    meant, and MachineError where the hub refuses or cannot be reached.
    """
    try:
        hub.create_repo(name, repo_type=kind, private=not public, exist_ok=True)
        private = bool(hub.repo_info(name, repo_type=kind).private)
        if not private and not public:
            raise UsageError(
                f"--push-to-hub {name}: this {kind} is there already, and everybody can read it: add --public if that"
                " is meant, or name another one"
            )
        hub.upload_folder(
            repo_id=name,
            folder_path=folder,
            repo_type=kind,
            commit_message=COMMITS[kind],
            allow_patterns=list(files),
        )
    except ValueError as error:  # a name that the hub does not take
        raise UsageError(f"--push-to-hub {name}: {first_line(error)}") from error
    except (OSError, HTTPError) as error:  # every error of the hub's own, and of the network
        raise MachineError(f"--push-to-hub {name}: {first_line(error)}") from error
    seen = "private: only you and your organisation can read it" if private else "public: everybody can read it"
    still = " (it was private before, and is so still; its settings on the hub change that)" * (private and public)
    place = f"datasets/{name}" if kind == "dataset" else name
    return f"uploaded to https://huggingface.co/{place} ({seen}){still}"
