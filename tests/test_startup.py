"""A start is quick where its caches are there, and right where they are not."""

from __future__ import annotations

import copy
import importlib
import os
import py_compile
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest
import warm_process
from echo_runs import environment, prompts, write_rows

from batchgen.startup import (
    ahead,
    compile_worker,
    folders,
    host_memory,
    quick_torch,
    quick_transformers,
    timeline,
)
from batchgen.startup.importing import absent
from batchgen.startup.quick_transformers import QuickImports


def child(code: str, *words: str, **extra: str) -> list[str]:
    """What a Python of its own prints, in words."""
    result = subprocess.run(
        [sys.executable, "-c", code, *words],
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("BATCHGEN_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path / "home"


def test_caches_lie_in_the_users_cache_or_where_the_user_says(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert folders.cache_folder("triton") == home / "batchgen" / "triton"
    monkeypatch.setenv("BATCHGEN_CACHE_DIR", str(tmp_path / "mine"))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    folders.prepare_compilers()
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "mine" / "triton")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "elsewhere"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/tmp/torchinductor_me")  # torch's own default
    folders.prepare_compilers()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "mine" / "inductor")


def test_a_home_that_cannot_be_written_is_done_without(home: Path, tmp_path: Path) -> None:
    home.write_text("no folder")
    found = folders.cache_folder("triton")
    assert found == tmp_path / "tmp" / f"batchgen-{os.geteuid()}" / "triton"
    found.parent.chmod(0o777)  # others could put code there
    assert folders.cache_folder("triton") is None


def test_bytecode_that_an_installation_lacks_has_a_place_of_its_own(tmp_path: Path) -> None:
    site = packages(tmp_path)
    code = (
        "import os, sys; from batchgen.startup import bytecode; bytecode._MOST_HELPERS = 0\n"
        "print(bytecode.keep_bytecode(), sys.pycache_prefix, sys.dont_write_bytecode)\n"
        "print(os.environ.get('PYTHONDONTWRITEBYTECODE'), os.environ.get('PYTHONPYCACHEPREFIX'))"
    )
    extra = {"PYTHONPATH": str(site), "XDG_CACHE_HOME": str(tmp_path)}
    off = {"PYTHONDONTWRITEBYTECODE": "1"}
    kept = str(tmp_path / "batchgen" / "bytecode")
    assert child(code, **extra, **off) == ["0", kept, "False", "None", kept]
    unchanged = ["0", "None", "True", "1", "None"]
    assert child(code, **extra, **off, BATCHGEN_BYTECODE="0") == unchanged
    for package in site.iterdir():
        py_compile.compile(str(package / "__init__.py"))
    assert child(code, **extra, **off) == unchanged


def test_a_command_keeps_its_own_modules_too_and_one_for_help_leaves_no_trace(
    tmp_path: Path,
) -> None:
    code = (
        "import sys; from batchgen.startup import bytecode; bytecode._MOST_HELPERS = 0\n"
        "bytecode.begin_command(sys.argv[1:]); import batchgen.errors\n"
        "print(batchgen.errors.__cached__)"
    )
    extra = {"PYTHONPATH": str(packages(tmp_path)), "XDG_CACHE_HOME": str(tmp_path / "home")}
    off = extra | {"PYTHONDONTWRITEBYTECODE": "1"}
    for words in (), ("--help",), ("run", "--help-all"), ("--version",):
        child(code, *words, **off)
    assert not (tmp_path / "home").exists()
    for words in ("status", "o.parquet"), ("run", "--in", "i.jsonl"):
        (kept,) = child(code, *words, **off)
        assert kept.startswith(str(tmp_path / "home"))
        Path(kept).unlink()


def test_helpers_share_out_the_modules_that_lack_bytecode(tmp_path: Path) -> None:
    site, prefix = packages(tmp_path), tmp_path / "kept"
    (site / "torch" / "damaged.py").write_text("def (")
    script = Path(compile_worker.__file__)
    for number in range(2):
        command = [sys.executable, "-I", "-S", script, prefix, site, str(number), "2"]
        subprocess.run(command, check=True, timeout=60)
    made = sorted(path.name.split(".")[0] for path in prefix.rglob("*.pyc"))
    assert made == ["__init__", "__init__", "functional"]
    (site / "single.py").write_text("")
    names = ["single", "torch.functional", "torch.*", "absent"]
    named = compile_worker.sources(names, [str(site)])
    expected = ["single.py", "functional.py", "__init__.py", "damaged.py"]
    assert [Path(name).name for name in named] == expected


def test_what_a_start_compiles_ahead_names_every_room_that_a_run_imports(tmp_path: Path) -> None:
    listed = set(Path(compile_worker.__file__).with_name("modules.txt").read_text().split())
    code = (
        "import sys; from batchgen.__main__ import main\n"
        "assert main(sys.argv[1:]) == 0; import batchgen.engine.cuda.graph_runner\n"
        "print('\\n' + ' '.join(n for n in sys.modules if n.split('.')[0] == 'batchgen'))"
    )
    rows = write_rows(tmp_path / "in.jsonl", prompts(3))
    words = ["-c", code, "run", "-i", str(rows), "-o", str(tmp_path / "o.parquet"), "-q"]
    process = warm_process.start(words, env=environment(), stdout=subprocess.PIPE, text=True)
    loaded = process.communicate(timeout=120)[0].split()
    assert process.returncode == 0
    rooms = {
        name.rpartition(".")[0] for name in loaded if name.startswith("batchgen.") and "." in name
    }
    assert {f"{room}.*" for room in rooms} <= listed


def packages(folder: Path) -> Path:
    """Where a torch and a transformers of a few lines lie, without bytecode."""
    for package in ("torch", "transformers"):
        (folder / "site" / package).mkdir(parents=True)
        (folder / "site" / package / "__init__.py").write_text("answer = 42\n")
    (folder / "site" / "torch" / "functional.py").write_text("answer = 43\n")
    return folder / "site"


def test_transformers_exports_the_same_with_its_lists_kept(tmp_path: Path) -> None:
    plain = "import sys; sys.modules['torch'] = None\n"
    quick = plain + (
        "from batchgen.startup.quick_transformers import QuickImports\nQuickImports().install()\n"
    )
    ask = (
        "import transformers, transformers.models as models, hashlib\n"
        "told = [sorted((key, sorted(value)) for key, value in vars(m)[n].items())"
        " for m in (transformers, models)"
        " for n in ('_class_to_module', '_object_missing_backend')]\n"
        "print(len(told[0]), hashlib.sha256(repr(told).encode()).hexdigest())"
    )
    extra = {"XDG_CACHE_HOME": str(tmp_path), "TRANSFORMERS_VERBOSITY": "error"}
    expected = child(plain + ask, **extra)
    assert int(expected[0]) > 1000
    assert child(quick + ask, **extra) == expected
    (kept,) = (tmp_path / "batchgen" / "imports").glob("exports-*")
    made = kept.stat().st_mtime_ns
    assert child(quick + ask, **extra) == expected
    assert kept.stat().st_mtime_ns == made
    kept.write_bytes(b"torn")
    assert child(quick + ask, **extra) == expected
    assert kept.stat().st_size > 10_000


def test_packages_that_no_run_uses_are_absent_only_while_transformers_is_imported() -> None:
    def helpers() -> ModuleType:
        module = ModuleType("transformers.utils.import_utils")
        vars(module).update(
            is_sklearn_available=lambda: True,
            is_torch_available=lambda: True,
            __file__="/nowhere/transformers/utils/import_utils.py",
        )
        return module

    quick, module = QuickImports(), helpers()
    quick.change(module)
    assert not module.is_sklearn_available()
    assert module.is_torch_available()
    quick.done()
    assert module.is_sklearn_available()
    whole = helpers()
    QuickImports(whole=True).change(whole)
    assert whole.is_sklearn_available()


_PUT_OFF = """
import sys
from batchgen.startup.lazy_modules import META, ready_generators, run_later
run_later()
import torch
ready_generators(torch)
drawn = torch.rand(2, generator=torch.Generator().manual_seed(1)).tolist()
asleep = lambda *names: "".join(type(sys.modules[name]).__name__[1] for name in names)
print(asleep(META, "torch.optim", "torch.ao", "torch.utils.data"))
from torch.distributions import constraints
print(asleep("torch.distributions"), "torch._prims" in sys.modules)
from batchgen.startup.quick_transformers import QuickImports
from batchgen.startup.torch_compiler import put_off_compiler
quick = QuickImports()
quick.install(), put_off_compiler(torch), quick.alone()
import transformers.models.llama.modeling_llama
quick.done()
there = lambda: [name in sys.modules for name in ("sympy", "torch._dynamo.utils")]
print(*there(), torch.distributed.is_available())

@torch.compiler.disable(recursive=False)
def add(x): return x + 1

@torch._dynamo.assume_constant_result
def three(): return 3

@torch._dynamo.allow_in_graph
def double(x): return x * 2

print(float(add(double(torch.ones(())))), *there())
from torch._dynamo.utils import counters
print(torch._dynamo.utils.counters is counters, *there())
print(torch._dynamo is sys.modules["torch._dynamo"], torch._dynamo.config.cache_size_limit > 0)
print(asleep(META))
print(float(torch.compile(lambda x: add(double(x)) * three(), backend="eager")(torch.ones(()))))
from torch.utils.data.sampler import RandomSampler
loader = torch.utils.data.DataLoader([1, 2], sampler=RandomSampler([1, 2]))
layer = torch.nn.Linear(1, 1)
torch.optim.SGD(layer.parameters(), lr=0.1).step()
torch.ao.quantization.quantize_dynamic(layer)
print(len(list(loader)), torch.nn.Linear(3, 4, device="meta").weight.device)
print(torch.distributions.constraints is constraints, torch.distributions.Normal(0, 1).support)
print(drawn == torch.rand(2, generator=torch.Generator().manual_seed(1)).tolist())
"""


def test_a_process_on_a_cpu_gets_torchs_compiler_when_it_asks_for_it() -> None:
    before = ["LLLL", "L", "False", "False", "False", "True", "3.0", "False", "False"]
    after = ["True", "True", "True", "True", "True", "o", "9.0", "2", "meta"]
    after += ["True", "Real()", "True"]
    assert child(_PUT_OFF) == [*before, *after]


_NO_HUB = """
import sys
from batchgen.startup.quick_transformers import QuickImports
quick = QuickImports()
quick.install(), quick.alone(is_file=True)
import transformers.models.llama.modeling_llama
print("huggingface_hub.hf_api" in sys.modules)
quick.done()
from huggingface_hub import HfApi
from transformers.utils import hub
print(HfApi.__module__, isinstance(HfApi, type), isinstance(hub.HfApi(endpoint="x"), HfApi))
"""


def test_a_model_that_is_a_file_gets_the_hubs_client_when_somebody_asks_for_it() -> None:
    assert child(_NO_HUB) == ["False", "huggingface_hub.hf_api", "True", "True"]


def test_tables_that_say_the_same_are_one() -> None:
    class Mapping:
        def __init__(self, configs: dict[str, str]) -> None:
            self._reverse_config_mapping = {value: key for key, value in configs.items()}

    module = ModuleType("transformers.models.auto.auto_factory")
    vars(module)["_LazyAutoMapping"] = Mapping
    quick_transformers.share_reverses(module)
    one, other, third = Mapping({"a": "b"}), Mapping({"a": "b"}), Mapping({"a": "c"})
    assert one._reverse_config_mapping is other._reverse_config_mapping
    assert third._reverse_config_mapping == {"c": "a"}


def test_a_tokenizer_that_was_just_read_is_not_copied_once_more() -> None:
    module = ModuleType("transformers.tokenization_utils_tokenizers")
    vars(module).update(copy=copy, TokenizerFast=bytearray)
    quick_transformers.share_tokenizers(module)
    tokenizer, options = bytearray(), {"a": [1]}
    assert module.copy.deepcopy(tokenizer) is tokenizer
    assert module.copy.deepcopy(options) == options
    assert module.copy.deepcopy(options)["a"] is not options["a"]
    assert copy.deepcopy(tokenizer) is not tokenizer


def test_tritons_digest_is_found_once_for_an_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHGEN_CACHE_DIR", str(tmp_path / "cache"))
    package, asked = tmp_path / "triton", []
    (package / "_C").mkdir(parents=True)

    def key() -> str:
        module = ModuleType("triton.runtime.cache")
        vars(module)["triton_key"] = lambda: asked.append(1) or "3.6"
        vars(module)["__file__"] = str(package / "runtime" / "cache.py")
        quick_torch.keep_triton_key(module)
        return f"{module.triton_key()}{len(asked)}"

    assert [key(), key()] == ["3.61", "3.62"]  # a working copy
    record = tmp_path / "triton-3.6.dist-info" / "RECORD"
    record.parent.mkdir()
    record.write_text("")
    assert [key(), key()] == ["3.63", "3.63"]
    (package / "_C" / "libtriton.so").write_text("another")
    assert [key(), key()] == ["3.64", "3.64"]


def test_the_compilers_templates_are_made_when_they_are_used() -> None:
    import jinja2

    class KernelTemplate:
        made: ClassVar[list[str]] = []

        @staticmethod
        def _template_from_string(source: str) -> jinja2.Template:
            KernelTemplate.made.append(source)
            return jinja2.Template(source)

    module = ModuleType("torch._inductor.codegen.common")
    vars(module)["KernelTemplate"] = KernelTemplate
    quick_torch.delay_templates(module)
    template = KernelTemplate._template_from_string("{{ a }}!")
    assert not KernelTemplate.made
    assert [template.render(a=1), template.render(a=2)] == ["1!", "2!"]
    assert KernelTemplate.made == ["{{ a }}!"]


def test_installed_packages_are_known_until_one_comes_or_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    (site / "one-1.dist-info").mkdir(parents=True)
    work.mkdir()
    monkeypatch.setattr(sys, "path", [str(work), str(site), str(tmp_path / "absent")])
    known = quick_transformers._places()
    (work / "out.parquet").write_text("")
    assert quick_transformers._places() == known
    (site / "two-1.dist-info").mkdir()
    assert quick_transformers._places() != known


def test_the_cuda_context_is_made_of_the_device_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []
    driver = SimpleNamespace(
        cuInit=lambda flags: asked.append(flags) or 0,
        cuDeviceGet=lambda handle, number: asked.append(number) or 0,
        cuDeviceGetAttribute=lambda value, name, handle: 0 if name == 20 else 1,
        cuDevicePrimaryCtxRetain=lambda context, handle: 0,
    )
    monkeypatch.setattr(ahead.ctypes, "CDLL", lambda name: driver)
    gpus = [ahead.find_gpu("cuda:3"), ahead.find_gpu("auto")]
    assert all(gpu is not None and gpu.is_shared and gpu.make_context() for gpu in gpus)
    assert asked == [0, 3, 0, 0]
    driver.cuDeviceGetAttribute = lambda value, name, handle: 1  # its mode cannot be told
    gpu = ahead.find_gpu("cuda")
    assert gpu is not None
    assert not gpu.is_shared, "another process might take it from us"
    driver.cuInit = lambda flags: 100  # no device
    assert ahead.find_gpu("cuda") is None
    assert ahead.find_gpu("cpu") is None


def test_reading_ahead_stops_at_half_of_the_free_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(3 * (8 << 20)))
    monkeypatch.setattr(ahead, "_is_in_memory", lambda *_: False)
    assert ahead.read_ahead([file, tmp_path / "missing"]) == 3 * (8 << 20)
    monkeypatch.setattr(ahead, "available_host_memory", lambda: 40 << 20)
    assert ahead.read_ahead([file]) == 2 * (8 << 20)
    monkeypatch.undo()
    assert ahead.read_ahead([file]) <= 3 * (8 << 20)


