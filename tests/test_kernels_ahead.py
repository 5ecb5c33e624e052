"""GPU kernels are compiled ahead for what the model will need, once, and nothing depends on it."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from echo_runs import environment
from tiny_models import tiny_model

from batchgen.engine.attention.reference import ReferenceBackend
from batchgen.engine.cuda.kernel_shapes import kernel_shapes
from batchgen.engine.run.loader import load_model_from
from batchgen.startup import kernels

KERNELS = {"attention_kernel", "plan_kernel", "write_kernel", "shared_kernel", "scan_kernel"}
KERNELS |= {"choose_kernel", "copy_kernel", "score_kernel", "token_kernel", "filter_kernel"}
KERNELS |= {"settle_kernel", "wide_pass_kernel", "wide_mass_kernel", "wide_draw_kernel"}


@pytest.mark.parametrize(
    "model_type", ["gpt2", "llama", "qwen3", "mistral", "gemma2", "gpt_oss", "mixtral", "phi3"]
)
def test_the_shapes_read_off_a_config_are_those_that_discovery_finds(model_type: str) -> None:
    module = tiny_model(model_type)
    shapes = kernel_shapes(module.config.to_dict(), dtype="float32")
    assert shapes is not None
    assert shapes["vocab_size"] == module.config.vocab_size
    names = ("num_heads", "num_kv_heads", "head_dim", "v_head_dim", "sliding_window", "softcap")
    guessed = {tuple(layer[name] for name in names) for layer in shapes["layers"]}
    found = load_model_from(module, ReferenceBackend()).specs
    seen = {tuple(getattr(spec, name) for name in names) for spec in found}
    assert seen <= guessed, "both kinds are guessed where the config does not name the layers"
    assert len(guessed) <= 2
    assert {layer["has_sinks"] for layer in shapes["layers"]} == {s.has_sinks for s in found}


def test_a_config_that_says_too_little_is_left_alone() -> None:
    assert kernel_shapes({"model_type": "llama"}) is None
    known = {"num_attention_heads": 4, "hidden_size": 64, "vocab_size": 99}
    assert kernel_shapes(known, dtype="auto", kv_cache_dtype="fp8") is not None
    assert kernel_shapes(known | {"dtype": "float64"}) is None


INTERPRETED = """if True:
    import json, sys, torch
    from functools import partial
    from batchgen.engine.attention.interface import AttentionSpec
    from batchgen.engine.cuda import kernels_ahead
    spec = AttentionSpec(0, 4, 2, 16, 16, 0.25, sliding_window=9, softcap=2.0, has_sinks=True)
    device = torch.device("cpu")
    calls = [*kernels_ahead.kernel_calls(spec, torch.float32, torch.float32, 16, device)]
    calls += kernels_ahead.sampler_calls(50, torch.float32, device)
    whole = AttentionSpec(0, 4, 2, 16, 16, 0.25)
    shared = [*kernels_ahead.shared_calls(whole, torch.float32, torch.float32, 16, device)]
    copies = [*kernels_ahead.copy_calls([spec, whole], torch.float32, 16, device)]
    mixed = [*kernels_ahead.mixed_calls(50, torch.float32, device)]
    for call in reversed(calls + shared + copies + mixed):
        call()
    counts = len(calls), len(shared), len(copies), len(mixed)
    print(*counts, "transformers" in sys.modules)
    shapes = {"device": "cpu", "dtype": "float32", "cache_dtype": "float32"}
    shapes |= {"layers": [], "block_sizes": [], "vocab_size": 9}
    for kernels in ([partial(int, "1")], [partial(int, "1"), partial(int, "x")], None):
        kernels_ahead.sampler_calls = lambda *_: kernels
        kernels_ahead.mixed_calls = lambda *_: []
        sys.argv[1:2] = [json.dumps(shapes)]
        kernels_ahead.main()
        print(open(sys.argv[2]).read())
"""


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a process prints in which kernels are interpreted, on the CPU: a line for all of them
    and one for each record of what could not be compiled."""
    file = tmp_path_factory.mktemp("ahead") / "record.json"
    kernels.Record(starts=2).write(file)
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED, "", str(file)],
        env=dict(os.environ) | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if "only 0-dimensional arrays can be converted" in done.stderr:
        pytest.skip("Triton 3.6 loops up to arrays of one number, which numpy 2.5 refuses")
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line]


def test_every_kernel_of_a_layer_is_called_without_importing_transformers(
    interpreted: list[str],
) -> None:
    assert interpreted[0] == "8 4 1 17 False"


def test_the_process_notes_which_kernels_it_could_not_compile(interpreted: list[str]) -> None:
    found = [json.loads(line) for line in interpreted[1:]]
    assert [record["starts"] for record in found] == [2, 2, 2]
    good, one, no_device = (record["failed"] for record in found)
    assert good == []
    assert one == ["int: ValueError: invalid literal for int() with base 10: 'x'"]
    assert len(no_device) == 1
    assert no_device[0].startswith("TypeError:")


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a module that runs in place of the one that compiles."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(kernels, "_MODULE", "compiles_nothing")
    return tmp_path / "compiles_nothing.py"


def compiled(capability: int = 90) -> bool:
    """Whether a process was begun to compile for a GPU like that; it has ended."""
    begun = kernels.compile_kernels({"layers": [], "vocab_size": 9}, "auto", capability)
    kernels.wait_for_kernels()
    return begun


NOTES = """if True:
    import json, sys
    from pathlib import Path
    from batchgen.startup.kernels import Record
    assert json.loads(sys.argv[1]) == {"layers": [], "vocab_size": 9, "device": "cuda"}
    file = Path(sys.argv[2])
    Record(Record.read(file).starts, FAILED).write(file)
"""


