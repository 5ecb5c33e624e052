"""Nobody's code runs unasked, nobody's secret is told, and a row opens no file."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from echo_runs import batchgen, begin, prompts, write_rows

import batchgen as package
from batchgen import InputSpec, JobSpec, run
from batchgen.errors import RowError
from batchgen.job.redaction import redacted
from batchgen.job.templates.chat_template import ChatTemplate

BUILTIN = Path(package.__file__).parent / "models" / "batchgen-tiny"
SECRET = "hf_abcdefghijklmnopqrstuvwxyz0123456789"
URL = "https://somebody:s3cret-word@example.org/data"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "in.jsonl", prompts(3))


class Deadly:
    """A pickle that creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.path), "w")


def copy_of_builtin(folder: Path, *, weights: bool) -> Path:
    shutil.copytree(BUILTIN, folder)
    if not weights:
        (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.parametrize("flags", [[], ["--allow-pickle"]])
def test_a_pickle_runs_no_code_and_is_refused_naming_the_flag(
    tmp_path: Path, source: Path, flags: list[str]
) -> None:
    model, struck = copy_of_builtin(tmp_path / "model", weights=False), tmp_path / "struck"
    (model / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Deadly(struck)}))
    result = batchgen("run", "-i", source, "-o", tmp_path / "o.parquet", "--model", model, *flags)
    assert result.returncode == 2
    assert not struck.exists()
    if not flags:
        assert "has its weights in a pickle (pytorch_model.bin)" in result.stderr
        assert "--allow-pickle" in result.stderr


def test_code_beside_a_model_runs_only_where_it_is_asked_for(tmp_path: Path, source: Path) -> None:
    model, struck = copy_of_builtin(tmp_path / "model", weights=True), tmp_path / "struck"
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}, "vocab_size": 512}
    (model / "config.json").write_text(json.dumps(config))
    code = f"open({str(struck)!r}, 'w').close()\nfrom transformers import PretrainedConfig\n"
    (model / "own.py").write_text(code + "class Own(PretrainedConfig):\n    model_type = 'own'\n")
    args = ["run", "-i", source, "-o", tmp_path / "o.parquet", "--model", model]
    result = batchgen(*args)
    assert result.returncode == 2
    assert "--trust-remote-code" in result.stderr
    assert not struck.exists()
    batchgen(*args, "--trust-remote-code", HF_HOME=str(tmp_path / "hf"))
    assert struck.exists()


ATTACKS = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__ }}",
    "{{ cycler.__init__.__globals__.os.popen('touch STRUCK').read() }}",
    "{{ lipsum.__globals__['os'].system('touch STRUCK') }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.environment.loader }}",
    "{{ raise_exception.__globals__['json'] }}",
    "{{ raise_exception.__code__ }}",
    "{{ strftime_now.__self__.__class__ }}",
    "{{ '{0.__class__.__base__}'.format(messages) }}",
    "{{ ('{0.__class__}' | attr('format'))(messages) }}",
    "{{ '' | attr('__class__') }}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{{ messages[0].clear() }}",
    "{% include '/etc/passwd' %}",
    "{% import '/etc/passwd' as p %}{{ p }}",
    "{% extends '/etc/passwd' %}",
    "{% for i in range(10 ** 9) %}x{% endfor %}",
    "{{ config }}{{ request }}{{ get_flashed_messages }}",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_template_reaches_nothing_but_its_messages(
    attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    messages = [{"role": "user", "content": "hi"}]
    try:
        text = ChatTemplate(attack, {}).render(messages)
    except RowError:
        text = ""
    for leaked in ("<class", "<module", "root:", "function", "code object"):
        assert leaked not in text
    assert messages == [{"role": "user", "content": "hi"}]
    assert not list(tmp_path.iterdir())


def test_a_rows_text_is_no_template() -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", {})
    text = "{{ 7 * 7 }}{% include '/etc/passwd' %}"
    assert template.render([{"role": "user", "content": text}]) == text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"cannot open {URL}/x.jsonl", "cannot open https://***@example.org/data/x.jsonl"),
        ("no folder https:/me:pw@host", "no folder https:/***@host"),
        ("s3://key:secret@bucket/a 'ftp://u:p@h'", "s3://***@bucket/a 'ftp://***@h'"),
        ("GET /a?token=abc&x=1", "GET /a?token=***&x=1"),
        (f"Authorization: Bearer {SECRET}.", "Authorization: Bearer ***."),
        ("mail a@b.org about https://b.org/@user", "mail a@b.org about https://b.org/@user"),
        ("plain /path/to:file@2x.png", "plain /path/to:file@2x.png"),
    ],
)
def test_secrets_are_cut_out_of_text(text: str, clean: str) -> None:
    assert redacted(text) == clean


def test_a_token_of_the_environment_is_cut_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "not-like-a-token")
    assert redacted("header not-like-a-token end") == "header *** end"


class Empty(BaseHTTPRequestHandler):
    """A server without files."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    """The address of a server near by, with a password."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://somebody:s3cret-word@127.0.0.1:{server.server_port}/data"
        server.shutdown()


