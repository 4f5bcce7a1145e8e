"""Exporting a model: which file for which program, written and proven before it gets its name.

Owns: the targets, the checks before the work, and that a file that differs from the model is not left behind.
"""

import copy
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from convmodel.arguments.names import did_you_mean
from convmodel.data.reading.reader import ConversationReader
from convmodel.errors import ConfigError, ExportError, MissingExtraError, SaveError
from convmodel.export.gguf_file import GgufModel, file_size, gguf_model, write_gguf
from convmodel.export.go_template import render
from convmodel.export.html_page import make_page
from convmodel.export.llama_cpp import is_installed, running
from convmodel.export.ollama import MODELFILE, WEIGHTS, modelfile
from convmodel.export.options import DEFAULTS, TARGETS, ExportOptions
from convmodel.export.origin import Origin, origin_of
from convmodel.export.proof import Subject, prove, windows_to_measure
from convmodel.export.proof_result import Proof
from convmodel.files.atomic import staged
from convmodel.files.gguf import SUFFIX
from convmodel.files.hub import sample_file
from convmodel.hf_model.lora import has_adapters, remove_adapters
from convmodel.hf_model.quantization import require_unquantized
from convmodel.hf_model.threads import free_threads
from convmodel.layout.sequence import Window
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROOF = "proof.json"

