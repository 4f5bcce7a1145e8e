"""Whether an uploaded file is JSON lines.

Owns: the check of each line, and what the message says of a file that is something else. Does not know which objects
are conversations: `convmodel.data.reading` finds that out in the job.
"""

import json
from pathlib import Path

from convmodel.server.errors import ApiError
from convmodel.server.settings import MAX_BODY

_MAGIC = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "compressed with gzip",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"PAR1": "a Parquet file",
    b"%PDF": "a PDF document",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
}
"""What files begin with that people take for JSON lines."""

_FORM = "write one JSON object per line, in UTF-8"


def check_json_lines(path: Path) -> int:
    """Returns the number of lines of a file; blank ones do not count.

    Raises:
        ApiError: If it is empty, something else, or has a line that is not a JSON object; the message names the line.
    """
    count = 0
    with path.open("rb") as file:
        if kind := next((kind for magic, kind in _MAGIC.items() if file.peek(8).startswith(magic)), None):
            raise _invalid(f"the file is {kind}: unpack or convert it, and {_FORM}")
        number = 0
        while line := file.readline(MAX_BODY + 1):
            number += 1
            if len(line) > MAX_BODY:
                raise _invalid(f"line {number} is longer than {MAX_BODY:,} bytes: {_FORM}")
            if text := (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).strip():
                _check_line(number, text)
                count += 1
    if not count:
        raise _invalid(f"the file has no lines: {_FORM}")
    return count


def _check_line(number: int, line: bytes) -> None:
    if b"\0" in line:
        raise _invalid(f"line {number} has bytes that no text has: {_FORM}")
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise _invalid(f"line {number} is not UTF-8: save the file in UTF-8") from error
    except json.JSONDecodeError as error:
        problem = f"line {number} is not valid JSON ({error.msg} at character {error.colno})"
        raise _invalid(f"{problem}: {_FORM}") from error
    except (ValueError, RecursionError) as error:
        raise _invalid(f"line {number} is not valid JSON: {_FORM}") from error
    if not isinstance(value, dict):
        raise _invalid(f"line {number} is a {type(value).__name__}, not an object: {_FORM}")


def _invalid(message: str) -> ApiError:
    return ApiError(400, message, param="file", code="invalid_file")
