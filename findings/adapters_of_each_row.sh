#!/usr/bin/env bash
# One batch whose rows name their adapters, peft's `adapter_names=["one", "two", "__base__"]`, for two adapters
# of one kind, against the same prompt by each of them alone and by the model without any.
#
# Seen with peft 0.21.2, transformers 5.24.0, torch 2.13.0:
#   For LoRA (rank-stabilised too) each row is by its own adapter, and DoRA raises. For the nine other kinds
#   asked here (IA3, VeRA, LoHa, LoKr, OFT, HRA, HiRA, FourierFT, RandLoRA) the argument is taken and does
#   nothing, in `forward` as in `generate`: all three rows are by the adapter that is active, the row that
#   asked for the model without one among them. A name that no adapter has LoRA refuses; they take it. No
#   warning.
# So a job of many tenants, each with an adapter of its own, answers all of them by one, once it is not LoRA
# that they were trained with, and every row is fluent and of the right task.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 peft==0.21.2
cd "$work"
cat > look.py <<'PY'
import warnings
from importlib.metadata import version

import peft
import torch
from transformers import LlamaConfig, LlamaForCausalLM

LAYERS = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
KINDS = {
    "LoRA": peft.LoraConfig(r=4, **LAYERS),
    "rsLoRA": peft.LoraConfig(r=4, use_rslora=True, **LAYERS),
    "DoRA": peft.LoraConfig(r=4, use_dora=True, **LAYERS),
    "IA3": peft.IA3Config(feedforward_modules=[], **LAYERS),
    "VeRA": peft.VeraConfig(r=4, **LAYERS),
    "LoHa": peft.LoHaConfig(r=4, **LAYERS),
    "LoKr": peft.LoKrConfig(r=4, **LAYERS),
    "OFT": peft.OFTConfig(r=4, oft_block_size=0, **LAYERS),
    "HRA": peft.HRAConfig(r=4, **LAYERS),
    "HiRA": peft.HiraConfig(r=4, **LAYERS),
    "FourierFT": peft.FourierFTConfig(n_frequency=20, **LAYERS),
    "RandLoRA": peft.RandLoraConfig(r=4, **LAYERS),
}
ASKED = ["one", "two", "__base__"]
ROWS = torch.tensor([[4, 5, 6, 7, 8, 9]] * len(ASKED))
config = LlamaConfig(
    vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
    bos_token_id=1, eos_token_id=None, pad_token_id=0,
)


def model_of(kind):
    """A small model with two adapters of the kind, both of random weights; the first is active."""
    torch.manual_seed(0)
    model = peft.get_peft_model(LlamaForCausalLM(config), kind, adapter_name="one")
    model.add_adapter("two", kind)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith((".one", ".two")) or ".one." in name or ".two." in name:
                weight.add_(torch.randn_like(weight), alpha=0.3)
    return model.eval()


def whose(found, alone):
    """Which of ASKED a row's logits are of."""
    near = [name for name, logits in alone.items() if float((found - logits).abs().max()) < 1e-4]
    return near[0] if len(near) == 1 else "none of them"


print(*(f"{name} {version(name)}" for name in ("peft", "transformers", "torch")), sep=", ")
seen = {}
mask = torch.ones_like(ROWS)
with torch.no_grad(), warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    for kind, settings in KINDS.items():
        model = model_of(settings)
        alone = {}
        for name in ("one", "two"):
            model.set_adapter(name)
            alone[name] = model(input_ids=ROWS, attention_mask=mask).logits[0]
        with model.disable_adapter():
            alone["__base__"] = model(input_ids=ROWS, attention_mask=mask).logits[0]
        model.set_adapter("one")
        asked = {"input_ids": ROWS, "attention_mask": mask}
        del warned[:]
        try:
            rows = model(**asked, adapter_names=ASKED).logits
        except ValueError as error:
            seen[kind] = f"refuses: {error}"
            print(f"{kind:9} {seen[kind]}")
            continue
        seen[kind] = [whose(row, alone) for row in rows]
        drawn = model.generate(**asked, adapter_names=ASKED, max_new_tokens=12, do_sample=False)
        first = model.generate(**asked, max_new_tokens=12, do_sample=False)
        assert torch.equal(drawn, first) == (seen[kind] != ASKED), kind
        try:
            model(**asked, adapter_names=["nobody"] * len(ASKED))
            unknown = "taken"
        except ValueError:
            unknown = "refused"
        said = [str(one.message) for one in warned if "adapter" in str(one.message)]
        print(f"{kind:9} rows by {seen[kind]}, an unknown name is {unknown}, warnings: {said}")
        assert unknown == ("refused" if seen[kind] == ASKED else "taken") and not said, kind
assert seen.pop("DoRA").startswith("refuses")
assert seen.pop("LoRA") == seen.pop("rsLoRA") == ASKED
assert len(seen) == 9 and all(rows == ["one"] * 3 for rows in seen.values())
PY
HF_HOME=$work/hf venv/bin/python look.py 2>said || { cat said; exit 1; }