_OF_GGUF = ("weights", "data", "license", "unproven")
_SUFFIXES = {SUFFIX: "gguf", ".html": "html"}
_SPARE = 1 << 24  # bytes of disk space beside the file itself


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        path: The file, or Ollama's folder.
        size: Its size in bytes.
        types: How many tensors have each data type; empty for a page.
        proof: What was compared; None for a page, which compares itself when it is opened, and with `unproven`.
    """

    path: Path
    size: int
    types: dict[str, int]
    proof: Proof | None


def export_model(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    path: str | os.PathLike[str],
    **options: Unpack[ExportOptions],
) -> Exported:
    """Writes a model for another program, and proves that it does there what it does here.

    Args:
        hf_model: The model; it is not changed. LoRA adapters are merged in a copy.
        tokenizer: Its tokenizer.
        path: The file to write, or the folder for Ollama.
        **options: See `ExportOptions`.

    Raises:
        ConfigError: If the model has no counterpart there, or an option is invalid.
        ExportError: If the file does not do what the model does; it is not left behind.
        SaveError: If the file exists or cannot be written.
        MissingExtraError: If a package is missing.

    Example:
        >>> import tempfile
        >>> from convmodel import ConversationModel
        >>> model = ConversationModel.from_pretrained("builtin:chitchat")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     exported = export_model(model.hf_model, model.tokenizer, f"{folder}/bot.html")
        ...     print(exported.path.name, exported.size > 5_000_000)
        bot.html True
    """
    if unknown := options.keys() - DEFAULTS.keys():
        given, known = ", ".join(sorted(unknown)), [*DEFAULTS]
        raise ConfigError(
            f"export has no option {given}; there are {', '.join(known)}" + did_you_mean(sorted(unknown), known)
        )
    chosen: ExportOptions = {**DEFAULTS, **options}
    target, place = _target(path, chosen["to"]), Path(path)
    require_unquantized(hf_model, "exported")
    _require_free(place, target, overwrite=chosen["overwrite"])
    origin = origin_of(hf_model, place, chosen)
    hf_model = _merged(hf_model)
    if target == "html":
        if idle := [option for option in _OF_GGUF if chosen[option] != DEFAULTS[option]]:  # type: ignore[literal-required]
            raise ConfigError(f"a page has no {', '.join(idle)}: leave it out, or export to gguf")
        return _write_page(hf_model, tokenizer, place, origin, chosen["progress"])
    if not chosen["unproven"] and not is_installed():
        raise MissingExtraError(
            "an export is proven by running it in llama.cpp: write it unproven (--unproven, unproven=True), which its "
            "metadata say, or install xllamacpp",
            "export",
        )
    job = _Job(hf_model, tokenizer, gguf_model(hf_model, tokenizer), origin, target, chosen)
    _require_space(place, file_size(job.model, chosen["weights"]))
    return job.write(place)


def _write_page(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    place: Path,
    origin: Origin,
    progress: Callable[[str], None],
) -> Exported:
    progress("writing")
    page = make_page(hf_model, tokenizer, title=origin.name).encode()
    _require_space(place, len(page))
    with staged(place.parent) as stage:
        (stage / place.name).write_bytes(page)
    return Exported(place, len(page), {}, None)


def _target(path: str | os.PathLike[str], to: str | None) -> str:
    """Returns what to write: as asked for, or as the suffix says."""
    by_suffix = _SUFFIXES.get(Path(path).suffix.lower())
    if to is None and by_suffix is None:
        raise ConfigError(
            f"{os.fspath(path)} has no suffix that says what to export: give NAME.gguf or NAME.html, or the target "
            f"{', '.join(TARGETS[:-1])} or {TARGETS[-1]}"
        )
    if to not in (None, *TARGETS):
        raise ConfigError(f"the target of the export is {to!r}: it must be one of {', '.join(TARGETS)}")
    if to and by_suffix and to != by_suffix:
        raise ConfigError(
            f"{os.fspath(path)} has the suffix of {by_suffix}, and the target is {to}: change one of them"
        )
    return to or by_suffix or ""


def _require_free(place: Path, target: str, *, overwrite: bool) -> None:
    """Checks that nothing is replaced that should stay, and that the folder can be written."""
    if place.is_dir() != (target == "ollama") and place.exists():
        kind = "a folder" if place.is_dir() else "a file"
        raise SaveError(f"{place} is {kind}: give another name")
    taken = [path for path in _paths(place, target) if path.exists()]
    if taken and not overwrite:
        raise SaveError(f"{taken[0]} exists: give another name, or replace it with --overwrite (overwrite=True)")
    with staged(place if target == "ollama" else place.parent):
        pass


def _paths(place: Path, target: str) -> list[Path]:
    """Returns the files that an export writes."""
    if target == "ollama":
        return [place / WEIGHTS, place / MODELFILE, place / PROOF]
    return [place, place.with_suffix(f".{PROOF}")] if target == "gguf" else [place]


def _require_space(place: Path, size: int) -> None:
    """Checks that the disk has room, since a write that fails half-way says less."""
    existing = next(folder for folder in (place, *place.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if free < size + _SPARE:
        raise SaveError(
            f"{place} needs {size / 2**20:,.0f} MiB, and the disk has {free / 2**20:,.0f} MiB left: free some, or give "
            "a folder on another disk"
        )


def _merged(hf_model: "PreTrainedModel") -> "PreTrainedModel":
    """Returns the model, or a copy whose adapters are merged."""
    if not has_adapters(hf_model):
        return hf_model
    hf_model = copy.deepcopy(hf_model)
    remove_adapters(hf_model, merge=True)
    return hf_model


@dataclass(frozen=True, slots=True)
class _Job:
    """A GGUF file to write and to prove, with a Modelfile for Ollama."""

    hf_model: "PreTrainedModel"
    tokenizer: ConversationTokenizer
    model: GgufModel
    origin: Origin
    target: str
    options: ExportOptions

    def write(self, place: Path) -> Exported:
        """Writes the files into a staging folder and moves them to their place once they are proven."""
        unproven, progress = self.options["unproven"], self.options["progress"]
        windows = [] if unproven else self._windows()
        names = [path.name for path in _paths(place, self.target)]
        with staged(place if self.target == "ollama" else place.parent) as stage:
            progress("writing")
            file = stage / names[0]
            types = write_gguf(self.model, file, self.options["weights"], self.origin, proven=not unproven)
            if self.target == "ollama":
                (stage / MODELFILE).write_text(modelfile(self.model, self.origin), encoding="utf-8", newline="\n")
            proof = None if unproven else self._prove(file, windows)
            if proof is not None:
                content = {"convmodel_version": version("convmodel"), "file": names[0], **proof.to_dict()}
                text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
                (stage / names[-1]).write_text(text, encoding="utf-8", newline="\n")
            size = sum(path.stat().st_size for path in stage.iterdir())
        if unproven:  # the proof of an earlier file is not one of this
            _paths(place, self.target)[-1].unlink(missing_ok=True)
        return Exported(place, size, types, proof)

    def _windows(self) -> list[Window]:
        """Returns what to measure the perplexity on: given data, or conversations that come with the package."""
        data = self.options["data"]
        reader = ConversationReader.of(sample_file("valid") if data is None else data)
        return windows_to_measure(self.tokenizer, self.model, reader, self.options["weights"])

    def _prove(self, file: Path, windows: Sequence[Window]) -> Proof:
        self.options["progress"]("starting llama.cpp")
        go = self.model.templates.go()
        try:
            with running(file, free_threads(), self.model.shape.context) as llama:
                return prove(
                    Subject(self.hf_model, self.tokenizer, self.model, llama),
                    self.options["weights"],
                    windows,
                    render_ollama=(lambda messages: render(go, messages)) if self.target == "ollama" else None,
                    progress=self.options["progress"],
                )
        except ExportError as error:
            raise ExportError(f"{error}; the file was not kept") from error
