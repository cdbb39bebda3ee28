"""Errors that are the user's to fix. Each message is one line that says what is wrong and what to do."""


class RdnError(Exception):
    """Base of all errors that the command line prints as one line instead of a traceback."""


class ConfigError(RdnError):
    """A wrong argument, an unknown profile, a value out of range."""


class DataError(RdnError):
    """A data set that is missing, empty or damaged."""


class NotPublishedError(RdnError):
    """An experiment or a network that published results do not have."""


class CheckpointError(RdnError):
    """A checkpoint that is missing, damaged or made for another network."""


class StorageError(RdnError, OSError):
    """A file that cannot be written: the disk is full, the folder read-only."""


class UnsupportedModuleError(RdnError):
    """A module that cannot be nested; the message names the module and the reason (Section 3.2)."""


class InfeasibleError(RdnError):
    """A target accuracy that no policy reaches (Section 3.4); the message gives the best reachable value, and so does `best`."""

    def __init__(self, message: str, *, best: float) -> None:
        super().__init__(message)
        self.best = best


class DivergedError(RdnError):
    """A training run whose loss or weights are no longer finite, or whose loss is hopelessly high."""
