"""What a proof found, as numbers, sentences and JSON.

Owns: what is reported. `proof` owns what is compared.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import stdev
from typing import Any


@dataclass(frozen=True, slots=True)
class Perplexity:
    """The perplexity of the same supervised tokens.

    Attributes:
        tokens: How many there are.
        model: Under the model.
        file: Under the file, computed by llama.cpp.
        error: The standard error of `change`, since other tokens would show another one.
    """

    tokens: int
    model: float
    file: float
    error: float

    @classmethod
    def of(cls, model: Sequence[float], file: Sequence[float]) -> "Perplexity":
        """Compares -ln p of the same tokens.

        Example:
            >>> Perplexity.of([1.0, 2.0], [1.1, 2.1])
            Perplexity(tokens=2, model=4.4816..., file=4.9530..., error=0.0)
        """
        means = [math.fsum(nats) / len(nats) for nats in (model, file)]
        differences = [there - here for here, there in zip(model, file, strict=True)]
        spread = stdev(differences) if len(differences) > 1 else 0.0
        return cls(len(model), math.exp(means[0]), math.exp(means[1]), round(spread / math.sqrt(len(model)), 6))

    @property
    def change(self) -> float:
        """By which share the file's is higher."""
        return self.file / self.model - 1


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found equal.

    Attributes:
        weights: The type of the file's weights.
        prompts: Conversations whose prompts have the same ids.
        longest_prompt: The tokens of the longest one.
        control_texts: How many of them spell out control tokens, which stayed text.
        ollama_prompts: Conversations whose prompts by Ollama's template have the same ids; 0 if there is none.
        tokens: Generated tokens that were compared; 0 for quantized weights, which change them.
        ties: How many of these differ, but are as likely within `TIES`.
        largest_gap: By how much the model prefers its own choice to one of these at most, in nats.
        stops: Tokens that end a response.
        perplexity: Of conversations, before and after; None if there are none.
        notes: What the file does differently, in sentences.
    """

    weights: str
    prompts: int
    longest_prompt: int
    control_texts: int
    ollama_prompts: int
    tokens: int
    ties: int
    largest_gap: float
    stops: int
    perplexity: Perplexity | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, and the change of the perplexity."""
        content = asdict(self)
        if self.perplexity is not None:
            content["perplexity"]["change"] = self.perplexity.change
        return content

    def lines(self) -> list[str]:
        """Returns one sentence for each comparison."""
        texts = f", {self.control_texts} of them with control tokens spelled out" if self.control_texts else ""
        found = [
            f"prompts: {self.prompts} conversations of up to {self.longest_prompt:,} tokens have the same ids in "
            f"llama.cpp{texts}"
        ]
        if self.ollama_prompts:
            found.append(f"Ollama's template: {self.ollama_prompts} conversations have the same token ids")
        if self.tokens:
            own = self.tokens - self.ties
            ties = f", the others are ties, at most {self.largest_gap:.4f} nats behind" if self.ties else ""
            found.append(f"generation: {own:,} of {self.tokens:,} tokens are the model's own choice{ties}")
        ends = "the token that ends one" if self.stops == 1 else f"each of the {self.stops} tokens that end one"
        found.append(f"ends: a response stops at {ends}")
        if self.perplexity is not None:
            found.append(
                f"perplexity of {self.perplexity.tokens:,} tokens: {self.perplexity.model:.3f} before, "
                f"{self.perplexity.file:.3f} in llama.cpp ({self.perplexity.change:+.2%} ± {self.perplexity.error:.2%})"
            )
        return [*found, *self.notes]
