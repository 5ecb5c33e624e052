"""The architectures that are understood: each reads a file's metadata and says its layout.

Imports the rest of `batchgen.gguf`, with `tokenizer`.
Read `plan.py` first, then `llama.py`; the others say what differs.
"""

from collections.abc import Callable

from batchgen.gguf.architectures import cohere, gemma, glm, gpt, llama, moe, phi, qwen
from batchgen.gguf.layout import Layout
from batchgen.gguf.reading import Reading

__all__ = ["ARCHITECTURES"]

ARCHITECTURES: dict[str, Callable[[Reading], Layout]] = {
    "arcee": llama.arcee,
    "chatglm": glm.chatglm,
    "cohere2": cohere.cohere2,
    "command-r": cohere.command_r,
    "ernie4_5": llama.ernie4_5,
    "gemma": gemma.gemma,
    "gemma2": gemma.gemma2,
    "gemma3": gemma.gemma3,
    "glm4": glm.glm4,
    "gpt-oss": moe.gpt_oss,
    "gpt2": gpt.gpt2,
    "gptneox": gpt.gptneox,
    "granite": llama.granite,
    "granitemoe": moe.granitemoe,
    "hunyuan-dense": qwen.hunyuan_dense,
    "llama": llama.llama,
    "nemotron": gpt.nemotron,
    "olmo": llama.olmo,
    "olmo2": qwen.olmo2,
    "olmoe": moe.olmoe,
    "phi2": phi.phi2,
    "phi3": phi.phi3,
    "qwen2": qwen.qwen2,
    "qwen2moe": moe.qwen2moe,
    "qwen3": qwen.qwen3,
    "qwen3moe": moe.qwen3moe,
    "seed_oss": qwen.seed_oss,
    "smollm3": llama.smollm3,
    "stablelm": gpt.stablelm,
    "starcoder2": gpt.starcoder2,
}
"""By `general.architecture`."""
