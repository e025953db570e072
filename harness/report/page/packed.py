"""Data of a page: JSON, compressed, as text that can stand in HTML. The page's script unpacks what is looked at."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

LEVEL = 9  # of compression


def packed(value: Any) -> str:
    """JSON as gzip in base64. The same value gives the same text: no time stands in it.

    Characters that no UTF-8 file can hold stay as escapes of JSON.
    """
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode("ascii"), compresslevel=LEVEL, mtime=0)).decode("ascii")


def block(name: str, value: Any) -> str:
    """An element that holds data and is never run. `name` is its id."""
    return f'<script type="application/gzip" id="{name}">{packed(value)}</script>'
