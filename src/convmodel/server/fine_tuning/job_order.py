"""A job as a client orders it.

Owns: its fields, and which files it may have. What a job becomes is in `job_store`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from convmodel.data.judgements.reader import holds_judgements
from convmodel.server.errors import ApiError
from convmodel.server.fine_tuning.file_store import FileStore
from convmodel.server.fine_tuning.hyperparameters import Method


@dataclass(frozen=True, slots=True)
class Order:
    """A job as a client orders it.

    Attributes:
        model: The model to train: an id, what a served model was loaded from, or a model of an earlier job.
        training_file: The id of the file to train on.
        validation_file: The id of the file to validate on.
        method: What is learned.
        hyperparameters: Their values.
        place: Where the client gave these, for messages.
        seed: The seed; None for the usual one.
        suffix: A part of the new model's name.
        metadata: Whatever the client wants to find again.
    """

    model: str
    training_file: str
    validation_file: str | None = None
    method: Method = "supervised"
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    place: str = "hyperparameters"
    seed: int | None = None
    suffix: str | None = None
    metadata: dict[str, str] | None = None


def check_files(files: FileStore, order: Order) -> None:
    """Raises an `ApiError` if a file of a job does not exist, or is not what the job needs."""
    for param, id in (("training_file", order.training_file), ("validation_file", order.validation_file)):
        if id is None:
            continue
        record = files.get(id, param=param)
        if record.purpose != "fine-tune":
            fix = "prepare it first" if record.purpose == "user_data" else "upload one with the purpose fine-tune"
            problem = f"{id} has the purpose {record.purpose}: {fix}"
            raise ApiError(400, problem, param=param, code="invalid_file_purpose")
        is_judged = holds_judgements(files.path(id))
        wants_judged = order.method == "dpo" and param == "training_file"
        if is_judged != wants_judged:
            has = "preferences" if is_judged else "conversations"
            needs = "preferences, with input, preferred_output and non_preferred_output"
            needs = needs if wants_judged else "conversations, with messages"
            message = f"{id} has {has}: the {param} of a {order.method} job needs {needs}"
            raise ApiError(400, message, param=param, code="invalid_file")
