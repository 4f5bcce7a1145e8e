"""The file of feedback.

Owns: one writer at a time. It does not know what a line contains.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convmodel.files.json_lines import append_line


class FeedbackStore:
    """Appends records to a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def add(self, record: Mapping[str, Any]) -> None:
        """Appends one record.

        Raises:
            SaveError: If the file cannot be written.
        """
        with self._lock:
            append_line(self._path, record, fix="choose another --feedback")
