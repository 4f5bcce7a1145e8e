"""Models that come inside the package, so that there is one to talk to before any download.

Owns: their names, and where their files are.
"""

from importlib.resources import files
from pathlib import Path

from convmodel.errors import ModelLoadError

PREFIX = "builtin:"
CHITCHAT = "builtin:chitchat"
"""Small talk in English; `scripts/train_builtin.py` makes it."""


def located(name: str) -> str:
    """Returns the folder of a model inside the package, and any other name as it is.

    Raises:
        ModelLoadError: If the package has no such model.

    Example:
        >>> located("gpt2"), Path(located("builtin:chitchat")).name
        ('gpt2', 'chitchat')
    """
    if not name.startswith(PREFIX):
        return name
    inside = name.removeprefix(PREFIX)
    folder = Path(str(files("convmodel"))) / "assets" / inside
    if Path(inside).name != inside or not (folder / "config.json").is_file():
        raise ModelLoadError(f"there is no model {name} in the package: there is {CHITCHAT}")
    return str(folder)
