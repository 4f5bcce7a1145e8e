"""Starts a server, sends it a client's requests, and stops it. `release_check.py` uses it for an installed wheel.

Owns: the requests, and how long a server may take to load its model.
"""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

SECONDS = 300  # for the import of torch and loading a model, on a slow disk and a busy machine
MESSAGES = {"messages": [{"role": "user", "content": "Hello"}], "max_completion_tokens": 8, "seed": 1}
# Requests to this machine's own address do not go through a proxy.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def check_server(command: Sequence[str], folder: Path, variables: Mapping[str, str], key: str = "") -> None:
    """Runs a command that serves with `--port` after it, and exits with a message if an answer is wrong."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (folder / "serve.log").open("w+", encoding="utf-8") as log:
        server = subprocess.Popen([*command, "--port", str(port)], cwd=folder, env=variables, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until_ready(server, address)
            request_all(address, key)
            server.send_signal(signal.SIGTERM)
            if code := server.wait(30):
                raise AssertionError(f"the server ended with exit code {code} after SIGTERM")
        except Exception as error:  # whatever an answer makes fail, the server's log explains it
            log.seek(0)
            sys.exit(f"serve: {type(error).__name__}: {error}\n{log.read()[-4000:]}")
        finally:
            server.kill()
            server.wait()
    (folder / "serve.log").unlink()


def wait_until_ready(server: "subprocess.Popen[bytes]", address: str) -> None:
    """Waits until `/ready` answers with 200; until the model is loaded it does not."""
    for _ in range(SECONDS * 5):
        if server.poll() is not None:
            raise AssertionError(f"the server ended with exit code {server.returncode} before it was ready")
        try:
            if fetch(f"{address}/ready") == {"status": "ready"}:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"the server was not ready after {SECONDS} seconds")


def request_all(address: str, key: str = "") -> None:
    """Requests the health, the chat page, the models and one completion."""
    if fetch(f"{address}/health") != {"status": "ok"}:
        raise AssertionError("/health does not report ok")
    with OPENER.open(f"{address}/", timeout=30) as page:
        if b"<html" not in page.read():
            raise AssertionError("there is no chat page at /")
    [model] = fetch(f"{address}/v1/models", key=key)["data"]
    body = {"model": model["id"], **MESSAGES}
    [choice] = fetch(f"{address}/v1/chat/completions", body, key)["choices"]
    if not isinstance(choice["message"]["content"], str) or choice["finish_reason"] not in ("stop", "length"):
        raise AssertionError(f"the completion is not one: {choice}")


def fetch(url: str, body: Mapping[str, object] | None = None, key: str = "") -> dict:
    """Requests JSON, with a body by POST."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    data = None if body is None else json.dumps(body).encode()
    with OPENER.open(urllib.request.Request(url, data, headers), timeout=60) as response:
        return json.load(response)
