"""`convmodel demo`: the way from a chat export to a bot, on a sample export in the package.

Owns: the settings of this run, and what is printed of each step. The steps are those of `import`, `doctor`, `fit`,
`evaluate` and `chat`; the printed commands do the same.
"""

from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from typer import Option

from convmodel.cli import flags
from convmodel.cli.console import RANK, check_output_dir, load_model, print_json, print_message, print_table, program
from convmodel.cli.doctor_display import print_checks
from convmodel.data.importing.splitting import PARTS
from convmodel.data.progress import console
from convmodel.files.atomic import staged
from convmodel.files.hub import CHITCHAT, CHITCHAT_RATE
from convmodel.layout.architecture import window_length
from convmodel.training.config import FitConfig
from convmodel.training.packages import require_accelerate
from convmodel.training.units import duration, short_count, size

if TYPE_CHECKING:
    from convmodel.conversation import Conversation
    from convmodel.data.importing.summary import ImportSummary
    from convmodel.evaluation.likelihood import EvaluationResult
    from convmodel.model import ConversationModel
    from convmodel.training.doctor.examination import Examination

EXPORT = "WhatsApp Chat with Will.txt"  # in the package; its copy in the output folder shows that a demo wrote it
ME = "Will"
FOLDER = Path("demo")  # the default output folder; another demo replaces it
SETTINGS: dict[str, Any] = {"loss_on": "assistant", "learning_rate": float(CHITCHAT_RATE)}
EXAMPLES = 3  # number of held-out contexts to respond to before and after
MAX_CHARS = 100  # maximum length of such a context


def command(
    *,
    output_dir: Annotated[
        Path,
        Option(
            "--output-dir",
            "-o",
            help="Folder for the export, the data and the model; in the default folder, an earlier demo is replaced.",
        ),
    ] = FOLDER,
    overwrite: Annotated[
        bool, Option("--overwrite", help="Replace the demo in an --output-dir that you give.")
    ] = False,
    epochs: Annotated[float, Option(help="Number of passes over the training conversations.")] = 1.0,
    seed: Annotated[int, Option(help="Seed of data order and sampling.")] = 42,
    as_json: flags.Json = False,
) -> None:
    """Go from a chat export to a bot: import a sample export, check, fine-tune the built-in model, compare the replies.

    Takes about a minute on two CPU cores, longer beside other work, and needs no network. The sample is made up:
    dialogues of Shakespeare's comedies, in the form of an exported WhatsApp chat between Anne and Will. Each step is
    introduced by its command, which works for your own chat, too.
    """
    check_output_dir(output_dir, overwrite=overwrite or output_dir == FOLDER, content="a demo", files=(EXPORT,))
    require_accelerate()  # before the steps that come first
    settings = SETTINGS | {"epochs": epochs, "seed": seed}
    config = FitConfig.from_options(settings | {"output_dir": str(output_dir / "model"), "resume": False})
    steps = _Steps(output_dir, settings)
    model = load_model(CHITCHAT)
    parameters = short_count(model.hf_model.num_parameters())
    print_message(f"From a chat export to a bot in five steps. {CHITCHAT} is a model with {parameters} parameters,")
    print_message("trained on present-day small talk. The sample export is made up: in it, Anne and Will write")
    print_message("what two people of Shakespeare's comedies say to each other.")

    _announce(1, "import the export; Will is the one to imitate", steps.import_)
    summary = _import(steps)
    _print_import(summary)
    train, valid, test = (_read(steps.part(name)) for name in PARTS)

    _announce(2, "check model and data", steps.doctor)
    examination = _examine(model, train, valid, config)
    _print_examination(examination)

    contexts = _choose_contexts(test)
    # The same targets before and after, whatever the built-in model was trained with.
    targets: dict[str, Any] = {"max_length": window_length(model.hf_model.config), "loss_on": config.loss_on}
    with console.status(f"measuring {CHITCHAT} ..."):
        before, old_replies = model.evaluate(test, **targets), _reply(model, contexts, seed)
    _announce(3, "train on Will's turns", steps.fit)
    result = model.fit(train, valid, config=config)
    with console.status("measuring the new model ..."):
        after, new_replies = model.evaluate(test, **targets), _reply(model, contexts, seed)
    examples = [
        {"context": context, "before": old, "after": new}
        for context, old, new in zip(contexts, old_replies, new_replies, strict=True)
    ]
    if as_json:
        metrics = {"before": before.to_dict(), "after": after.to_dict(), "seconds": result.seconds}
        checks = {"import": summary.to_dict(), "checks": [asdict(check) for check in examination.checks]}
        commands = [join(line) for line in steps.all()]
        print_json(checks | metrics | {"responses": examples, "commands": commands, "output_dir": str(output_dir)})
        return
    print_message(f"The model is in {output_dir / 'model'}; training took {duration(result.seconds)}.")
    _announce(4, "compare both models on the newest conversations, which were held out", steps.evaluate)
    _print_metrics(before, after)
    _announce(5, f"chat with it: replies to three lines of Anne that were held out, with seed {seed}", steps.chat)
    print_table(("Anne", "reply before", "reply after"), [list(row.values()) for row in examples], text=True)
    print_message("\nNext: chat with it, put it on a web page, or take the same steps with your own chat.")
    for line in (
        f"chat --model {output_dir / 'model'}",
        f"serve {output_dir / 'model'}",
        'import "WhatsApp Chat with Bob.txt" --me Bob --output chat',
        "--help",
    ):
        print_message(f"  {program()} {line}")


