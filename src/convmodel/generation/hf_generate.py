"""A prompt to responses on transformers' `generate`, for what the engine does not do: beams, assistants and the like.

Owns: calling `generate`, and stopping it cleanly while it streams.
"""

import functools
import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation import BaseStreamer, GenerateDecoderOnlyOutput

from convmodel.errors import ConfigError
from convmodel.generation.engine.logits_processors import OWN, own_processors
from convmodel.generation.engine.request import Request, Row
from convmodel.generation.engine.sampling import Sampler, with_defaults
from convmodel.generation.options import GenerationOptions
from convmodel.generation.output import Response
from convmodel.generation.response_text import join_chunks, read_chunks
from convmodel.hf_model.devices import own_random_state
from convmodel.hf_model.eval_mode import evaluation_mode
from convmodel.hf_model.log_probs import logits_error
from convmodel.layout.sequence import Prompt
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def generate(
    hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, prompt: Prompt, options: GenerationOptions
) -> tuple[list[Response], Any]:
    """Generates `num_return_sequences` responses to a prompt.

    Returns:
        The responses, and what transformers' `generate` returned.

    Raises:
        ConfigError: If transformers refuses the options.
        LogitsError: If the model's logits are not numbers.
    """
    arguments = _arguments(hf_model, tokenizer, prompt, options)
    arguments["return_dict_in_generate"] = True
    if _seeds_apart(hf_model, options):
        arguments["num_return_sequences"] = 1
        seeds = [(options.seed or 0) + number for number in range(options.hf["num_return_sequences"])]
        raw = _join([_call(hf_model, arguments, seed).sequences for seed in seeds], options.hf["pad_token_id"])
    else:
        raw = _call(hf_model, arguments, options.seed)
    scores = getattr(raw, "sequences_scores", None)
    if not options.hf.get("output_scores"):
        raw.scores = None  # requested only to get the line above
    rows = _request(prompt, options, rows=len(raw.sequences)).rows
    for row, sequence in zip(rows, raw.sequences.tolist(), strict=True):
        for index in sequence[len(prompt.input_ids) :]:
            row.add(index)
        row.finish_reason = row.finish_reason or "length"
    one_step = (None for _ in range(1))
    responses = join_chunks(rows, read_chunks(rows, one_step, tokenizer, options.stop_strings))
    if scores is not None:
        responses = [replace(response, score=score) for response, score in zip(responses, scores.tolist(), strict=True)]
    return responses, raw


def _call(hf_model: "PreTrainedModel", arguments: dict[str, Any], seed: int | None) -> Any:
    with _alone(hf_model, seed, arguments):
        try:
            return hf_model.generate(**arguments)  # type: ignore[operator]
        except (ValueError, TypeError, ImportError) as error:
            raise ConfigError(f"transformers' generate refuses these options: {error}") from error


def _seeds_apart(hf_model: "PreTrainedModel", options: GenerationOptions) -> bool:
    """Returns whether each of several responses is sampled with a seed of its own, as on the engine.

    Not if other outputs are requested (`output_scores`), which belong to one call.
    """
    several = options.hf.get("num_return_sequences", 1) > 1 and options.hf.get("num_beams", 1) == 1
    outputs = any(name.startswith("output_") and value for name, value in options.hf.items())
    sampled = with_defaults(hf_model, options.hf).get("do_sample")
    return bool(options.seed is not None and several and sampled and not outputs)


def _join(parts: Sequence[torch.Tensor], pad: int) -> GenerateDecoderOnlyOutput:
    """Joins the sequences of several calls, of shape (1, tokens) each, as one call returns them."""
    length = max(part.shape[1] for part in parts)
    padded: Any = torch.cat([F.pad(part, (0, length - part.shape[1]), value=pad) for part in parts])
    return GenerateDecoderOnlyOutput(sequences=padded)


def follow(
    hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, prompt: Prompt, options: GenerationOptions
) -> tuple[Request, Generator[None]]:
    """Generates one response, token by token.

    Returns:
        A request with one row, and an iterator that yields after each of its tokens; closing it stops the generation
        after the current token. The iterator raises ConfigError if transformers refuses the options.
    """
    request = _request(prompt, options, rows=1)
    thread = _GenerateThread(hf_model, _arguments(hf_model, tokenizer, prompt, options), options.seed)
    return request, _steps(request.rows[0], thread)


def _steps(row: Row, thread: "_GenerateThread") -> Generator[None]:
    thread.start()
    try:
        for index in thread.ids():
            row.add(index)
            yield
            if row.finish_reason is not None:
                return
    finally:
        thread.stop()
    row.finish_reason = "length"
    yield


