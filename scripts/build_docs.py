"""Writes the pages of `docs/` that repeat what the code says: the commands, the options of a fit, and the API.

    python scripts/build_docs.py            # writes them
    python scripts/build_docs.py --check    # writes nothing; exits with 1 if one is out of date

The pages depend on the code alone, not on the terminal they are made in.
"""

import argparse
import dataclasses
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from api_page import alias_rows, class_section, error_rows, function_node, function_section, summary
from check_clients import read_clients

DOCS = Path(__file__).parents[1] / "docs"
RETURNED = {"Chunk": "convmodel.generation.output", "LayoutConfig": "convmodel.layout.config"}
RETURNED |= dict.fromkeys(("Prompt", "Window"), "convmodel.layout.sequence")
"""Classes that public methods return and that nobody needs to import."""
ALIASES = {
    "convmodel.conversation": ("ConversationLike",),
    "convmodel.data.reading.reader": ("ConversationSource",),
    "convmodel.layout.sequence": ("LossOn",),
    "convmodel.generation.output": ("FinishReason",),
    "convmodel.generation.batched": ("Result",),
    "convmodel.data.reading.problems": ("OnError",),
    "convmodel.evaluation.custom_metric": ("Better",),
}
"""Types that the signatures of public names mention, by module."""
LANGUAGES = {".py": "py", ".mjs": "js", ".yaml": "yaml"}
"""Names of languages for code blocks that are no tests: the programs need packages and a server."""
NOTE = "<!-- Made by scripts/build_docs.py; change the code and run `make docs`. -->\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only tell whether the pages are up to date")
    check = parser.parse_args().check

    stale = []
    for name, content in pages().items():
        path = DOCS / name
        if path.exists() and path.read_text(encoding="utf-8") == content:
            continue
        stale.append(f"docs/{name}")
        if not check:
            DOCS.mkdir(exist_ok=True)
            path.write_text(content, encoding="utf-8")
    if check and stale:
        sys.exit(f"Out of date: {', '.join(stale)}. Run: make docs")
    print(f"Wrote {', '.join(stale)}." if stale else "The generated pages are up to date.")


def pages() -> dict[str, str]:
    """Returns the text of each page by its name under `docs/`; of `clients.md` only the blocks are generated."""
    from convmodel.cli.main import app
    from convmodel.training.config import FitConfig

    return {
        "api.md": "\n".join(api_page()),
        "clients.md": with_blocks((DOCS / "clients.md").read_text(encoding="utf-8")),
        "commands.md": commands_page(app, "convmodel"),
        "fit-options.md": options_page(FitConfig),
    }


def with_blocks(page: str) -> str:
    """Returns a page with what each pair of comments, `from PATH` and `end`, names between them."""

    def block(match: re.Match[str]) -> str:
        path = DOCS.parent / match["path"]
        if path.suffix == ".toml":
            rows = [
                (client.title, " ".join(f"`{name}`" for name in client.packages)) for client in read_clients().values()
            ]
            content = next(table(["client", "packages"], rows))
        else:
            content = f"```{LANGUAGES[path.suffix]}\n{path.read_text(encoding='utf-8')}```\n"
        return f"<!-- from {match['path']} -->\n\n{content}\n<!-- end -->"

    return re.sub("<!-- from (?P<path>\\S+) -->.*?<!-- end -->", block, page, flags=re.DOTALL)


def api_page() -> Iterator[str]:
    """Yields the parts of the page on the public names, then on the types that they mention."""
    import convmodel
    from convmodel.errors import ConvModelError

    public = {name: getattr(convmodel, name) for name in convmodel.__all__}
    yield NOTE
    yield "# API\n"
    yield "What `from convmodel import ...` gives. Importing it is quick: torch is loaded when a name needs it.\n"
    yield from table(["name", "what it is"], [(f"[`{n}`](#{n.lower()})", summary(v)) for n, v in public.items()])
    for name, value in public.items():
        if inspect.isfunction(value):
            yield from function_section(function_node(value), title=name, level=2)
        else:
            page = "fit-options.md" if name == "FitConfig" else ""
            yield from class_section(value, title=name, level=2, options_page=page)
        if value is ConvModelError:
            yield "Below it, in `convmodel.errors`:\n"
            yield from table(["error", "also a", "meaning"], error_rows(ConvModelError))
    yield "## Types in these signatures\n"
    aliases = [row for module, names in ALIASES.items() for row in alias_rows(importlib.import_module(module), names)]
    yield from table(["type", "is", "meaning"], sorted(aliases))
    for name, module in RETURNED.items():
        yield from class_section(getattr(importlib.import_module(module), name), title=name, level=3, methods=False)


def commands_page(app: typer.Typer, program: str) -> str:
    """Describes each command of a Typer app in a section of its own."""
    command = typer.main.get_command(app)
    context = command.make_context(program, [], resilient_parsing=True)
    return "\n".join([NOTE, "# Commands\n", *sections(command, context)])


def sections(command: Any, context: Any) -> Iterator[str]:
    """Yields the section of a command and those of the commands below it."""
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"## `{context.command_path}`\n"
    yield from paragraphs(command.help or "")
    yield f"```text\n{usage}\n```\n"
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    yield from table(["argument or option", "meaning"], [(f"`{r[0]}`", r[1]) for r in records if r is not None])
    for name, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from sections(child, child.make_context(name, [], parent=context, resilient_parsing=True))


def paragraphs(text: str) -> Iterator[str]:
    """Yields the paragraphs of a help text; one that starts with \\b keeps its lines, as in a terminal."""
    for paragraph in inspect.cleandoc(text.partition("\f")[0]).split("\n\n"):
        if paragraph.startswith("\b"):
            lines = textwrap.dedent(paragraph.removeprefix("\b\n"))
            yield f"```text\n{lines}\n```\n"
        elif paragraph:
            yield f"{paragraph}\n"


def options_page(config: type) -> str:
    """Describes the fields of a dataclass of options in a table."""
    rows = []
    for field in dataclasses.fields(config):
        default = field.default_factory() if callable(field.default_factory) else field.default
        shown = "required" if default is dataclasses.MISSING else f"`{default!r}`"
        rows.append((f"`{field.name}`", f"`{type_name(field.type)}`", shown, field.metadata["help"]))
    introduction = (
        f"The fields of `convmodel.{config.__name__}`. Each is also a keyword argument of"
        " `ConversationModel.fit`, a flag of `convmodel fit` (`batch_size` is `--batch-size`)"
        " and a key of its `--config` file.\n"
    )
    return "\n".join([NOTE, "# Fit options\n", introduction, *table(["option", "type", "default", "meaning"], rows)])


def type_name(annotation: Any) -> str:
    """Returns a type as it is written in code."""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def table(head: list[str], rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Yields a Markdown table, or nothing if it has no rows."""
    if rows:
        lines = [head, ["---"] * len(head), *rows]
        yield "\n".join("| " + " | ".join(cell_text(cell) for cell in line) + " |" for line in lines) + "\n"


def cell_text(text: str) -> str:
    """Puts a text on one line in which a bar does not end the cell."""
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    main()
