"""noise.rescale_betas_zero_snr: previews, a sweep's pictures and `sample` draw with the schedule that trained."""

import json

import numpy as np
from PIL import Image
from support import BASE, prepare, run
from sweeps import sweep, write_sweep

STEPS, GUIDANCE = 2, 3
SCHEDULE = "--rescale_betas_zero_snr"


def pixels(file):
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def sample(folder, image, *options):
    """The file of what `sample` draws for a picture of a sweep. The base is said to predict v, which zero SNR needs."""
    index = image["sample_id"]
    run(["sample", "--base", BASE, "--base.prediction_type", "v_prediction", "--prompt", image["prompt"], "--num_images", index + 1,
         "--num_inference_steps", STEPS, "--guidance_scale", GUIDANCE, "--output_dir", folder, *options])
    return folder / f"image-000-{index:03}.png"


def holds(grid, picture):
    """Whether a grid of pictures shows this one, each pixel twice as wide and high."""
    shown = picture.repeat(2, axis=0).repeat(2, axis=1)
    height, width, _ = shown.shape
    windows = np.lib.stride_tricks.sliding_window_view(grid, (1, width, 3))[: grid.shape[0] - height + 1, :, 0, 0]
    return any(np.array_equal(grid[y : y + height, x : x + width], shown)
               for y, x in np.argwhere((windows == shown[0]).all(axis=(2, 3))))


def test_all_pictures_are_drawn_with_the_schedule_that_trained(tmp_path):
    data = prepare(tmp_path / "set", 4, "--validation_images", "1", "--test_images", "0")
    file = write_sweep(tmp_path, data, **{
        "base.prediction_type": "v_prediction", "noise.rescale_betas_zero_snr": "true", "hypernetwork.layer_structure": "1,1,1",
        "optim.learning_rate": "1e-2", "train.max_train_steps": 1, "train.global_batch_size": 2, "sweep.pictures": 1,
        "sample.num_inference_steps": STEPS, "sample.guidance_scale": GUIDANCE, "sample.steps": 1})
    sweep(file, "run")
    pictures = tmp_path / "sweep/pictures"
    image, = json.loads((pictures / "index.json").read_text())["images"]
    trial, = (tmp_path / "sweep/trials").iterdir()
    trained = trial / json.loads((trial / "result.json").read_text())["export"]
    for column, options in (("base", []), (trial.name, ["--hypernetwork", trained])):
        picture = pixels(pictures / column / f"{image['sample_id']}.png")
        assert np.array_equal(picture, pixels(sample(tmp_path / f"with-{column}", image, SCHEDULE, *options)))
        assert not np.array_equal(picture, pixels(sample(tmp_path / f"without-{column}", image, *options)))
    preview = pixels(next(trial.glob("samples/step-*.png")))  # from the noise of index 0
    for column in ("base", trial.name):
        assert holds(preview, pixels(tmp_path / f"with-{column}/image-000-000.png"))
        assert not holds(preview, pixels(tmp_path / f"without-{column}/image-000-000.png"))
    settings = Image.open(tmp_path / "with-base/image-000-000.png").text["parameters"]
    assert "Noise Schedule: Zero Terminal SNR" in settings


def test_a_base_that_predicts_the_noise_is_refused(tmp_path):
    said = run(["sample", "--base", BASE, "--prompt", "rocket", "--output", tmp_path / "x.png", SCHEDULE], code=2)
    assert "rescale_betas_zero_snr" in said and "predicts v" in said and not (tmp_path / "x.png").exists()
