"""Validation during a run.

Owns: measuring the validation data, shared among the processes and with the same value on all of them, and the names
under which it is logged.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from convmodel.data.windows.encoding import WindowSet
from convmodel.evaluation.likelihood import EvaluationResult, evaluate_windows
from convmodel.evaluation.processes import Processes
from convmodel.layout.architecture import shared_length
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
    """Evaluates with the same code as `ConversationModel.evaluate`; a guard also counts responses.

    Each process measures a share of the windows and generates a share of the responses.
    """
    processes = processes_of(hf_model, args)
    with plain_forward(hf_model):
        # A run that has diverged ends with an error of its own, or is undone.
        result = evaluate_windows(
            hf_model, tokenizer, valid, batch_size=args.eval_batch_size, processes=processes, allow_nan=True
        )
        if guard is not None and not is_sharded(hf_model):
            guard.respond(hf_model, tokenizer, processes)
    reshard(hf_model)
    if args.world_size > 1:  # all processes decide by the same values, to the last bit, on whatever machine they run
        decisive = [result.loss, result.perplexity, result.bits_per_byte]
        values = torch.tensor(decisive, dtype=torch.float64, device=args.device)
        torch.distributed.broadcast(values, src=0)
        loss, perplexity, bits = values.tolist()
        result = replace(result, loss=loss, perplexity=perplexity, bits_per_byte=bits)
    return result


def processes_of(hf_model: "PreTrainedModel", args: "TrainingArguments") -> Processes:
    """Returns the processes of a run, which share its validation."""
    sharded = is_sharded(hf_model)
    if sharded and shared_length(hf_model.config) is not None:
        return Processes()  # the number of forward passes depends on the lengths in a batch, so all measure all of them
    return Processes(args.process_index, args.world_size, in_step=sharded, device=args.device)


def validation_metrics(result: EvaluationResult, guard: RegressionGuard | None, prefix: str) -> dict[str, float]:
    """Returns what is logged of a validation."""
    metrics = {
        f"{prefix}_loss": result.loss,
        f"{prefix}_perplexity": result.perplexity,
        f"{prefix}_bits_per_byte": result.bits_per_byte,
    }
    if guard is not None and (ended := guard.ended) is not None:
        metrics[f"{prefix}_ended"] = ended
        metrics[f"{prefix}_responses"] = guard.responses[1]
    return metrics
