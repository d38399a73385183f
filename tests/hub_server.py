"""A small Hugging Face Hub on loopback, for the unmodified clients: repositories, commits, LFS, faults.

It keeps what a push can get wrong: private repositories, roles of tokens, branches and pull requests, ``parentCommit``,
a card's metadata checked at upload, objects that a commit names but nobody uploaded. ``HubServer.fail`` makes one
request or several go wrong in a given way.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import struct
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

WRITER, READER = "hf_writerwriterwriter", "hf_readerreaderreader"
"""Tokens that the server knows: one may write, one may only read."""
NAMES = {"write": "me", "read": "you", "": "anonymous"}
"""Whose they are."""
LICENSES = {"unknown", "other", "mit", "apache-2.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc0-1.0"}
SIZES = {"n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M"}
DATE = "2026-01-02T03:04:05.000Z"


class File(NamedTuple):
    lfs: bool
    oid: str  # sha256 of an LFS object, git's sha1 of another file
    size: int


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    files: dict[str, File]
    changed: tuple[str, ...]


class PullRequest(NamedTuple):
    title: str
    author: str


@dataclass
class Repository:
    private: bool
    branches: dict[str, list[Commit]]
    pull_requests: list[PullRequest] = field(default_factory=list)

    def find(self, revision: str) -> Commit | None:
        if revision in self.branches:
            return self.branches[revision][-1]
        return next((c for commits in self.branches.values() for c in commits if c.oid == revision), None)


@dataclass
class Fault:
    """What goes wrong with requests of ``method`` whose path matches ``pattern``, ``times`` times."""

    method: str
    pattern: str
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "fault"
    cut_after: int = -1  # bytes of the body, then the connection is closed without an answer
    answered: int = -1  # bytes of the answer's body, then the connection is closed
    lost: bool = False  # carried out, but the answer never arrives
    delay: float = 0.0  # seconds until it is carried out, whether somebody still waits for the answer or not
    first: Callable[[], Any] | None = None  # runs before the request is answered as usual
    then: Callable[[], Any] | None = None  # runs after the request is carried out


class Answer(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str, code: str = "", **more: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.more = status, code, more


class HubServer(ThreadingHTTPServer):
    """The server and all that it holds. Its thread runs from the start."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.lock = threading.RLock()
        self.over = threading.Event()
        self.reset()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def reset(self) -> None:
        """Forget everything, and requests that are being delayed."""
        self.over.set()
        self.over = threading.Event()
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.log: list[tuple[str, str]] = []
        self.bodies: list[tuple[str, int]] = []
        self.faults: list[Fault] = []
        self.xet: str = ""  # a local:// store, where Xet is spoken instead of LFS

    def fail(self, method: str, pattern: str, **how: Any) -> None:
        self.faults.append(Fault(method, pattern, **how))

    def requests(self, method: str, pattern: str) -> list[str]:
        return [path for verb, path in self.log if verb == method and re.search(pattern, path)]

    def handle_error(self, request: Any, address: Any) -> None:  # clients go away; tests see that in other ways
        pass

    # --- what it holds ---

    def head(self, name: str, revision: str = "main") -> Commit:
        commit = self.repositories[name].find(revision)
        assert commit is not None
        return commit

    def content(self, name: str, path: str, revision: str = "main") -> bytes:
        return self.blobs[self.head(name, revision).files[path].oid]

    def create(self, name: str, private: bool = False) -> None:
        attributes = b"*.tar filter=lfs diff=lfs merge=lfs -text\n"
        oid = git_oid(attributes)
        self.blobs[oid] = attributes
        first = Commit(self.new_oid(), "initial commit", {".gitattributes": File(False, oid, len(attributes))}, ())
        self.repositories[name] = Repository(private, {"main": [first]})

    def write(self, name: str, path: str, content: bytes, revision: str = "main") -> None:
        """Commit a file, as somebody else would."""
        with self.lock:
            oid = git_oid(content)
            self.blobs[oid] = content
            files = {**self.head(name, revision).files, path: File(False, oid, len(content))}
            commit = Commit(self.new_oid(), f"write {path}", files, (path,))
            self.repositories[name].branches[revision].append(commit)

    def open_pull_request(self, name: str, title: str, author: str) -> int:
        with self.lock:
            repository = self.repositories[name]
            repository.pull_requests.append(PullRequest(title, author))
            number = len(repository.pull_requests)
            repository.branches[f"refs/pr/{number}"] = [self.head(name)]
            return number

    def new_oid(self) -> str:
        return hashlib.sha1(uuid.uuid4().bytes).hexdigest()  # clients cache by it


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def xet_hashes(store: Path) -> dict[str, str]:
    """Xet's hash of each file by its sha256, from the shards that hf_xet writes into a local store.

    Source: the MDB shard format of xet-core, ``mdb_shard/src/file_structs.rs``: a header of 48 bytes, then for each
    file its hash, flags, a count of segments, as many records of 48 bytes (flag 31: twice), and its sha256 (flag 30).
    """

    def text(raw: bytes) -> str:
        return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))

    found: dict[str, str] = {}
    for path in store.rglob("*.mdb"):
        content, at = path.read_bytes(), 48
        while content[at : at + 32] != b"\xff" * 32:
            name = text(content[at : at + 32])
            flags, count = struct.unpack("<II", content[at + 32 : at + 40])
            at += 48 + 48 * count * (2 if flags >> 31 & 1 else 1)
            if flags >> 30 & 1:
                found[text(content[at : at + 32])] = name
                at += 48
    return found


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each body waits 40 ms for the acknowledgement of its headers
    server: HubServer

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, status: int, value: Any = b"", headers: dict[str, Any] | None = None) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        sent = {"Content-Type": "application/json", "Content-Length": len(content), "X-Request-Id": "test"}
        for name, text in {**sent, **(headers or {})}.items():
            self.send_header(name, str(text))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: self.limit])
        if self.limit is not None:
            self.cut()

    def cut(self) -> None:
        self.close_connection = True
        self.connection.close()

    def handle_request(self) -> None:
        hub = self.server
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.limit: int | None = None
        with hub.lock:
            hub.log.append((self.command, url.path))
            fault = next((f for f in hub.faults if f.method == self.command and re.search(f.pattern, url.path)), None)
            if fault is not None:
                fault.times -= 1
                if not fault.times:
                    hub.faults.remove(fault)
        if fault is not None and fault.cut_after >= 0:
            self.rfile.read(min(fault.cut_after, int(self.headers.get("Content-Length") or 0)))
            return self.cut()
        self.body = self.read_body()
        if fault is not None:
            self.limit = fault.answered if fault.answered >= 0 else None
            if hub.over.wait(fault.delay):  # tests replace time.sleep
                return self.cut()
            if fault.status:
                message = fault.message.replace("TOKEN", self.headers.get("Authorization", ""))
                return self.answer(fault.status, {"error": message}, fault.headers)
            if fault.first:
                fault.first()
        try:
            status, value, headers = self.route([unquote(part) for part in url.path.strip("/").split("/")])
        except Answer as wrong:
            headers = {"X-Error-Code": wrong.code, "X-Error-Message": str(wrong)} if wrong.code else {}
            status, value = wrong.status, {"error": str(wrong), **wrong.more}
        if fault is not None and fault.then:
            fault.then()
        if fault is not None and fault.lost:
            return self.cut()
        return self.answer(status, value, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request  # noqa: N815

    def read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def route(self, parts: list[str]) -> tuple[int, Any, dict[str, Any]]:
        hub, method = self.server, self.command
        with hub.lock:
            if parts[:1] == ["lfs"] and method == "PUT":
                return self.store(parts[1])
            if parts == ["api", "validate-yaml"]:
                return self.check_card(json.loads(self.body)["content"])
            if parts == ["api", "repos", "create"]:
                return self.create()
            if parts == ["api", "whoami-v2"]:
                return 200, {"type": "user", "name": NAMES[self.role()]}, {}
            if parts[:2] in (["api", "datasets"], ["api", "models"]) and len(parts) >= 4:
                name, action, rest = "/".join(parts[2:4]), parts[4:5], parts[5:]
                repository = self.repository(name)
                if not action or action == ["revision"]:
                    return self.info(name, repository, rest[0] if rest else "main")
                known = {
                    ("GET", "tree"): self.tree,
                    ("GET", "refs"): self.refs,
                    ("POST", "paths-info"): self.paths_info,
                    ("POST", "preupload"): self.preupload,
                    ("POST", "commit"): self.commit,
                    ("POST", "branch"): self.branch,
                    ("POST", "discussions"): self.open_discussion,
                    ("GET", "discussions"): self.discussion if rest else self.discussions,
                    ("GET", "xet-write-token"): self.xet_token,
                    ("GET", "xet-read-token"): self.xet_token,
                }
                if (method, action[0]) in known:
                    return known[method, action[0]](name, repository, rest)
            if parts[:1] == ["datasets"] and parts[3:] == ["info", "lfs", "objects", "batch"]:
                self.may_write()
                return self.batch()
            if parts[:1] == ["datasets"] and parts[3:4] == ["resolve"]:
                return self.resolve("/".join(parts[1:3]), parts[4], "/".join(parts[5:]))
            if parts[2:3] == ["resolve"]:  # of a model
                return self.resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        raise Answer(404, f"no such route {self.path}")

    # --- who may what ---

    def role(self) -> str:
        known = {f"Bearer {WRITER}": "write", f"Bearer {READER}": "read"}
        sent = self.headers.get("Authorization")
        if sent is not None and sent not in known:
            raise Answer(401, "Invalid credentials in Authorization header")
        return known.get(sent or "", "")

    def may_write(self) -> None:
        role = self.role()
        if role != "write":
            raise Answer(403 if role else 401, "You need the write role" if role else "Invalid username or password.")

    def repository(self, name: str) -> Repository:
        found = self.server.repositories.get(name)
        if found is None or (found.private and not self.role()):
            raise Answer(404 if self.role() else 401, "Repository not found", "RepoNotFound")
        return found

    def find(self, repository: Repository, revision: str) -> Commit:
        found = repository.find(revision)
        if found is None:
            raise Answer(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    # --- repositories ---

    def create(self) -> tuple[int, Any, dict[str, Any]]:
        self.may_write()
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if not name.startswith("me/"):
            raise Answer(403, f"You don't have the rights to create a dataset under the namespace {name[:-5]}")
        if name in self.server.repositories:
            raise Answer(409, "You already created this dataset repo", url=f"{self.server.url}/datasets/{name}")
        private = asked.get("private") or asked.get("visibility") == "private"
        self.server.create(name, private=bool(private))
        return 200, {"url": f"{self.server.url}/datasets/{name}", "name": name, "id": name}, {}

    def info(self, name: str, repository: Repository, revision: str) -> tuple[int, Any, dict[str, Any]]:
        commit = self.find(repository, revision)
        siblings = [{"rfilename": path, "size": file.size} for path, file in commit.files.items()]
        value = {"_id": name, "id": name, "author": "me", "sha": commit.oid, "private": repository.private}
        value |= {"gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings}
        return 200, value | {"createdAt": DATE, "lastModified": DATE}, {}

    def refs(self, name: str, repository: Repository, rest: list[str]) -> tuple[int, Any, dict[str, Any]]:
        branches = [
            {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": commits[-1].oid}
            for branch, commits in repository.branches.items()
            if not branch.startswith("refs/")
        ]
        return 200, {"branches": branches, "tags": [], "converts": [], "pullRequests": []}, {}

    def branch(self, name: str, repository: Repository, rest: list[str]) -> tuple[int, Any, dict[str, Any]]:
        self.may_write()
        if rest[0].startswith("refs/"):
            raise Answer(400, f"Invalid reference for a branch: {rest[0]}")
        if rest[0] in repository.branches:
            raise Answer(409, "Reference already exists")
        start = json.loads(self.body or b"{}").get("startingPoint", "main")
        repository.branches[rest[0]] = [self.find(repository, start)]
        return 200, {}, {}

    def open_discussion(self, name: str, repository: Repository, rest: list[str]) -> tuple[int, Any, dict[str, Any]]:
        self.may_write()
        title = json.loads(self.body)["title"]
        return 200, {"num": self.server.open_pull_request(name, title, NAMES[self.role()])}, {}

    def discussions(self, name: str, repository: Repository, rest: list[str]) -> tuple[int, Any, dict[str, Any]]:
        numbers = range(len(repository.pull_requests), 0, -1)
        start, page = 2 * int(self.query.get("p", ["0"])[0]), 2
        found = [self.describe(name, repository, number) for number in numbers[start : start + page]]
        return 200, {"discussions": found, "count": len(numbers), "start": start}, {}

    def discussion(self, name: str, repository: Repository, rest: list[str]) -> tuple[int, Any, dict[str, Any]]:
        more = {"events": [], "filesWithConflicts": [], "changes": {"base": "refs/heads/main"}}
        return 200, self.describe(name, repository, int(rest[0])) | more, {}

    def describe(self, name: str, repository: Repository, number: int) -> dict[str, Any]:
        title, author = repository.pull_requests[number - 1]
        value = {"title": title, "num": number, "status": "draft", "isPullRequest": True, "createdAt": DATE}
        return value | {"author": {"name": author}, "repo": {"name": name, "type": "dataset"}}

    # --- reading ---

    def entry(self, path: str, file: File, commit: Commit) -> dict[str, Any]:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{file.oid}\nsize {file.size}\n".encode()
        value: dict[str, Any] = {"type": "file", "path": path, "size": file.size, "oid": file.oid}
        if file.lfs:
            value["oid"] = git_oid(pointer)
            value["lfs"] = {"oid": file.oid, "size": file.size, "pointerSize": len(pointer)}
        if self.query.get("expand", ["false"])[0].lower() == "true":
            value["lastCommit"] = {"id": commit.oid, "title": commit.title, "date": DATE}
        return value

    def listing(self, commit: Commit, folder: str, recursive: bool) -> list[dict[str, Any]]:
        prefix = f"{folder}/" if folder else ""
        found: dict[str, dict[str, Any]] = {}
        for path, file in sorted(commit.files.items()):
            if not path.startswith(prefix):
                continue
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                inner = prefix + "/".join(parts[:depth])
                oid = hashlib.sha1(inner.encode()).hexdigest()
                found[inner] = {"type": "directory", "path": inner, "size": 0, "oid": oid}
            if recursive or len(parts) == 1:
                found[path] = self.entry(path, file, commit)
        return list(found.values())

    def tree(self, name: str, repository: Repository, rest: list[str]) -> tuple[int, Any, dict[str, Any]]:
        commit, folder = self.find(repository, rest[0]), "/".join(rest[1:])
        found = self.listing(commit, folder, self.query.get("recursive", ["false"])[0].lower() in ("true", "1"))
        if folder and not found:
            raise Answer(404, f"{folder} does not exist", "EntryNotFound")
        start, page = int(self.query.get("cursor", ["0"])[0]), 10
        more = {}
        if start + page < len(found):
            kept = "&".join(f"{key}={values[0]}" for key, values in self.query.items() if key != "cursor")
            more["Link"] = f'<{self.server.url}{urlsplit(self.path).path}?{kept}&cursor={start + page}>; rel="next"'
        return 200, found[start : start + page], more

    def paths_info(self, name: str, repository: Repository, rest: list[str]) -> tuple[int, Any, dict[str, Any]]:
        is_json = "json" in self.headers.get("Content-Type", "")
        asked = json.loads(self.body) if is_json else parse_qs(self.body.decode())
        paths = [asked["paths"]] if isinstance(asked["paths"], str) else asked["paths"]
        commit = self.find(repository, rest[0])
        found = {entry["path"]: entry for entry in self.listing(commit, "", recursive=True)}
        return 200, [found[path] for path in paths if path in found], {}

    def resolve(self, name: str, revision: str, path: str) -> tuple[int, Any, dict[str, Any]]:
        commit = self.find(self.repository(name), revision)
        file = commit.files.get(path)
        if file is None:
            raise Answer(404, "Entry not found", "EntryNotFound")
        headers: dict[str, Any] = {"ETag": f'"{file.oid}"', "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        headers["Content-Type"] = "application/octet-stream"
        if file.lfs:
            headers |= {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": file.size}
        if file.oid not in self.server.blobs:
            found = xet_hashes(Path(self.server.xet.removeprefix("local://")))
            if self.command != "HEAD" or file.oid not in found:
                raise Answer(501, "these bytes are in the Xet store")
            route = f"{self.server.url}/api/datasets/{name}/xet-read-token/{commit.oid}"
            headers |= {"X-Xet-Hash": found[file.oid], "X-Xet-Refresh-Route": route, "Content-Length": file.size}
            return 200, b"", headers
        content = self.server.blobs[file.oid]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return 200, content, headers
        start, end = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
        if start >= len(content):
            return 416, b"", {"Content-Range": f"bytes */{len(content)}"}
        return 206, content[start : end + 1], {**headers, "Content-Range": f"bytes {start}-{end}/{len(content)}"}

    # --- writing ---

    def check_card(self, text: str) -> tuple[int, Any, dict[str, Any]]:
        block = re.match(r"---\n(.*?\n)---\n", text, re.DOTALL)
        errors = []
        try:
            values = yaml.safe_load(block[1]) if block else {}
        except yaml.YAMLError as error:
            values, errors = {}, [f"bad YAML: {error}"]
        if values.get("license", "unknown") not in LICENSES:
            errors.append(f'"license" must be one of {sorted(LICENSES)}')
        if not set(values.get("size_categories", [])) <= SIZES:
            errors.append('"size_categories" is none that is known')
        if errors:
            raise Answer(400, "invalid metadata", errors=[{"message": text} for text in errors], warnings=[])
        return 200, {"errors": [], "warnings": []}, {}

    def preupload(self, name: str, repository: Repository, rest: list[str]) -> tuple[int, Any, dict[str, Any]]:
        self.may_write()
        commit = self.find(repository, rest[0])
        files = []
        for asked in json.loads(self.body)["files"]:
            path, sample = asked["path"], base64.b64decode(asked.get("sample", ""))
            lfs = path.endswith((".tar", ".parquet", ".png")) or b"\0" in sample
            known = {"oid": commit.files[path].oid} if path in commit.files else {}
            files.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, **known})
        return 200, {"files": files, "commitOid": commit.oid}, {}

    def batch(self) -> tuple[int, Any, dict[str, Any]]:
        objects = []
        for asked in json.loads(self.body)["objects"]:
            upload = {"upload": {"href": f"{self.server.url}/lfs/{asked['oid']}?X-Signature=s3cr3t", "header": {}}}
            there = asked["oid"] in self.server.blobs
            objects.append({"oid": asked["oid"], "size": asked["size"], **({} if there else {"actions": upload})})
        return 200, {"transfer": "basic", "objects": objects}, {}

    def store(self, oid: str) -> tuple[int, Any, dict[str, Any]]:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Answer(400, "the content differs from its digest")
        self.server.blobs[oid] = self.body
        self.server.bodies.append((oid, len(self.body)))
        return 200, b"", {"ETag": f'"{oid}"'}

    def xet_token(self, name: str, repository: Repository, rest: list[str]) -> tuple[int, Any, dict[str, Any]]:
        if not self.server.xet:
            raise Answer(404, "no Xet here", "EntryNotFound")
        value = {"casUrl": self.server.xet, "exp": int(time.time()) + 3600, "accessToken": "xet-s3cr3t"}
        headers = {"X-Xet-Cas-Url": value["casUrl"], "X-Xet-Token-Expiration": value["exp"]}
        return 200, value, {**headers, "X-Xet-Access-Token": value["accessToken"]}

    def commit(self, name: str, repository: Repository, rest: list[str]) -> tuple[int, Any, dict[str, Any]]:
        self.may_write()
        if rest[0] not in repository.branches:
            raise Answer(404, f"Invalid rev id: {rest[0]}", "RevisionNotFound")
        head = repository.branches[rest[0]][-1]
        files, changed, title = dict(head.files), [], ""
        for line in self.body.splitlines():
            entry = json.loads(line)
            kind, value = entry["key"], entry["value"]
            if kind == "header":
                title = value["summary"]
                if value.get("parentCommit", head.oid) != head.oid:
                    raise Answer(412, "A commit has happened since. Please refresh and try again.")
                continue
            changed.append(value["path"])
            if kind == "file":
                content = base64.b64decode(value["content"])
                self.server.blobs[git_oid(content)] = content
                files[value["path"]] = File(False, git_oid(content), len(content))
            elif kind == "lfsFile":
                if value["oid"] not in self.server.blobs and not self.server.xet:
                    raise Answer(400, f"LFS object {value['oid']} was not uploaded")
                files[value["path"]] = File(True, value["oid"], value["size"])
            elif kind == "deletedFile" and files.pop(value["path"], None) is None:
                raise Answer(404, "A file with this name doesn't exist", "EntryNotFound")
        made = Commit(self.server.new_oid(), title, files, tuple(changed))
        repository.branches[rest[0]].append(made)
        url = f"{self.server.url}/datasets/{name}/commit/{made.oid}"
        return 200, {"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""}, {}


def serve(home: Path) -> HubServer:
    """Start a Hub and let huggingface_hub, not yet imported, speak to it and keep its files in ``home``."""
    hub = HubServer()
    os.environ.update(HF_ENDPOINT=hub.url, HF_TOKEN=WRITER, HF_HOME=str(home), HF_HUB_DISABLE_XET="1")
    return hub
