"""Codecs equal transformers' tokenizers, need no torch, and put one BOS before a chat."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from test_model_files import write_gguf
from tokenizer_folders import CHATML, SPECIAL, TEXTS, make

from batchgen.errors import ErrorCode, ModelRefusedError, RowError, UsageError
from batchgen.job.model.files import resolve_model
from batchgen.job.rows import InputRow
from batchgen.job.templates.chat_shape import with_system
from batchgen.job.templates.chat_template import ChatTemplate
from batchgen.job.text.requests import Requests
from batchgen.job.text.text_codec import TextCodec
from batchgen.job.text.tokenizer import NotCheckableError, load_codec
from batchgen.job.text.transformers_codec import TransformersCodec

KINDS = ["gpt2", "gpt2_class", "llama3", "llama_class", "qwen2", "truncating"]
CHATS = [
    [{"role": "user", "content": "Hi"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "  Hello 123 "},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "again <|im_end|>"},
    ],
]


def codec_of(folder: Path, **options: Any) -> TextCodec:
    return load_codec(resolve_model(str(folder)), **options)


def auto(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_text_equal_those_of_auto_tokenizer(tmp_path: Path, kind: str) -> None:
    folder = make(tmp_path / "m", kind)
    codec, theirs = codec_of(folder), auto(folder)
    texts = [text for text in TEXTS if text]
    ids = codec.encode_batch(texts)
    bos = codec.bos_token_id
    found = [theirs(text)["input_ids"] for text in texts]
    assert ids == [one[1:] if one[:2] == [bos, bos] else one for one in found]  # one is enough
    expected = [
        theirs.decode(one, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for one in ids
    ]
    assert codec.decode_batch(ids) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_chats_equal_apply_chat_template(tmp_path: Path, kind: str) -> None:
    folder = make(tmp_path / "m", kind)
    codec, theirs = codec_of(folder), auto(folder)
    for chat in CHATS:
        expected = theirs.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        assert codec.render(chat) == expected


def test_rich_templates_render_as_transformers_renders_them(tmp_path: Path) -> None:
    template = """{%- set ns = namespace(last=0) -%}
    {%- for m in messages -%}
        {%- if loop.index is divisibleby 2 -%}{%- continue -%}{%- endif -%}
        {%- set ns.last = loop.index -%}
        {% generation %}{{ m | tojson(indent=2) }}{% endgeneration %}
    {%- endfor %}
    {{ ns.last }} {{ eos_token }} {{ tools is none }} {{ flag }}
    """
    folder = make(tmp_path / "m", "gpt2")
    codec, theirs = codec_of(folder, chat_template=template), auto(folder)
    ours = codec.render_text(CHATS[1], {"flag": "<&é>"})
    expected = theirs.apply_chat_template(
        CHATS[1], chat_template=template, tokenize=False, add_generation_prompt=True, flag="<&é>"
    )
    assert ours == expected


@pytest.mark.parametrize(
    ("template", "leading"),
    [("{{ bos_token }}x", 1), ("{{ bos_token }}{{ bos_token }}x", 1), ("{{ 'x' }}", 1)],
)
def test_a_chat_begins_with_exactly_one_bos(tmp_path: Path, template: str, leading: int) -> None:
    codec = codec_of(make(tmp_path / "m", "llama3"), chat_template=template)
    ids = codec.render(CHATS[0])
    assert ids[:2].count(codec.bos_token_id) == leading
    assert ids[0] == codec.bos_token_id


def test_a_tokenizer_that_adds_no_bos_gets_none(tmp_path: Path) -> None:
    codec = codec_of(make(tmp_path / "m", "gpt2"), chat_template="{{ 'x' }}")
    assert codec.bos_token_id not in codec.render(CHATS[0])


def test_an_empty_prompt_is_the_bos_alone_or_nothing(tmp_path: Path) -> None:
    with_bos = codec_of(make(tmp_path / "a", "gpt2"))
    assert with_bos.encode_batch([""]) == [[with_bos.bos_token_id]]
    assert codec_of(make(tmp_path / "b", "qwen2")).encode_batch([""]) == [[]]


WITHOUT_TORCH = """
import json, sys
from batchgen.job.model.files import resolve_model
from batchgen.job.text.tokenizer import load_codec
for folder in sys.argv[3:]:
    codec = load_codec(resolve_model(folder), hide_torch=True)
    ids = codec.encode_batch(json.loads(sys.argv[1])) + [codec.render(json.loads(sys.argv[2]))]
    assert "torch" not in sys.modules and "transformers" not in sys.modules
    print(json.dumps([ids, codec.decode_batch(ids)]))
