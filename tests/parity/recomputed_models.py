"""A base with what each of the four methods adds to it, from diffusers, transformers, PEFT and plain torch.

A model has `parameters`, what trains under the names of ldmtune's traces, and computes a context and a prediction from
them with gradients. Nothing else of it requires gradients.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import philox
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from independent_hypernetwork import Hypernetwork
from networks import published
from peft import LoraConfig

UNET_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
TEXT_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


def load_pipeline(folder, is_xl):
    kind = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
    optional = {"add_watermarker": False} if is_xl else {"safety_checker": None, "requires_safety_checker": False}
    pipeline = kind.from_pretrained(folder, local_files_only=True, **optional)
    pipeline.set_progress_bar_config(disable=True)
    if is_xl:
        # With eos_token_id 2, as SDXL's files have it, transformers pools at the highest id, which a new word's may be.
        encoder = next(m for m in pipeline.text_encoder_2.modules() if hasattr(m, "eos_token_id"))
        encoder.eos_token_id = pipeline.tokenizer_2.eos_token_id
    return pipeline


def fuse_lora(pipeline, file, strength):
    pipeline.load_lora_weights(file.parent, weight_name=file.name)
    pipeline.fuse_lora(lora_scale=strength)
    pipeline.unload_lora_weights()


@dataclass
class Base:
    folder: Path
    is_xl: bool
    clip_skip: int = 1
    merged: tuple | None = None  # a LoRA's file and strength


class Model:
    """A base with nothing added."""

    def __init__(self, base):
        self.pipeline = load_pipeline(base.folder, base.is_xl)
        self.is_xl, self.clip_skip = base.is_xl, base.clip_skip
        self.is_merged = base.merged is not None
        if base.merged:
            fuse_lora(self.pipeline, *base.merged)
        self.unet = self.pipeline.unet
        self.tokenizers, self.encoders = [self.pipeline.tokenizer], {"text_encoder": self.pipeline.text_encoder}
        if self.is_xl:
            self.tokenizers.append(self.pipeline.tokenizer_2)
            self.encoders["text_encoder_2"] = self.pipeline.text_encoder_2
        for module in (self.unet, *self.encoders.values()):
            module.eval().requires_grad_(False)
        self.parameters = {}

    def spelled(self, text):
        return text

    def input_ids(self, texts):
        """(b, L), of both tokenizers one after the other for SDXL."""
        texts = [self.spelled(text) for text in texts]
        return torch.cat([tokenizer(texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True,
                                    return_tensors="pt").input_ids for tokenizer in self.tokenizers], dim=1)  # fmt: skip

    def encode(self, name, ids):
        return self.encoders[name](ids, output_hidden_states=True)

    def condition(self, ids):
        """Context (b, T, D) and pooled text (b, P) or None."""
        parts = ids.chunk(len(self.encoders), dim=1)
        outputs = [self.encode(name, part) for name, part in zip(self.encoders, parts)]
        if not self.is_xl:
            if self.clip_skip == 1:
                return outputs[0].last_hidden_state, None
            normalize = next(m for name, m in self.encoders["text_encoder"].named_modules() if name.endswith("final_layer_norm"))
            return normalize(outputs[0].hidden_states[-self.clip_skip]), None
        return torch.cat([output.hidden_states[-2] for output in outputs], dim=-1), outputs[1].text_embeds

    def begin_leaf(self, draws):
        pass

    def predict(self, batch, context, pooled):
        added = {"text_embeds": pooled, "time_ids": batch["time_ids"]} if self.is_xl else None
        return self.unet(batch["noisy"], batch["timestep"], context, added_cond_kwargs=added).sample

    def starts_at(self, values):
        """Whether traced initial values are as the method says, where that does not take random numbers."""
        return True

    def start_at(self, values):
        """Takes the traced initial values."""
        assert set(values) == set(self.parameters)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(torch.tensor(values[name])).requires_grad_(True)


class Dropout(torch.nn.Module):
    """Masks by Philox. `layer` and `draws` are set before each forward."""

    def __init__(self, p, seed, name):
        super().__init__()
        self.p, self.seed, self.name = p, seed, name
        self.layer, self.draws = 0, []

    def forward(self, x):
        key = philox.derive_seed(self.seed, self.name, self.layer)
        uniform = np.stack([philox.Stream(key, "dropout", 0, draw).uniform(x[0].numel()).reshape(x.shape[1:]) for draw in self.draws])
        return x * torch.tensor((uniform >= np.float32(self.p)) / (1 - self.p), dtype=x.dtype)


class HypernetworkModel(Model):
    def __init__(self, base, settings, seed):
        super().__init__(base)
        attentions = {name: module for name, module in self.unet.named_modules() if hasattr(module, "to_k") and hasattr(module, "to_v")}
        self.hypernetwork = Hypernetwork({attention.to_k.in_features for attention in attentions.values()}, settings)
        self.dropouts = []
        for (width, pair), role in itertools.product(self.hypernetwork.networks.items(), (0, 1)):
            prefix = f"{width}.{'kv'[role]}."
            for i, module in enumerate(pair[role].linear):
                if isinstance(module, torch.nn.Dropout):
                    self.dropouts.append(Dropout(module.p, seed, f"{prefix}linear.{i}"))
                    pair[role].linear[i] = self.dropouts[-1]
            self.parameters |= {prefix + key: value for key, value in pair[role].named_parameters()}
        for name, attention in attentions.items():
            attention.to_k.register_forward_pre_hook(self.hook(0, name.endswith("attn2")))
            attention.to_v.register_forward_pre_hook(self.hook(1, name.endswith("attn2")))

    def begin_leaf(self, draws):
        self.layer = 0  # attention layers in order of evaluation, self and cross counted together
        for dropout in self.dropouts:
            dropout.draws = draws

    def hook(self, role, reads_text):
        def before(module, arguments):
            self.layer += role == 0
            for dropout in self.dropouts:
                dropout.layer = 0 if reads_text else self.layer  # the text's context is changed once for all layers
            return (self.hypernetwork.networks[arguments[0].shape[-1]][role](arguments[0]),)

        return before


class LoraModel(Model):
    def __init__(self, base, rank, alpha):
        super().__init__(base)
        for component, module in {"unet": self.unet, **self.encoders}.items():
            targets = UNET_TARGETS if component == "unet" else TEXT_TARGETS
            module.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets))
            for name, parameter in module.named_parameters():
                if ".lora_" in name:
                    name = (name if component == "unet" else published(name)).replace(".default.", ".")
                    self.parameters[f"{component}.{name}"] = parameter


    def starts_at(self, values):
        return all(value.any() == ("lora_A" in name) for name, value in values.items())


class TextualInversionModel(Model):
    """The word becomes tokens behind the vocabulary, as diffusers adds them; their rows alone are parameters."""

    def __init__(self, base, word, vectors, initializer):
        super().__init__(base)
        self.word, self.initializer = word, initializer
        self.tokens = [word] + [f"{word}_{i}" for i in range(1, vectors)]
        for i, (tokenizer, encoder) in enumerate(zip(self.tokenizers, self.encoders.values())):
            assert tokenizer.add_tokens(self.tokens) == vectors
            width = encoder.get_input_embeddings().weight.shape[1]
            self.parameters["embedding" if i == 0 else "embedding_2"] = torch.zeros(vectors, width)

    def starts_at(self, values):
        rows = []
        for tokenizer, encoder in zip(self.tokenizers, self.encoders.values()):
            ids = tokenizer(self.initializer, add_special_tokens=False).input_ids
            assert len(ids) == len(self.tokens)
            rows.append(encoder.get_input_embeddings().weight[ids].numpy())
        return all(np.array_equal(values[name], expected) for name, expected in zip(self.parameters, rows))

    def spelled(self, text):
        return text.replace(self.word, " ".join(self.tokens))

    def encode(self, name, ids):
        embedder = self.encoders[name].get_input_embeddings()
        rows = self.parameters["embedding" if name == "text_encoder" else "embedding_2"]
        key = next(key for key, value in self.encoders[name].named_parameters() if value is embedder.weight)
        table = torch.cat([embedder.weight, rows])
        return torch.func.functional_call(self.encoders[name], {key: table}, (ids,), {"output_hidden_states": True})


class DreamboothModel(Model):
    def __init__(self, base, train_unet, train_text_encoder):
        super().__init__(base)
        for name, parameter in self.unet.named_parameters():
            if train_unet == "all" or (train_unet == "attention" and ".attn" in name):
                self.parameters[f"unet.{name}"] = parameter
        for component, encoder in self.encoders.items() if train_text_encoder else ():
            # SDXL reads the first encoder's last layer but one: what lies behind has no gradient.
            behind = (f".layers.{encoder.config.num_hidden_layers - 1}.", "final_layer_norm.")
            for name, parameter in encoder.named_parameters():
                if not (self.is_xl and component == "text_encoder" and any(part in name for part in behind)):
                    self.parameters[f"{component}.{published(name)}"] = parameter

    def starts_at(self, values):
        # A merged base is a sum, which may be rounded once more.
        tolerance = 1e-6 if self.is_merged else 0
        return all(np.abs(value.detach().numpy() - values[name]).max() <= tolerance for name, value in self.parameters.items())
