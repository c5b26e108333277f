"""Puts the emoji that the base knows onto ten backgrounds: the images that jobs/emoji-base.cfg trains the base on.

    python datasets/emoji-base/draw_training_images.py runs/emoji-base/images     (needs Pillow)

Reads datasets/emoji/colour (RGB on white) and writes one PNG for each known concept and background, captioned
"<name> on a <colour> background" in metadata.jsonl. The white that is connected to the border is taken for background;
its two outermost rings of pixels are mixed (multiplied), as the emoji's edges are smoothed against white.
"""

import argparse
import json
import pathlib

from PIL import Image, ImageChops, ImageDraw, ImageFilter

COLOURS = {
    "white": (255, 255, 255), "black": (20, 20, 20), "red": (214, 57, 50), "orange": (245, 147, 54), "yellow": (250, 219, 84),
    "green": (46, 139, 72), "blue": (64, 97, 214), "purple": (128, 74, 176), "pink": (243, 166, 205), "grey": (140, 140, 140),
}  # fmt: skip
HELD_OUT = 37  # every 37th picture is held out: all concepts and colours are met in training, not all pairs
EMOJI = pathlib.Path(__file__).parents[1] / "emoji" / "colour"


def background_mask(image):
    """L mask, 255 where nearly white pixels are connected to the image's border."""
    nearly_white = image.convert("L").point(lambda v: 255 if v >= 248 else 0)
    framed = Image.new("L", (image.width + 2, image.height + 2), 255)
    framed.paste(nearly_white, (1, 1))
    ImageDraw.floodfill(framed, (0, 0), 128)
    return framed.crop((1, 1, image.width + 1, image.height + 1)).point(lambda v: 255 if v == 128 else 0)


def on_background(image, colour):
    """RGB image with its white surroundings replaced by `colour`."""
    mask = background_mask(image)
    ring = mask.filter(ImageFilter.MaxFilter(5))
    flat = Image.new("RGB", image.size, colour)
    mixed = Image.composite(ImageChops.multiply(image, flat), image, ring)
    return Image.composite(flat, mixed, mask)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=pathlib.Path)
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in (EMOJI / "metadata.jsonl").read_text().splitlines()]
    lines = []
    for row in (row for row in rows if row["known"]):
        image = Image.open(EMOJI / row["file_name"]).convert("RGB")
        name = row["text"].removesuffix(" on a white background")
        for colour, rgb in COLOURS.items():
            file_name = f"{pathlib.Path(row['file_name']).stem}-{colour}.png"
            on_background(image, rgb).save(output / file_name)
            split = "validation" if len(lines) % HELD_OUT == HELD_OUT - 1 else "train"
            lines.append(json.dumps({"file_name": file_name, "text": f"{name} on a {colour} background", "split": split}))
    (output / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    print(f"{len(lines)} images in {output}")


if __name__ == "__main__":
    main()
