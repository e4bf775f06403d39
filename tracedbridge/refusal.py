"""How a command of the command line ends early: with a message for its user and an exit code."""

from __future__ import annotations

__all__ = ("Refusal",)


class Refusal(Exception):  # noqa: N818 - not an error of ours, but the end of a command
    """A command ends here, for a reason that its user can mend."""

    def __init__(self, message: str, code: int = 1) -> None:
        """
        Args:
            message: As shown on standard error.
            code: The exit code: 1 for a failure, 2 for wrong usage.
        """
        super().__init__(message)
        self.code = code
