"""Errors that tell a user what to change. Programs print these, and only these, as one sentence; all others keep their trace."""

from __future__ import annotations


class UserError(ValueError):
    """What was asked for cannot be had; the message is a whole sentence: the value, the rule, the way out."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named is not there."""


class LostProcessError(UserError, ConnectionError):
    """Another process of the run has stopped, and its own message says why."""
