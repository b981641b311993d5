"""Contracts of the families that other packages extend, as test classes for pytest.

A package inherits from the contract of its family and states the name of its member; pytest then runs every test of the
contract on it. The built-in members pass the same tests. Nothing here imports pytest.
"""

from collections.abc import Callable


def refuses(call: Callable[[], object], error: type[Exception]) -> bool:
    """Whether a call raises an error."""
    try:
        call()
    except error:
        return True
    return False
