"""The errors that convmodel raises on purpose: `ConvModelError` and the classes below it.

Does not know which code raises them.
"""


class ConvModelError(Exception):
    """The base class: `except ConvModelError` catches every error that convmodel raises on purpose."""


class ConversationError(ConvModelError, ValueError):
    """A conversation is malformed; the message names the turn, or the file and line."""


class ContextTooLongError(ConvModelError, ValueError):
    """A turn does not fit in the model's positions, even after all older turns were left out.

    Attributes:
        problem: What does not fit, without advice; the server and the command line add their own.
    """

    def __init__(self, problem: str, fix: str = "") -> None:
        super().__init__(f"{problem}; {fix}" if fix else problem)
        self.problem = problem


class ConfigError(ConvModelError, ValueError):
    """An option does not exist or its value is invalid; the message names the option and the fix."""


class ModelLoadError(ConvModelError, OSError):
    """A checkpoint is missing, incomplete, corrupted, or in a layout that this version does not support."""


class SaveError(ConvModelError, OSError):
    """A folder cannot be written; its previous content is unchanged."""


class GenerationError(ConvModelError, RuntimeError):
    """The model or a logits processor failed while generating; the original error is `__cause__`."""


class MissingExtraError(ConvModelError, ImportError):
    """An optional package is not installed; the message has the command that installs it."""


class StoppedError(ConvModelError):
    """A signal stopped a training run; the message gives the step, and how to resume.

    Attributes:
        signal: The signal's number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal
