"""What `convmodel fit` starts from: a trained model, one whose vocabulary grows, or a new one.

Owns: which of these options go together, and what is said of the model.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convmodel.cli.console import console, load_model, quieten_transformers
from convmodel.data.reading.reader import ConversationReader
from convmodel.errors import ConfigError
from convmodel.hf_model.from_scratch import SHAPES, fit_settings
from convmodel.training.config import FitConfig
from convmodel.training.units import millions

if TYPE_CHECKING:
    from convmodel.model import ConversationModel

BASE_MODEL = "gpt2"


@dataclass(frozen=True, slots=True)
class Start:
    """The options of `fit` that say what it starts from.

    Attributes:
        model: A trained model, if one was named.
        from_scratch: The shape of a new one.
        tokenizer: The folder of a new model's vocabulary.
        grow_vocabulary: By how many entries a trained model's vocabulary grows.
    """

    model: str | None
    from_scratch: str | None
    tokenizer: str | None
    grow_vocabulary: int | None

    def check(self, train: str) -> None:
        """Checks that the options go together.

        Raises:
            ConfigError: If they do not.
        """
        if self.tokenizer is not None and self.from_scratch is None:
            raise ConfigError("--tokenizer is the vocabulary of a new model: give --from-scratch too")
        if self.from_scratch is not None and self.model is not None:
            raise ConfigError("--model starts from a trained model and --from-scratch from a new one: give one of them")
        if self.from_scratch is not None and self.grow_vocabulary is not None:
            raise ConfigError("--from-scratch learns a vocabulary of its own: leave --grow-vocabulary out")
        if train == "-" and (self.from_scratch is not None or self.grow_vocabulary is not None):
            raise ConfigError("a vocabulary is learned first, from the same conversations: give a file instead of -")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that suit it, where they differ from the defaults.

        Raises:
            ConfigError: If there is no such shape.
        """
        return fit_settings(self.from_scratch) if self.from_scratch is not None else {}

    def describe(self) -> str:
        """Says what is done."""
        if self.from_scratch is not None:
            return f"training a new {self.from_scratch} model"
        return f"fine-tuning {self.model or BASE_MODEL}"

    def load(self, train: ConversationReader, config: FitConfig, *, validated: bool) -> "ConversationModel":
        """Loads or makes the model.

        Raises:
            ConvModelError: If there is none, or the data is malformed.
        """
        if self.from_scratch is not None:
            return _new_model(train, self.from_scratch, self.tokenizer, config, validated)
        if self.grow_vocabulary is None:
            return load_model(self.model or BASE_MODEL)
        if config.lora:
            raise ConfigError("lora learns no rows of new entries: leave --grow-vocabulary out, or --lora")
        return _grown(load_model(self.model or BASE_MODEL), train, self.grow_vocabulary)


def _new_model(
    train: ConversationReader, shape: str, tokenizer: str | None, config: FitConfig, validated: bool
) -> "ConversationModel":
    """Makes an untrained model and says what it is, and whether it has more weights than there is to learn."""
    with console.status("learning a vocabulary ..."):
        quieten_transformers()
        from convmodel.hf_model.from_scratch import make_model
        from convmodel.hf_model.loading import place
        from convmodel.layout.tokenizer import ConversationTokenizer
        from convmodel.model import ConversationModel

        vocabulary = ConversationTokenizer.from_pretrained(tokenizer) if tokenizer else None
        new = make_model(train, shape, tokenizer=vocabulary, seed=config.seed)
        model = ConversationModel(place(new.hf_model, None), new.tokenizer)
    _say(
        f"a new GPT-2: {millions(new.parameters)} parameters, {len(new.tokenizer):,} entries in its vocabulary; "
        f"about {millions(new.tokens)} tokens to learn from"
    )
    if new.parameters > new.tokens:
        cures = [] if validated else ["--valid, which keeps the model that is best on other conversations"]
        cures += [] if config.dropout else ["--dropout 0.1"]
        cures += ["a smaller shape"] if shape != next(iter(SHAPES)) else []
        cures += ["more conversations", "a trained model to start from, with --model"]
        _say(
            "there are more parameters than tokens: it will soon know the conversations by heart. "
            f"What helps: {'; '.join(cures)}",
            style="yellow",
        )
    return model


def _grown(model: "ConversationModel", train: ConversationReader, entries: int) -> "ConversationModel":
    """Grows the vocabulary for the training conversations and says what that brings."""
    from convmodel.hf_model.from_scratch import estimate_tokens

    with console.status("growing the vocabulary ..."):
        turns = [turn for conversation in train for turn in conversation.turns]
        before = len(model.tokenizer), estimate_tokens(model.tokenizer, turns)
        model.grow_vocabulary(turns, entries)
        after = len(model.tokenizer), estimate_tokens(model.tokenizer, turns)
    if after[0] - before[0] < entries:
        _say(
            f"there are only {after[0] - before[0]:,} new pieces that stand twice or more, not {entries:,}",
            style="yellow",
        )
    _say(
        f"the vocabulary grew from {before[0]:,} to {after[0]:,} entries; the conversations are now about "
        f"{millions(after[1])} tokens instead of {millions(before[1])}"
    )
    return model


def _say(text: str, **options: Any) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True, **options)