def test_kernels_are_compiled_once_for_a_model_and_a_gpu(compiler: Path) -> None:
    compiler.write_text(NOTES.replace("FAILED", "[]"))
    assert compiled()
    assert not compiled()
    assert compiled(80), "another GPU needs its own"


def test_kernels_that_fail_are_tried_a_few_times_and_then_named(
    compiler: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compiler.write_text("raise SystemExit(1)")
    assert compiled()
    compiler.write_text(NOTES.replace("FAILED", "['launch: no room']"))
    with caplog.at_level("INFO", logger="batchgen"):
        assert [compiled() for _ in range(3)] == [True, True, False]
    assert "launch: no room" in caplog.text


def test_nobody_waits_for_what_only_some_runs_need(compiler: Path) -> None:
    compiler.write_text(
        NOTES.replace("FAILED", "[]") + "print(flush=True)\nsys.stdin.read(1)\n"
        "import time; time.sleep(30)"
    )
    begun = time.monotonic()
    assert compiled()
    assert time.monotonic() - begun < 20
    left = kernels._left[-1]
    assert left.poll() is None
    left.kill()
    left.wait()


UNHEARD = """if True:
    import sys, time
    from functools import partial
    from pathlib import Path
    from batchgen.engine.cuda import kernels_ahead
    def later(_):
        while not Path(FILE).exists():
            time.sleep(0.05)
        return iter([partial(int, "2")])
    kernels_ahead.first_calls = lambda _: iter([partial(int, "1")])
    kernels_ahead.later_calls = later
    kernels_ahead.main()
"""


def test_what_nobody_waits_for_is_noted_though_nobody_hears_of_it(compiler: Path) -> None:
    """A command that is short ends before; each run would compile all of it again."""
    gone = compiler.with_name("gone")
    compiler.write_text(UNHEARD.replace("FILE", repr(str(gone))))
    assert compiled()
    left = kernels._left[-1]
    assert left.stdout is not None
    assert left.stdout.closed, "as where the command has ended"
    gone.touch()
    left.wait(60)
    assert not compiled()
    (record,) = (compiler.parent / "triton").glob("*.json")
    assert kernels.Record.read(record) == kernels.Record(1, [])


@pytest.mark.parametrize("waits", [True, False])
def test_a_command_that_ends_before_its_compilers_says_nothing(
    compiler: Path, tmp_path: Path, waits: bool
) -> None:
    compiler.write_text("print(flush=True)\nimport time; time.sleep(30)")
    code = f"""if True:
        import os, sys
        sys.path.append({str(tmp_path)!r})
        from batchgen.startup import bytecode, kernels
        kernels._MODULE = "compiles_nothing"
        assert kernels.compile_kernels({{}}, "auto", 90)
        if {waits}:
            kernels.wait_for_kernels()
        os.sched_getaffinity = lambda _: [0, 1]
        bytecode.__file__ = {str(tmp_path / "any.py")!r}
        assert bytecode._compile_ahead() == 1
        print(*(process.pid for process in kernels._processes + kernels._left))
    """
    (tmp_path / "compile_worker.py").write_text("import time; time.sleep(10)")
    arguments = [sys.executable, "-X", "dev", "-c", code]
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    os.kill(int(done.stdout), signal.SIGKILL)  # it goes on


def test_they_are_waited_for_where_many_files_are_open(compiler: Path) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most <= 1100:
        pytest.skip("so many may not be open")
    compiler.write_text(NOTES.replace("FAILED", "[]"))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 1100), most))
    with ExitStack() as files:
        files.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        for _ in range(1030):
            files.enter_context(open(os.devnull))
        assert compiled()


def test_those_that_ended_leave_no_process_behind(compiler: Path) -> None:
    compiler.write_text(NOTES.replace("FAILED", "[]"))
    assert compiled()
    ended = kernels._left[-1]
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert compiled(80)
    assert ended.returncode == 0
    assert ended not in kernels._left


@pytest.mark.cuda
def test_after_it_a_first_run_compiles_none_of_them(tmp_path: Path) -> None:
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 999}
    config |= {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
    config |= {"intermediate_size": 512, "num_hidden_layers": 2, "dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    code = """if True:
        import json, sys, triton
        from pathlib import Path
        from batchgen.engine.cuda.kernels_ahead import compile_ahead, first_calls, later_calls
        from batchgen.engine.config import EngineConfig
        from batchgen.engine.run.factory import load_engine
        from batchgen.engine.cuda.kernel_shapes import kernel_shapes
        from batchgen.report.bench import run_work
        from batchgen.report.variants import VARIANTS
        from batchgen.report.workloads import nano, prefix
        folder = Path(sys.argv[1])
        if sys.argv[2] == "ahead":
            shapes = kernel_shapes(json.loads((folder / "config.json").read_text()))
            for calls in (first_calls, later_calls):
                assert not compile_ahead(calls(shapes | {"device": "cuda"}))
            sys.exit()
        def listener(*, src, cache_hit, **_):
            if not cache_hit:
                print("compiled", getattr(src, "name", src))
        triton.knobs.compilation.listener = listener
        config = EngineConfig(folder, device="cuda", load_format="dummy")
        engine = load_engine(config)
        run_work(engine, nano(rows=20, vocab=900))
        run_work(engine, prefix(rows=300, vocab=900))
        for name in ("logprobs", "filters", "penalties", "mixed"):
            run_work(engine, nano(rows=20, vocab=900), VARIANTS[name])
        assert engine.stats().shared_read_tokens
    """
    settings = dict(os.environ) | {"TRITON_CACHE_DIR": str(tmp_path / "triton")}
    for word in ("ahead", "run"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), word],
            env=settings,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    compiled = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("compiled")}
    assert not compiled & KERNELS
    assert torch.cuda.is_available()
