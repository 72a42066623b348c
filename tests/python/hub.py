"""A hub of one's own: what the Hugging Face client asks for, answered from memory at an address of this machine.

Models are LFS files, known by their sha256; other files by the id that git gives them."""
import contextlib
import hashlib
import http.server
import json
import re
import threading

REQUEST = re.compile(r"/(?:api/models/(?P<asked>[^/]+/[^/]+)/(?P<what>revision|tree)/(?P<of>[^/?]+)"
                     r"|(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>[^?]+))")


class Hub:
    """Its repositories, and what was downloaded from it."""

    def __init__(self):
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.downloads: list[str] = []
        self.endpoint = ""

    def push(self, repository: str, files: dict[str, bytes]) -> str:
        """Makes a commit with these files the newest one of a repository; its id."""
        listed = "".join(f"{path} {blob_id(data)}\n" for path, data in sorted(files.items()))
        commit = hashlib.sha1(listed.encode()).hexdigest()
        self.commits.setdefault(repository, []).append((commit, files))
        return commit

    def at(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]]:
        commits = self.commits[repository]
        return commits[-1] if revision == "main" else dict((id, (id, files)) for id, files in commits)[revision]


def blob_id(data: bytes) -> str:
    """What git calls a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_lfs(path: str) -> bool:
    return path.endswith(".safetensors")


def blob_name(path: str, data: bytes) -> str:
    """The name of a file in the folder `blobs` of a cache."""
    return hashlib.sha256(data).hexdigest() if is_lfs(path) else blob_id(data)


def entry(path: str, data: bytes) -> dict:
    """A file as the hub lists it."""
    listed = {"type": "file", "path": path, "size": len(data), "oid": blob_id(data)}
    if is_lfs(path):
        listed["lfs"] = {"oid": blob_name(path, data), "size": len(data), "pointerSize": 134}
    return listed


def handler(hub: Hub) -> type:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.answer()

        def answer(self):
            try:
                headers, body = self.answered()
                self.send_response(200)
            except KeyError:
                headers, body = {"X-Error-Code": "RepoNotFound"}, b""
                self.send_response(404)
            for name, value in (headers | {"Content-Length": len(body)}).items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def answered(self) -> tuple[dict, bytes]:
            found = REQUEST.match(self.path)
            if found is None:
                raise KeyError(self.path)
            if found["asked"]:
                commit, files = hub.at(found["asked"], found["of"])
                listed = [entry(path, data) for path, data in files.items()]
                info = {"id": found["asked"], "sha": commit, "siblings": [{"rfilename": path} for path in files]}
                return {}, json.dumps(info if found["what"] == "revision" else listed).encode()
            commit, files = hub.at(found["repo"], found["revision"])
            data = files[found["path"]]
            if self.command == "GET":
                hub.downloads.append(f"{found['repo']}/{found['path']}")
            return {"X-Repo-Commit": commit, "ETag": f'"{blob_name(found["path"], data)}"'}, data

    return Handler


@contextlib.contextmanager
def serving():
    """A hub that answers at its `endpoint`."""
    hub = Hub()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(hub)) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
