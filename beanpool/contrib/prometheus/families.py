"""What metrics are called, and what type they have; and how they are filled at little cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from prometheus_client import Metric
from prometheus_client.samples import Sample

Labels = Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    :ivar name: without the ``_total`` of counters.
    """

    name: str
    help: str
    counter: bool = False
    scale: float = 1
    """What its values are multiplied with."""

    def empty(self) -> Metric:
        """The metric without samples."""
        return Metric(self.name, self.help, "counter" if self.counter else "gauge")


class Filled:
    """Metrics that are being filled: those of one scrape."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}

    def add(self, family: Family, labels: Labels, value: float) -> None:
        """Add a sample. `labels` may be shared by many of them; it must not change any more."""
        metric = self._metrics.get(family.name)
        if metric is None:
            metric = self._metrics[family.name] = family.empty()
        name = f"{family.name}_total" if family.counter else family.name
        # Metric.add_sample would copy nothing and cost as much again.
        metric.samples.append(Sample(name, dict(labels) if type(labels) is not dict else labels, value * family.scale))

    def metrics(self) -> Iterable[Metric]:
        """All that have samples, in the order in which they got the first one."""
        return self._metrics.values()
