"""The options of every command that only uses a model.

Owns: their names and help texts.
"""

from typing import Annotated

import typer

QuantizeOption = Annotated[
    str | None, typer.Option(help="int8: a quarter of the memory and a fraction of the time, on CPUs.")
]
