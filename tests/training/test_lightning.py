"""Lightning is imported without its extras, and works as ever for programs that use it, too."""

import subprocess
import sys

PROGRAM = """
import sys
from codecswap.training.lightning import L
extras = ("torchmetrics", "torchvision", "torch._dynamo", "triton")
assert not [name for name in extras if name in sys.modules]
import torch
from lightning.pytorch.utilities.model_summary import ModelSummary
class Layer(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.example_input_array = torch.nn.Linear(3, 5), torch.zeros(7, 3)
    def forward(self, x):
        return self.layer(x)
print(ModelSummary(Layer()).total_flops)
"""


def test_a_program_can_still_summarize_its_model() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == str(2 * 7 * 3 * 5), run.stderr
