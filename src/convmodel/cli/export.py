"""`convmodel export`: writes a model for other programs, and proves that it is the same there.

Owns: the printed summary. `export.exporting` does the work.
"""

import re
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from convmodel.cli import flags
from convmodel.cli.console import load_model, print_json, print_message, program
from convmodel.data.progress import console, size_text
from convmodel.errors import StoppedError
from convmodel.export.options import DEFAULTS, TYPES

if TYPE_CHECKING:
    from convmodel.export.exporting import Exported

_COSTLY = 0.05  # by which share of the perplexity the rounding of weights is worth a warning


def command(
    model: Annotated[str | None, Argument(help=f"{flags.MODEL_HELP} {flags.DEFAULT_HELP}", metavar="MODEL")] = None,
    *,
    output: Annotated[
        str,
        Option("--output", "-o", help="File to write: NAME.gguf or NAME.html; for Ollama a folder.", metavar="FILE"),
    ],
    to: Annotated[
        str | None,
        Option(
            help="gguf (llama.cpp, LM Studio and others), ollama (the same with a Modelfile) or html (a page for any "
            "browser, offline); by default by the suffix of --output."
        ),
    ] = None,
    weights: Annotated[
        str,
        Option(
            help=f"Type of the weights in a GGUF file, from exact to small: {', '.join(TYPES[:-1])} or {TYPES[-1]}."
        ),
    ] = DEFAULTS["weights"],
    data: Annotated[
        str | None,
        Option(help="Conversations to measure the file's perplexity on. [default: some that come with convmodel]"),
    ] = None,
    name: Annotated[str | None, Option(help="Name of the model, in the file. [default: that of its folder]")] = None,
    license: Annotated[
        str | None, Option(help="License of the model, in the file, such as apache-2.0. [default: that of its card]")
    ] = None,
    layout: flags.Layout = "auto",
    overwrite: Annotated[bool, Option("--overwrite", help="Replace an existing file.")] = False,
    unproven: Annotated[
        bool, Option("--unproven", help="Write a GGUF file without running it in llama.cpp; the file says so.")
    ] = False,
    as_json: flags.Json = False,
) -> None:
    """Write a model for llama.cpp, Ollama, LM Studio or a browser, and prove that it does there what it does here.

    `convmodel export model -o bot.gguf`

    `convmodel export model --to ollama --weights q8_0 -o bot`

    `convmodel export builtin:chitchat -o bot.html`

    GGUF files need the extra export (see `docs/install.md`). Token types, as a GPT-2 made by `--from-scratch` has
    them, go into a page only; `convmodel fit --token-types off` trains without.

    A GGUF file is run by llama.cpp before it gets its name: prompts must have the same token ids, generated tokens must
    be the model's own choice, responses must stop, and the perplexity is measured before and after. A file that differs
    is not kept. What was compared is printed, and written to NAME.proof.json. A page compares itself when it is opened.
    """
    from convmodel.export.exporting import export_model
    from convmodel.files.hub import is_on_hub
    from convmodel.hf_model.lora import has_adapters

    source = model or flags.default_model()
    loaded = load_model(source, layout=layout)
    base = loaded.hf_model.name_or_path if has_adapters(loaded.hf_model) else None
    loaded.merge_adapters()  # in place, which takes less memory than in a copy
    with _stoppable(), console.status("exporting ...") as status:
        exported = export_model(
            loaded.hf_model,
            loaded.tokenizer,
            output,
            to=to,
            weights=weights,
            data=data,
            name=name or (Path(source).name if base else None),
            base=base if base and is_on_hub(base) else None,
            license=license,
            overwrite=overwrite,
            unproven=unproven,
            progress=lambda step: status.update(f"{step} ..."),
        )
    if as_json:
        proof = None if exported.proof is None else exported.proof.to_dict()
        print_json({"path": str(exported.path), "size": exported.size, "types": exported.types, "proof": proof})
        return
    _print(exported)


def _print(exported: "Exported") -> None:
    """Prints what was written, what was compared, and how to use it."""
    types = ", ".join(f"{count} tensors {name}" for name, count in exported.types.items())
    print_message(f"{exported.path}: {size_text(exported.size)}" + (f" ({types})" if types else ""))
    if exported.proof is not None:
        for line in exported.proof.lines():
            print_message(f"  {line}")
        perplexity = exported.proof.perplexity
        if perplexity is not None and perplexity.change > _COSTLY:
            print_message(
                f"rounding to {exported.proof.weights} raises the perplexity by {perplexity.change:.0%}: q8_0 and f16 "
                "keep more",
                style="yellow",
            )
    elif exported.types:
        print_message("the file was not compared with the model; its metadata say so", style="yellow")
    print_message(_next_step(exported))


def _next_step(exported: "Exported") -> str:
    from convmodel.export.ollama import MODELFILE  # imports torch, which other commands load later

    path = shlex.quote(str(exported.path))
    if exported.path.is_dir():
        name = re.sub(r"[^a-z0-9._-]+", "-", exported.path.resolve().name.lower()).strip("-._") or "bot"
        return f"Use it:  ollama create {name} -f {shlex.quote(str(exported.path / MODELFILE))} && ollama run {name}"
    if exported.types:
        return f"Use it:  llama-cli -m {path}   or   {program()} chat --model {path}"
    return f"Use it:  open {path} in a browser, or send it to a friend"


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turns SIGTERM into an error, so that what is written so far is removed: it lies in a hidden folder."""

    def stop(number: int, _: object) -> None:
        raise StoppedError("stopped: nothing was written", number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
