"""A small Hub on loopback: the calls that a push, and a load afterwards, make. Real HTTP, in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_secret"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Repositories by name: {"private": bool, "files": {path: bytes}}.

    `faults` maps a part of a call's path to what is answered instead: status, body, headers. A number in `storage` is
    the port where large files of a repository shall go.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repos = {}
        self.objects = {}
        self.commits = []
        self.faults = {}
        self.storage = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *arguments):
        pass

    def answer(self, status, body=b"", **headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", headers.pop("Content_Length", str(len(body))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def allowed(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def route(self):
        path = unquote(urlsplit(self.path).path)
        data = self.body()
        if fault := next((fault for part, fault in self.server.faults.items() if part in path), None):
            status, body, headers = fault
            return self.answer(status, body, **headers)
        if path == "/api/validate-yaml":
            return self.validate(json.loads(data)["content"])
        if match := re.fullmatch(r"/objects/(\w+)", path):
            if hashlib.sha256(data).hexdigest() != match[1]:
                return self.answer(400)
            self.server.objects[match[1]] = data
            return self.answer(200)
        if self.command == "POST" and not self.allowed():
            return self.answer(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            wanted = json.loads(data)
            name = f"{wanted['organization']}/{wanted['name']}"
            if name in self.server.repos:
                return self.answer(409, {"url": f"{self.server.url}/{name}"})
            private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
            self.server.repos[name] = {"private": private, "files": {}}
            return self.answer(200, {"url": f"{self.server.url}/{name}"})
        if match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/preupload/main", path):
            files = json.loads(data)["files"]
            modes = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for f in files
            ]
            return self.answer(200, {"files": modes})
        if match := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            storage = f"http://127.0.0.1:{self.server.storage.get(match[1], self.server.server_port)}"
            objects = [
                o | {"actions": {"upload": {"href": f"{storage}/objects/{o['oid']}"}}}
                for o in json.loads(data)["objects"]
            ]
            return self.answer(200, {"transfer": "basic", "objects": objects})
        if match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/commit/main", path):
            return self.commit(match[1], data)
        if match := re.match(r"/api/models/([\w.-]+/[\w.-]+)(.*)", path):
            return self.info(match[1], match[2])
        if match := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/[\w.-]+/(.+)", path):
            return self.resolve(match[1], match[2])
        return self.answer(404, {"error": f"no such call: {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = route

    def visible(self, name):
        repo = self.server.repos.get(name)
        return repo if repo and (not repo["private"] or self.allowed()) else None

    def validate(self, card):
        licence = card.split("license: ")[1].split("\n")[0] if card.startswith("---\n") else ""
        if licence in ("other", "apache-2.0", "mit"):
            return self.answer(200, {"errors": [], "warnings": []})
        reason = '"license" must be one of [apache-2.0, mit, other]'
        self.answer(400, {"errors": [{"message": reason}], "warnings": []})

    def commit(self, name, data):
        files = self.server.repos[name]["files"]
        added = []
        for line in data.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            if "path" in value:
                added.append(value["path"])
        self.server.commits.append((name, added))
        self.answer(
            200, {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.server.url}/{name}/commit/{COMMIT}"}
        )

    def info(self, name, rest):
        repo = self.visible(name)
        if repo is None:
            return self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        if "/tree/" in rest:
            return self.answer(
                200,
                [{"type": "file", "path": p, "size": len(b), "oid": COMMIT} for p, b in repo["files"].items()],
            )
        siblings = [{"rfilename": path} for path in repo["files"]]
        self.answer(
            200,
            {"_id": "1", "id": name, "private": repo["private"], "sha": COMMIT, "siblings": siblings, "tags": []},
        )

    def resolve(self, name, file):
        repo = self.visible(name)
        if repo is None:
            return self.answer(404, X_Error_Code="RepoNotFound")
        if file not in repo["files"]:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        content = repo["files"][file]
        self.answer(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=COMMIT)
