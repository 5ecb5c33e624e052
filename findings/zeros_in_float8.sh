#!/usr/bin/env bash
# Layers with one row of zeros, as the output layer of a vocabulary that was padded to a round size has, or a layer
# that was pruned, made float8 and int8 by three quantisers; and the token that a model of such a layer takes.
#
# Seen with torchao 0.18.0, optimum-quanto 0.2.7, compressed-tensors 0.20.1, torch 2.13.0 on a CPU:
#   torchao's Float8WeightOnlyConfig and quanto's qfloat8 divide each row by its largest number, and 0 by 0 is NaN:
#   the row is NaN, and so is its result for every input. In torch NaN is the largest, so that argmax takes
#   that token every time, a token of the padding that no text has; its softmax is NaN for every token. The int8 of
#   both makes zeros of zeros, and so does compressed-tensors' float8. Rows that are nearly zero (1e-30) are right in
#   all five. Nobody warns, and the other rows are as they should be.
# So a model that was quantised without an error writes one unused token, or raises amid the first sampled row,
# because its vocabulary is a multiple of 64.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q torchao==0.18.0 optimum-quanto==0.2.7 compressed-tensors==0.20.1 transformers==5.24.0
cd "$work"
cat > look.py <<'PY'
import copy
from importlib.metadata import version

import optimum.quanto as quanto
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import calculate_qparams
from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

WIDTH, WORDS, PADDED = 64, 250, 256


def by_torchao(config):
    def make(head):
        model = torch.nn.Sequential(head)
        quantize_(model, config)
        return model

    return make


def by_quanto(kind):
    def make(head):
        model = torch.nn.Sequential(head)
        quanto.quantize(model, weights=kind)
        quanto.freeze(model)
        return model

    return make


def by_compressed_tensors(head):
    how = QuantizationArgs(num_bits=8, type="float", strategy="channel", symmetric=True)
    ends = head.weight.amin(-1, keepdim=True), head.weight.amax(-1, keepdim=True)
    head.weight.copy_(fake_quantize(head.weight, *calculate_qparams(*ends, how), how))
    return head


WAYS = {
    "torchao, float8": by_torchao(Float8WeightOnlyConfig()),
    "quanto, float8": by_quanto(quanto.qfloat8),
    "torchao, int8": by_torchao(Int8WeightOnlyConfig()),
    "quanto, int8": by_quanto(quanto.qint8),
    "compressed-tensors, float8": by_compressed_tensors,
}
torch.manual_seed(0)
print(*(f"{name} {version(name)}" for name in ("torchao", "optimum-quanto", "compressed-tensors", "torch")), sep=", ")
with torch.no_grad():
    states = torch.randn(100, WIDTH)
    for filler in (0.0, 1e-30):
        head = torch.nn.Linear(WIDTH, PADDED, bias=False)
        head.weight[WORDS:] = filler
        wanted = head(states)
        print(f"the rows of no word are {filler}")
        for way, make in WAYS.items():
            found = make(copy.deepcopy(head))(states)
            apart = float((found - wanted)[:, :WORDS].abs().max())
            nans = int(found.isnan().any(0).sum())
            taken = int((found.argmax(-1) >= WORDS).sum())
            chances = int(found.softmax(-1).isnan().all(-1).sum())
            print(f"    {way:28} words off by {apart:.3f}, rows of NaN {nans}, of 100 taken no word {taken},", end=" ")
            print(f"all chances NaN {chances}")
            broken = filler == 0 and way in ("torchao, float8", "quanto, float8")
            assert apart < 0.1
            assert (nans, taken, chances) == ((PADDED - WORDS, 100, 100) if broken else (0, 0, 0)), way
PY
HF_HUB_OFFLINE=1 HF_HOME=$work/hf OMP_NUM_THREADS=1 venv/bin/python -W ignore look.py 2>said || { cat said; exit 1; }
