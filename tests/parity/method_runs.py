"""Traced runs of every method on every family of bases: how they are started, and what recomputes them."""

import json
import pathlib
import sys
from dataclasses import dataclass, field

import h5py
import numpy as np
import pytest
from independent_hypernetwork import settings as hypernetwork_settings
from PIL import Image
from random_bases import pipeline_of
from recomputed_models import Base, DreamboothModel, HypernetworkModel, LoraModel, TextualInversionModel
from run_inputs import Settings

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "end_to_end"))
from support import run, sha256, small_image_folder  # noqa: E402

UPDATES, STOP_AFTER, LEAVES, MICRO = 3, 2, 2, 2
SEED, DATA_SEED, DROPOUT, DECAY, PRIOR_WEIGHT = 11, 3, 0.3, 0.05, 0.7
# AdamW's step is g / (|g| + epsilon): with so large an epsilon a gradient that is all rounding moves nothing.
EPSILON = 1e-5
WORD, VECTORS, INITIALIZER, RANK, ALPHA = "<zorp>", 2, "ab", 4, 6.0
RATES = {"hypernetwork": 1e-2, "lora": 1e-2, "textual_inversion": 5e-3, "dreambooth": 1e-3}
TEXT_RATE = 1e-4
STRUCTURE, HYPERNETWORK_DROPOUT = (1, 2, 1), (0, 0.3, 0)
SAMPLING = {"sd1": "random", "sd2": "once", "sdxl": "deterministic"}


@dataclass
class Case:
    family: str
    method: str
    train_unet: str = "all"
    optimizer: str = "adamw"
    use_ema: bool = False
    max_norm: float = 0.005
    clip_skip: int = 1
    merged: float = 0.0  # strength of the family's LoRA, merged into the base before training
    options: dict = field(default_factory=dict)  # further ones, by ldmtune's names
    inputs: dict = field(default_factory=dict)  # what they change in Settings

    @property
    def id(self):
        extra = {self.optimizer: self.optimizer != "adamw", "losses": self.inputs, "clip_skip": self.clip_skip > 1,
                 "merged": self.merged, "text_encoders": self.train_unet == "none"}  # fmt: skip
        return "-".join([self.family, self.method, *(word for word, is_so in extra.items() if is_so)])

    @property
    def is_plain(self):
        return self.id == f"{self.family}-{self.method}"

    def settings(self):
        template = {"textual_inversion": "[name] [filewords]"}.get(self.method, "[filewords]")
        return Settings(seed=SEED, data_seed=DATA_SEED, micro_batch_size=MICRO, leaves=LEAVES, template=template, name=WORD,
                        latent_sampling=SAMPLING[self.family], caption_dropout=DROPOUT, prior_loss_weight=PRIOR_WEIGHT, **self.inputs)

    def model(self, base):
        if self.method == "hypernetwork":
            return HypernetworkModel(base, hypernetwork_settings(STRUCTURE, "relu", True, False, HYPERNETWORK_DROPOUT), SEED)
        if self.method == "lora":
            return LoraModel(base, RANK, ALPHA)
        if self.method == "textual_inversion":
            return TextualInversionModel(base, WORD, VECTORS, INITIALIZER)
        return DreamboothModel(base, self.train_unet, True)

    def rate_of(self, name):
        apart = self.method in ("dreambooth", "lora") and name.startswith("text_encoder")
        return TEXT_RATE if apart else RATES[self.method]


MASKED = {"loss.masked": "true", "loss.unmasked_weight": "0.25"}
CASES = [Case(family, method, train_unet="attention" if family == "sdxl" else "all")
         for family in ("sd1", "sd2", "sdxl") for method in ("hypernetwork", "lora", "textual_inversion", "dreambooth")]
CASES += [
    Case("sd1", "lora", clip_skip=2),
    Case("sd1", "dreambooth", train_unet="attention", merged=0.8),
    Case("sdxl", "dreambooth", train_unet="none"),
    Case("sd2", "hypernetwork", options={"noise.offset": "0.1", "noise.stratified": "true", "noise.min_timestep": "100",
         "noise.rescale_betas_zero_snr": "true", "loss.snr_gamma": "5", **MASKED},
         inputs={"noise_offset": 0.1, "stratified": True, "min_timestep": 100, "zero_snr": True, "snr_gamma": 5.0, "masked": True,
                 "unmasked_weight": 0.25}),
    Case("sd2", "lora", optimizer="prodigy", use_ema=True, options={"loss.snr_gamma": "5", **MASKED},
         inputs={"snr_gamma": 5.0, "masked": True, "unmasked_weight": 0.25}),
    Case("sdxl", "textual_inversion", optimizer="lion", max_norm=0.0005, options={"loss.loss_type": "huber", "loss.huber_schedule": "exponential"},
         inputs={"huber": "huber"}),
    Case("sd1", "dreambooth", use_ema=True, options={"loss.loss_type": "smooth_l1", "loss.huber_schedule": "exponential",
         "loss.snr_gamma": "5", "train.gradient_checkpointing": "true", **MASKED},
         inputs={"huber": "smooth_l1", "snr_gamma": 5.0, "masked": True, "unmasked_weight": 0.25}),
]  # fmt: skip


