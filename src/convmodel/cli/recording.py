"""One call of `convmodel record`: which answers are missing, asking for them, and writing what there is.

Owns: the order of the work, and how a signal stops it. Requests are `remote_answers.py`'s, files are
`generation.recording`'s.
"""

from pathlib import Path

from convmodel.cli.console import print_message
from convmodel.cli.remote_answers import RemoteAnswers
from convmodel.cli.remote_server import RemoteServer
from convmodel.data.progress import ProgressBar
from convmodel.data.stop_request import StopRequest, handling_signals
from convmodel.errors import SaveError, StoppedError
from convmodel.generation.recording.answers_file import (
    CUT,
    RECORDED,
    REJECTED,
    Failure,
    Journal,
    RecordingSummary,
    journal_path,
    write_answers,
)
from convmodel.generation.recording.contexts import Contexts


class Recording:
    """One call: what is requested, what is kept, and what is missing."""

    def __init__(
        self, contexts: Contexts, answers: RemoteAnswers, journal: Journal, path: Path, *, keep_cut: bool
    ) -> None:
        self._contexts = contexts
        self._answers = answers
        self._journal = journal
        self._path = path
        self._keep_cut = keep_cut
        self._done = {number for number in range(contexts.count) if self._is_answered(number)}
        self.summary = RecordingSummary(contexts=contexts.count, kept=len(self._done), problems=contexts.left_out)

    def run(self, server: RemoteServer, model: str | None) -> None:
        """Asks for all answers that are missing.

        Raises:
            StoppedError: If a signal stopped it.
            ConvModelError: If the server was given up, or the journal cannot be written.
        """
        if len(self._done) == self._contexts.count:
            return
        if model is None:
            model = server.choose_model(None)
            self._journal.bind(model)
        else:
            server.require_access()
        self._answers.body = {**self._answers.body, "model": model}
        self._answers.accepted = bool(self._done)
        with (
            ProgressBar("recording", self._contexts.count, unit="contexts", completed=len(self._done)) as bar,
            handling_signals(self._stop) as request,
        ):
            self._answers.on_wait = lambda seconds, reason: bar.update(note=f"waiting {seconds:.0f} s: {reason[:60]}")
            try:
                self._ask(bar)
            finally:
                self._answers.stopping.set()
        if request.number is not None and (left := self._contexts.count - len(self._done)):
            raise StoppedError(
                f"{request.name} stopped the recording, {left:,} contexts are left: the same command resumes",
                request.number,
            )

    def finish(self) -> None:
        """Writes all answers so far, and counts them; raises a `SaveError` if the file cannot be written."""
        for number in range(self._contexts.count):
            if number in self._journal:
                self.summary.add(self._journal[number])
        outcomes = self.summary.outcomes
        if outcomes[RECORDED] or (self._keep_cut and outcomes[CUT]):
            try:
                self.summary.written = write_answers(self._path, self._contexts, self._journal, keep_cut=self._keep_cut)
            except SaveError as error:
                reason = getattr(error.__cause__, "strerror", None) or error
                raise SaveError(
                    f"{self._path} cannot be written: {reason}; the answers stay in {journal_path(self._path)}, and "
                    "the same command writes the file from it"
                ) from error

    @property
    def is_complete(self) -> bool:
        """Whether asking again would bring nothing more."""
        outcomes = self.summary.outcomes
        missing = outcomes[REJECTED] + (0 if self._keep_cut else outcomes[CUT])
        return len(self._done) == self._contexts.count and not missing

    def _ask(self, bar: ProgressBar) -> None:
        missing = (
            (number, context.messages()) for number, context in enumerate(self._contexts) if number not in self._done
        )
        for number, answer in self._answers.ask_all(missing):
            if isinstance(answer, Failure):
                self.summary.first_failure = self.summary.first_failure or answer.reason
                self.summary.failed += 1
                continue
            if answer.outcome == REJECTED:  # not kept: with other settings, or later, the server may accept it
                self.summary.add(answer)
            else:
                self._journal.add(number, answer)
            self._done.add(number)
            bar.update(len(self._done), note="")

    def _is_answered(self, number: int) -> bool:
        return number in self._journal and self._journal[number].is_final(self._answers.max_tokens)

    def _stop(self, request: StopRequest) -> None:
        self._answers.stopping.set()
        print_message(f"{request.name}: waiting for the requests that are open (again to stop at once)")
