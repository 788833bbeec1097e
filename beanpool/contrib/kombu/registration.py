"""Making the transport known to kombu."""

from __future__ import annotations

import re

from kombu import transport as transports

# With a dot or a colon kombu takes it for an import path, and with a plus for two schemes.
_SCHEME = re.compile(r"[a-z][a-z0-9-]*")
_TRANSPORT = "beanpool.contrib.kombu:Transport"


def register(scheme: str = "beanstalk") -> None:
    """Let kombu, and so Celery, use beanpool for URLs of this scheme.

    Call it in the module that makes the Celery application, in each process that uses it. It opens nothing, and may
    be called again.

    :param scheme: small letters, digits and ``-``.
    :raises ValueError: if it is no such scheme.
    """
    if not isinstance(scheme, str) or not _SCHEME.fullmatch(scheme):
        raise ValueError(f"scheme must be small letters, digits and '-', such as 'beanstalk', not {scheme!r}")
    transports.TRANSPORT_ALIASES[scheme] = _TRANSPORT
    # A class that was found for this scheme before is remembered there.
    transports._transport_cache.pop(scheme, None)