@pytest.mark.parametrize(
    "args",
    [["-i", "WEB/x.jsonl", "--engine", "echo"], ["--model", URL], ["--model", f"x/{SECRET}"]],
)
def test_no_secret_of_the_command_line_is_repeated(
    tmp_path: Path, source: Path, web: str, args: list[str]
) -> None:
    given = [arg.replace("WEB", web) for arg in args]
    given = given if "-i" in args else ["-i", str(source), *args]
    result = batchgen(
        "run", *given, "-o", tmp_path / "o.parquet", "-v", HF_TOKEN=SECRET, HF_HUB_OFFLINE="1"
    )
    assert result.returncode in (2, 66)
    assert "-i" not in args or "/data/x.jsonl" in result.stderr
    assert "s3cret-word" not in result.stdout + result.stderr
    assert SECRET not in result.stdout + result.stderr


def test_no_secret_stands_in_output_manifest_or_summary(tmp_path: Path, source: Path) -> None:
    out, summary = tmp_path / "o.parquet", tmp_path / "summary.json"
    args = ["run", "-i", source, "-o", out, "--engine", "echo", "--summary", summary]
    args += ["--revision", f"{URL}?token=s3cret-word"]
    result = batchgen(*args, HF_TOKEN=SECRET, HUGGING_FACE_HUB_TOKEN=SECRET)
    assert result.returncode == 0, result.stderr
    for path in [summary, *(p for p in tmp_path.rglob("*") if p.is_file() and p != source)]:
        content = path.read_bytes()
        assert SECRET.encode() not in content, path
        assert b"s3cret-word" not in content, path
    footer = pq.read_metadata(out).metadata[b"batchgen.manifest"]
    assert b"https://***@example.org" in footer


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_modes_of_files_follow_the_umask(
    tmp_path: Path, source: Path, umask: int, mode: int
) -> None:
    out = tmp_path / "o.parquet"
    args = ["run", "-i", source, "-o", out, "--engine", "echo"]
    args += ["--summary", tmp_path / "summary.json"]
    fault = "kill:at=final.rename"
    killed = begin(*args, fault=fault, heard=False, umask=umask)
    assert killed.wait(60) == -signal.SIGKILL
    assert list((tmp_path / "o.parquet.ckpt" / "parts").iterdir())
    _check_modes(tmp_path, source, umask, mode)
    assert begin(*args, heard=False, umask=umask).wait(60) == 0
    assert stat.S_IMODE(out.stat().st_mode) == mode
    _check_modes(tmp_path, source, umask, mode)


def _check_modes(folder: Path, source: Path, umask: int, mode: int) -> None:
    for path in folder.rglob("*"):
        found = stat.S_IMODE(path.stat().st_mode)
        if path.is_file() and path != source:
            assert found == mode, path
        elif path.is_dir():
            assert found == 0o777 & ~umask, path


_opened: list[str] = []
_watching = False


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _watching and event in ("open", "os.listdir", "os.scandir", "subprocess.Popen", "exec"):
        _opened.append(str(args[0]))
    elif _watching and event in ("socket.connect", "os.system", "os.exec"):
        _opened.append(event)


@contextmanager
def watched() -> Iterator[list[str]]:
    """What Python code opens meanwhile; an audit hook cannot be taken back, only silenced."""
    global _watching
    if not getattr(sys, "_batchgen_audited", False):
        sys.addaudithook(_audit)
        sys._batchgen_audited = True  # type: ignore[attr-defined]
    _opened.clear()
    _watching = True
    try:
        yield _opened
    finally:
        _watching = False


def test_no_path_from_a_row_is_opened(tmp_path: Path) -> None:
    canary = tmp_path / "canary.txt"
    canary.write_text("do not read me")
    name = str(canary)
    image = {"type": "image_url", "image_url": {"url": f"file://{name}"}}
    rows: list[dict[str, Any]] = [
        {"id": name, "prompt": name, "file": name, "path": name},
        {"prompt": f"file://{name}"},
        {"prompt": "{% include '" + name + "' %}"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": name}, image]}]},
        {"messages": [{"role": name, "content": name}]},
        {"prompt": "p", "params": {"stop": [name]}},
        {"prompt": "p", "params": {"chat_template": name}},
        {"custom_id": "c", "method": "POST", "url": f"file://{name}", "body": {"prompt": "p"}},
        {"prompt": "p", "model": name, "adapter": name, "image": name},
    ]
    write_rows(tmp_path / "in.jsonl", rows)
    spec = JobSpec(
        InputSpec((str(tmp_path / "in.jsonl"),)),
        tmp_path / "o.parquet",
        engine="echo",
        quiet=True,
        max_failures="100%",
    )
    before = os.stat(canary).st_atime_ns
    with watched() as opened:
        summary = run(spec)
    assert summary.rows == len(rows)
    assert any("in.jsonl" in path for path in opened)
    assert not [path for path in opened if "canary" in path or path.startswith("socket")]
    assert os.stat(canary).st_atime_ns == before
