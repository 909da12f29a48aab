"""`sightline run` of a script that a hub turns away. The hub is a server of ours; no network is needed."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.forked import Forks

SECRET = "hf_thisMustNeverBeShownAnywhere"


class _Closed(BaseHTTPRequestHandler):
    """Says of every repository that its terms must be accepted."""

    def do_HEAD(self) -> None:
        self.send_response(401)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("X-Error-Message", "Access to this model is restricted.")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Closed)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


def around(hub: str, folder: Path) -> dict[str, str]:
    """An environment without a token, whose hub is ours."""
    ours = ("HF_", "HUGGING", "TRANSFORMERS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "HF_ENDPOINT": hub, "HF_HOME": str(folder / "home"), "NO_PROXY": "*"}


SCRIPT = """
import sys, torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import GatedRepoError
try:
    hf_hub_download("somebody/closed", "config.json")
except GatedRepoError as error:
    if sys.argv[1] == "ends":
        raise OSError("You are trying to access a gated repo.") from error
print("goes on without it")
"""


@pytest.mark.parametrize(("how", "token", "codes"), [("ends", "", ["L10"]), ("ends", SECRET, []), ("goes on", "", [])])
def test_a_closed_repository(how: str, token: str, codes: list[str], hub: str, tmp_path: Path, forks: Forks) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    world = around(hub, tmp_path)
    world |= {"HF_TOKEN": token} if token else {}
    command = ("sightline", "run", "--findings", "told.json", "train.py", how)
    done = forks.run(*command, cwd=tmp_path, check=False, env=world)
    told = (tmp_path / "told.json").read_text()
    assert done.returncode == (1 if how == "ends" else 0), done.stderr
    assert [(one["code"], one["severity"]) for one in json.loads(told)["findings"]] == [(c, "error") for c in codes]
    assert ("the hub refused 'somebody/closed'" in done.stderr) is bool(codes)
    assert SECRET not in told and SECRET not in done.stderr + done.stdout


STAND_IN = """
import sys, torch
from huggingface_hub import auth_check, hf_hub_download, snapshot_download
ways = {"whole": snapshot_download, "asked first": auth_check, "file": lambda at: hf_hub_download(at, "config.json")}
try:
    ways[sys.argv[2]](sys.argv[1])
except OSError:
    print("goes on without it")
model = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(12):
    optimizer.zero_grad()
    model(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
"""


@pytest.mark.parametrize(
    ("repository", "part", "severities"),
    [
        ("meta-llama/Llama-3.2-1B", "file", ["warning"]),
        pytest.param("meta-llama/Llama-3.2-1B", "whole", ["warning"], marks=pytest.mark.slow),
        ("meta-llama/Llama-3.2-1B", "asked first", ["warning"]),
        ("somebody/closed", "file", []),
    ],
)
def test_a_stand_in(repository: str, part: str, severities: list[str], hub: str, tmp_path: Path, forks: Forks) -> None:
    (tmp_path / "train.py").write_text(STAND_IN)
    world = around(hub, tmp_path)
    command = ("sightline", "run", "--findings", "told.json", "train.py", repository, part)
    done = forks.run(*command, cwd=tmp_path, env=world)
    found = json.loads((tmp_path / "told.json").read_text())["findings"]
    assert "goes on without it" in done.stdout
    assert [one["severity"] for one in found if one["code"] == "L10"] == severities, done.stderr