def _request(prompt: Prompt, options: GenerationOptions, *, rows: int) -> Request:
    """Creates rows for what transformers generates; their samplers are not used."""
    samplers = [Sampler({}, prompt.input_ids, [])] * rows
    new_tokens = options.new_tokens(prompt)
    request = Request(prompt.input_ids, [], samplers, stop_ids=options.stop_token_ids, max_new_tokens=new_tokens)
    request.lead = prompt.lead
    return request


def _arguments(
    hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, prompt: Prompt, options: GenerationOptions
) -> dict[str, Any]:
    device = hf_model.device
    ids = torch.tensor([prompt.input_ids], device=device)
    hf = {name: value for name, value in options.hf.items() if name not in OWN}
    ours = own_processors(with_defaults(hf_model, options.hf), prompt.input_ids, [*options.stop_token_ids])
    processors = LogitsProcessorList([_NanCheck(hf_model), *ours, *hf.get("logits_processor", [])])
    # Our own processor takes the place of transformers' for this option.
    hf |= {"no_repeat_ngram_size": 0, "logits_processor": processors}
    arguments = dict(hf, input_ids=ids, attention_mask=torch.ones_like(ids))
    if tokenizer.layout.use_token_types:
        # `generate` gives every new token the last type, which is the responder's.
        arguments["token_type_ids"] = torch.tensor([prompt.types], device=device)
    if options.hf.get("num_beams", 1) > 1:
        arguments["output_scores"] = True
    arguments["max_new_tokens"] = options.new_tokens(prompt)
    if options.stop_strings:
        arguments["tokenizer"] = tokenizer.hf_tokenizer
    return arguments


class _NanCheck(LogitsProcessor):
    """Raises a `LogitsError` if the logits are not numbers: beams would repeat the first token."""

    def __init__(self, hf_model: "PreTrainedModel") -> None:
        self._hf_model = hf_model

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if scores.isnan().any():
            raise logits_error(self._hf_model)
        return scores


_lock = threading.RLock()


@contextmanager
def _alone(hf_model: "PreTrainedModel", seed: int | None, arguments: dict[str, Any]) -> Iterator[None]:
    """Runs one generation at a time, in evaluation mode, with a random state of its own if there is a seed.

    transformers samples from torch's global random state, so that two generations at once would disturb each other.
    """
    with _lock, evaluation_mode(hf_model), _keeping_types(hf_model, "token_type_ids" in arguments):
        if seed is None:
            yield
            return
        with own_random_state(hf_model.device):
            torch.manual_seed(seed)
            yield


@contextmanager
def _keeping_types(hf_model: Any, has_types: bool) -> Iterator[None]:
    """Passes token types to each forward pass inside the block; CTRL's own preparation of inputs drops them."""
    if not has_types:
        yield
        return
    prepare = hf_model.prepare_inputs_for_generation

    @functools.wraps(prepare)  # `generate` checks its options against the signature
    def prepare_with_types(input_ids: torch.Tensor, **arguments: Any) -> dict[str, Any]:
        inputs: dict[str, Any] = prepare(input_ids, **arguments)
        types = arguments["token_type_ids"]
        return {"token_type_ids": types[:, -inputs["input_ids"].shape[1] :]} | inputs

    hf_model.prepare_inputs_for_generation = prepare_with_types
    try:
        yield
    finally:
        del hf_model.prepare_inputs_for_generation


class _GenerateThread(BaseStreamer, StoppingCriteria):
    """Runs `generate` in a thread, receives its tokens, and can stop it."""

    def __init__(self, hf_model: "PreTrainedModel", arguments: dict[str, Any], seed: int | None) -> None:
        self._queue: queue.SimpleQueue[int | Exception | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._saw_prompt = False
        self._seed = seed
        self._hf_model = hf_model
        criteria = [*arguments.pop("stopping_criteria", []), self]
        self._arguments = dict(arguments, streamer=self, stopping_criteria=StoppingCriteriaList(criteria))
        self._thread = threading.Thread(target=self._run, name="convmodel-generate", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def ids(self) -> Iterator[int]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, (ValueError, TypeError, ImportError)):
                raise ConfigError(f"transformers' generate refuses these options: {item}") from item
            if isinstance(item, Exception):
                raise item
            yield item

    def put(self, value: torch.Tensor) -> None:
        if self._saw_prompt:
            for index in value.flatten().tolist():
                self._queue.put(index)
        self._saw_prompt = True

    def end(self) -> None:
        """Part of transformers' streamer protocol; the thread's own end is what counts."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self._stopping.is_set(), device=input_ids.device)

    def _run(self) -> None:
        try:
            while not _lock.acquire(timeout=0.05):
                if self._stopping.is_set():
                    return
            try:
                with _alone(self._hf_model, self._seed, self._arguments):
                    self._hf_model.generate(**self._arguments)  # type: ignore[operator]
            finally:
                _lock.release()
        except Exception as error:
            self._queue.put(error)
        finally:
            self._queue.put(None)
