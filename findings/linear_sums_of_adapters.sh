#!/usr/bin/env bash
# Two LoRA adapters of one layer made into a third by peft's `add_weighted_adapter`, with weights of
# their own, and how far its change of the layer is from the weighted sum of their changes.
#
# Seen with peft 0.21.2, torch 2.13.0:
#   "linear" adds the factors, not their products: of half of each, or of one less the other, the
#   change is off by about its own length, since each A meets the other's B. "cat" and "svd" (of a
#   rank that is large enough) give the sum; so do two adapters that are active at once. "ties",
#   "dare_linear" and "magnitude_prune" prune the factors too: at density 1, where they prune nothing,
#   they are as far off. One adapter alone "linear" scales exactly.
# So a mixture tried with both adapters active is another model once it was made by the combination
# that is named after what it does not do.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 peft==0.21.2
cd "$work"
HF_HOME=$work/hf venv/bin/python - <<'PY' 2>/dev/null
from importlib.metadata import version

import torch
from peft import LoraConfig, get_peft_model

torch.manual_seed(0)
WIDTH, RANK = 64, 4


def config():
    return LoraConfig(r=RANK, lora_alpha=8, target_modules=["0"], init_lora_weights=False)


layer = torch.nn.Linear(WIDTH, WIDTH, bias=False)
model = get_peft_model(torch.nn.Sequential(layer), config(), adapter_name="one")
model.add_adapter("two", config())
change = model.base_model.model[0].get_delta_weight
HOW = {
    "linear": {},
    "cat": {},
    "svd": {"svd_rank": 2 * RANK},
    "dare_linear": {"density": 1.0},
    "magnitude_prune": {"density": 1.0},
    "ties": {"density": 1.0},
}
WEIGHTS = [(0.5, 0.5), (1.0, -1.0), (0.7, 0.3)]


def off(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


print(*(f"{name} {version(name)}" for name in ("peft", "torch")), sep=", ")
with torch.no_grad():
    seen = {}
    for how, rest in HOW.items():
        for number, (one, two) in enumerate(WEIGHTS):
            name = f"{how}_{number}"
            model.add_weighted_adapter(["one", "two"], [one, two], name, combination_type=how, **rest)
            seen[how, one, two] = off(change(name), one * change("one") + two * change("two"))
        told = ", ".join(f"{seen[how, *pair]:.2f} of {pair[0]} and {pair[1]}" for pair in WEIGHTS)
        print(f"{how:16} off by {told}")
    x = torch.randn(5, WIDTH)
    model.base_model.set_adapter(["one", "two"])
    both = off(model(x) - layer(x), x @ (change("one") + change("two")).T)
    model.add_weighted_adapter(["one"], [0.5], "alone", combination_type="linear")
    alone = off(change("alone"), 0.5 * change("one"))
    print(f"both active off by {both:.2f}, half of one alone by {alone:.2f}")
for (how, *_), distance in seen.items():
    if how in ("cat", "svd"):
        assert distance < 1e-4, how
    else:
        assert distance > 0.5, how
assert both < 1e-4 and alone < 1e-4
PY
