"""The errors that convmodel raises on purpose.

Owns: the error tree. Knows nothing of what raises them.

    ConvModelError
    ├── ConversationError      a conversation that cannot be: empty, not strings, a bad line of a file
    ├── ContextTooLongError    a turn that the model's positions cannot hold
    ├── ConfigError            an option with a wrong name or value
    ├── ModelLoadError         a checkpoint that is missing, incomplete, or that this version cannot honour
    ├── SaveError              a folder that cannot be written
    ├── GenerationError        a response that could not be made, of many that could
    ├── MissingExtraError      an optional package that is not installed
    └── StoppedError           a run that a signal stopped
"""


class ConvModelError(Exception):
    """The root: `except ConvModelError` catches whatever convmodel raises on purpose."""


class ConversationError(ConvModelError, ValueError):
    """A conversation is malformed; the message names the turn, or the file and line."""


class ContextTooLongError(ConvModelError, ValueError):
    """A turn does not fit in the model's positions, even after all older turns were left out.

    Attributes:
        problem: What does not fit, without advice; callers other than Python's give advice of their own.
    """

    def __init__(self, problem: str, fix: str = "") -> None:
        super().__init__(f"{problem}; {fix}" if fix else problem)
        self.problem = problem


class ConfigError(ConvModelError, ValueError):
    """An option does not exist or its value makes no sense; the message names it and the cure."""


class ModelLoadError(ConvModelError, OSError):
    """A checkpoint is missing, incomplete, corrupted, or laid out in a way this version cannot honour."""


class SaveError(ConvModelError, OSError):
    """A folder cannot be written; what was there before is untouched."""


class GenerationError(ConvModelError, RuntimeError):
    """The model, or a logits processor, failed at a response; its own error is the cause."""


class MissingExtraError(ConvModelError, ImportError):
    """An optional package is not installed; the message is the command that installs it."""


class StoppedError(ConvModelError):
    """A signal stopped a run of training; the message says where, and how to go on.

    Attributes:
        signal: Its number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal
