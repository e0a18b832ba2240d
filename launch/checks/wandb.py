"""W&B: whether a run could start there, with which key. What happens after the first step stops no run."""

from __future__ import annotations

import base64
import json
import netrc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from launch.checks.base import Finding, Subject, fail, ok, warning

TIMEOUT_S = 4.0
KEY_LENGTH = 40
"""Characters at least, after a prefix that ends in a dash; wandb refuses shorter ones before it asks anybody."""
WHO_AM_I = "query { viewer { entity teams { edges { node { name } } } } }"
INSTEAD = "choose metrics.wandb=offline (`wandb sync` uploads it later), or metrics.wandb_required=false"


def wandb(subject: Subject) -> Iterator[Finding]:
    section = subject.run.metrics
    if section.wandb == "disabled":
        yield ok("metrics.wandb=disabled: figures go to metrics.jsonl only")
        return
    if section.wandb == "offline":
        yield ok(f"metrics.wandb=offline: written to {subject.run.run_dir}/wandb; `wandb sync` uploads it later")
        return
    base = base_url()
    problem, viewer = _sign_in(base)
    if problem:
        what, remedy = problem
        if section.wandb_required:
            yield fail(f"metrics.wandb=online: {what}", f"{remedy}, or {INSTEAD}")
        else:
            yield warning(f"{what}; the run would go on without W&B", remedy)
        return
    teams = _teams(viewer)
    if section.wandb_entity and section.wandb_entity not in teams:
        yield warning(
            f"metrics.wandb_entity={section.wandb_entity} is not among your teams at {base}: {', '.join(teams)}",
            "correct it, or have yourself invited",
        )
    else:
        nodes = "" if subject.cluster is None else "; whether nodes reach it too is not known here"
        yield ok(f"logged in at {base} as {section.wandb_entity or viewer['entity']}{nodes}")


def base_url() -> str:
    """WANDB_BASE_URL, what `wandb login --host` noted, or the public service."""
    import wandb

    return str(os.environ.get("WANDB_BASE_URL") or wandb.setup().settings.base_url).rstrip("/")


def _sign_in(base: str) -> tuple[tuple[str, str] | None, dict[str, Any]]:
    """((what is wrong, what to do) or None, what the server knows about the user)."""
    try:
        key = _api_key(base)
    except (netrc.NetrcParseError, OSError) as error:
        return (f"the file with your key cannot be read ({error})", "mend it, or `wandb login --relogin`"), {}
    if not key:
        return (f"not logged in at {base}: no WANDB_API_KEY, no key in ~/.netrc", "`wandb login`"), {}
    if len(key.partition("-")[2] or key) < KEY_LENGTH and key.count(".") != 2:
        return (f"the key for {base} has {len(key)} characters, too few for one", "`wandb login --relogin`"), {}
    try:
        viewer = _viewer(base, key)
    except HTTPError as error:
        return (f"{base} answers {error.code} {error.reason} to your key", "`wandb login --relogin`"), {}
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return (f"{base} cannot be reached ({reason})", "set HTTPS_PROXY if there is one"), {}
    if not viewer:
        return (f"{base} does not accept your key", "`wandb login --relogin`"), {}
    return None, viewer


def _api_key(base: str) -> str:
    """As wandb looks for it; empty where there is none."""
    if key := os.environ.get("WANDB_API_KEY"):
        return key
    places = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    path = next((Path(place).expanduser() for place in places if place and Path(place).expanduser().exists()), None)
    entry = netrc.netrc(path).authenticators(urlsplit(base).netloc) if path else None
    return (entry and entry[2]) or ""


def _viewer(base: str, key: str) -> dict[str, Any]:
    """Who the server takes the key for; empty where for nobody. Raises OSError, ValueError."""
    token = base64.b64encode(f"api:{key}".encode()).decode()
    headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
    request = Request(f"{base}/graphql", data=json.dumps({"query": WHO_AM_I}).encode(), headers=headers)
    with urlopen(request, timeout=TIMEOUT_S) as answer:
        return (json.load(answer).get("data") or {}).get("viewer") or {}


def _teams(viewer: dict[str, Any]) -> list[str]:
    edges = (viewer.get("teams") or {}).get("edges", [])
    return sorted({str(viewer.get("entity")), *(edge["node"]["name"] for edge in edges)})


CHECKS = (wandb,)
