"""A hypernetwork loaded into diffusers by our helper draws what `ldmtune sample --hypernetwork` draws."""

import subprocess
import sys

import h5py
import pytest
import torch
from random_bases import xl_pipeline
from safetensors.torch import save_file
from test_generate import BINARY, SOURCE, error, pipeline, reference, sample  # noqa: F401 (a fixture)

sys.path.insert(0, str(SOURCE / "analysis"))
from ldmtune_analysis.diffusers_hypernetwork import load_hypernetwork  # noqa: E402

PROMPT, STEPS, GUIDANCE = "rocket on a white background", 6, 3.0


def network(width, generator, layer_norm, dropout):
    """A1111's state dict for structure 1, 2, 1 with ReLU: numbers count every module."""
    shapes = [("linear", (2 * width, width)), ("relu", None)]
    shapes += [("norm", (2 * width,))] if layer_norm else []
    shapes += [("dropout", None)] if dropout else []
    shapes += [("linear", (width, 2 * width))]
    shapes += [("norm", (width,))] if layer_norm else []
    state = {}
    for index, (kind, shape) in enumerate(shapes):
        if shape is not None:
            offset = 1.0 if kind == "norm" else 0.0
            state[f"linear.{index}.weight"] = offset + torch.randn(shape, generator=generator) * 0.05
            state[f"linear.{index}.bias"] = torch.randn(shape[:1], generator=generator) * 0.05
    return state


def write_hypernetwork(file, seed, layer_norm=False, dropout=False, widths=(128, 160, 192)):
    generator = torch.Generator().manual_seed(seed)
    content = {w: tuple(network(w, generator, layer_norm, dropout) for _ in "kv") for w in widths}
    content.update(step=1, name=file.stem, layer_structure=[1.0, 2.0, 1.0], activation_func="relu", is_layer_norm=layer_norm,
                   weight_initialization="Normal", sd_checkpoint=None, sd_checkpoint_name=None, activate_output=False,
                   use_dropout=dropout, dropout_structure=[0, 0.3 if dropout else 0, 0], last_layer_dropout=False,
                   optional_info=None)
    torch.save(content, file)
    return file


def drawn(folder, *options):
    return sample(folder, "--prompt", PROMPT, "--num_inference_steps", STEPS, "--guidance_scale", GUIDANCE, *options)


def latent_of(pipe, noise):
    return reference(pipe, "ddim", PROMPT, "", STEPS, GUIDANCE, noise)[1]


@pytest.mark.parametrize("layer_norm, dropout", [(False, False), (True, True)])
def test_pt_and_safetensors(pipeline, tmp_path, layer_norm, dropout):  # noqa: F811
    file = write_hypernetwork(tmp_path / "a.pt", 1, layer_norm, dropout)
    safe, inference = tmp_path / "a.safetensors", tmp_path / "inference.pt"
    subprocess.run([BINARY, "export", file, "--output", safe], check=True)
    subprocess.run([BINARY, "export", safe, "--inference", "--output", inference], check=True)
    assert ("linear.4.weight" in torch.load(inference)[128][0]) == layer_norm, "numbered without dropout"
    assert torch.load(inference)["use_dropout"] is False
    latents = {}
    for written in (file, safe, inference):
        trace = drawn(tmp_path, "--hypernetwork", f"{written}:0.7")
        loaded = load_hypernetwork(pipeline, written, strength=0.7)
        latents[written] = latent_of(pipeline, trace["initial_noise"][0])
        assert error(trace["final_latent"][0], latents[written]) < 1e-3
        loaded.remove()
    assert torch.equal(latents[file], latents[safe]) and torch.equal(latents[file], latents[inference])
    plain = latent_of(pipeline, trace["initial_noise"][0])
    assert error(latents[file], plain) > 0.03


