"""temporary"""
import dataclasses
from typing import Any
from beanpool.address import Address

@dataclasses.dataclass(frozen=True)
class Server:
    host: str = "localhost"
    port: int = 11300
    weight: float = 1
    name: str | None = None
    path: str | None = None
    @property
    def address(self) -> Address:
        return Address(self.host, self.port, self.path)

@dataclasses.dataclass(frozen=True)
class Settings:
    tube: str = "default"
    watch: tuple[str, ...] = ("default",)
    max_connections: int = 32
    connect_timeout: float = 2.0
    timeout: float = 5.0
    health_interval: float = 5.0
    on_ambiguous: str = "resend"
    encoding: str | None = "utf-8"
    name: str | None = None
    @classmethod
    def build(cls, url: dict[str, Any], kw: dict[str, Any]) -> "Settings":
        return cls(**{**url, **kw})

def parse_servers(value: Any) -> tuple[tuple[Server, ...], dict[str, Any]]:
    out = []
    for v in value:
        if isinstance(v, str):
            h, p = v.rsplit(":", 1)
            v = Server(h, int(p))
        out.append(v)
    return tuple(out), {}

def from_environment(environ: Any) -> str:
    return environ["BEANPOOL_URL"]
