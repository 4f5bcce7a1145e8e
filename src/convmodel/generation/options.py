"""The options of a generation call, checked.

Owns: which options exist, which are refused and why, which go together, and how many new tokens a response may have by
default. `option_values` owns which values each may have.
"""

import functools
import inspect
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from convmodel.arguments.names import did_you_mean
from convmodel.arguments.values import plain, without_none
from convmodel.errors import ConfigError
from convmodel.generation.constraints.grammar import OPTIONS, Grammar, read_grammar
from convmodel.generation.option_values import check_ids, check_values
from convmodel.generation.reranking import MMI_LAMBDA
from convmodel.hf_model.generation_config import SAMPLING_OPTIONS
from convmodel.hf_model.next_turn import NextTurnHead
from convmodel.hf_model.reward_model import reward_model_of
from convmodel.layout.architecture import positions
from convmodel.layout.sequence import Prompt
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

MAX_NEW_TOKENS = 128
"""The default maximum length of a response in tokens, for models with enough positions."""

OWN_OPTIONS = frozenset(
    {"reply_as", "cut_long_turn", "seed", "rerank", "mmi_lambda", "repeat_weight", "reward_weight", "candidates"}
)

_OURS = OWN_OPTIONS | {*OPTIONS}

_REFUSED = {
    "custom_generate": "it runs code from the Hub; convmodel runs none",
    "trust_remote_code": "it runs code from the Hub; convmodel runs none",
    "penalty_alpha": "contrastive search is remote code since transformers 5; use do_sample=True with top_p",
    "dola_layers": "DoLa is remote code since transformers 5; use do_sample=True with top_p",
    "constraints": "constrained beams are remote code since transformers 5; use prefix_allowed_tokens_fn",
    "force_words_ids": "constrained beams are remote code since transformers 5; use prefix_allowed_tokens_fn",
    "num_beam_groups": "group beams are remote code since transformers 5; use num_beams or do_sample=True",
    "streamer": "call stream() instead",
    "inputs": "the context is the input",
    "generation_config": "give its fields as options",
}

_ASSISTED = frozenset({"assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit"})


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """The options of one generation call.

    Attributes:
        hf: Options of transformers' `generate`, limits and stop ids included.
        budget: The largest number of prompt tokens; None if the model has no limit.
        reply_as: Who responds; None for the expected speaker.
        cut_long_turn: Whether a newest turn that is too long alone loses its beginning.
        seed: Seeds this call's sampling and leaves the global random state alone; None draws from that state.
        rerank: What several responses are ordered by: one of `RERANK`, a trained head, or None to leave them unordered.
        mmi_lambda: For `rerank="mmi"`, the weight of a response's probability without the context.
        repeat_weight: How much repetition counts against a response, in nats per token; see `response_scores`.
        reward_weight: How much `rewards` count for a response, by the model's reward model.
        candidates: How many responses are drawn to return the best of them, by `rerank`.
        max_length: The caller's limit on prompt and response together; None unless given.
        grammar: What the response must match; None for any text.
    """

    hf: dict[str, Any] = field(default_factory=dict)
    budget: int | None = None
    reply_as: str | None = None
    cut_long_turn: bool = False
    seed: int | None = None
    rerank: str | NextTurnHead | None = None
    mmi_lambda: float = MMI_LAMBDA
    repeat_weight: float = 0.0
    reward_weight: float = 0.0
    candidates: int = 1
    max_length: int | None = None
    grammar: Grammar | None = None

    @property
    def stop_strings(self) -> list[str]:
        """Texts that end a response."""
        stop = self.hf.get("stop_strings") or []
        return [stop] if isinstance(stop, str) else list(stop)

    @property
    def stop_token_ids(self) -> frozenset[int]:
        """Ids that end a response."""
        stop = self.hf["eos_token_id"]
        return frozenset([stop] if isinstance(stop, int) else stop)

    @property
    def seeds(self) -> list[int | None]:
        """The seed of each response that is drawn; other seeds have other candidates, all of them."""
        number = self.candidates * self.hf.get("num_return_sequences", 1)
        if self.seed is None:
            return [None] * number
        return [(self.seed * self.candidates + each) % 2**63 for each in range(number)]

    def new_tokens(self, prompt: Prompt) -> int:
        """Returns the largest number of tokens of a response to a prompt."""
        limit: int = self.hf["max_new_tokens"]
        return limit if self.max_length is None else self.max_length - len(prompt.input_ids)


