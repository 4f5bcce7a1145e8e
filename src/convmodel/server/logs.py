"""Logs as JSON, a line an event.

Owns: their form. What people say is in none of them.
"""

import json
import logging
import time


class JsonLines(logging.Formatter):
    """Writes each record as one JSON object.

    Example:
        >>> record = logging.LogRecord("convmodel.server", logging.INFO, "", 0, "ready", None, None)
        >>> json.loads(JsonLines().format(record))["message"]
        'ready'
    """

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        told = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "told", {}),
        }
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


def use_json_lines() -> None:
    """Lets all logs of this program be written so."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonLines())
