"""The façade: one object that holds a model and its tokenizer, and delegates everything.

Owns: the public methods. Nothing is decided here.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from convmodel.conversation import Conversation, ConversationLike
from convmodel.data.reading.reader import ConversationReader, ConversationSource
from convmodel.evaluation.likelihood import EvaluationResult, evaluate
from convmodel.files.hub import upload_folder
from convmodel.generation.batched import Result, respond_to_all
from convmodel.generation.engine.engine import Engine
from convmodel.generation.options import read_options
from convmodel.generation.output import Chunk, ConversationModelOutput
from convmodel.generation.respond import make_prompt, respond, stream
from convmodel.generation.session import ChatSession
from convmodel.hf_model.embedding import fit_embedding
from convmodel.hf_model.from_scratch import make_model
from convmodel.hf_model.generation_config import sampling_defaults
from convmodel.hf_model.loading import load, make_weights, place
from convmodel.hf_model.log_probs import BATCH_SIZE, score_responses
from convmodel.hf_model.lora import has_adapters, remove_adapters
from convmodel.hf_model.quantization import quantize_weights, require_unquantized
from convmodel.hf_model.saving import save_model
from convmodel.hf_model.vocabulary_growth import grow_vocabulary
from convmodel.layout.sequence import LossOn
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.training.config import FitConfig

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from convmodel.training.fit import FitResult


class ConversationModel:
    """A causal language model that talks, in the one token layout it was trained with.

    Attributes:
        hf_model: The Hugging Face model.
        tokenizer: Its layout.

    Example:
        >>> ConversationModel.from_pretrained("model").generate(["Hello", "How are you"])
        ConversationModelOutput(responses=['Good thank you'], context=['Hello', 'How are you'])
    """

    def __init__(self, hf_model: PreTrainedModel, tokenizer: ConversationTokenizer) -> None:
        """Joins a model and a tokenizer; the embedding gets a row for the separator if it lacks one.

        Raises:
            ModelLoadError: If the two do not fit together.
        """
        self.hf_model = hf_model
        self.tokenizer = tokenizer
        fit_embedding(hf_model, tokenizer)
        hf_model.generation_config = sampling_defaults(hf_model.generation_config, tokenizer)
        self._engine = Engine(hf_model)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        use_token_types: bool | None = None,
        quantize: str | None = None,
        **options: Any,
    ) -> "ConversationModel":
        """Loads a saved conversation model, or any Hugging Face causal language model to start from.

        Args:
            name_or_path: A folder, a hub id, or `builtin:chitchat`.
            device: Where to put the model; by default a GPU if there is one.
            use_token_types: For a model that convmodel has not saved: whether to tell speakers apart by token types;
                by default wherever the architecture embeds them.
            quantize: `int8` packs the weights for inference on a CPU; such a model cannot learn or be saved.
            **options: `revision, token, cache_dir, local_files_only, dtype, device_map, attn_implementation`, ...

        Raises:
            ModelLoadError: If there is no model, or its layout cannot be honoured.
            ConfigError: If an option does not exist.
        """
        hf_model, tokenizer = load(os.fspath(name_or_path), options, device=device, use_token_types=use_token_types)
        model = cls(hf_model, tokenizer)
        if quantize is not None:
            model.merge_adapters()
            quantize_weights(hf_model, quantize)
        return model

    @classmethod
    def from_config(
        cls,
        config: PretrainedConfig,
        tokenizer: ConversationTokenizer | PreTrainedTokenizerBase,
        *,
        seed: int = 0,
        device: str | torch.device | None = None,
    ) -> "ConversationModel":
        """Makes a model of any architecture with random weights, to train from scratch.

        Args:
            config: The architecture, such as `GPT2Config(n_layer=4, n_embd=256, n_head=4)`.
            tokenizer: Its vocabulary.
            seed: Seeds the weights; the global random state stays unchanged.
            device: As for `from_pretrained`.

        Raises:
            ModelLoadError: If the vocabulary is larger than the architecture's embedding.
        """
        hf_model, tokenizer = make_weights(config, tokenizer, seed=seed)
        return cls(place(hf_model, device), tokenizer)

    @classmethod
    def from_scratch(
        cls,
        train: ConversationSource,
        shape: str = "small",
        *,
        tokenizer: ConversationTokenizer | None = None,
        seed: int = 42,
        device: str | torch.device | None = None,
    ) -> "ConversationModel":
        """Makes an untrained GPT-2 for some conversations.

        Args:
            train: The conversations to learn from, as for `fit`.
            shape: `tiny`, `small` or `base`.
            tokenizer: Its vocabulary; by default a byte-level BPE is trained on the conversations.
            seed: Seeds the weights.
            device: As for `from_pretrained`.

        Raises:
            ConfigError: If there is no such shape.

        Example:
            >>> conversations = [["Hello", "Hi, how are you?"], ["What's up", "Not much"]]
            >>> model = ConversationModel.from_scratch(conversations, "tiny")
            >>> model.hf_model.config.n_layer, len(model.tokenizer)
            (4, 284)
        """
        new = make_model(train, shape, tokenizer=tokenizer, seed=seed)
        return cls(place(new.hf_model, device), new.tokenizer)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.hf_model.device

    @property
    def engine(self) -> Engine:
        """What generates for all callers, and remembers the conversations that it has read."""
        if self._engine.hf_model is not self.hf_model:
            self._engine = Engine(self.hf_model)
        return self._engine

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes the model into a folder: Hugging Face's files and `convmodel_config.json`.

        Of a model with LoRA adapters these alone are written, with the name of their base.

        Raises:
            SaveError: If the folder cannot be written; what it held is untouched.
            ConfigError: If the model is quantised, or its adapters have no base model outside of `folder`.
        """
        save_model(self.hf_model, self.tokenizer, folder)

    def grow_vocabulary(self, texts: Iterable[str], entries: int) -> None:
        """Adds up to `entries` entries to the vocabulary, so that text like `texts` takes fewer tokens.

        Text without a new entry keeps its ids. Train the model afterwards: the new rows begin as means of old ones.

        Raises:
            ConfigError: If `entries` is less than 1, or the vocabulary is not a byte-level BPE.

        Example:
            >>> model = ConversationModel.from_pretrained("gpt2")
            >>> len(model.tokenizer.encode("おはよう"))
            6
            >>> model.grow_vocabulary(["おはよう、元気", "おはよう"], 5)
            >>> len(model.tokenizer.encode("おはよう")), model.tokenizer.encode("Hello")
            (1, [15496])
        """
        self.tokenizer = grow_vocabulary(self.hf_model, self.tokenizer, texts, entries)
        fit_embedding(self.hf_model, self.tokenizer)

    def merge_adapters(self) -> None:
        """Adds LoRA adapters to the weights, so that the model is saved whole; without adapters it does nothing."""
        if has_adapters(self.hf_model):
            remove_adapters(self.hf_model, merge=True)
            self.hf_model.name_or_path = ""

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Uploads the model to the Hub as `owner/name`, a repository that is made if missing; returns its address.

        The access token is by default the one that `hf auth login` stored.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload_folder(folder, repo_id, private=private, token=token)

    def fit(
        self,
        train: ConversationSource,
        valid: ConversationSource | None = None,
        *,
        config: FitConfig | None = None,
        callbacks: "Sequence[TrainerCallback]" = (),
        **options: Any,
    ) -> "FitResult":
        """Fine-tunes the model in place and leaves the best weights in it, in evaluation mode.

        Args:
            train: Conversations, a file or folder of them, or a `ConversationReader`.
            valid: Conversations to choose the best model by; without them the last one is kept.
            config: All settings in one object.
            callbacks: `TrainerCallback`s of transformers.
            **options: Settings by name, as in `FitConfig`, instead of `config`.

        Raises:
            ConversationError: If the data is malformed; the message names the file and line.
            ConfigError: If an option does not exist or makes no sense, or training diverges.
            SaveError: If `output_dir` cannot be written.
            StoppedError: If a signal stopped the run; with an `output_dir`, a checkpoint is saved first.
            MissingExtraError: If accelerate is not installed.
        """
        config = FitConfig.of(config, options)
        require_unquantized(self.hf_model, "trained")
        train, valid = ConversationReader.of(train), None if valid is None else ConversationReader.of(valid)
        from convmodel.training.fit import fit  # loads accelerate, which answering does not need

        result, self.tokenizer = fit(self.hf_model, self.tokenizer, train, valid, config, callbacks)
        return result

    def evaluate(
        self,
        data: ConversationSource,
        *,
        batch_size: int = BATCH_SIZE,
        max_length: int | None = None,
        loss_on: LossOn | None = None,
    ) -> EvaluationResult:
        """Measures loss, perplexity and bits per byte over supervised tokens.

        Args:
            data: Conversations, a file or folder of them, or a `ConversationReader`.
            batch_size: Windows at a time; it changes speed and memory, not the result.
            max_length: The longest window; by default the one the model was trained with.
            loss_on: Whose turns count; by default those the model was trained on.

        Raises:
            ConversationError: If the data is malformed, or has no supervised turn.
            ConfigError: If an option makes no sense.
        """
        reader = ConversationReader.of(data)
        return evaluate(
            self.hf_model, self.tokenizer, reader, batch_size=batch_size, max_length=max_length, loss_on=loss_on
        )

    def score(self, context: ConversationLike, responses: Sequence[str], *, reply_as: str | None = None) -> list[float]:
        """Returns the log-probability of each response with its closing separator, in nats.

        Args:
            context: The turns before.
            responses: What might be said.
            reply_as: Who says it; by default the expected speaker.

        Raises:
            ConversationError: If the context is malformed or a response is empty.
            ContextTooLongError: If a response alone is too long.
        """
        return score_responses(self.hf_model, self.tokenizer, Conversation.of(context), responses, reply_as=reply_as)

    def generate(self, context: ConversationLike, **options: Any) -> ConversationModelOutput:
        """Generates responses to a context.

        Args:
            context: The turns so far.
            **options: Any option of transformers' `generate`, and `reply_as` (who responds), `seed` (for sampling),
                `cut_long_turn` (whether a newest turn that is too long alone may lose its beginning).

        Raises:
            ConversationError: If the context is malformed.
            ContextTooLongError: If its newest turn alone is too long.
            ConfigError: If an option does not exist, is refused or makes no sense.
        """
        return respond(self.engine, self.tokenizer, context, read_options(self.hf_model, self.tokenizer, options))

    def generate_batch(
        self, contexts: Iterable[ConversationLike], *, return_errors: bool = False, **options: Any
    ) -> list[Result]:
        """Generates responses to many contexts, which share steps: each is what `generate` returns, and much sooner.

        With a seed, each context has seeds of its own: of context n it is `seed + n * num_return_sequences`.

        Args:
            contexts: The contexts, of any lengths.
            return_errors: Whether what is wrong with a context stands in its place instead of being raised.
            **options: Options of `generate`, for all of them.

        Raises:
            GenerationError: If the model failed at a context. Otherwise what `generate` raises.

        Example:
            >>> model = ConversationModel.from_pretrained("model")
            >>> [output.responses for output in model.generate_batch([["Hello", "How are you"]])]
            [['Good thank you']]
        """
        checked = read_options(self.hf_model, self.tokenizer, options)
        return respond_to_all(self.engine, self.tokenizer, contexts, checked, return_errors=return_errors)

    def stream(self, context: ConversationLike, **options: Any) -> Iterator[Chunk]:
        """Generates one response and yields it in chunks, whose texts join to what `generate` returns.

        Takes the options of `generate`, and raises what it raises at the call. Closing the iterator ends the work.
        """
        checked = read_options(self.hf_model, self.tokenizer, options)
        return stream(self.engine, self.tokenizer, make_prompt(self.tokenizer, context, checked), checked)

    def session(self, context: ConversationLike = (), **generation_options: Any) -> ChatSession:
        """Opens a conversation that remembers its turns, with options of `generate` for all its responses."""
        return ChatSession(self.engine, self.tokenizer, context, **generation_options)
