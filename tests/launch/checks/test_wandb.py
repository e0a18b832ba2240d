"""launch/checks/wandb.py, against a server of our own."""

from __future__ import annotations

import json
import os
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.launch.checks.world import Fault, World, assert_found

KEY = "k" * 40
VIEWER = {"entity": "me", "teams": {"edges": [{"node": {"name": "llm"}}]}}


class Server(BaseHTTPRequestHandler):
    """W&B, as far as it is asked who one is."""

    def __init__(self, viewer: dict[str, Any] | None, status: int, *args: Any) -> None:
        self.viewer, self.status = viewer, status
        super().__init__(*args)

    def do_POST(self) -> None:
        body = json.dumps({"data": {"viewer": self.viewer}}).encode()
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


def online(
    world: World, *overrides: str, viewer: dict[str, Any] | None = VIEWER, status: int = 200, key: str = KEY
) -> None:
    server = world.at_end.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, viewer, status)))
    Thread(target=server.serve_forever, daemon=True).start()
    world.at_end.callback(server.shutdown)
    world.patch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    if key:
        world.patch.setenv("WANDB_API_KEY", key)
    world.set("metrics.wandb=online", *overrides)


def unreachable(world: World) -> None:
    world.patch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    world.patch.setenv("WANDB_API_KEY", KEY)
    world.set("metrics.wandb=online")


def damaged_netrc(world: World) -> None:
    online(world, key="")
    (world.folder / "netrc").write_text("machine\n")


FAULTS = {
    "not logged in": Fault(lambda world: online(world, key=""), "fail", "not logged in at http"),
    "half a key": Fault(lambda world: online(world, key="local-123"), "fail", "has 9 characters"),
    "key that is refused": Fault(lambda world: online(world, status=401), "fail", "answers 401"),
    "key of nobody": Fault(lambda world: online(world, viewer=None), "fail", "does not accept your key"),
    "server that is away": Fault(unreachable, "fail", "cannot be reached"),
    "damaged .netrc": Fault(damaged_netrc, "fail", "file with your key cannot be read"),
    "team of others": Fault(
        lambda world: online(world, "metrics.wandb_entity=them"), "warning", "them is not among your teams .*: llm, me"
    ),
    "not logged in where W&B may be away": Fault(
        lambda world: online(world, "metrics.wandb_required=false", key=""), "warning", "go on without W&B"
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_with_its_remedy(world: World, name: str) -> None:
    assert_found(world, FAULTS[name])


@pytest.mark.parametrize("login", ["environment", "netrc"])
def test_a_login_is_found_where_wandb_finds_it(world: World, login: str) -> None:
    online(world, "metrics.wandb_entity=llm", key=KEY if login == "environment" else "")
    base = os.environ["WANDB_BASE_URL"]
    if login == "netrc":
        (world.folder / "netrc").write_text(f"machine {urlsplit(base).netloc}\n  login user\n  password {KEY}\n")
    (said,) = [finding for finding in world.findings() if finding.group == "wandb"]
    assert (said.level, said.what) == ("ok", f"logged in at {base} as llm")
