"""The engines whose answers can be worked out by hand, of the tests of deploy/."""

from tests.deploy.conftest import build

__all__ = ["build"]
