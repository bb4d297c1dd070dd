"""Models to and from a server of this machine that speaks the hub's paths."""

import base64
import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch
from huggingface_hub import constants

import classify
import sample
from dalle.text_to_image import TextToImage
from dalle_base.common import hub
from dalle_base.common.config import parse_yaml
from dalle_base.common.errors import UserError
from dalle_base.common.hub import fetch, locate
from dalle_published.hub import card, from_pretrained, push_to_hub, stage
from dual_encoder.ranker import Ranker
from dvae.tokenizer import ImageTokenizer

Script = Callable[..., tuple[int, str, str]]
Files = dict[str, bytes]


def sha(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


class Hub:
    """Repositories by name, each with its revisions: {"main": {path: content}}."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, Files]] = {}
        self.asked: list[str] = []

    def commit(self, repo: str, revision: str) -> str:
        """The hash of a revision."""
        files = self.repos[repo][revision]
        return sha(repr(sorted(files.items())).encode())

    def revision(self, repo: str, name: str) -> str | None:
        """The revision that is called so, or has this hash."""
        return next((r for r in self.repos[repo] if name in (r, self.commit(repo, r))), None)


class Handler(BaseHTTPRequestHandler):
    """What `huggingface_hub` asks for when it fetches a snapshot, and when it commits."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    @property
    def address(self) -> str:
        return f"http://{self.headers['Host']}"

    def answer(self, content: Any, status: int = 200, **more: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **more}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, kind: str) -> None:
        self.answer({"error": kind}, 404 if kind != "GatedRepo" else 403, X_Error_Code=kind)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.asked.append(path)
        words = path.strip("/").split("/")
        if words[:2] == ["api", "models"]:
            self.describe("/".join(words[2:4]), words[4:])
        elif "resolve" not in words:
            self.missing("RepoNotFound")
        else:
            self.content("/".join(words[:2]), words[3], "/".join(words[4:]))

    def describe(self, repo: str, rest: list[str]) -> None:
        if repo == "someone/gated":
            return self.missing("GatedRepo")
        if repo not in self.hub.repos:
            return self.missing("RepoNotFound")
        revision = self.hub.revision(repo, rest[1] if len(rest) > 1 else "main")
        if revision is None:
            return self.missing("RevisionNotFound")
        files = self.hub.repos[repo][revision]
        if rest[:1] == ["tree"]:
            entries = [
                {
                    "type": "file",
                    "path": name,
                    "size": len(data),
                    "oid": hashlib.sha1(data).hexdigest(),
                }
                for name, data in files.items()
            ]
            return self.answer(entries)
        siblings = [{"rfilename": name} for name in files]
        found = {"id": repo, "sha": self.hub.commit(repo, revision), "siblings": siblings}
        return self.answer(found)

    def content(self, repo: str, revision: str, name: str) -> None:
        known = self.hub.revision(repo, revision)
        assert known
        data = self.hub.repos[repo][known].get(name)
        if data is None:
            return self.missing("EntryNotFound")
        etag = f'"{sha(data)}"'
        return self.answer(data, ETag=etag, X_Repo_Commit=self.hub.commit(repo, known))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = unquote(self.path.partition("?")[0])
        self.hub.asked.append(path)
        if self.headers.get("Authorization") is None:
            return self.answer({"error": "log in"}, 401)
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'user'}/{asked['name']}"
            self.hub.repos.setdefault(name, {"main": {}})
            return self.answer({"url": f"{self.address}/{name}", "name": name})
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        repo = "/".join(path.split("/")[3:5])
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
            ]
            return self.answer({"files": modes})
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                value = entry["value"]
                self.hub.repos[repo]["main"][value["path"]] = base64.b64decode(value["content"])
        address = f"{self.address}/{repo}/commit/1"
        found = {"commitUrl": address, "commitOid": "1" * 40, "success": True}
        return self.answer(found)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub of this machine, with an empty cache."""
    made = Hub()
    handler = type("Bound", (Handler,), {"hub": made})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{httpd.server_address[1]}"
    point_at(endpoint, tmp_path / "cache", monkeypatch)
    yield made
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def point_at(endpoint: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `huggingface_hub`, which reads its variables when it is imported, ask there."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "a token")
    fetch.cache_clear()


def files_of(folder: Path) -> Files:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def same(one: Any, other: Any) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_a_model_is_fetched_by_its_name_and_sampled(
    server: Hub, toy: Path, tmp_path: Path, run_script: Script
) -> None:
    evil = {"model.bin": b"a pickle", "code.py": b"raise SystemExit", "pytorch_model.pt": b"x"}
    server.repos["user/toy"] = {"main": files_of(toy) | evil}
    words = ["--text", "a red star", "--candidates", "2"]
    status, _, error = run_script(
        sample.main, *words, "--model", "hf:user/toy", "--out", tmp_path / "hub"
    )
    assert status == 0, error
    assert run_script(sample.main, *words, "--model", toy, "--out", tmp_path / "own")[0] == 0
    hub_made, own = (
        json.loads((tmp_path / name / "a-red-star/samples.json").read_text())
        for name in ("hub", "own")
    )
    assert [c["codes"] for c in hub_made["candidates"]] == [c["codes"] for c in own["candidates"]]
    assert "--model hf:user/toy" in hub_made["candidates"][0]["command"]
    assert not any(name in path for path in server.asked for name in evil)


def test_what_was_fetched_is_there_without_a_network(
    server: Hub, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.repos["user/toy"] = {"main": files_of(toy)}
    first = locate("hf:user/toy")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(server.asked)
    fetch.cache_clear()
    assert locate("hf:user/toy") == first
    assert len(server.asked) == asked
    point_at("http://127.0.0.1:9", tmp_path / "cache", monkeypatch)  # nobody listens there
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert locate("hf:user/toy") == first


def test_revisions_are_told_apart_and_parts_have_names(server: Hub, toy: Path) -> None:
    old = {name: data for name, data in files_of(toy).items() if "reranker" not in name}
    server.repos["user/toy"] = {"main": files_of(toy), "v1": old}
    now, before = from_pretrained("user/toy"), from_pretrained("user/toy", revision="v1")
    assert isinstance(now, TextToImage)
    assert now.reranker is not None
    assert before.reranker is None
    assert same(now.transformer, before.transformer)
    assert isinstance(from_pretrained("hf:user/toy/reranker"), Ranker)
    assert isinstance(from_pretrained("hf:user/toy@v1/tokenizer"), ImageTokenizer)
    assert isinstance(from_pretrained(toy), TextToImage)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hf:user/nothing", "the hub has no such model, or it is private"),
        ("hf:user/toy@v7", "user/toy has no revision v7"),
        ("hf:someone/gated", "asks you to agree to terms first"),
        ("hf:user", "is no name of the hub: write hf:USER/NAME"),
        ("hf:user/../../etc", "is no name of the hub"),
        ("hf:user/toy/../..", "is no name of the hub"),
        ("hf:user/toy/tokenizer/..", "is no name of the hub"),
        ("hf:user/toy@v1@v2", "is no name of the hub"),
        ("hf:" + "x" * 5000, "is no name of the hub"),
        ("hf:user/--", "is no name of the hub"),
        ("hf:user/toy/tokenizer", "is not a dual encoder but an image tokenizer"),
    ],
)
def test_names_that_are_none_are_one_line(
    name: str, says: str, server: Hub, toy: Path, run_script: Script
) -> None:
    server.repos["user/toy"] = {"main": files_of(toy)}
    words = ["docs/examples/red-apple.png", "--labels", "a", "b", "--model", name]
    status, _, error = run_script(classify.main, *words)
    assert status == 2
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert says in lines[0]


def test_no_network_and_nothing_in_the_cache_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at("http://127.0.0.1:9", tmp_path, monkeypatch)
    with pytest.raises(UserError, match="not in the cache and cannot be fetched"):
        locate("hf:user/toy")


def test_what_is_pushed_comes_back_the_same(server: Hub, toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(toy, folder)
    (folder / "README.md").write_text("---\ntags: [scenes]\n---\n# Mine\n\ntext\n")
    (folder / "secret.txt").write_text("not for others")
    address = push_to_hub(folder, "user/mine", "mit")
    assert "user/mine" in address
    files = server.repos["user/mine"]["main"]
    assert "secret.txt" not in files
    assert json.loads(files["config.json"])["model_type"] == "text-to-image model"
    header, body = files["README.md"].decode().removeprefix("---\n").split("---\n", 1)
    assert parse_yaml(header) == {
        "tags": ["scenes"],
        "license": "mit",
        "library_name": "dalle-from-scratch",
        "pipeline_tag": "text-to-image",
    }
    assert body == "# Mine\n\ntext\n"
    back, own = from_pretrained("user/mine"), from_pretrained(toy)
    assert same(back.transformer, own.transformer)
    assert same(back.tokenizer, own.tokenizer)
    assert same(back.reranker.model, own.reranker.model)


def test_what_cannot_be_pushed_is_one_line(
    server: Hub, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="says no license"):
        push_to_hub(toy, "user/toy")
    broken = tmp_path / "broken"
    shutil.copytree(toy, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(UserError):
        push_to_hub(broken, "user/toy", "mit")
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"the hub does not take user/toy.*hf auth login"):
        push_to_hub(toy, "user/toy", "mit")
    assert server.repos == {}


def test_the_shipped_cards_say_licence_tags_data_and_figures() -> None:
    for name in ("emoji", "shapes"):
        text = card(Path("models") / name, "text-to-image model")
        header = parse_yaml(text.removeprefix("---\n").split("---\n", 1)[0])
        assert header.keys() >= {"license", "tags", "datasets", "metrics", "pipeline_tag"}, name


def test_a_staged_folder_can_be_read_as_it_is(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    stage(toy, tmp_path / "new", "text-to-image model", "mit")
    assert isinstance(from_pretrained(tmp_path / "new"), TextToImage)
    assert hub.PREFIX not in str(tmp_path)
