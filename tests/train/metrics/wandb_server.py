"""As much of a W&B server as its client needs to upload a run: what the client sends is what is kept."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

ENTITY = {"id": "e", "name": "me"}
VIEWER = {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}, "defaultEntity": ENTITY}


@dataclass
class StoredRun:
    config: str = "{}"
    summary: str = "{}"
    lines: dict[int, str] = field(default_factory=dict)
    """Place in the history -> row."""
    alerts: list[str] = field(default_factory=list)

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(self.lines[place]) for place in sorted(self.lines)]


@dataclass
class Server:
    url: str = ""
    runs: dict[str, StoredRun] = field(default_factory=dict)
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Workspaces by their id."""

    @property
    def environment(self) -> dict[str, str]:
        """For a client of this server."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "a" * 40}

    def take_stream(self, run: str, files: dict[str, Any]) -> None:
        stored = self.runs.setdefault(run, StoredRun())
        if history := files.get("wandb-history.jsonl"):
            stored.lines |= dict(enumerate(history["content"], history["offset"]))
        if summary := files.get("wandb-summary.json"):
            stored.summary = summary["content"][-1]

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": given.get("project"), "entity": ENTITY}
        match operation:
            case "Viewer" | "GetDefaultEntity":
                return {"viewer": VIEWER}
            case "UpsertView2":
                view = {"id": given.get("id") or f"view-{len(self.views)}", "name": given["name"] or "new"}
                self.views[view["id"]] = given
                return {"upsertView": {"view": view, "inserted": True}}
            case "UpsertBucket":
                is_new = given["name"] not in self.runs
                run = self.runs.setdefault(given["name"], StoredRun())
                run.config = given.get("config") or run.config
                bucket = {"id": "b", "name": given["name"], "config": run.config, "historyLineCount": len(run.lines)}
                bucket |= {"displayName": given.get("displayName"), "sweepName": None, "project": project}
                return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}
            case "RunResumeStatus":
                bucket = self._resume_status(given["name"]) if given["name"] in self.runs else None
                return {"model": {**project, "bucket": bucket}}
            case "CreateRunFiles":
                files = [{"name": name, "uploadUrl": f"{self.url}/{name}"} for name in given["files"]]
                return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
            case "NotifyScriptableRunAlert":
                self.runs[given["runName"]].alerts.append(given["title"])
                return {"notifyScriptableRunAlert": {"success": True}}
        return {}

    def _resume_status(self, name: str) -> dict[str, Any]:
        run = self.runs[name]
        tails = {"historyTail": json.dumps([run.lines[max(run.lines)]] if run.lines else []), "eventsTail": "[]"}
        counts = {"historyLineCount": len(run.lines), "logLineCount": 0, "eventsLineCount": 0}
        about = {"id": "b", "name": name, "displayName": name, "tags": [], "wandbConfig": '{"t": 1}'}
        return {**about, **tails, **counts, "summaryMetrics": run.summary, "config": run.config}


@contextmanager
def wandb_server() -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self._body()
            if "file_stream" in self.path:
                server.take_stream(self.path.split("/")[-2], json.loads(body).get("files") or {})
                return self._reply({"limits": {}})
            if not self.path.endswith("/graphql"):
                return self._reply({})
            request = json.loads(body)
            operation = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
            name = operation[1] if operation else ""
            return self._reply({"data": server.answer(name, request.get("variables") or {})})

        def do_PUT(self) -> None:
            self._body()
            self._reply({})

        def do_GET(self) -> None:
            self._reply({})

        def _body(self) -> bytes:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

        def _reply(self, answer: dict[str, Any]) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_address[1]}"
        Thread(target=http.serve_forever, daemon=True).start()
        yield server
        http.shutdown()