def images_with_masks(folder, count, known=True):
    """Drawings of two shapes, half of each masked."""
    small_image_folder(folder, count, known)
    for i, file in enumerate(sorted(folder.glob("*.png"))):
        image = Image.open(file).convert("RGB")
        image = image.crop((0, 8, 128, 104)) if i % 2 else image
        mask = np.zeros(image.size[::-1], np.uint8)
        mask[:, : 48 + 16 * (i % 3)] = 255
        image.save(file)
        Image.fromarray(mask).save(file.with_suffix(".mask.png"))
    return folder


def hashes(folder):
    return {file.relative_to(folder): sha256(file) for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    return Workshop(tmp_path_factory.mktemp("methods"))


class Workshop:
    """Makes bases, datasets and runs when they are asked for the first time. All bases have the same VAE, and so the
    same datasets."""

    def __init__(self, folder):
        self.folder = folder
        self.base_files = {}  # family -> hash by file, as made
        self.runs = {}

    def base(self, family):
        folder = self.folder / family
        if not folder.exists():
            pipeline_of(family, folder)
            self.base_files[family] = hashes(folder)
        return folder

    def lora(self, family):
        folder = self.trained(Case(family, "lora"))
        return folder / f"checkpoints/step-{UPDATES:08d}/{folder.name}.safetensors"

    def model(self, case):
        """The base with what the case adds, which recomputes its run."""
        merged = (self.lora(case.family), case.merged) if case.merged else None
        return case.model(Base(self.base(case.family), case.family == "sdxl", case.clip_skip, merged))

    def dataset(self, name):
        """set: what trains. class: the class images."""
        folder = self.folder / name
        if not folder.exists():
            count, held_out = (7, 1) if name == "set" else (12, 0)
            images = images_with_masks(self.folder / f"{name}.images", count)
            run(["prepare", "--base", self.base("sd1"), "--images", images, "--output", folder, "--resolution", 64, "--mask", "files",
                 "--validation_images", held_out, "--test_images", held_out])
        return folder

    def options(self, case, folder):
        settings = {
            "method": case.method, "base": self.base(case.family), "data": self.dataset("set"), "output": folder,
            "train.max_train_steps": UPDATES, "train.global_batch_size": LEAVES * MICRO, "train.micro_batch_size": MICRO,
            "train.seed": SEED, "data.seed": DATA_SEED, "data.latent_sampling": SAMPLING[case.family], "train.max_grad_norm": case.max_norm,
            "caption.dropout": DROPOUT, "optim.optimizer": case.optimizer, "optim.learning_rate": RATES[case.method],
            "optim.adam_weight_decay": DECAY, "optim.adam_epsilon": EPSILON, "validation.steps": STOP_AFTER, "validation.max_images": 1,
            "train.trace": folder.with_suffix(".h5"), "train.trace_steps": UPDATES,
        }  # fmt: skip
        settings |= {
            "hypernetwork": {"hypernetwork.layer_structure": "1,2,1", "hypernetwork.activation": "relu", "hypernetwork.weight_init": "XavierNormal",
                             "hypernetwork.layer_norm": "true", "hypernetwork.layer_norm_init": "ones",
                             "hypernetwork.dropout_structure": ",".join(map(str, HYPERNETWORK_DROPOUT))},
            "lora": {"lora.rank": RANK, "lora.alpha": ALPHA, "lora.target_modules": "all", "lora.text_encoder_target_modules": "all",
                     "lora.text_encoder_learning_rate": "" if case.optimizer == "prodigy" else TEXT_RATE},
            "textual_inversion": {"textual_inversion.placeholder_token": WORD, "textual_inversion.num_vectors": VECTORS,
                                  "textual_inversion.initializer_text": INITIALIZER, "caption.template": "[name] [filewords]"},
            "dreambooth": {"dreambooth.train_unet": case.train_unet, "dreambooth.train_text_encoder": "true",
                           "dreambooth.text_encoder_learning_rate": TEXT_RATE, "dreambooth.with_prior_preservation": "true",
                           "dreambooth.prior_loss_weight": PRIOR_WEIGHT, "dreambooth.class_data": self.dataset("class"),
                           "dreambooth.num_class_images": 12},
        }[case.method]  # fmt: skip
        if case.optimizer == "prodigy":
            settings |= {"optim.learning_rate": 1, "optim.prodigy_d_coef": 100, "optim.adam_epsilon": 1e-8}
        if case.use_ema:
            settings |= {"optim.use_ema": "true", "optim.ema_decay": 0.5}
        if case.clip_skip > 1:
            settings["caption.clip_skip"] = case.clip_skip
        if case.merged:
            settings["base.merge"] = f"{self.lora(case.family)}:{case.merged}"
        settings |= case.options
        return ["train", *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]

    def trained(self, case):
        """Folder of a run of STOP_AFTER updates on two ranks and the rest, after a resume, on one. Traces lie beside it."""
        folder = self.folder / case.id
        if case.id not in self.runs:
            words = self.options(case, folder)
            run([*words, "--train.stop_after", STOP_AFTER], 2, code=85)
            run([*words, "--train.resume_from_checkpoint", "latest", "--train.trace", folder.with_suffix(".resumed.h5")])
            self.runs[case.id] = folder
        return folder

    def traces(self, case):
        folder = self.trained(case)
        return h5py.File(folder.with_suffix(".h5")), h5py.File(folder.with_suffix(".resumed.h5"))

    def scheduler_config(self, case):
        return json.loads((self.base(case.family) / "scheduler/scheduler_config.json").read_text())
