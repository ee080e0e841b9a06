"""A server that speaks what `huggingface_hub` asks for, as far as models are fetched and written; in this process."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

import yaml

TOKENS = {"hf_write": "write", "hf_read": "read"}


class Hub:
    """Repositories and what they hold.

    Attributes:
      files: the contents by (repository, revision, name); a revision's commit is `commit` of it.
      gated: repositories whose terms nobody has accepted.
      private: those that were made as private ones.
      asked: the path of each request.
      url: of the server; it is down while `down` is set.
    """

    def __init__(self):
        self.files, self.gated, self.private, self.asked = {}, set(), set(), []
        self.url, self.down = "", False

    def has(self, repository):
        return repository in self.gated | self.private or any(key[0] == repository for key in self.files)


def commit(repository, revision):
    return hashlib.sha1(f"{repository} {revision}".encode()).hexdigest()


@contextlib.contextmanager
def serving(hub):
    """Runs the server."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_HEAD(self):
            self.answer()

        do_GET = do_POST = do_HEAD  # noqa: N815

        def send(self, status, body=b"", **headers):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def send_json(self, value, status=200):
            self.send(status, json.dumps(value).encode(), Content_Type="application/json")

        def refuse(self, status, code, text):
            self.send(status, b"", X_Error_Code=code, X_Error_Message=text)

        def answer(self):
            path = urllib.parse.unquote(self.path.partition("?")[0])
            hub.asked.append(f"{self.command} {path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if hub.down:
                self.send(503)
            elif found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
                self.resolve(*found.groups())
            elif path == "/api/whoami-v2":
                self.who(token)
            elif found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(/.*)?", path):
                self.api(found[1], found[2] or "", body, token)
            elif path == "/api/validate-yaml":
                yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
                self.send_json({"errors": [], "warnings": []})
            elif path == "/api/repos/create":
                self.create(json.loads(body), token)
            else:
                self.send(404)

        def who(self, token):
            if token in TOKENS:
                self.send_json({"type": "user", "name": "user", "auth": {"accessToken": {"role": TOKENS[token]}}})
            else:
                self.refuse(401, "InvalidToken", "Invalid credentials")

        def resolve(self, repository, revision, name):
            if repository in hub.gated:
                self.refuse(403, "GatedRepo", "Access to it is restricted")
            elif not hub.has(repository):
                self.refuse(401, "RepoNotFound", "Repository not found")
            elif not any(key[:2] == (repository, revision) for key in hub.files):
                self.refuse(404, "RevisionNotFound", "Invalid rev id")
            elif (repository, revision, name) not in hub.files:
                self.refuse(404, "EntryNotFound", "Entry not found")
            else:
                data = hub.files[repository, revision, name]
                etag = f'"{hashlib.sha256(data).hexdigest()}"'
                self.send(200, data, ETag=etag, X_Repo_Commit=commit(repository, revision))

        def api(self, repository, rest, body, token):
            if not hub.has(repository):
                self.refuse(404, "RepoNotFound", "Repository not found")
            elif rest.startswith("/preupload/"):
                names = [file["path"] for file in json.loads(body)["files"]]
                self.send_json({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
            elif rest.startswith("/commit/"):
                self.commit(repository, body, token)
            elif rest.startswith("/tree/"):
                names = [key[2] for key in hub.files if key[:2] == (repository, "main")]
                self.send_json([{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in names])
            else:
                names = [{"rfilename": key[2]} for key in hub.files if key[:2] == (repository, "main")]
                self.send_json({"id": repository, "sha": commit(repository, "main"), "siblings": names})

        def create(self, asked, token):
            if TOKENS[token] != "write":
                self.refuse(403, "Forbidden", "You don't have the rights")
                return
            repository = f"{asked.get('organization') or 'user'}/{asked['name']}"
            if asked.get("private") or asked.get("visibility") == "private":
                hub.private.add(repository)
            self.send_json({"url": f"{hub.url}/{repository}", "name": repository})

        def commit(self, repository, body, token):
            if TOKENS.get(token) != "write":
                self.refuse(403, "Forbidden", "You don't have the rights")
                return
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    name = line["value"]["path"]
                    hub.files[repository, "main", name] = base64.b64decode(line["value"]["content"])
            oid = commit(repository, "main")
            url = f"{hub.url}/{repository}/commit/{oid}"
            self.send_json({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
