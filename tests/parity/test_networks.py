"""UNet, VAE and text encoder equal diffusers' and transformers' on random weights."""

import json

import pytest
import torch
from networks import UNETS, VAES, build_text, build_unet, build_vae, error, published, run_ldmtune

TOLERANCE = 1e-4


def unet_inputs(unet, height, width, batch=2, tokens=11):
    generator = torch.Generator().manual_seed(3)
    text_width = unet.config.cross_attention_dim
    text_width = text_width if isinstance(text_width, int) else text_width[0]

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    inputs = {
        "sample": normal(batch, unet.config.in_channels, height, width),
        "timestep": torch.tensor([3, 977][:batch]),
        "encoder_hidden_states": normal(batch, tokens, text_width),
        "cotangent": normal(batch, unet.config.out_channels, height, width),
    }
    if unet.config.addition_embed_type == "text_time":
        inputs["pooled"] = normal(batch, unet.add_embedding.linear_1.in_features - 6 * unet.config.addition_time_embed_dim)
        inputs["time_ids"] = torch.tensor([[64.0, 48, 0, 7, 128, 96], [1024, 768, 3, 0, 16, 16]][:batch])
    return inputs


def unet_reference(unet, inputs):
    """The prediction, and the gradients of sum(prediction * cotangent) for inputs and parameters."""
    sample = inputs["sample"].clone().requires_grad_()
    context = inputs["encoder_hidden_states"].clone().requires_grad_()
    added = {}
    if "pooled" in inputs:
        added = {"text_embeds": inputs["pooled"].clone().requires_grad_(), "time_ids": inputs["time_ids"]}
    prediction = unet(sample, inputs["timestep"], context, added_cond_kwargs=added).sample
    prediction.backward(inputs["cotangent"])
    gradients = {"sample": sample.grad, "encoder_hidden_states": context.grad}
    if added:
        gradients["pooled"] = added["text_embeds"].grad
    gradients.update({name: parameter.grad for name, parameter in unet.named_parameters()})
    return prediction.detach(), gradients


def largest(errors):
    name = max(errors, key=errors.get)
    return errors[name], name


@pytest.mark.parametrize("size", [(16, 16), (13, 9)], ids=["even", "odd"])
@pytest.mark.parametrize("name", UNETS)
def test_unet_and_its_gradients(name, size, tmp_path):
    unet = build_unet(name)
    unet.save_pretrained(tmp_path)
    inputs = unet_inputs(unet, *size)
    prediction, gradients = unet_reference(unet, inputs)
    ours = run_ldmtune("unet", tmp_path, inputs)

    assert error(ours["sample"], prediction) < TOLERANCE
    assert {key.removeprefix("gradient.") for key in ours if key.startswith("gradient.")} == set(gradients)
    errors = {key: error(ours["gradient." + key], gradient) for key, gradient in gradients.items()}
    assert largest(errors) < (TOLERANCE, ""), f"{len(errors)} gradients compared"


def test_unet_takes_one_timestep_for_the_whole_batch(tmp_path):
    unet = build_unet("emoji")
    unet.save_pretrained(tmp_path)
    inputs = unet_inputs(unet, 8, 8)
    del inputs["cotangent"]
    inputs["timestep"] = torch.tensor([500.0])
    with torch.no_grad():
        prediction = unet(inputs["sample"], 500, inputs["encoder_hidden_states"]).sample
    assert error(run_ldmtune("unet", tmp_path, inputs)["sample"], prediction) < TOLERANCE


@pytest.mark.parametrize("name", ["sd1", "sd2"])
def test_unet_in_bfloat16_stays_near_float(name, tmp_path):
    unet = build_unet(name)
    unet.save_pretrained(tmp_path)
    inputs = unet_inputs(unet, 16, 16)
    prediction, gradients = unet_reference(unet, inputs)
    ours = run_ldmtune("unet", tmp_path, inputs, "bfloat16")
    assert ours["sample"].dtype == torch.bfloat16
    assert ours["gradient.encoder_hidden_states"].dtype == torch.float32  # the inputs' own dtype
    assert error(ours["sample"], prediction) < 0.05
    assert error(ours["gradient.encoder_hidden_states"], gradients["encoder_hidden_states"]) < 0.1


def test_unet_reads_half_weights(tmp_path):
    unet = build_unet("sd1").half()
    unet.save_pretrained(tmp_path)
    unet = unet.float()
    inputs = unet_inputs(unet, 8, 8)
    prediction, _ = unet_reference(unet, inputs)
    assert error(run_ldmtune("unet", tmp_path, inputs)["sample"], prediction) < TOLERANCE


