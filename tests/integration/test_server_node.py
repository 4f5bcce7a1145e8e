"""OpenAI's client for Node streams from the server; NODE_PATH says where `npm install openai` has put it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from serving import Serving, wait_until

SCRIPT = Path(__file__).parent / "node/talk.cjs"


def why_not() -> str:
    node = shutil.which("node")
    if node is None:
        return "there is no node"
    found = subprocess.run([node, "-e", "require.resolve('openai')"], capture_output=True, check=False)
    return "" if found.returncode == 0 else "node finds no package openai: npm install it, and set NODE_PATH"


@pytest.mark.loopback
def test_the_client_for_node(server: Serving) -> None:
    if reason := why_not():
        pytest.skip(reason)
    done = subprocess.run(["node", SCRIPT, server.url], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["models"] == ["tiny", "plain"]
    assert found["whole"] == "".join(found["pieces"]) == found["helped"]
    assert found["usage"] == found["wholeUsage"]
    assert len(found["reasons"]) == 1
    assert found["events"][0] == "response.created"
    assert found["events"][-1] in ("response.completed", "response.incomplete")
    assert found["left"]
    assert found["error"] == ["BadRequestError", 400, "prediction", "unsupported_parameter"]
    wait_until(server.is_idle)
