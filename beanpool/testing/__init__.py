"""What tests of programs that use beanpool stand on; ``import beanpool`` does not load it.

:class:`EmbeddedServer` is a beanstalkd in this process. Nothing here needs pytest but
:mod:`beanpool.testing.pytest_plugin`.
"""

from beanpool.testing.embedded.server import EmbeddedServer
from beanpool.testing.failures import ServerFailed

__all__ = ["EmbeddedServer", "ServerFailed"]
