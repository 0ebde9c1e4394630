"""Errors that end at the user: printed once, without a traceback, before exit code 2."""


class UserError(ValueError):
    """A mistake that the user can mend: says where, what was given, what is allowed."""


class ConfigError(UserError):
    """A config that cannot be built: names the key, and the file and line that wrote it."""


class DataError(UserError):
    """A data set, image or label that cannot be used: names the file."""


class CheckpointError(UserError):
    """A weight file that cannot be read or does not fit: names the file."""
