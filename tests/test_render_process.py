"""A chat template may take no more than its share of time and memory, whatever it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from echo_runs import batchgen, environment, prompts, write_rows

from batchgen.errors import ErrorCode, ModelRefusedError, RowError
from batchgen.job.templates.chat_template import ChatTemplate
from batchgen.job.templates.render_process import RenderProcess

SAYS = "{{ messages[0].content }}"
BOMBS = [
    ("{{ 'x' * 10 ** 10 }}", "needs more than 1 GiB of memory", 9.0),
    ("{{ 'x'.ljust(10 ** 11) }}", "needs more than 1 GiB of memory", 9.0),
    ("{{ 'x' | center(10 ** 11) }}", "needs more than 1 GiB of memory", 9.0),
    ("{{ 'x' * 10 ** 8 }}", "wrote 100,000,004 characters; 67,108,864 are allowed", 9.0),
    (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "is not done after 0.3 s",
        0.3,
    ),
    ("{{ lipsum(n=10 ** 9) }}", "is not done after 0.3 s", 0.3),
    (
        "{{ [range(99999) | list] * 99999 == [range(99999) | list] * 99999 }}",
        "took too much processor time",
        0.3,
    ),
]


def chat(text: str) -> tuple[list[dict[str, str]], dict[str, Any]]:
    return [{"role": "user", "content": text}], {}


def armed(bomb: str) -> str:
    """A template that explodes where a chat says `boom`."""
    bomb = bomb.replace("99999", "n").replace("10 **", "ten **")  # else it explodes at compilation
    numbers = "{% set n, ten = 99999, messages | length * 10 %}"
    return numbers + "{% if messages[0].content == 'boom' %}" + bomb + "{% endif %}" + SAYS


@pytest.mark.parametrize(("bomb", "what", "seconds"), BOMBS, ids=range(len(BOMBS)))
def test_what_a_template_does_to_one_chat_is_the_error_of_that_chat(
    bomb: str, what: str, seconds: float
) -> None:
    process = RenderProcess(ChatTemplate(armed(bomb), {}), seconds)
    texts = process.render([chat("a"), chat("boom"), chat("b"), chat("\ud800é")])
    assert process.close() == 0
    error = texts.pop(1)
    assert isinstance(error, RowError)
    assert (error.code, error.message) == (
        ErrorCode.TEMPLATE_ERROR,
        f"chat template: this chat {what}",
    )
    assert texts == ["a", "b", "\ud800é"]


def test_a_template_that_passes_its_limits_with_every_chat_is_refused() -> None:
    process = RenderProcess(ChatTemplate("{{ 'x' * 10 ** 10 }}", {}))
    with pytest.raises(ModelRefusedError, match="8 chats one after the other passed its limits"):
        process.render([chat("a")] * 20)
    process.close()


def test_the_process_may_be_killed_and_hears_no_polite_signal() -> None:
    process = RenderProcess(ChatTemplate(SAYS, {}))
    assert process.render([chat("a")]) == ["a"]
    first = process._process
    assert first is not None
    for name in ("INT", "TERM", "HUP", "USR1", "USR2"):
        first.send_signal(signal.Signals[f"SIG{name}"])
    assert process.render([chat("b")] * 3) == ["b"] * 3
    assert process._process is first
    first.kill()
    assert process.render([chat("c")] * 3) == ["c"] * 3
    assert process.close() == 0


def test_the_process_ends_with_the_one_that_began_it() -> None:
    code = (
        "import os\n"
        "from batchgen.job.templates.render_process import RenderProcess\n"
        "from batchgen.job.templates.chat_template import ChatTemplate\n"
        f"process = RenderProcess(ChatTemplate({SAYS!r}, {{}}))\n"
        "process.render([([{'role': 'user', 'content': 'a'}], {})])\n"
        "print(process._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    died = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, timeout=120
    )
    pid, deadline = int(died.stdout), time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] == "Z":
            break  # ended; nobody has waited for it yet
        time.sleep(0.01)
    else:
        assert not Path(f"/proc/{pid}").exists()


def test_a_job_goes_on_after_a_bomb(tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "prompt": "boom" if i in (3, 4) else f"p{i}"} for i in range(9)]
    source, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet"
    args = ["--engine", "echo", "--as-chat", "--chat-template"]
    result = batchgen("run", "-i", source, "-o", out, *args, armed("{{ 'x' * 10 ** 10 }}"))
    assert result.returncode == 3, result.stderr
    assert "2 of 9 rows failed (2 template_error)" in result.stderr
    table = pq.read_table(out)
    assert [i for i, code in enumerate(table["error_code"].to_pylist()) if code] == [3, 4]
    many = write_rows(tmp_path / "many.jsonl", prompts(30))
    refused = batchgen(
        "run", "-i", many, "-o", tmp_path / "o.parquet", *args, "{{ 'x' * 10 ** 10 }}"
    )
    assert refused.returncode == 2, refused.stderr
    assert "the chat template cannot be used" in refused.stderr
    assert "--chat-template" in refused.stderr
    assert os.listdir(tmp_path / "o.parquet.ckpt" / "parts") == []
