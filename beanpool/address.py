"""Where a server listens: a host and a port, or the path of a Unix socket."""

from __future__ import annotations

import dataclasses

DEFAULT_HOST = "localhost"
DEFAULT_PORT = 11300


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """The address of one server, as the user wrote it (names are resolved at every connect)."""

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    path: str | None = None

    def __post_init__(self) -> None:
        if self.path is not None:
            if not isinstance(self.path, str):
                raise TypeError(f"path must be a str, not {type(self.path).__name__}")
            if not self.path or "\0" in self.path:
                raise ValueError("path must be a non-empty path of a Unix socket")
            return
        if not isinstance(self.host, str):
            raise TypeError(f"host must be a str, not {type(self.host).__name__}")
        if not self.host or any(character.isspace() or character in "/@,\0" for character in self.host):
            raise ValueError(f"host must be a host name or an IP address, not {self.host!r}")
        if type(self.port) is not int:
            raise TypeError(f"port must be an int, not {type(self.port).__name__}")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port must be from 1 to 65535, not {self.port}")

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        if ":" in self.host:
            return f"[{self.host}]:{self.port}"
        return f"{self.host}:{self.port}"


def parse_address(url: str) -> Address:
    raise NotImplementedError
