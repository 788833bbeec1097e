"""The type that the bodies of jobs have: ``str``, or ``bytes`` where there is no encoding."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Type checkers bring it along; Python itself has defaults from 3.13 on.
    from typing_extensions import TypeVar

    BodyT = TypeVar("BodyT", bound=str | bytes, default=str, covariant=True)
else:
    from typing import TypeVar

    BodyT = TypeVar("BodyT")