def test_absent_unet_keys_take_the_defaults_of_diffusers(tmp_path):
    """SD 1.5's config.json has 20 keys; a newer diffusers writes 40 more."""
    unet = build_unet("sd1")
    unet.save_pretrained(tmp_path)
    kept = ("block_out_channels", "attention_head_dim", "cross_attention_dim", "norm_num_groups")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({key: config[key] for key in kept}))
    inputs = unet_inputs(unet, 8, 8)
    prediction, _ = unet_reference(unet, inputs)
    assert error(run_ldmtune("unet", tmp_path, inputs)["sample"], prediction) < TOLERANCE


@pytest.mark.parametrize("name", VAES)
def test_vae(name, tmp_path):
    vae = build_vae(name)
    vae.save_pretrained(tmp_path)
    generator = torch.Generator().manual_seed(5)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    inputs = {
        "image": torch.rand(2, 3, 7 * factor, 5 * factor, generator=generator) * 2 - 1,
        "latent": torch.randn(2, vae.config.latent_channels, 5, 7, generator=generator),
    }
    with torch.no_grad():
        posterior = vae.encode(inputs["image"]).latent_dist
        image = vae.decode(inputs["latent"]).sample
    ours = run_ldmtune("vae", tmp_path, inputs)
    assert error(ours["mean"], posterior.mean) < TOLERANCE
    assert error(ours["stddev"], posterior.std) < TOLERANCE
    assert error(ours["image"], image) < TOLERANCE
    assert error(run_ldmtune("vae", tmp_path, inputs, "bfloat16")["image"], image) < 0.05


@pytest.mark.parametrize("length", [24, 9])
@pytest.mark.parametrize("name", ["sd1", "sd2"])
def test_text_encoder_and_its_gradients(name, length, tmp_path):
    encoder = build_text(name)
    encoder.save_pretrained(tmp_path)
    generator = torch.Generator().manual_seed(7)
    input_ids = torch.randint(0, 99, (3, length), generator=generator)
    cotangent = torch.randn(3, length, encoder.config.hidden_size, generator=generator)
    hidden = encoder(input_ids).last_hidden_state
    hidden.backward(cotangent)
    ours = run_ldmtune("text", tmp_path, {"input_ids": input_ids, "cotangent": cotangent})

    assert error(ours["last_hidden_state"], hidden.detach()) < TOLERANCE
    theirs = {published(key): parameter.grad for key, parameter in encoder.named_parameters()}
    # A constant added to all keys of a query leaves the softmax as it is: that gradient is rounding error around 0.
    zeros = {key for key in theirs if key.endswith("k_proj.bias")}
    errors = {key: error(ours["gradient." + key], theirs[key]) for key in theirs.keys() - zeros}
    assert largest(errors) < (TOLERANCE, "")
    for key in zeros:
        weight = theirs[key.replace(".bias", ".weight")].abs().max()
        assert ours["gradient." + key].abs().max() < TOLERANCE * weight


@pytest.mark.parametrize("eos", [2, 98])
def test_what_sdxl_reads_of_its_text_encoders(eos, tmp_path):
    encoder = build_text("sdxl_2")
    if eos != 2:  # a proper one, as newer configurations have
        encoder.config.eos_token_id = encoder.text_model.eos_token_id = eos
    encoder.save_pretrained(tmp_path)
    generator = torch.Generator().manual_seed(7)
    input_ids = torch.randint(1, 97, (3, 24), generator=generator)
    for row, end in enumerate((9, 23, 1)):
        input_ids[row, end] = 98
        input_ids[row, end + 1:] = 0
    cotangent, cotangent_pooled = torch.randn(3, 24, 64, generator=generator), torch.randn(3, 24, generator=generator)
    outputs = encoder(input_ids, output_hidden_states=True)
    ((outputs.hidden_states[-2] * cotangent).sum() + (outputs[0] * cotangent_pooled).sum()).backward()
    ours = run_ldmtune("text_xl", tmp_path, {"input_ids": input_ids, "cotangent": cotangent,
                                             "cotangent_pooled": cotangent_pooled})
    assert error(ours["hidden"], outputs.hidden_states[-2].detach()) < TOLERANCE
    assert error(ours["pooled"], outputs.text_embeds.detach()) < TOLERANCE
    theirs = {published(key): parameter.grad for key, parameter in encoder.named_parameters()}
    errors = {key: error(ours["gradient." + key], theirs[key]) for key in theirs if not key.endswith("k_proj.bias")}
    assert len(errors) > 60 and largest(errors) < (TOLERANCE, "")


def test_text_encoder_in_bfloat16_stays_near_float(tmp_path):
    encoder = build_text("sd1")
    encoder.save_pretrained(tmp_path)
    input_ids = torch.randint(0, 99, (3, 24), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        hidden = encoder(input_ids).last_hidden_state
    ours = run_ldmtune("text", tmp_path, {"input_ids": input_ids}, "bfloat16")["last_hidden_state"]
    assert ours.dtype == torch.bfloat16
    assert error(ours, hidden) < 0.05