"""


def test_without_torch_the_ids_are_the_same(tmp_path: Path) -> None:
    folders = [make(tmp_path / kind, kind) for kind in KINDS]
    arguments = [json.dumps(TEXTS), json.dumps(CHATS[1]), *map(str, folders)]
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_TORCH, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    for kind, folder, line in zip(KINDS, folders, ran.stdout.splitlines(), strict=True):
        codec = codec_of(folder)
        ids = [*codec.encode_batch(TEXTS), codec.render(CHATS[1])]
        assert json.loads(line) == [ids, codec.decode_batch(ids)], kind
    assert ran.stderr == ""


def test_a_template_that_fails_is_a_row_error(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", "gpt2")
    for template in ["{{ raise_exception('no system role') }}", "{{ 1 / 0 }}", "{{ x.y.z }}"]:
        with pytest.raises(RowError) as caught:
            codec_of(folder, chat_template=template).render(CHATS[0])
        assert caught.value.code is ErrorCode.TEMPLATE_ERROR
    with pytest.raises(RowError, match="no system role"):
        codec_of(folder, chat_template="{{ raise_exception('no system role') }}").render(CHATS[0])


def test_a_template_cannot_leave_the_sandbox(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", "gpt2")
    for escape in ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}"]:
        with pytest.raises(RowError):
            codec_of(folder, chat_template=escape).render(CHATS[0])


def test_empty_messages_and_missing_templates_are_row_errors(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", "gpt2")
    with pytest.raises(RowError, match="empty"):
        codec_of(folder).render([])
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    codec = codec_of(folder)
    with pytest.raises(RowError, match="--chat-template"):
        codec.render(CHATS[0])


def test_a_template_flag_takes_a_file_and_refuses_a_bad_one(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", "gpt2")
    path = tmp_path / "t.jinja"
    path.write_text("<{{ messages[0].content }}>")
    assert codec_of(folder, chat_template=str(path)).render_text(CHATS[0]) == "<Hi>"
    with pytest.raises(UsageError, match="cannot be read"):
        codec_of(folder, chat_template=str(tmp_path / "none.jinja"))
    for wrong in ("{% if %}", "{{ messages | jsonify }}", "{{ 1 is funny }}"):
        with pytest.raises(UsageError, match="does not compile"):
            codec_of(folder, chat_template=wrong)


def test_null_fields_vanish_and_text_parts_are_joined(tmp_path: Path) -> None:
    codec = codec_of(make(tmp_path / "m", "gpt2"), chat_template="{{ messages | tojson }}")
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    message = {"role": "user", "content": parts, "name": None}
    assert json.loads(codec.render_text([message])) == [{"role": "user", "content": "a\nb"}]
    with pytest.raises(RowError, match="no text"):
        codec.render([{"role": "user", "content": [{"type": "image_url"}]}])


@pytest.mark.parametrize("kind", ["gpt2", "bytes"])
def test_a_lone_surrogate_is_a_row_error(tmp_path: Path, kind: str) -> None:
    codec = load_codec(None) if kind == "bytes" else codec_of(make(tmp_path / "m", kind))
    for call in (
        lambda: codec.encode_batch(["fine", "a\ud800b"]),
        lambda: codec.render([{"role": "user", "content": "a\ud800b"}]),
    ):
        with pytest.raises(RowError) as caught:
            call()
        assert caught.value.code is ErrorCode.INVALID_ROW


def test_the_clock_of_a_template_is_the_jobs(tmp_path: Path) -> None:
    codec = codec_of(
        make(tmp_path / "m", "gpt2"),
        chat_template="{{ strftime_now('%Y-%m-%d') }}",
        now=datetime(2026, 2, 3),
    )
    assert codec.render_text(CHATS[0]) == "2026-02-03"


def test_a_system_message_goes_before_chats_that_have_none() -> None:
    assert [m["role"] for m in with_system(CHATS[0], "s")] == ["system", "user"]
    assert [m["role"] for m in with_system(CHATS[1], "s")].count("system") == 1


def test_a_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", "gpt2")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelRefusedError, match="tokenizer cannot be loaded"):
        codec_of(folder)


def test_batches_may_be_encoded_from_a_thread(tmp_path: Path) -> None:
    codec = codec_of(make(tmp_path / "m", "llama3"))
    results: list[list[list[int]]] = []
    threads = [
        threading.Thread(target=lambda: results.append(codec.encode_batch(TEXTS * 50)), daemon=True)
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 4
    assert all(result == codec.encode_batch(TEXTS) * 50 for result in results)


class CountingBackend:
    """A tokenizer in Rust that remembers which of its functions were called."""

    def __init__(self, backend: Any) -> None:
        self.backend, self.calls = backend, list[str]()

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(self.backend, name)


def test_many_chats_become_tokens_in_one_call_that_other_threads_run_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = codec_of(make(tmp_path / "m", "qwen2"))
    texts = [codec.render_text(chat) for chat in CHATS * 20]
    one_by_one = [codec.encode_rendered([text])[0] for text in texts]
    counting = CountingBackend(codec._backend)  # type: ignore[attr-defined]
    monkeypatch.setattr(codec, "_backend", counting)
    assert codec.encode_rendered(texts) == one_by_one
    assert counting.calls == ["encode_batch_fast"]  # which releases the GIL, as `encode` does not


def test_few_texts_are_decoded_without_threads_as_they_are_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = codec_of(make(tmp_path / "m", "qwen2"))
    ids = [[*one, codec.special_token_id("<|im_end|>") or 0] for one in codec.encode_batch(TEXTS)]
    for skip in (True, False):
        many = codec.decode_batch(ids, skip)
        with monkeypatch.context() as patch:
            counting = CountingBackend(codec._backend)  # type: ignore[attr-defined]
            patch.setattr(codec, "_backend", counting)
            few = [text for one in ids for text in codec.decode_batch([one, one[1:]], skip)]
            assert set(counting.calls) == {"decode"}  # a stop string asks so for every token
            counting.calls.clear()
            codec.decode_batch([ids[0] * 50], skip)
            assert counting.calls == ["decode_batch"]  # other threads run beside it
        assert few[::2] == many


def test_bytes_serve_the_echo_engine_without_a_model() -> None:
    codec = load_codec(None)
    ids = codec.encode_batch(["héllo", ""])
    assert ids == [list("héllo".encode()), []]
    assert codec.decode_batch([*ids, [104, 300, -1, 105]]) == ["héllo", "", "hi"]
    assert codec.decode_batch([codec.render(CHATS[0])]) == ["user: Hi\nassistant: "]


def gguf_of(folder: Path, path: Path, pre: str, **extra: Any) -> Path:
    """The folder's byte-level tokenizer as a GGUF file without weights."""
    saved = json.loads((folder / "tokenizer.json").read_text())["model"]
    tokens = sorted(saved["vocab"], key=saved["vocab"].__getitem__)
    return write_gguf(
        path,
        {
            "general.architecture": "llama",
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token in tokens],
            "tokenizer.ggml.merges": [" ".join(merge) for merge in saved["merges"]],
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.chat_template": CHATML,
            **extra,
        },
    )


