"""The server's log: a record is one line of JSON."""

import json
import logging
import sys

import pytest

from convmodel.server.run import JsonFormatter, use_json_logs


def test_fields_and_tracebacks_are_part_of_the_object() -> None:
    try:
        raise ValueError("broken\nin two lines")
    except ValueError:
        record = logging.LogRecord("server", logging.ERROR, "", 0, "request %s failed", ("7",), sys.exc_info())
    record.fields = {"status": 500}
    line = JsonFormatter().format(record)
    assert "\n" not in line
    fields = json.loads(line)
    assert fields.items() >= {"level": "error", "message": "request 7 failed", "status": 500}.items()
    assert "ValueError: broken" in fields["traceback"]


def test_all_handlers_of_the_root_logger_write_json(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = [logging.StreamHandler(), logging.StreamHandler()]
    monkeypatch.setattr(logging.getLogger(), "handlers", handlers)
    use_json_logs()
    assert all(isinstance(handler.formatter, JsonFormatter) for handler in handlers)
