"""Options of every command that reads conversations.

Owns: their names and help texts, and the reader that they configure.
"""

from typing import Annotated

from typer import Option

from convmodel.data.reading.reader import ConversationReader
from convmodel.data.reading.shapes import SHAPES

SOURCE_HELP = "a file, a folder, - for standard input, or owner/name of a dataset on the Hub"

DataOption = Annotated[str, Option(help=f"Conversations: {SOURCE_HELP}.")]
ValidOption = Annotated[str | None, Option(help="Validation conversations, which select the best checkpoint.")]
FormatOption = Annotated[
    str,
    Option(
        "--format", help=f"Format of the data: auto (recognize it) or one of {', '.join(SHAPES)}; see docs/data.md."
    ),
]
OnErrorOption = Annotated[
    str, Option("--on-error", help="What to do with invalid rows: fail at the first one, or skip and count them.")
]


def open_reader(source: str, format: str, on_error: str) -> ConversationReader:
    """Returns a reader of a data source with the values of `--format` and `--on-error`.

    Raises:
        ConfigError: If there is no such format or way to treat errors.
    """
    return ConversationReader(source, shape=format, on_error=on_error)  # type: ignore[arg-type]
