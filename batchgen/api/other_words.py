"""What scripts call in vLLM, SGLang, transformers' pipelines and others, and what there is here."""

from __future__ import annotations

__all__ = ["OF_CALLS", "OF_MODELS", "OF_RESULTS", "advised"]

_NO_VECTORS = "it generates, decides and scores; embeddings are not served"
_TEXT = "completion is its text, and a second sample is a result of its own"

OF_MODELS = {
    "batch_generate": "generate takes all rows",
    "beam_search": "there is none: n with a temperature gives several answers to choose from",
    "chat": "generate takes chats: [[{'role': 'user', 'content': ...}]] is one row",
    "classify": "generate rows with choices, as {'prompt': ..., 'choices': ['yes', 'no']}",
    "embed": _NO_VECTORS,
    "encode": _NO_VECTORS,
    "generate_text": "generate gives results, whose completion is the text",
    "get_tokenizer": "transformers.AutoTokenizer.from_pretrained(...) loads it",
    "score": "generate rows with max_tokens 0 and prompt_logprobs 0, or with choices",
    "shutdown": "close frees its device",
}
"""Of a loaded model."""
OF_CALLS = {
    "chat_template": "LLM(..., chat_template=...) takes it",
    "chat_template_kwargs": "LLM(..., chat_template_kwargs=...) takes it, or each row",
    "lora_request": "a row names its adapter: {'prompt': ..., 'adapter': 'NAME'}",
    "messages": "rows come first, without a name, and a list of messages is one",
    "priority": "leave it out: rows begin in the order that ends soonest",
    "prompt_token_ids": "rows come first, without a name, and a list of token ids is one",
    "prompts": "rows come first, without a name",
    "tools": "each row has its own: {'messages': ..., 'tools': [...]}",
    "use_tqdm": "leave it out: tqdm(llm.generate(rows)) counts the results",
}
"""Of the arguments of a call that generates."""
OF_RESULTS = {
    "cumulative_logprob": "it is the sum of logprobs, which logprobs=0 asks for",
    "generated_text": _TEXT,
    "output_text": _TEXT,
    "outputs": _TEXT,
    "prompt_token_ids": "prompt_tokens counts them",
    "request_id": "id is the row's",
    "text": _TEXT,
}
"""Of what a row gives."""


def advised(said: str, advice: str | None) -> str:
    """The two as one sentence."""
    return said if advice is None else f"{said}: {advice}"
