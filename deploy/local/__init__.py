"""The embedded stack: every server and service of Boxoffice on one machine, from packages, without containers.

It knows how to obtain, start, watch and end processes; it must not know what the services do.
"""

from deploy.local.asynchronous import LocalStack
from deploy.local.packages import PackageError, debian_environment, debian_packages
from deploy.local.stack import Stack, StackError

__all__ = ["LocalStack", "PackageError", "Stack", "StackError", "debian_environment", "debian_packages"]
