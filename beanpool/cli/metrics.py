"""Metrics as an endpoint, where prometheus_client is installed."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from beanpool.cli.endpoints import Answer, Endpoint
from beanpool.cli.exits import CommandError, Exit

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def has_prometheus() -> bool:
    """Whether prometheus_client is installed."""
    return importlib.util.find_spec("prometheus_client") is not None


def require_prometheus(command: str) -> None:
    """Refuse to go on without prometheus_client."""
    if not has_prometheus():
        raise CommandError(
            f"{command} needs the package prometheus_client",
            code=Exit.USAGE,
            hint="Install it with: pip install 'beanpool[prometheus]'",
        )


def metrics_of(registry: CollectorRegistry) -> Endpoint:
    """Answers with all metrics of a registry, in the format that the client prefers."""
    from prometheus_client.exposition import choose_encoder

    def answer(accept: str) -> Answer:
        encode, kind = choose_encoder(accept)
        return Answer(encode(registry), kind=kind)

    return answer
