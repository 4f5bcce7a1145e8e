"""The model that `convmodel fit` trains: a pretrained one, one with an extended vocabulary, or a new one.

Owns: which of these options go together, and the messages about a new model or vocabulary.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convmodel.cli.console import load_model, print_message, silence_transformers
from convmodel.data.progress import console
from convmodel.data.reading.reader import ConversationReader
from convmodel.errors import ConfigError
from convmodel.hf_model.from_scratch import SHAPES, fit_settings
from convmodel.training.config import FitConfig
from convmodel.training.units import short_count

if TYPE_CHECKING:
    from convmodel.model import ConversationModel

BASE_MODEL = "gpt2"


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """The options of `fit` that choose the model to train."""

    model: str | None  # a pretrained model
    from_scratch: str | None  # the size of a new one
    tokenizer: str | None  # the folder with a new model's tokenizer
    grow_vocabulary: int | None  # how many entries to add to a pretrained model's vocabulary
    layout: str = "auto"  # the token layout of a pretrained model
    names: str | None = None  # whether speakers' names are put before their texts
    token_types: bool | None = None  # whether the model gets token types
    quantize: str | None = None  # how the weights below adapters are packed

    def check(self, train: str) -> None:
        """Checks that the options can be combined."""
        if self.tokenizer is not None and self.from_scratch is None:
            raise ConfigError("--tokenizer is the tokenizer of a new model: give --from-scratch too")
        if self.from_scratch is not None and self.model is not None:
            raise ConfigError("--model starts from a trained model and --from-scratch from a new one: give one of them")
        if self.from_scratch is not None and self.grow_vocabulary is not None:
            raise ConfigError("--from-scratch trains its own vocabulary: leave --grow-vocabulary out")
        if self.from_scratch is not None and (self.layout != "auto" or self.names is not None):
            raise ConfigError("--layout and --names are for a pretrained model: leave them out with --from-scratch")
        if train == "-" and (self.from_scratch is not None or self.grow_vocabulary is not None):
            raise ConfigError("the vocabulary is trained first, on the same conversations: give a file instead of -")

    def check_settings(self, config: FitConfig) -> None:
        """Checks that the settings of the run suit a model whose weights are packed."""
        if self.quantize is None:
            return
        if self.from_scratch is not None:
            raise ConfigError("--quantize is for pretrained weights: leave it out with --from-scratch")
        if config.lora is False:
            raise ConfigError("int8 weights cannot be trained: give --lora too, or leave out --quantize")
        if config.merge:
            raise ConfigError(
                "--merge would add the adapters to rounded weights: leave it out; `convmodel export` and "
                "merge_adapters() merge them into the original ones"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """The defaults that suit a new model, where they differ from those of `FitConfig`."""
        return fit_settings(self.from_scratch) if self.from_scratch is not None else {}

    def describe(self) -> str:
        """Returns a few words on what the run does."""
        if self.from_scratch is not None:
            return f"training a new {self.from_scratch} model"
        packed = "" if self.quantize is None else f" in {self.quantize}"
        return f"fine-tuning {self.model or BASE_MODEL}{packed}"

    def load(self, train: ConversationReader, config: FitConfig, *, validated: bool) -> "ConversationModel":
        """Loads the model or makes a new one."""
        if self.from_scratch is not None:
            return _make_model(train, self, config, validated)
        if self.grow_vocabulary is None:
            return self._load_model()
        if config.lora:
            raise ConfigError("lora does not train new embeddings: leave out --grow-vocabulary or --lora")
        return _grow_vocabulary(self._load_model(), train, self.grow_vocabulary)

    def _load_model(self) -> "ConversationModel":
        chosen = {"layout": self.layout, "names": self.names, "use_token_types": self.token_types}
        chosen |= {"quantize": self.quantize}
        return load_model(self.model or BASE_MODEL, **chosen)


def _make_model(
    train: ConversationReader, start: StartingPoint, config: FitConfig, validated: bool
) -> "ConversationModel":
    """Creates a model with random weights, reports its size, and warns if it is too large for the data."""
    with console.status("training a vocabulary ..."):
        silence_transformers()
        from convmodel.hf_model.device_check import place
        from convmodel.hf_model.from_scratch import make_model
        from convmodel.layout.tokenizer import ConversationTokenizer
        from convmodel.model import ConversationModel

        shape = start.from_scratch or ""
        vocabulary = ConversationTokenizer.from_pretrained(start.tokenizer) if start.tokenizer else None
        types = start.token_types
        new = make_model(train, shape, tokenizer=vocabulary, seed=config.seed, use_token_types=types)
        model = ConversationModel(place(new.hf_model, None), new.tokenizer)
    parameters = new.hf_model.num_parameters()
    print_message(
        f"a new GPT-2: {short_count(parameters)} parameters, a vocabulary of {len(new.tokenizer):,} entries; "
        f"about {short_count(new.tokens)} training tokens"
    )
    if parameters > new.tokens:
        fixes = [] if validated else ["--valid, which keeps the checkpoint that is best on held-out conversations"]
        fixes += [] if config.dropout else ["--dropout 0.1"]
        fixes += ["a smaller size"] if shape != next(iter(SHAPES)) else []
        fixes += ["more conversations", "a pretrained model to start from, with --model"]
        print_message(
            "there are more parameters than tokens: the model will soon memorize the conversations. "
            f"What helps: {'; '.join(fixes)}",
            style="yellow",
        )
    return model


def _grow_vocabulary(model: "ConversationModel", train: ConversationReader, entries: int) -> "ConversationModel":
    """Adds entries to the vocabulary for the training conversations, and reports how many tokens that saves."""
    from convmodel.hf_model.from_scratch import estimate_tokens

    with console.status("extending the vocabulary ..."):
        turns = [turn for conversation in train for turn in conversation.turns]
        old_size, old_tokens = len(model.tokenizer), estimate_tokens(model.tokenizer, turns)
        model.grow_vocabulary(turns, entries)
        new_size, new_tokens = len(model.tokenizer), estimate_tokens(model.tokenizer, turns)
    if new_size - old_size < entries:
        print_message(
            f"only {new_size - old_size:,} entries were added, not {entries:,}: no other piece occurs twice",
            style="yellow",
        )
    print_message(
        f"the vocabulary grew from {old_size:,} to {new_size:,} entries; the conversations are now about "
        f"{short_count(new_tokens)} tokens instead of {short_count(old_tokens)}"
    )
    return model