def read_options(
    hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, options: Mapping[str, Any]
) -> GenerationOptions:
    """Checks a call's options and fills in limits and stop ids.

    Raises:
        ConfigError: If an option does not exist, is refused, or leaves no room for a prompt.
    """
    options = {name: plain(value) for name, value in given_options(options).items()}
    hf = {name: value for name, value in options.items() if name not in _OURS}
    check_values(options)
    check_ids(hf, hf_model.config.get_text_config().vocab_size)
    _imply_sampling(hf)
    if options.get("seed") is not None and "do_sample" not in hf and not _samples_by_default(hf_model):
        warn_once("seed changes nothing without sampling: give do_sample=True, or an option such as temperature")
    if not hf.get("stop_strings", True):
        del hf["stop_strings"]
    if tokenizer.layout.use_token_types and _ASSISTED & hf.keys():
        raise ConfigError("assisted decoding repeats the prompt's token types, so it needs a model without them")
    limit = positions(hf_model.config)
    max_length = hf.pop("max_length", None)
    if "max_new_tokens" in hf:
        max_length = None  # as in transformers, where max_new_tokens wins
    else:
        hf["max_new_tokens"] = 1 if max_length else min(MAX_NEW_TOKENS, limit // 4 if limit else MAX_NEW_TOKENS)
    new_tokens = hf["max_new_tokens"]
    if (least := hf.get("min_new_tokens", 0)) > new_tokens and not max_length:
        raise ConfigError(
            f"min_new_tokens is {least}, but max_new_tokens is {new_tokens}: lower it, or raise the other"
        )
    bounds = [bound for bound in (limit, max_length) if bound is not None]
    budget = min(bounds) - new_tokens if bounds else None
    if budget is not None and budget < tokenizer.layout.shortest_prompt:
        raise ConfigError(
            f"{new_tokens} new tokens leave no room for a context in {min(bounds)} positions: lower max_new_tokens"
        )
    hf.setdefault("eos_token_id", tokenizer.stop_token_ids)
    hf.setdefault("pad_token_id", tokenizer.pad_token_id)
    own = _own_options(hf_model, hf, options)
    return GenerationOptions(hf=hf, budget=budget, max_length=min(bounds) if max_length else None, **own)


def option_names() -> frozenset[str]:
    """Returns the names of all options."""
    return (_OURS | _hf_options()) - _REFUSED.keys()


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that are given; None leaves one to its default.

    Raises:
        ConfigError: If an option does not exist, even as None, or is refused.

    Example:
        >>> given_options({"temperature": None, "seed": 0})
        {'seed': 0}
    """
    check_names([name for name, value in options.items() if value is not None or name not in _REFUSED])
    return without_none(options)


def check_names(names: Collection[str]) -> None:
    """Raises a `ConfigError` if an option does not exist, or is refused."""
    for name in names:
        if name in _REFUSED:
            raise ConfigError(f"{name} is not an option here: {_REFUSED[name]}")
    unknown = {*names} - _OURS - _hf_options()
    if unknown:
        raise ConfigError(
            f"no generation option is called {', '.join(sorted(unknown))}; there are {', '.join(sorted(_OURS))}, "
            "and those of transformers' generate, such as max_new_tokens, do_sample, temperature, top_p, num_beams"
            + did_you_mean(sorted(unknown), option_names())
        )


def _own_options(hf_model: "PreTrainedModel", hf: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns convmodel's own options among some; raises a `ConfigError` for those that do not go together."""
    own = {name: options[name] for name in OWN_OPTIONS if options.get(name) is not None}
    if own.get("candidates", 1) > 1:
        _check_candidates(hf_model, hf)
        own.setdefault("rerank", "mmi")
        if (reward := reward_model_of(hf_model)) is not None:
            own.setdefault("reward_weight", reward.weight)
    elif "rerank" not in own and (of_order := [name for name in ("repeat_weight", "reward_weight") if own.get(name)]):
        raise ConfigError(f"{of_order[0]} changes nothing without rerank or candidates: give one, or leave it out")
    if own.get("reward_weight") and reward_model_of(hf_model) is None:
        raise ConfigError("reward_weight needs a model with a reward model: `convmodel reward` makes one")
    if "mmi_lambda" in own and own.get("rerank") != "mmi":
        raise ConfigError('mmi_lambda changes nothing without candidates or rerank="mmi": give one, or leave it out')
    own["grammar"] = read_grammar(options)
    if own["grammar"] and "stop_strings" in hf:
        raise ConfigError(f"stop_strings could end what {own['grammar'].option} requires: leave one of them out")
    return own


def _check_candidates(hf_model: "PreTrainedModel", hf: Mapping[str, Any]) -> None:
    """Raises a `ConfigError` if several candidates make no sense with these options."""
    if not hf.get("do_sample", _samples_by_default(hf_model)) or hf.get("num_beams", 1) > 1:
        raise ConfigError("candidates are sampled: give do_sample=True and no beams, or leave candidates out")
    if hf.get("num_return_sequences", 1) > 1:
        raise ConfigError(
            "candidates returns the best of several responses, num_return_sequences all of them: give one"
        )


def _samples_by_default(hf_model: "PreTrainedModel") -> bool:
    return bool(getattr(getattr(hf_model, "generation_config", None), "do_sample", False))


@functools.cache
def warn_once(message: str) -> None:
    """Logs a warning, unless the same was logged before."""
    logger.warning(message)


def _imply_sampling(hf: dict[str, Any]) -> None:
    """Samples if an option of sampling is given and `do_sample` is not, as on the command line; temperature 0 does not.

    Raises:
        ConfigError: If `do_sample=False` makes these options useless.
    """
    given = [name for name in SAMPLING_OPTIONS if name in hf]
    effective = [name for name in given if hf[name] != SAMPLING_OPTIONS[name]]
    if hf.get("temperature") == 0 and not hf.get("do_sample"):
        for name in given:
            del hf[name]
        hf["do_sample"] = False
    elif given and "do_sample" not in hf:
        hf["do_sample"] = True
    elif effective and not hf["do_sample"]:
        raise ConfigError(f"{effective[0]} changes nothing with do_sample=False: leave one of them out")


@functools.cache
def _hf_options() -> set[str]:
    from transformers import GenerationConfig, GenerationMixin

    arguments = set(inspect.signature(GenerationMixin.generate).parameters) - {"self", "kwargs"}
    from convmodel.generation.engine.logits_processors import OWN

    return arguments | {name for name in vars(GenerationConfig()) if not name.startswith("_")} | OWN
