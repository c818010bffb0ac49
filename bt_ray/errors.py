"""The errors bt_ray raises on purpose.

Each also is the fitting built-in, so `except ValueError` keeps working, and none has an
`__init__` of its own, so that they pickle through Ray.
"""


class BtRayError(Exception):
    """Something a person can mend; its message names the thing, the rule and the way out."""


class SettingsError(BtRayError, ValueError):
    """A setting, or a combination of settings, that cannot work."""


class DataError(BtRayError, ValueError):
    """Images, shards or a manifest that are missing, foreign or damaged."""


class UnreadableImagesError(DataError):
    """More images that cannot be decoded than `data.max_bad_rate` allows."""


class PlanError(BtRayError, RuntimeError):
    """A worker was handed other rows than the plan promised it."""


class CheckpointError(BtRayError, RuntimeError):
    """A checkpoint that is incomplete, altered, of a newer schema or of other settings."""


class AlteredCheckpointError(CheckpointError):
    """A checkpoint that was whole once, and is not what was written."""


class NewerSchemaError(CheckpointError):
    """A checkpoint that a newer bt_ray wrote."""


class NonFiniteLossError(BtRayError, ArithmeticError):
    """The loss became NaN or infinite."""


class SingularCovarianceError(NonFiniteLossError):
    """A covariance that a loss must invert, or take the logarithm of, is singular."""


class TrackingError(BtRayError, ConnectionError):
    """A tracking server that does not answer."""


class RegistryError(BtRayError, ValueError):
    """A model or version that is not there, cannot be registered, or is not to be promoted."""


class LaunchError(BtRayError, RuntimeError):
    """A run that cannot start here."""


class RunFailedError(BtRayError, RuntimeError):
    """A run that could not be brought to its end."""


class StorageError(RunFailedError):
    """A storage that does not answer, or refuses."""


class StorageRefusedError(StorageError):
    """A storage that is full, or may not be written to: another try would meet that again."""


class RunStoppedError(BtRayError, InterruptedError):
    """A run that was asked to stop, and did so at a checkpoint."""

    signal_number: int = 0
    """The signal that asked for it."""
