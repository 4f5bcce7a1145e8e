"""A prompt to responses on transformers' `generate`, for what the engine does not do: beams, assistants and the like.

Owns: calling `generate`, telling why a response ended, and streaming with a clean stop.
"""

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation import BaseStreamer

from convmodel.errors import ConfigError
from convmodel.generation.detokenizer import Detokenizer
from convmodel.generation.engine.sampling import OWN, own_processors, with_defaults
from convmodel.generation.options import GenerationOptions
from convmodel.generation.output import Chunk, FinishReason, Response, speed
from convmodel.hf_model.eval_mode import evaluation_mode
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
    """
    arguments = _arguments(hf_model, tokenizer, prompt, options)
    arguments["return_dict_in_generate"] = True
    with _alone(hf_model, options.seed):
        try:
            raw = hf_model.generate(**arguments)  # type: ignore[operator]
        except (ValueError, TypeError, ImportError) as error:
            raise ConfigError(f"transformers' generate refuses these options: {error}") from error
    scores = getattr(raw, "sequences_scores", None)
    if not options.hf.get("output_scores"):
        raw.scores = None  # asked for only to get the line above
    responses = [
        _response(
            tokenizer,
            sequence[len(prompt.input_ids) :],
            options,
            None if scores is None else scores[i].item(),
        )
        for i, sequence in enumerate(raw.sequences.tolist())
    ]
    return responses, raw


def stream(
    hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, prompt: Prompt, options: GenerationOptions
) -> Iterator[Chunk]:
    """Generates one response and yields its text as it comes; the texts join to what `generate` returns.

    Closing the iterator early stops the generation after the token in work.

    Raises:
        ConfigError: If transformers refuses the options.
    """
    arguments = _arguments(hf_model, tokenizer, prompt, options)
    work = _Work(hf_model, arguments, options.seed)
    detokenizer = Detokenizer(tokenizer.decode, options.stop_strings)
    finish_reason: FinishReason = "length"
    said, began = 0, 0.0
    work.start()
    try:
        for index in work.ids():
            began = began or time.perf_counter()
            if index in options.stop_token_ids:
                finish_reason = "stop"
                break
            if text := detokenizer.add(index):
                yield Chunk(text, None, tuple(detokenizer.ids[said:]))
                said = len(detokenizer.ids)
            if detokenizer.stopped:
                finish_reason = "stop"
                break
    finally:
        work.stop()
    yield Chunk(
        detokenizer.finish(),
        finish_reason,
        tuple(detokenizer.ids[said:]),
        tokens_per_second=speed(len(detokenizer.ids), time.perf_counter() - began),
    )


def _arguments(
    hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, prompt: Prompt, options: GenerationOptions
) -> dict[str, Any]:
    device = hf_model.device
    ids = torch.tensor([prompt.input_ids], device=device)
    hf = {name: value for name, value in options.hf.items() if name not in OWN}
    ours = own_processors(with_defaults(hf_model, options.hf), prompt.input_ids, [*options.stop_token_ids])
    # What it would do with that option is done by ours.
    hf |= {"no_repeat_ngram_size": 0, "logits_processor": LogitsProcessorList([*ours, *hf.get("logits_processor", [])])}
    arguments = dict(hf, input_ids=ids, attention_mask=torch.ones_like(ids))
    if tokenizer.layout.use_token_types:
        # `generate` gives every new token the last type, which is the responder's.
        arguments["token_type_ids"] = torch.tensor([prompt.types], device=device)
    if options.hf.get("num_beams", 1) > 1:
        arguments["output_scores"] = True
    if options.max_length is not None:
        arguments["max_new_tokens"] = options.max_length - len(prompt.input_ids)
    if options.stop_strings:
        arguments["tokenizer"] = tokenizer.hf_tokenizer
    return arguments


def _response(
    tokenizer: ConversationTokenizer, ids: list[int], options: GenerationOptions, score: float | None
) -> Response:
    """Cuts what follows the end of a response, and tells why it ended."""
    end = next((i for i, index in enumerate(ids) if index in options.stop_token_ids), None)
    finish_reason: FinishReason = "length" if end is None else "stop"
    detokenizer = Detokenizer(tokenizer.decode, options.stop_strings)
    pieces = []
    for index in ids[:end]:
        pieces.append(detokenizer.add(index))
        if detokenizer.stopped:
            finish_reason = "stop"
            break
    return Response("".join(pieces) + detokenizer.finish(), detokenizer.ids, finish_reason, score)


_lock = threading.RLock()


@contextmanager
def _alone(hf_model: "PreTrainedModel", seed: int | None) -> Iterator[None]:
    """Runs one generation at a time, in evaluation mode, with a random state of its own if it has a seed.

    transformers draws from torch's global random state, so that two generations at once would disturb each other.
    """
    with _lock, evaluation_mode(hf_model):
        if seed is None:
            yield
            return
        with torch.random.fork_rng([hf_model.device] if hf_model.device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield


class _Work(BaseStreamer, StoppingCriteria):
    """Runs `generate` in a thread, takes its tokens, and ends it when asked."""

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
                with _alone(self._hf_model, self._seed):
                    self._hf_model.generate(**self._arguments)  # type: ignore[operator]
            finally:
                _lock.release()
        except Exception as error:
            self._queue.put(error)
        finally:
            self._queue.put(None)
