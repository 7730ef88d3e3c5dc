"""The gRPC door behind the activities is the one of quota's tests."""

from tests.integration.quota.conftest import service
from tests.integration.quota.grpc.conftest import door

__all__ = ["door", "service"]
