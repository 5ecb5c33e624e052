"""Stop strings are found at the token that completes them, wherever tokens and bytes are cut."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_folders import make
from tokenizers import Tokenizer, decoders, models

from batchgen.job.model.files import resolve_model
from batchgen.job.text.backend_codec import BackendCodec
from batchgen.job.text.stop_strings import make_stop_checker, num_exempt_characters, truncate
from batchgen.job.text.text_codec import TextCodec
from batchgen.job.text.tokenizer import load_codec

KINDS = ["gpt2", "llama_class"]


@pytest.fixture(scope="module")
def codecs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextCodec]:
    folder = tmp_path_factory.mktemp("tokenizers")
    found = {k: load_codec(resolve_model(str(make(folder / k, k)))) for k in KINDS}
    return found | {"bytes": load_codec(None)}


def first_stop(codec: TextCodec, ids: list[int], stops: list[str]) -> tuple[int, str | None]:
    """How many ids it took, and the stop found."""
    checker = make_stop_checker(codec, stops)
    assert checker is not None
    for count in range(1, len(ids) + 1):
        found = checker(ids[:count])
        if found is not None:
            return count, found
    return len(ids), None


@pytest.mark.parametrize("kind", [*KINDS, "bytes"])
@settings(max_examples=60, deadline=None)
@given(
    text=st.text(alphabet="ab \nhello é日🎉.", min_size=1, max_size=30),
    cut=st.tuples(st.integers(0, 29), st.integers(1, 6)),
)
def test_a_stop_is_found_at_the_token_that_completes_it(
    codecs: dict[str, TextCodec], kind: str, text: str, cut: tuple[int, int]
) -> None:
    codec = codecs[kind]
    ids = codec.encode_batch([text])[0]
    text = codec.decode_batch([ids])[0]
    stop = text[cut[0] : cut[0] + cut[1]]
    if not stop:
        return
    count, found = first_stop(codec, ids, [stop])
    assert found == stop
    assert stop in codec.decode_batch([ids[:count]])[0]
    assert stop not in codec.decode_batch([ids[: count - 1]])[0]


@pytest.mark.parametrize("kind", [*KINDS, "bytes"])
def test_what_does_not_occur_is_not_found(codecs: dict[str, TextCodec], kind: str) -> None:
    ids = codecs[kind].encode_batch(["hello 日本語 hell"])[0]
    assert first_stop(codecs[kind], ids, ["hello!", "日語"])[1] is None


def test_a_stop_of_tokens_that_each_end_within_a_character_is_found(
    codecs: dict[str, TextCodec],
) -> None:
    for text in ("日日日日", "日" * 12):
        ids = codecs["gpt2"].encode_batch([text])[0]
        assert first_stop(codecs["gpt2"], ids, [text]) == (len(ids), text)


def test_a_character_that_begins_in_bytes_of_none_is_found(codecs: dict[str, TextCodec]) -> None:
    for broken in (b"\xf0\x80\x9f\x8e\x89", b"\x80" * 9, b"\xe6\x97" * 5):
        ids = list(broken + "🎉".encode())
        assert first_stop(codecs["bytes"], ids, ["🎉"]) == (len(ids), "🎉")


def test_several_tokens_at_once_are_searched(codecs: dict[str, TextCodec]) -> None:
    ids = codecs["gpt2"].encode_batch(["one two three"])[0]
    checker = make_stop_checker(codecs["gpt2"], ["two"])
    assert checker is not None
    assert checker(ids[:1]) is None
    assert checker(ids) == "two"


def test_the_stop_that_begins_first_is_named(codecs: dict[str, TextCodec]) -> None:
    ids = codecs["bytes"].encode_batch(["xxabc"])[0]
    checker = make_stop_checker(codecs["bytes"], ["bc", "abc"])
    assert checker is not None
    assert checker(ids) == "abc"


def test_a_special_token_is_a_stop_by_its_id(codecs: dict[str, TextCodec]) -> None:
    codec = codecs["gpt2"]
    end = codec.special_token_id("<|im_end|>")
    assert end is not None
    ids = [*codec.encode_batch(["hello"])[0], end]
    assert first_stop(codec, ids, ["<|im_end|>"]) == (len(ids), "<|im_end|>")


def test_each_call_decodes_few_tokens(codecs: dict[str, TextCodec]) -> None:
    sizes: list[int] = []

    class Counting:
        text_bytes = None

        def decode_batch(self, sequences: list[list[int]]) -> list[str]:
            sizes.extend(map(len, sequences))
            return codecs["bytes"].decode_batch(sequences)

        def special_token_id(self, text: str) -> None:
            return None

    checker = make_stop_checker(Counting(), ["zz"])  # type: ignore[arg-type]
    assert checker is not None
    ids = list(b"a" * 500)
    for count in range(1, 501):
        assert checker(ids[:count]) is None
    assert max(sizes) < 16


@pytest.mark.parametrize("kind", [*KINDS, "bytes"])
def test_what_is_complete_before_min_tokens_is_no_stop(
    codecs: dict[str, TextCodec], kind: str
) -> None:
    codec = codecs[kind]
    ids = codec.encode_batch(["a stop 🎉 b stop c stop d"])[0]
    texts = [codec.decode_batch([ids[:count]])[0].rstrip("\ufffd") for count in range(len(ids))]
    ends = [end for end in range(4, len(texts[-1]) + 1) if texts[-1].endswith("stop", 0, end)]
    for min_tokens in range(1, len(ids) - 1):
        checker = make_stop_checker(codec, ["stop", "no such long stop"], min_tokens)
        assert checker is not None
        counts = range(min_tokens, len(ids))
        count = next((count for count in counts if checker(ids[:count])), None)
        end = next((end for end in ends if end > len(texts[min_tokens - 1])), None)
        assert (count is None) == (end is None)
        if count is not None and end is not None:
            exempt = num_exempt_characters(codec, ids, min_tokens)
            assert truncate(texts[count], "stop", exempt) == texts[-1][: end - 4]


def test_no_stop_strings_need_no_checker(codecs: dict[str, TextCodec]) -> None:
    assert make_stop_checker(codecs["bytes"], []) is None
    assert make_stop_checker(codecs["bytes"], [""]) is None


def test_text_is_cut_before_the_first_occurrence() -> None:
    assert truncate("a STOP b STOP", "STOP") == "a "
    assert truncate("abc", None) == "abc"
    assert truncate("abc", "x") == "abc"
    assert truncate("a STOP b STOP", "STOP", num_exempt=5) == "a "
    assert truncate("a STOP b STOP", "STOP", num_exempt=6) == "a STOP b "


def byte_fallback_codec() -> TextCodec:
    """Every character is a run of byte tokens, which its decoder takes whole or not at all."""
    vocab = {"<unk>": 0, "<s>": 1} | {f"<0x{byte:02X}>": 2 + byte for byte in range(256)}
    model = models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return BackendCodec(tokenizer, None, 1, len(vocab))


@settings(max_examples=100, deadline=None)
@given(
    text=st.text(alphabet="🙂日é\nab", min_size=1, max_size=20),
    cut=st.tuples(st.integers(0, 19), st.integers(1, 3)),
)
def test_a_stop_in_a_run_of_byte_tokens_is_found_wherever_the_window_begins(
    text: str, cut: tuple[int, int]
) -> None:
    stop = text[cut[0] : cut[0] + cut[1]]
    if not stop:
        return
    ids = [2 + byte for byte in text.encode()]
    end = text.index(stop) + len(stop)
    assert first_stop(byte_fallback_codec(), ids, [stop]) == (len(text[:end].encode()), stop)


def pieces_of(codec: TextCodec) -> dict[bytes, int]:
    """The vocabulary by bytes; special tokens and those of no byte are left out."""
    texts = {token: codec.token_bytes(token) for token in range(codec.vocab_size)}
    special = {t for t, b in texts.items() if codec.special_token_id(b.decode("utf-8", "replace"))}
    return {data: token for token, data in texts.items() if data and token not in special}


def random_split(pieces: dict[bytes, int], data: bytes, draw: Random) -> list[int]:
    """Tokens of these bytes, cut anywhere: most are none that the tokenizer would choose."""
    ids: list[int] = []
    while data:
        fitting = [size for size in range(1, 12) if data[:size] in pieces]
        assert fitting, data
        size = draw.choice(fitting)
        ids.append(pieces[data[:size]])
        data = data[size:]
    return ids


@pytest.mark.parametrize("kind", [*KINDS, "bytes", "fallback"])
@settings(max_examples=60, deadline=None)
@given(
    text=st.text(alphabet="ab \nhello é日🎉.", min_size=1, max_size=24),
    stops=st.lists(st.text(alphabet="ab \nheloé日🎉.", min_size=1, max_size=4), max_size=3),
    cut=st.tuples(st.integers(0, 23), st.integers(1, 6)),
    random=st.randoms(use_true_random=False),
    spoilt=st.one_of(st.none(), st.tuples(st.integers(0, 40), st.integers(128, 255))),
)
def test_a_stop_is_found_in_any_split_as_in_the_whole_text(
    codecs: dict[str, TextCodec],
    kind: str,
    text: str,
    stops: list[str],
    cut: tuple[int, int],
    random: Random,
    spoilt: tuple[int, int] | None,
) -> None:
    """As a search of all that is decoded so far, after each token, would find it. Byte fallback's
    decoder takes a whole run back for one wrong byte, however late: such runs are left out."""
    codec = byte_fallback_codec() if kind == "fallback" else codecs[kind]
    data = text.encode()
    if spoilt is not None and kind in ("gpt2", "bytes"):  # a byte that is no character's
        data = data[: spoilt[0]] + bytes([spoilt[1]]) + data[spoilt[0] :]
    ids = random_split(pieces_of(codec), data, random)
    wanted = [stop for stop in (*stops, text[cut[0] : cut[0] + cut[1]]) if stop]
    if not wanted:
        return
    texts = [codec.decode_batch([ids[:count]])[0] for count in range(1, len(ids) + 1)]
    counts = (n for n, whole in enumerate(texts, 1) if any(stop in whole for stop in wanted))
    expected = next(counts, None)
    count, found = first_stop(codec, ids, wanted)
    assert (count if found else None) == expected
    if found is not None:
        assert found in texts[count - 1]


@pytest.mark.parametrize("num_special", [5, 6, 20])
def test_special_tokens_do_not_hide_the_space_that_a_stop_begins_with(
    codecs: dict[str, TextCodec], num_special: int
) -> None:
    codec = codecs["llama_class"]
    special = codec.special_token_id("<|im_end|>")
    assert special is not None
    ids = [*codec.encode_plain(["test"])[0], *[special] * num_special]
    ids += codec.encode_plain(["Hello"])[0]
    assert codec.decode_batch([ids]) == ["test Hello"]
    assert first_stop(codec, ids, [" Hello"])[1] == " Hello"


def test_a_byte_level_tokenizer_s_stops_are_found_without_decoding(
    codecs: dict[str, TextCodec], monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = codecs["gpt2"]
    ids = codec.encode_plain(["hello 日本語, and so on"])[0]
    checker = make_stop_checker(codec, ["so on"])
    assert checker is not None
    assert codec.text_bytes is not None
    assert all(codec.text_bytes[token] for token in ids)  # asked once, for all rows to come
    monkeypatch.setattr(codec, "_backend", None)
    assert [checker(ids[:count]) for count in range(1, len(ids))] == [None] * (len(ids) - 1)
    assert checker(ids) == "so on"


def test_a_stop_is_found_across_special_tokens_which_are_no_text(
    codecs: dict[str, TextCodec],
) -> None:
    codec = codecs["gpt2"]
    special = codec.special_token_id("<|im_end|>")
    assert special is not None
    ids = [one for token in codec.encode_plain(["ab 日本"])[0] for one in (special, token, special)]
    assert codec.decode_batch([ids]) == ["ab 日本"]
    assert first_stop(codec, ids, ["b 日本"]) == (len(ids) - 1, "b 日本")


@pytest.mark.parametrize("content", ["é", "x日é", "Ġ"])
def test_an_added_token_s_letters_are_taken_as_the_decoder_takes_them(content: str) -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0, "Ã": 1, "©": 2, "日Ġ": 3}, []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([content])
    codec = BackendCodec(tokenizer, None, None, 5)
    for ids in ([0, 4, 0], [4, 2, 0], [3, 4, 1, 2]):
        text = codec.decode_batch([ids])[0]
        for stop in text.split("\N{REPLACEMENT CHARACTER}"):
            if stop:
                assert first_stop(codec, ids, [stop])[1] == stop
    assert first_stop(codec, [0, 4, 0], ["no such"])[1] is None