def test_several_act_one_after_the_other(pipeline, tmp_path):  # noqa: F811
    first, second = write_hypernetwork(tmp_path / "a.pt", 1), write_hypernetwork(tmp_path / "b.pt", 2)
    trace = drawn(tmp_path, "--hypernetwork", f"{first}:0.7", "--hypernetwork", f"{second}:0.4")
    noise = trace["initial_noise"][0]
    loaded = [load_hypernetwork(pipeline, first, 0.7), load_hypernetwork(pipeline, second, 0.4)]
    in_order = latent_of(pipeline, noise)
    for hypernetwork in loaded:
        hypernetwork.remove()
    loaded = [load_hypernetwork(pipeline, second, 0.4), load_hypernetwork(pipeline, first, 0.7)]
    other_order = latent_of(pipeline, noise)
    for hypernetwork in loaded:
        hypernetwork.remove()
    assert error(trace["final_latent"][0], in_order) < 1e-3
    assert error(other_order, in_order) > 2e-3


def test_sdxl_with_two_of_them_at_once(tmp_path):
    """One a `.pt` with dropout, which is left out, the other ldmtune's `.safetensors`; both strengths may change later."""
    pipe = xl_pipeline(tmp_path / "xl")
    widths = sorted({module.in_features for name, module in pipe.unet.named_modules() if name.endswith(".to_k")})
    assert 112 in widths and len(widths) > 2
    first = write_hypernetwork(tmp_path / "a.pt", 1, dropout=True, widths=widths)
    second = tmp_path / "b.safetensors"
    subprocess.run([BINARY, "export", write_hypernetwork(tmp_path / "b.pt", 2, layer_norm=True, widths=widths), "--output", second], check=True)
    prompt, steps, guidance = "a red rocket!", 4, 5.0
    subprocess.run([BINARY, "sample", "--base", tmp_path / "xl", "--prompt", prompt, "--num_inference_steps", str(steps), "--sampler",
                    "euler", "--guidance_scale", str(guidance), "--hypernetwork", f"{first}:0.7", "--hypernetwork", f"{second}:0.3",
                    "--trace", tmp_path / "t.h5"], check=True)
    with h5py.File(tmp_path / "t.h5") as file:
        noise, ours = (torch.from_numpy(file[name][0]) for name in ("initial_noise", "final_latent"))

    def latent():
        call = dict(num_inference_steps=steps, guidance_scale=guidance, latents=noise[None].clone(), output_type="latent")
        return pipe(prompt, width=noise.shape[-1] * pipe.vae_scale_factor, height=noise.shape[-2] * pipe.vae_scale_factor, **call).images[0]

    plain = latent()
    loaded = [load_hypernetwork(pipe, first, 1.0), load_hypernetwork(pipe, second, 1.0)]
    loaded[0].strength, loaded[1].strength = 0.7, 0.3
    with_both = latent()
    assert error(ours, with_both) < 1e-3
    assert error(plain, with_both) > 1e-2
    for hypernetwork in loaded:
        hypernetwork.remove()
    assert torch.equal(latent(), plain)


def test_what_is_none_is_refused(pipeline, tmp_path):  # noqa: F811
    torch.save({"string_to_param": {}}, tmp_path / "embedding.pt")
    with pytest.raises(ValueError, match="no hypernetwork"):
        load_hypernetwork(pipeline, tmp_path / "embedding.pt")
    save_file({"emb_params": torch.ones(2, 8)}, tmp_path / "embedding.safetensors")
    with pytest.raises(ValueError, match="no hypernetwork"):
        load_hypernetwork(pipeline, tmp_path / "embedding.safetensors")
    content = torch.load(write_hypernetwork(tmp_path / "skip.pt", 1), weights_only=True)
    torch.save({**content, "skip_connection": True}, tmp_path / "skip.pt")
    with pytest.raises(ValueError, match="skip_connection"):
        load_hypernetwork(pipeline, tmp_path / "skip.pt")
    torch.save({8: ({"linear.0.weight": torch.ones(8, 8), "linear.0.bias": torch.ones(8)},) * 2}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="width"):
        load_hypernetwork(pipeline, tmp_path / "other.pt")
