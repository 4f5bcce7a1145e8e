"""Validation during a run.

Owns: measuring the validation data, with the same value on all processes, and the names under which it is logged.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from convmodel.data.windows.encoding import WindowSet
from convmodel.evaluation.likelihood import EvaluationResult, evaluate_windows
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.training.objectives.guard import RegressionGuard
from convmodel.training.sharding import is_sharded, reshard
from convmodel.training.step.forward import plain_forward

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments


def validate(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    valid: WindowSet,
    args: "TrainingArguments",
    guard: RegressionGuard | None,
) -> EvaluationResult:
    """Evaluates with the same code as `ConversationModel.evaluate`; a guard also counts responses."""
    with plain_forward(hf_model):
        result = evaluate_windows(hf_model, tokenizer, valid, batch_size=args.eval_batch_size)
        if guard is not None and not is_sharded(hf_model):
            guard.respond(hf_model, tokenizer)
    reshard(hf_model)
    if args.world_size > 1:  # all processes decide by the same values, to the last bit
        responses = [0, 0] if guard is None else guard.responses
        decisive = [result.loss, result.perplexity, result.bits_per_byte, *responses]
        values = torch.tensor(decisive, dtype=torch.float64, device=args.device)
        torch.distributed.broadcast(values, src=0)
        loss, perplexity, bits, *counts = values.tolist()
        result = replace(result, loss=loss, perplexity=perplexity, bits_per_byte=bits)
        if guard is not None:
            guard.responses = counts
    return result


def validation_metrics(result: EvaluationResult, guard: RegressionGuard | None, prefix: str) -> dict[str, float]:
    """Returns what is logged of a validation."""
    metrics = {
        f"{prefix}_loss": result.loss,
        f"{prefix}_perplexity": result.perplexity,
        f"{prefix}_bits_per_byte": result.bits_per_byte,
    }
    if guard is not None and (ended := guard.ended) is not None:
        metrics[f"{prefix}_ended"] = ended
    return metrics
