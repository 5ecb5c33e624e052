"""A LoRA adapter's folder, told from a model's: an adapter alone computes nothing, and one that
lies beside a model's weights would not be applied."""

from __future__ import annotations

from pathlib import Path

from batchgen.errors import ModelRefusedError
from batchgen.job.model.json_files import ModelJson
from batchgen.lora_config import CONFIG_NAME

__all__ = ["refuse_adapter"]


def refuse_adapter(folder: Path, ref: str) -> None:
    """Raises ModelRefusedError where the folder is a PEFT adapter, or holds one too."""
    if not (folder / CONFIG_NAME).is_file():
        return
    config = ModelJson(folder).read(CONFIG_NAME)
    kind, base = config.get("peft_type") or "PEFT", config.get("base_model_name_or_path")
    if (folder / "config.json").is_file():
        raise ModelRefusedError(
            f"{ref}: a {kind} adapter ({CONFIG_NAME}) lies beside the model's weights and would "
            "not be applied",
            f"for the base model alone move {CONFIG_NAME} out of the folder; to apply it, move it "
            "and its weights to a folder of their own, for --adapter; or merge first: "
            f"{_merge(folder)}",
        )
    raise ModelRefusedError(
        f"{ref}: a {kind} adapter ({CONFIG_NAME}), not a model; its base model is {base or '?'}",
        f"--model {base or 'BASE'} --adapter {ref}; or merge the two and name the result: "
        f"{_merge(folder)}",
    )


def _merge(folder: Path) -> str:
    """A command to paste into a shell: weights and tokenizer go to `merged`."""
    steps = (
        "from peft import AutoPeftModelForCausalLM as P",
        "from transformers import AutoTokenizer as T",
        "p = P.from_pretrained(sys.argv[1])",
        "b = p.peft_config['default'].base_model_name_or_path",
        "p.merge_and_unload().save_pretrained('merged')",
        "T.from_pretrained(b).save_pretrained('merged')",
    )
    return f"pip install peft && python -c \"import sys; {'; '.join(steps)}\" '{folder}'"
