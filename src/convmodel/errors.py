"""The errors that convmodel raises on purpose: `ConvModelError` and the classes below it.

Owns: the tree, and the command that installs the packages of an extra. Does not know which code raises them.
"""

from typing import Literal

Extra = Literal["train", "eval", "serve", "export"]


def install_command(extra: Extra) -> str:
    """Returns the command that installs what an extra adds, into the environment that is running.

    It names the packages, not `convmodel[extra]`: that would need the place that convmodel was installed from, which
    may be a file that is gone, and an index may have another version or an older library of this name.

    Examples:
        >>> install_command("export")
        '...pip install ..."gguf>=...'
    """
    from importlib.metadata import PackageNotFoundError, requires

    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(line) for line in requires("convmodel") or ()]
    except PackageNotFoundError:  # it runs from a folder of sources, or from a frozen program
        return f"add the packages of convmodel's extra {extra}"
    packages = [
        f'"{requirement.name}{requirement.specifier}"'
        for requirement in requirements
        if (marker := requirement.marker) and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})
    ]
    return " ".join([_pip_install(), *packages])


def _pip_install() -> str:
    """Returns how to call the pip of the running environment, whether or not it is activated; uv's have no pip."""
    import shutil
    import sys
    from importlib.metadata import distributions
    from pathlib import Path

    python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
    if not any(distributions(name="pip")):  # not `find_spec`: setuptools' hook for pip would replace distutils
        return f"uv pip install --python {python}"
    pip = shutil.which("pip")
    if pip is not None and Path(pip).parent == Path(sys.executable).parent:
        return "pip install"
    return f"{python} -m pip install"


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


class LogitsError(ConvModelError, ArithmeticError):
    """A model's logits are not numbers, so that nothing can be measured of it; the message has the fix."""


class MissingExtraError(ConvModelError, ImportError):
    """An optional package is not installed; the message has the command that installs it.

    Examples:
        >>> raise MissingExtraError("LoRA adapters need peft", "train")
        Traceback (most recent call last):
        convmodel.errors.MissingExtraError: LoRA adapters need peft (the extra train): ...pip install ..."peft>=...
    """

    def __init__(self, message: str, extra: Extra | None = None) -> None:
        """Completes the message if an extra is given, and takes a whole one as it is."""
        super().__init__(f"{message} (the extra {extra}): {install_command(extra)}" if extra else message)


class PluginError(ConvModelError, RuntimeError):
    """Something that an installed package adds cannot be used; the message names the package and the fix."""


class ExportError(ConvModelError, RuntimeError):
    """An exported file does not do what the model does; the message has the first difference, and no file is left."""


class StoppedError(ConvModelError):
    """A signal stopped a training run; the message gives the step, and how to resume.

    Attributes:
        signal: The signal's number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal
