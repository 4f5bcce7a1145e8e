"""The façade: one object with a model and its tokenizer that delegates everything.

Owns: the public methods. Makes no decisions of its own.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from convmodel.conversation import Conversation, ConversationLike
from convmodel.data.judgements.reader import JudgementSource
from convmodel.data.reading.reader import ConversationReader, ConversationSource
from convmodel.evaluation.likelihood import EvaluationResult, evaluate
from convmodel.export.options import ExportOptions
from convmodel.files.hub import name_of
from convmodel.generation.batched import Contexts, Result, respond_to_all
from convmodel.generation.engine.engine import Engine
from convmodel.generation.option_types import GenerateOptions
from convmodel.generation.options import read_options
from convmodel.generation.output import Chunk, ConversationModelOutput
from convmodel.generation.respond import make_prompt, respond, stream
from convmodel.generation.session import ChatSession
from convmodel.hf_model.causality import require_causal
from convmodel.hf_model.device_check import place
from convmodel.hf_model.from_scratch import make_model
from convmodel.hf_model.generation_config import match_tokenizer
from convmodel.hf_model.loading import load, make_weights
from convmodel.hf_model.log_probs import BATCH_SIZE, score_responses
from convmodel.hf_model.lora import has_adapters, remove_adapters
from convmodel.hf_model.quantization import check_quantization, is_quantized, quantize_weights
from convmodel.hf_model.saving import describe, push_model, save_model
from convmodel.hf_model.vocabulary_growth import grow_vocabulary
from convmodel.layout.choosing import LayoutName
from convmodel.layout.sequence import LossOn
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.training.config import FitConfig
from convmodel.training.option_types import FitOptions

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from convmodel.export.exporting import Exported
    from convmodel.training.fit_result import FitResult


class ConversationModel:
    """A causal language model with the token layout that it was trained with.

    Attributes:
        hf_model: The Hugging Face model.
        tokenizer: The tokenizer, which applies the layout.

    Example:
        >>> ConversationModel.from_pretrained("model").generate(["Hello", "How are you"])
        ConversationModelOutput(responses=['Good thank you'], context=['Hello', 'How are you'])
    """

    def __init__(self, hf_model: PreTrainedModel, tokenizer: ConversationTokenizer) -> None:
        """Combines a model and a tokenizer; adds an embedding row for the separator if it has none.

        Raises:
            ModelLoadError: If the two do not match, or the model is not a causal language model.
        """
        require_causal(hf_model)
        self.hf_model = hf_model
        self.tokenizer = tokenizer
        match_tokenizer(hf_model, tokenizer)
        self._engine = Engine(hf_model)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        layout: LayoutName = "auto",
        names: str | None = None,
        use_token_types: bool | None = None,
        quantize: str | None = None,
        **options: Any,
    ) -> "ConversationModel":
        """Loads a saved conversation model, or any Hugging Face causal language model to fine-tune.

        Args:
            name_or_path: A folder, a Hub id, a GGUF file, or `builtin:chitchat`.
            device: The device; by default an NVIDIA or Apple GPU if there is one; see docs/other-machines.md.
            layout: The token layout: `separator`, `template` (the model's own chat template) or `auto`.
            names: As for `ConversationTokenizer.from_pretrained`.
            use_token_types: As for `ConversationTokenizer.from_pretrained`.
            quantize: `int8` packs the weights, on a CPU; of such a model only LoRA adapters can be trained and saved.
            **options: `revision, token, cache_dir, local_files_only, dtype, device_map, attn_implementation`, ...

        Raises:
            ModelLoadError: If there is no model, or this version does not support its layout.
            ConfigError: If an option does not exist.
        """
        of_layout = {"layout": layout, "names": names, "use_token_types": use_token_types}
        check_quantization(quantize)  # before the weights are loaded
        device = "cpu" if device is None and quantize is not None else device
        model = cls(*load(name_of(name_or_path), options, of_layout, device=device, quantize=quantize))
        if quantize is not None and not is_quantized(model.hf_model):
            model.merge_adapters()
            quantize_weights(model.hf_model, quantize)
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
        """Creates a model of any architecture with random weights, to train from scratch.

        Args:
            config: The architecture, such as `GPT2Config(n_layer=4, n_embd=256, n_head=4)`.
            tokenizer: The vocabulary, such as `train_vocabulary` returns.
            seed: The seed of the weights; the global random state stays unchanged.
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
        """Creates an untrained GPT-2 and trains its vocabulary.

        Args:
            train: The training conversations, as for `fit`.
            shape: `tiny` (4 layers of 192), `small` (4 of 320) or `base` (12 of 768, as GPT-2 small).
            tokenizer: The vocabulary; by default a byte-level BPE is trained on the conversations.
            seed: The seed of the weights.
            device: As for `from_pretrained`.
        """
        new = make_model(train, shape, tokenizer=tokenizer, seed=seed)
        return cls(place(new.hf_model, device), new.tokenizer)

    def __repr__(self) -> str:
        return f"ConversationModel({describe(self.hf_model)})"

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.hf_model.device

    @property
    def engine(self) -> Engine:
        """The engine that generates for all callers and caches the conversations that it has read."""
        if self._engine.hf_model is not self.hf_model:
            self._engine = Engine(self.hf_model)
        return self._engine

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes the model, of LoRA adapters only these, as Hugging Face's files and `convmodel_config.json`.

        Raises:
            SaveError: If the folder cannot be written; its previous content is unchanged.
            ConfigError: If it is quantized without adapters, or its adapters have no base model outside of `folder`.
        """
        save_model(self.hf_model, self.tokenizer, folder)

    def grow_vocabulary(self, texts: Iterable[str], entries: int) -> None:
        """Adds up to `entries` entries to the vocabulary, so that text like `texts` takes fewer tokens.

        Text without new entries keeps its ids. Train the model afterwards: new embedding rows are means of others.

        Raises:
            ConfigError: If `entries` is less than 1, or the vocabulary is not a byte-level BPE.

        Example:
            >>> model = ConversationModel.from_pretrained("gpt2")  # takes 6 tokens for おはよう
            >>> model.grow_vocabulary(["おはよう、元気", "おはよう"], 5)
            >>> len(model.tokenizer.encode("おはよう")), model.tokenizer.encode("Hello")
            (1, [15496])
        """
        self.tokenizer = grow_vocabulary(self.hf_model, self.tokenizer, texts, entries)
        match_tokenizer(self.hf_model, self.tokenizer)

    def merge_adapters(self) -> None:
        """Merges LoRA adapters, if any, into the weights, so that saving writes the whole model. Not for int8."""
        if has_adapters(self.hf_model):
            remove_adapters(self.hf_model, merge=True)
            self.hf_model.name_or_path = ""

    def export(self, path: str | os.PathLike[str], **options: Unpack[ExportOptions]) -> "Exported":
        """Writes the model for llama.cpp, Ollama or a browser, and proves that it does there what it does here.

        Takes the options that `ExportOptions` lists, such as `to="ollama"`, and raises what `export_model` raises.
        """
        from convmodel.export.exporting import export_model  # what only exports need

        return export_model(self.hf_model, self.tokenizer, path, **options)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Uploads the model to the Hub's `owner/name`, created if missing; returns its URL. Uses `hf auth login`."""
        return push_model(self.hf_model, self.tokenizer, repo_id, private=private, token=token)

    def fit(
        self,
        train: ConversationSource | JudgementSource,
        valid: ConversationSource | None = None,
        *,
        replay: ConversationSource | None = None,
        config: FitConfig | None = None,
        callbacks: "Sequence[TrainerCallback]" = (),
        **options: Unpack[FitOptions],
    ) -> "FitResult":
        """Fine-tunes the model in place; afterwards it has the best weights and is in evaluation mode.

        Args:
            train: Conversations, a file or folder of them, or a reader; with any `objective` but `sft`, judgements.
            valid: Validation data, to keep the best weights; without it the last ones are kept.
            replay: Conversations that are trained on beside judgements, so that nothing is forgotten.
            config: All settings in one object.
            callbacks: `TrainerCallback`s of transformers.
            **options: Settings by name, as in `FitConfig`, instead of `config`.

        Raises:
            ConversationError: If the data is malformed; the message names the file and line.
            ConfigError: If an option does not exist or is invalid, or training diverges.
            SaveError: If `output_dir` cannot be written.
            StoppedError: If a signal stopped the run; with an `output_dir`, a checkpoint is saved first.
            MissingExtraError: If accelerate is not installed.
        """
        config = FitConfig.of(config, {**options})
        from convmodel.training.fit import fit  # imports accelerate, which only training needs
        from convmodel.training.objectives.choose import readers

        sources = readers(config, train, valid, replay)
        result, self.tokenizer = fit(self.hf_model, self.tokenizer, sources, config, callbacks)
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
            batch_size: Windows per batch; it changes speed and memory, not the result.
            max_length: The limit of a window in tokens; by default that of the training.
            loss_on: Whose turns count; by default as in training.

        Raises:
            ConversationError: If the data is malformed, or has no supervised turn.
            LogitsError: If the model's logits are not numbers.
        """
        settings: dict[str, Any] = {"batch_size": batch_size, "max_length": max_length, "loss_on": loss_on}
        return evaluate(self.hf_model, self.tokenizer, ConversationReader.of(data), **settings)

    def score(self, context: ConversationLike, responses: Sequence[str], *, reply_as: str | None = None) -> list[float]:
        """Returns ln p of each response with its closing separator, in nats; by default the expected speaker says it.

        Raises:
            ConversationError: If the context is malformed or a response is empty.
            ContextTooLongError: If a response alone is too long.
        """
        return score_responses(self.hf_model, self.tokenizer, Conversation.of(context), responses, reply_as=reply_as)

    def generate(self, context: ConversationLike, **options: Unpack[GenerateOptions]) -> ConversationModelOutput:
        """Generates responses to a context.

        Args:
            context: The turns so far.
            **options: Any option of transformers' `generate`, and `reply_as` (the speaker of the response), `seed` (of
                sampling), `cut_long_turn` (whether to cut the beginning of a newest turn that alone is too long).

        Raises:
            ConversationError: If the context is malformed.
            ContextTooLongError: If its newest turn alone is too long.
            ConfigError: If an option does not exist, is not supported or is invalid.
            LogitsError: If the model's logits are not numbers.
        """
        return respond(self.engine, self.tokenizer, context, read_options(self.hf_model, self.tokenizer, options))

    @overload
    def generate_batch(
        self, contexts: Contexts, *, return_errors: Literal[False] = False, **options: Unpack[GenerateOptions]
    ) -> list[ConversationModelOutput]: ...

    @overload
    def generate_batch(
        self, contexts: Contexts, *, return_errors: Literal[True], **options: Unpack[GenerateOptions]
    ) -> list[Result]: ...

    def generate_batch(
        self, contexts: Contexts, *, return_errors: bool = False, **options: Unpack[GenerateOptions]
    ) -> list[ConversationModelOutput] | list[Result]:
        """Generates responses to many contexts in batches; each result is what `generate` returns.

        Args:
            contexts: The contexts.
            return_errors: Whether to return an error in the place of its result instead of raising it.
            **options: Options of `generate`, for all; context n has the seed `seed + n * num_return_sequences`.

        Raises:
            GenerationError: If the model failed for a context. Also raises what `generate` raises.
        """
        checked = read_options(self.hf_model, self.tokenizer, options)
        return respond_to_all(self.engine, self.tokenizer, contexts, checked, return_errors=return_errors)

    def stream(self, context: ConversationLike, **options: Unpack[GenerateOptions]) -> Iterator[Chunk]:
        """Generates one response in chunks, with the options and errors of `generate`; closing the iterator stops."""
        checked = read_options(self.hf_model, self.tokenizer, options)
        return stream(self.engine, self.tokenizer, make_prompt(self.tokenizer, context, checked), checked)

    def session(self, context: ConversationLike = (), **generation_options: Unpack[GenerateOptions]) -> ChatSession:
        """Opens a session, which keeps the turns of a conversation; the options apply to all its responses."""
        return ChatSession(self.engine, self.tokenizer, context, **generation_options)
