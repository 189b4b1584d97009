"""Errors that tell a user what to change. Programs print these, and only these, as one sentence; all others keep their trace."""

from __future__ import annotations


class UserError(ValueError):
    """What was asked for cannot be had; the message is a whole sentence: the value, the rule, the way out."""

    @property
    def sentences(self) -> list[str]:
        """What a program prints, each on a line of its own."""
        return [str(self)]


class SettingsError(UserError):
    """Settings that are refused; every argument is a sentence about one of them."""

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))

    @property
    def sentences(self) -> list[str]:
        """One for each setting that is refused."""
        return [str(one) for one in self.args]


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named is not there."""


class LostProcessError(UserError, ConnectionError):
    """Another process of the run has stopped, and its own message says why."""