@dataclass(frozen=True, slots=True)
class _Steps:
    """The commands that do what the demo does, as lists of words, and the places of their files."""

    folder: Path
    settings: dict[str, Any]

    @property
    def export(self) -> Path:
        return self.folder / EXPORT

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def model(self) -> str:
        return str(self.folder / "model")

    def part(self, name: str) -> str:
        return str(self.data / f"{name}.jsonl")

    @property
    def import_(self) -> list[str]:
        return ["import", str(self.export), "--me", ME, "--output", str(self.data)]

    @property
    def doctor(self) -> list[str]:
        return ["doctor", CHITCHAT, *self._parts(), *self._options("loss_on", "epochs")]

    @property
    def fit(self) -> list[str]:
        options = self._options(*self.settings)
        return ["fit", *self._parts(), "--model", CHITCHAT, *options, "--output-dir", self.model]

    @property
    def evaluate(self) -> list[str]:
        return ["evaluate", CHITCHAT, self.model, "--data", self.part("test"), *self._options("loss_on")]

    @property
    def chat(self) -> list[str]:
        return ["chat", "--model", self.model]

    def all(self) -> list[list[str]]:
        return [["convmodel", *line] for line in (self.import_, self.doctor, self.fit, self.evaluate, self.chat)]

    def _parts(self) -> list[str]:
        return [self.part("train"), "--valid", self.part("valid")]

    def _options(self, *names: str) -> list[str]:
        """Returns the flags of those settings that are not the default of `fit`."""
        defaults = FitConfig().to_dict()
        chosen = {name: self.settings[name] for name in names if self.settings[name] != defaults[name]}
        shown = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in chosen.items()}
        return [word for name, value in shown.items() for word in (f"--{name.replace('_', '-')}", value)]


def _announce(number: int, what: str, line: list[str]) -> None:
    print_message(f"\n{number}. {what}", style="bold")
    print_message(f"$ {program()} {join(line)}", style="cyan")


def _import(steps: _Steps) -> "ImportSummary":
    from convmodel.data.importing.cleaning import CleaningRules
    from convmodel.data.importing.deduplication import available_near
    from convmodel.data.importing.pipeline import ImportOptions, import_conversations
    from convmodel.data.importing.segmenting import Segmenting

    with staged(steps.folder) as stage:
        (stage / EXPORT).write_bytes(_sample())
    cleaning = CleaningRules(near_duplicates=available_near())  # as the command has it
    options = ImportOptions(segmenting=Segmenting(me=ME), cleaning=cleaning)
    return import_conversations([steps.export], steps.data, options)


def _sample() -> bytes:
    return (files("convmodel") / "assets" / "stage" / EXPORT).read_bytes()


def _print_import(summary: "ImportSummary") -> None:
    """Prints what was recognized, and what was kept; the command prints more."""
    people = " and ".join(summary.speakers)
    print_message(f"Read {summary.entries:,} messages of {people} in the format {', '.join(summary.formats)}.")
    dropped = summary.dropped_entries + summary.dropped
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items()) or "nothing"
    print_message(f"Long pauses cut them into {summary.conversations:,} conversations; dropped: {reasons}.")
    parts = ", ".join(f"{count:,} in {name}" for name, count in summary.written.items())
    print_message(f"Kept, the oldest first: {parts}.")


def _read(path: str) -> "list[Conversation]":
    from convmodel.data.reading.reader import read_conversations

    return read_conversations(path)


def _examine(
    model: "ConversationModel", train: "list[Conversation]", valid: "list[Conversation]", config: FitConfig
) -> "Examination":
    from convmodel.data.reading.problems import Problems
    from convmodel.training.doctor.examination import Part, examine

    learned, validated = (Part(conversations, Problems("fail")) for conversations in (train, valid))
    with console.status(f"examining {len(train):,} conversations ..."):
        return examine(model.hf_model, model.tokenizer, learned, validated, config.to_dict())


def _print_examination(examination: "Examination") -> None:
    """Prints the names of the checks that passed, those that did not with their fixes, and the estimate."""
    passed = [check.name for check in examination.checks if check.status == "pass"]
    print_message(f"{len(passed)} of {len(examination.checks)} checks pass: {', '.join(passed)}.")
    if others := [check for check in examination.checks if check.status != "pass"]:
        print_checks(others, Console(stderr=True, quiet=RANK > 0))
    if costs := examination.estimate:
        print_message(
            f"The training will take about {duration(costs.seconds)} and {size(costs.memory_bytes)} of memory."
        )


def _choose_contexts(test: "list[Conversation]") -> list[str]:
    """Returns short first turns, evenly spaced over the held-out conversations."""
    short = [conversation.turns[0] for conversation in test if len(conversation.turns[0]) <= MAX_CHARS]
    return short[:: len(short) // EXAMPLES][:EXAMPLES]


def _reply(model: "ConversationModel", contexts: list[str], seed: int) -> list[str]:
    """Returns the first reply of a chat to each context."""
    replies = [model.session(seed=seed).respond(context) for context in contexts]
    return [" / ".join(reply.strip().splitlines()) for reply in replies]


def _print_metrics(before: "EvaluationResult", after: "EvaluationResult") -> None:
    rows = [
        ("perplexity per token", f"{before.perplexity:,.1f}", f"{after.perplexity:,.1f}"),
        ("bits per byte of text", f"{before.bits_per_byte:.2f}", f"{after.bits_per_byte:.2f}"),
    ]
    print_table((f"{before.conversations:,} conversations", "before", "after"), rows)
    change = after.perplexity / before.perplexity - 1
    direction = "fell" if change < 0 else "rose"
    print_message(f"Perplexity {direction} by {abs(change):.0%}. Lower is better.")
