"""The audit trace of a LoRA run, UNet and text encoder, recomputed by diffusers, transformers and PEFT within 2e-4.

Order, noise and timesteps are those of any run (test_trace.py); here the contexts, predictions, losses, gradients and
AdamW steps are recomputed from the traced initial factors alone.
"""

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from transformers import CLIPTextModel

from test_lora import TEXT_TARGETS, UNET_TARGETS
from test_trace import BASE, LEAVES, MICRO, STEPS, TOLERANCE, assert_adamw_steps, dataset, error, start, tree  # noqa: F401

RANK, ALPHA = 4, 6.0


@pytest.fixture(scope="module")
def trace(dataset, tmp_path_factory):  # noqa: F811
    return start(dataset, tmp_path_factory.mktemp("trace") / "run", "--method", "lora", "--lora.rank", str(RANK),
                 "--lora.alpha", str(ALPHA), "--lora.target_modules", "all", "--lora.text_encoder_target_modules", "all")


class Adapted:
    """UNet and text encoder with PEFT's adapters; `load` fills them from traced factors."""

    def __init__(self):
        self.unet = UNet2DConditionModel.from_pretrained(BASE / "unet", torch_dtype=torch.float32)
        self.text_encoder = CLIPTextModel.from_pretrained(BASE / "text_encoder", torch_dtype=torch.float32)
        for module, targets in ((self.unet, UNET_TARGETS), (self.text_encoder, TEXT_TARGETS)):
            module.eval().requires_grad_(False)
            module.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets))

    def factors(self):
        found = {}
        for component in ("unet", "text_encoder"):
            for name, parameter in getattr(self, component).named_parameters():
                if ".lora_" in name:
                    layer, factor = name.split(".lora_", 1)
                    prefix = "text_model." if component == "text_encoder" and not layer.startswith("text_model.") else ""
                    found[f"{component}.{prefix}{layer}.lora_{factor[0]}.weight"] = parameter
        return found

    def load(self, values):
        factors = self.factors()
        assert set(factors) == set(values)
        with torch.no_grad():
            for name, parameter in factors.items():
                parameter.copy_(torch.tensor(values[name]))
                parameter.grad = None


@pytest.fixture(scope="module")
def adapted():
    return Adapted()


def test_training_starts_at_the_base(trace):
    initial = tree(trace["step_000000/parameter"])
    assert all(not value.any() for name, value in initial.items() if "lora_B" in name)
    assert all(value.any() for name, value in initial.items() if "lora_A" in name)


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_loss_and_gradient_by_peft(trace, adapted, step):
    adapted.load(tree(trace[f"step_{step - 1:06d}/parameter"]))
    group = trace[f"step_{step:06d}"]
    total = 0
    for leaf in range(LEAVES):
        micro = {name: torch.tensor(value) for name, value in tree(group[f"micro_{leaf:04d}"]).items()}
        context = adapted.text_encoder(micro["input_ids"]).last_hidden_state
        assert error(micro["context"], context.detach()) < TOLERANCE
        prediction = adapted.unet(micro["noisy"], micro["timestep"], context).sample
        assert error(micro["prediction"], prediction.detach()) < TOLERANCE
        loss = ((prediction - micro["target"]) ** 2).mean(dim=(1, 2, 3))
        assert error(micro["loss"], loss.detach()) < TOLERANCE
        part = (loss * micro["weight"]).sum() / (LEAVES * MICRO)
        part.backward()
        total += part.item()
    assert abs(group.attrs["loss"] - total) < TOLERANCE * total
    gradients = {name: parameter.grad.numpy() for name, parameter in adapted.factors().items()}
    # While B is 0 the gradient of A is 0 in exact arithmetic, and stays tiny beside B's for some steps: held against
    # the largest of its kind.
    floors = {kind: 1e-3 * max(np.abs(value).max() for name, value in gradients.items() if kind in name)
              for kind in ("lora_A", "lora_B")}
    for name, gradient in gradients.items():
        difference = np.abs(group["gradient"][name][()] - gradient).max()
        floor = floors["lora_A" if "lora_A" in name else "lora_B"]
        assert difference <= TOLERANCE * max(np.abs(gradient).max(), floor), name
    norm = np.sqrt(sum((gradient.astype(np.float64) ** 2).sum() for gradient in gradients.values()))
    assert abs(group.attrs["grad_norm"] - norm) < TOLERANCE * norm


def test_adamw_steps_by_torch(trace):
    assert_adamw_steps(trace, 0, None)
    first, last = (tree(trace[f"step_{step:06d}/parameter"]) for step in (0, STEPS))
    assert all((last[name] != first[name]).any() for name in first if "lora_B" in name)
