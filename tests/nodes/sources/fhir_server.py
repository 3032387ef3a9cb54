"""A FHIR R4 server for tests, as a process of its own: python -m tests.nodes.sources.fhir_server PORT DIRECTORY [PEM].

It searches the Observations of DIRECTORY/NAME.json for requests below /NAME, page by page, and does what the file says besides:

    observations   resources
    page           how many a page has
    token          the bearer token that it wants
    first          answers that come before all others: {status, headers, body}
    delay          seconds before every answer
    link           in place of the link to the next page
    body           in place of every page
    break          true: ends the connection in the middle of an answer

What it was asked stands in DIRECTORY/NAME.log, a JSON object a line.
"""

from __future__ import annotations

import json
import ssl
import sys
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

_lock = threading.Lock()
_answered: dict[str, int] = defaultdict(int)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    directory: Path

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        name = parts.path.split("/")[1]
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        scenario = json.loads((self.directory / f"{name}.json").read_text())
        with _lock:
            number = _answered[name]
            _answered[name] += 1
            with (self.directory / f"{name}.log").open("a") as log:
                asked = {"path": parts.path, "query": query, "authorization": self.headers.get("Authorization", "")}
                log.write(json.dumps(asked) + "\n")
        time.sleep(scenario.get("delay", 0))
        first = scenario.get("first", [])
        if number < len(first):
            self.answer(first[number]["status"], first[number].get("body", ""), first[number].get("headers", {}))
        elif "token" in scenario and asked["authorization"] != f"Bearer {scenario['token']}":
            self.answer(401, outcome("login"))
        elif scenario.get("break"):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"resourceType": ')
            self.close_connection = True
        elif "body" in scenario:
            self.answer(200, scenario["body"])
        elif parts.path != f"/{name}/Observation":
            self.answer(404, outcome("not-found"))
        else:
            self.answer(200, self.page(name, scenario, query))

    def page(self, name: str, scenario: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
        found = [one for one in scenario["observations"] if matches(one, query)]
        start, size = int(query.get("_offset", 0)), min(scenario.get("page", 100), int(query.get("_count", 100)))
        links = [{"relation": "self", "url": self.path}]
        if start + size < len(found):
            kept = "&".join(f"{key}={value}" for key, value in query.items() if key != "_offset")
            links.append({"relation": "next", "url": scenario.get("link", f"Observation?{kept}&_offset={start + size}")})
        entries = [{"resource": one, "search": {"mode": "match"}} for one in found[start : start + size]]
        return {"resourceType": "Bundle", "type": "searchset", "link": links, "entry": entries + scenario.get("more", [])}

    def answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        raw = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/fhir+json", "Content-Length": str(len(raw)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def outcome(code: str, severity: str = "error") -> dict[str, Any]:
    issue = {"severity": severity, "code": code, "diagnostics": "Patient/4711 has 73519"}
    return {"resourceType": "OperationOutcome", "issue": [issue]}


def matches(resource: dict[str, Any], query: dict[str, str]) -> bool:
    system, _, code = query["code"].partition("|")
    codings = resource.get("code", {}).get("coding", [])
    return (
        any((one.get("system"), one.get("code")) == (system, code) for one in codings)
        and query.get("subject") in (None, resource.get("subject", {}).get("reference"))
        and query.get("date", "ge")[2:] <= resource.get("effectiveDateTime", "9")
    )


def main() -> None:
    port, Handler.directory = int(sys.argv[1]), Path(sys.argv[2])
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    for pem in sys.argv[3:]:  # key and certificate: with TLS
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