def test_a_cgroups_limit_bounds_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "jobs" / "one"
    own.mkdir(parents=True)
    (tmp_path / "own").write_text("1:name=systemd:/\n0::/jobs/one\n")
    monkeypatch.setattr(host_memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(host_memory, "_OWN_CGROUP", tmp_path / "own")
    limited(own, "max", 5_000_000)
    machine = host_memory.available_host_memory()
    assert machine > 4_000_000
    limited(own.parent, "3000000", 2_000_000)
    assert host_memory.available_host_memory() == 1_000_000
    (own.parent / "memory.stat").write_text("anon 5\ninactive_file 500000\n")
    assert host_memory.available_host_memory() == 1_500_000


def limited(folder: Path, limit: str, used: int) -> None:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")


def test_the_timeline_counts_from_the_process_and_adds_up_equal_names() -> None:
    timeline.begin(own_process=True)
    assert timeline.mark("first token")
    assert not timeline.mark("first token")
    assert timeline.seconds_of("first token") > 0
    timeline.begin()
    for _ in range(2):
        with timeline.span("capture"):
            time.sleep(0.01)
    assert 0.02 <= timeline.seconds_of("capture") < 5
    assert timeline.seconds_of("proof") == 0
    assert timeline.text().count("capture") == 2
    timeline.begin()
    assert timeline.spans() == []


def test_leaving_waits_for_no_compiling_process_and_runs_what_was_left_for_the_end() -> None:
    code = (
        "import atexit, sys, time, types\n"
        "from batchgen.cli.process.leave import leave_at_once\n"
        "pool = types.SimpleNamespace(running=True)\n"
        "compilers = types.SimpleNamespace(_pool_set=[pool])\n"
        "sys.modules |= {'torch': compilers, 'torch._inductor.async_compile': compilers}\n"
        "atexit.register(lambda: print('left', 'waiting' * pool.running, flush=True))\n"
        "leave_at_once(0, own_process=True)\n"
        "print('still here')"
    )
    assert child(code) == ["left"]


@pytest.mark.parametrize("own_process", [True, False])
def test_our_own_process_is_not_torn_down_under_threads_in_native_code(own_process: bool) -> None:
    code = (
        "import sys\n"
        "from batchgen.cli.process.leave import leave_at_once\n"
        "class Held:\n"
        "    def __del__(self, out=sys.stdout):\n"
        "        print('torn', file=out, flush=True)\n"
        "held = Held()\n"
        f"leave_at_once(0, own_process={own_process})\n"
    )
    assert child(code) == ([] if own_process else ["torn"])


def test_a_package_is_absent_as_long_as_it_is_not_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unwanted_package.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with absent("unwanted_package"), pytest.raises(ModuleNotFoundError, match="not needed"):
        importlib.import_module("unwanted_package")
    importlib.import_module("unwanted_package")
    monkeypatch.delitem(sys.modules, "unwanted_package")
