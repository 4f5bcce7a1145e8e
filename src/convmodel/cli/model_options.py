"""The options of every command that only uses a model.

Owns: their names and help texts, and how a model talks unless told otherwise.
"""

from typing import Annotated, Any

import typer

QuantizeOption = Annotated[
    str | None, typer.Option(help="int8: less than half of the memory and about half of the time, on CPUs.")
]
GreedyOption = Annotated[bool, typer.Option("--greedy", help="Always the likeliest response.")]
TemperatureOption = Annotated[float, typer.Option(min=0.01, help="Above 1 bolder, below 1 safer.")]
TopPOption = Annotated[float, typer.Option(min=0.01, max=1.0, help="Sample from this much probability.")]

TEMPERATURE, TOP_P = 0.8, 0.95


def sampling(*, greedy: bool, temperature: float, top_p: float) -> dict[str, Any]:
    """Returns the options of `generate` for a model that talks."""
    return {} if greedy else {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