def test_a_gguf_vocabulary_gives_the_ids_of_its_folder(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", "gpt2")
    path = gguf_of(folder, tmp_path / "m.gguf", "gpt-2")
    ours, theirs = codec_of(path), codec_of(folder)
    assert ours.encode_batch(TEXTS) == theirs.encode_batch(TEXTS)
    assert ours.render(CHATS[1]) == theirs.render(CHATS[1])
    ids = theirs.encode_batch(TEXTS)
    assert ours.decode_batch(ids) == theirs.decode_batch(ids)


def test_a_gguf_file_that_splits_digits_has_them_split(tmp_path: Path) -> None:
    path = gguf_of(make(tmp_path / "m", "gpt2"), tmp_path / "m.gguf", "smollm")
    codec = codec_of(path)
    ids = codec.encode_batch(["12345"])[0]
    assert codec.decode_batch([[one] for one in ids]) == ["1", "2", "3", "4", "5"]


def test_a_gguf_file_says_whether_a_bos_is_added(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", "gpt2")
    flag = {"tokenizer.ggml.add_bos_token": True}
    codec = codec_of(gguf_of(folder, tmp_path / "m.gguf", "gpt-2", **flag))
    assert codec.encode_batch(["Hello"])[0][0] == codec.bos_token_id == 1
    assert codec.render(CHATS[0])[0] == 1


def test_an_unknown_pre_tokenizer_is_refused(tmp_path: Path) -> None:
    path = gguf_of(make(tmp_path / "m", "gpt2"), tmp_path / "m.gguf", "brand-new")
    with pytest.raises(ModelRefusedError, match="brand-new"):
        codec_of(path)


def python_tokenizer(folder: Path) -> Path:
    """ByT5's: no Rust backend."""
    folder.mkdir()
    settings = {"tokenizer_class": "ByT5Tokenizer", "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text('{"model_type": "llama", "vocab_size": 384}')
    return folder


def test_a_tokenizer_without_a_rust_backend_is_used_through_transformers(tmp_path: Path) -> None:
    folder = python_tokenizer(tmp_path / "m")
    codec, theirs = codec_of(folder), auto(folder)
    ids = codec.encode_batch(TEXTS[:3])
    assert ids == [theirs(text)["input_ids"] for text in TEXTS[:3]]
    assert codec.decode_batch(ids) == [theirs.decode(i, skip_special_tokens=True) for i in ids]
    expected = theirs.apply_chat_template(CHATS[0], add_generation_prompt=True)["input_ids"]
    assert codec.render(CHATS[0]) == expected


class Spelling:
    """As mistral-common's tokenizer: what text says is letters, special tokens too."""

    bos_token_id = 256
    all_special_tokens = ("<s>", "[INST]", "[/INST]")

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [256] * add_special_tokens + list(text.encode())}

    def convert_tokens_to_ids(self, text: str) -> int:
        return 256 + self.all_special_tokens.index(text)


def test_a_template_s_special_tokens_are_read_where_the_tokenizer_spells_them() -> None:
    source = "<s>{% for m in messages %}[INST]{{ m.content }}[/INST]{% endfor %}"
    codec = TransformersCodec(Spelling(), ChatTemplate(source, {}), 300)
    assert codec.render([{"role": "user", "content": "a[b"}]) == [256, 257, 97, 91, 98, 258]
    assert codec.encode_batch(["[INST]"]) == [[256, *b"[INST]"]]


def test_without_torch_such_a_tokenizer_is_named_as_not_checkable(tmp_path: Path) -> None:
    with pytest.raises(NotCheckableError, match="ByT5Tokenizer"):
        codec_of(python_tokenizer(tmp_path / "m"), hide_torch=True)


def test_a_raw_prompt_with_the_bos_text_has_it_once_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    codec = codec_of(make(tmp_path / "m", "llama3"), chat_template="{{ bos_token }}{{ messages }}")
    texts = ["a", "<s>b", "<s>c"]
    rows = [InputRow(i, f"in.jsonl:{i + 1}", prompt=text) for i, text in enumerate(texts)]
    chat = InputRow(3, "in.jsonl:4", messages=CHATS[0])
    requests = Requests(codec)
    ready, failed = requests.prepare([chat, rows[0]])
    assert not caplog.messages
    ready, failed = requests.prepare(rows)
    requests.prepare(rows)
    requests.close()
    expected = auto(tmp_path / "m")
    ids = [list(one.requests[0].prompt_token_ids) for one in ready]
    assert (ids, failed) == (
        [expected(text.removeprefix("<s>"))["input_ids"] for text in texts],
        [],
    )
    assert ids[1].count(codec.bos_token_id) == 1
    (said,) = caplog.messages
    assert said.startswith("in.jsonl:2: the prompt begins with the model's BOS token")
