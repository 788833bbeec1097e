"""What stands behind the shims: a Connection, or with BEANPOOL_PEER=pool a PoolManager of one server.

Both have the same verbs, which is what other people's tests try here.
"""

from __future__ import annotations

import os
from typing import Any

from beanpool import Connection, PoolManager


def opened(url: str, **options: Any) -> Any:
    if os.environ.get("BEANPOOL_PEER") == "pool":
        options.pop("parse_yaml", None)
        return PoolManager([url], **options)
    return Connection.from_url(url, **options)


def url_of(host: str, port: int) -> str:
    return f"beanstalk://[{host}]:{port}" if ":" in host else f"beanstalk://{host}:{port}"
