"""Finding out which servers there are."""

from beanpool.discovery.dns_a import DnsA
from beanpool.discovery.dns_srv import DnsSrv
from beanpool.discovery.found import Discovery, Found

__all__ = ["Discovery", "DnsA", "DnsSrv", "Found"]
