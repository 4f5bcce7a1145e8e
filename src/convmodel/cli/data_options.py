"""The options of every command that reads conversations.

Owns: their names and help texts.
"""

from typing import Annotated

import typer

from convmodel.data.reading.shapes import SHAPES

FormatOption = Annotated[
    str, typer.Option("--format", help=f"The shape of the data, by default recognised: {', '.join(SHAPES)}.")
]
OnErrorOption = Annotated[
    str, typer.Option("--on-error", help="What to do with bad data: fail at the first, or skip and count it.")
]
