"""What a training run's micro-batches hold, from its options, dataset folder and base alone: order, latents, noise,
timesteps, captions, sizes and weights, by the independent Philox of philox.py and diffusers' noise schedule.
"""

import json
from dataclasses import dataclass

import h5py
import numpy as np
import philox
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr


class Samples:
    """The training split of a dataset folder of one image size, read with h5py; rows in order of sample_id."""

    def __init__(self, folder):
        self.scaling = json.loads((folder / "index.json").read_text())["scaling_factor"]
        captions = map(json.loads, (folder / "captions.jsonl").read_text().splitlines())
        captions = {row["sample_id"]: row["text"] for row in captions}
        rows = {}
        for part in sorted(folder.glob("part-*.h5")):
            with h5py.File(part) as file:
                for size, bucket in file.items():
                    width, height = map(int, size.split("x"))
                    for i, sample_id in enumerate(map(int, bucket["sample_id"])):
                        if bucket["split"][i] != 0:
                            continue
                        original, crop = bucket["original_size"][i], bucket["crop"][i]
                        rows[sample_id] = {
                            "id": sample_id, "caption": captions[sample_id],
                            "mean": bucket["latent_mean"][i].astype(np.float32), "std": bucket["latent_std"][i].astype(np.float32),
                            "mask": bucket["mask"][i].astype(np.float32),
                            # height before width, as SDXL's conditioning has them
                            "time_ids": [original[1], original[0], crop[1], crop[0], height, width],
                        }  # fmt: skip
        self.rows = [rows[sample_id] for sample_id in sorted(rows)]


@dataclass
class Settings:
    """The options that decide what a micro-batch holds."""

    seed: int
    data_seed: int
    micro_batch_size: int
    leaves: int
    latent_sampling: str = "once"
    caption_dropout: float = 0.0
    template: str = "[filewords]"
    name: str = ""
    snr_gamma: float = 0.0
    huber: str = ""  # huber or smooth_l1, with the exponential schedule and c = 0.1
    masked: bool = False
    unmasked_weight: float = 0.0
    prior_loss_weight: float = 1.0
    noise_offset: float = 0.0
    stratified: bool = False
    min_timestep: int = 0
    zero_snr: bool = False


class Inputs:
    """dataset: its number in every key, 0 the instances', 1 the class images'."""

    def __init__(self, samples, dataset, settings, scheduler_config):
        self.samples, self.dataset, self.settings = samples, dataset, settings
        self.stream = philox.SampleStream([len(samples.rows)], settings.data_seed, settings.seed, dataset, settings.micro_batch_size)
        self.schedule = DDPMScheduler.from_config(scheduler_config, rescale_betas_zero_snr=settings.zero_snr)

    def random(self, purpose, draw):
        return philox.Stream(self.settings.seed, purpose, self.dataset, draw)

    def latent(self, row, draw):
        values = row["mean"]
        sampling = self.settings.latent_sampling
        if sampling == "once":
            values = values + row["std"] * philox.Stream(self.settings.data_seed, "posterior", self.dataset, row["id"]).normal(values.shape)
        elif sampling == "random":
            values = values + row["std"] * self.random("posterior", draw).normal(values.shape)
        return values * np.float32(self.samples.scaling)

    def noise(self, shape, draw):
        noise = self.random("noise", draw).normal(shape)
        if self.settings.noise_offset:
            noise += self.settings.noise_offset * self.random("noise_offset", draw).normal((shape[0], 1, 1))
        return noise

    def timestep(self, draw):
        first, stream = self.settings.min_timestep, self.random("timestep", draw)
        if not self.settings.stratified:
            return first + stream.integer(0, 1000 - first)
        batch = self.settings.leaves * self.settings.micro_batch_size
        part = self.random("timestep_stratum", draw // batch).permutation(batch)[draw % batch]
        return first + int((part + stream.integer(0, 2**53) / 2**53) / batch * (1000 - first))

    def caption(self, row, draw):
        if self.random("caption_dropout", draw).uniform(1)[0] < self.settings.caption_dropout:
            return ""
        if self.dataset == 1:
            return row["caption"]
        return self.settings.template.replace("[filewords]", row["caption"]).replace("[name]", self.settings.name)

    def weight(self, timestep):
        weight = torch.ones(len(timestep))
        if self.settings.snr_gamma:
            snr = compute_snr(self.schedule, timestep)
            is_v = self.schedule.config.prediction_type == "v_prediction"
            weight = torch.clamp(snr, max=self.settings.snr_gamma) / (snr + 1 if is_v else snr)
        return weight * (self.settings.prior_loss_weight if self.dataset else 1)

    def micro_batch(self, m):
        """The tensors of micro-batch m under the trace's names, and its captions."""
        draws = self.stream.micro_batch(m)
        rows = [self.samples.rows[draw.row] for draw in draws]
        draws = [draw.draw for draw in draws]
        latent = torch.tensor(np.stack([self.latent(row, draw) for row, draw in zip(rows, draws)]))
        noise = torch.tensor(np.stack([self.noise(latent.shape[1:], draw) for draw in draws]))
        timestep = torch.tensor([self.timestep(draw) for draw in draws])
        is_v = self.schedule.config.prediction_type == "v_prediction"
        batch = {
            "sample_id": torch.tensor([row["id"] for row in rows]), "dataset": torch.full((len(rows),), self.dataset),
            "latent": latent, "noise": noise, "timestep": timestep, "noisy": self.schedule.add_noise(latent, noise, timestep),
            "target": self.schedule.get_velocity(latent, noise, timestep) if is_v else noise, "weight": self.weight(timestep),
            "time_ids": torch.tensor(np.array([row["time_ids"] for row in rows]), dtype=torch.float32),
        }  # fmt: skip
        if self.settings.huber:
            batch["huber_c"] = torch.exp(timestep / 1000 * np.log(0.1))
        if self.settings.masked and self.dataset == 0:
            mask = torch.tensor(np.stack([row["mask"] for row in rows]))[:, None] / 255
            batch["mask"] = self.settings.unmasked_weight + (1 - self.settings.unmasked_weight) * mask
        return batch, [self.caption(row, draw) for row, draw in zip(rows, draws)], draws


def sample_losses(prediction, batch, huber):
    """A sample's loss before its weight, (b)."""
    difference = prediction - batch["target"]
    values = difference**2
    if huber:
        c = batch["huber_c"][:, None, None, None]
        values = 2 * (c if huber == "huber" else 1) * (torch.sqrt(difference**2 + c**2) - c)
    if "mask" in batch:
        mask = batch["mask"].expand(values.shape)
        return (values * mask).sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3))
    return values.mean(dim=(1, 2, 3))
