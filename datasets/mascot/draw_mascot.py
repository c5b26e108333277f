"""Draws the mascot's pictures and metadata.jsonl beside this script: python draw_mascot.py (needs Pillow)."""

import json
import math
import pathlib

from PIL import Image, ImageDraw

SIZE, FINE = 128, 8  # pixels; drawn FINE times larger, then scaled down
COLOURS = {
    "white": "#ffffff", "green": "#5cb85c", "orange": "#f5a142", "pink": "#f4a6c8", "grey": "#9a9a9a",
    "yellow": "#f7d94c", "purple": "#8e6bbf", "red": "#d9534f",
}  # fmt: skip
BODY, SHADE, LIMB, LINE, LAMP = "#2f86e8", "#1f63b8", "#174a8c", "#10305c", "#ffd23f"

# File, background, what it does, pose (lean in degrees, size, arms' angle left and right, height), split.
PICTURES = [
    ("zorp-1.png", "white", "", (0, 1.0, 35, 35, 0), "train"),
    ("zorp-2.png", "green", "waving", (-6, 1.0, 35, -60, 0), "train"),
    ("zorp-3.png", "orange", "", (8, 0.85, 50, 20, 3), "train"),
    ("zorp-4.png", "pink", "cheering", (0, 0.9, -60, -60, -8), "train"),
    ("zorp-5.png", "grey", "", (-12, 0.8, 20, 50, 5), "train"),
    ("zorp-6.png", "yellow", "waving", (5, 1.05, -55, 35, 0), "train"),
    ("zorp-7.png", "purple", "", (4, 0.95, 40, 30, 0), "validation"),
    ("zorp-8.png", "red", "cheering", (-5, 0.9, -50, -65, -4), "test"),
]


class Pen:
    """Shapes in the creature's own units (the picture is 100 wide), leaned, scaled and shifted."""

    def __init__(self, image, lean, scale, height):
        self.draw = ImageDraw.Draw(image)
        self.angle, self.scale, self.height = math.radians(lean), scale, height
        self.unit = image.width / 100

    def place(self, x, y):
        x, y = (x - 50) * self.scale, (y - 55) * self.scale
        turned = (x * math.cos(self.angle) - y * math.sin(self.angle), x * math.sin(self.angle) + y * math.cos(self.angle))
        return ((turned[0] + 50) * self.unit, (turned[1] + 55 + self.height) * self.unit)

    def disc(self, x, y, radius, fill):
        cx, cy = self.place(x, y)
        r = radius * self.scale * self.unit
        self.draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=fill)

    def stroke(self, points, width, fill):
        self.draw.line([self.place(*p) for p in points], fill=fill, width=round(width * self.scale * self.unit), joint="curve")
        for point in (points[0], points[-1]):
            self.disc(*point, width / 2, fill)

    def rounded(self, left, top, right, bottom, radius, fill):
        corners = [(right - radius, top + radius, -90), (right - radius, bottom - radius, 0),
                   (left + radius, bottom - radius, 90), (left + radius, top + radius, 180)]  # fmt: skip
        outline = []
        for x, y, start in corners:
            arc = [math.radians(start + step * 9) for step in range(11)]
            outline += [self.place(x + radius * math.cos(a), y + radius * math.sin(a)) for a in arc]
        self.draw.polygon(outline, fill=fill)


def draw_zorp(image, lean, scale, left_arm, right_arm, height):
    pen = Pen(image, lean, scale, height)
    for side, angle in ((-1, left_arm), (1, right_arm)):
        reach = (50 + side * (25 + 17 * math.cos(math.radians(angle))), 58 + 17 * math.sin(math.radians(angle)))
        pen.stroke([(50 + side * 24, 58), reach], 7, LIMB)
        pen.disc(*reach, 6, SHADE)
        pen.stroke([(50 + side * 12, 78), (50 + side * 13, 90)], 9, LIMB)
    pen.stroke([(50, 32), (50, 17)], 3.5, LINE)
    pen.disc(50, 15, 6.5, LINE)
    pen.disc(50, 15, 5, LAMP)
    pen.rounded(22, 29, 78, 83, 17, LINE)
    pen.rounded(24, 31, 76, 81, 15, BODY)
    pen.rounded(30, 64, 70, 77, 6, SHADE)
    for x in (38, 62):
        pen.disc(x, 48, 10, "#ffffff")
        pen.disc(x + 1.5, 49, 5, LINE)
    pen.stroke([(43, 70), (50, 73), (57, 70)], 2.6, LAMP)


def main():
    folder = pathlib.Path(__file__).parent
    rows = []
    for name, colour, action, pose, split in PICTURES:
        image = Image.new("RGB", (SIZE * FINE, SIZE * FINE), COLOURS[colour])
        draw_zorp(image, *pose)
        image.resize((SIZE, SIZE), Image.Resampling.LANCZOS).save(folder / name, optimize=True)
        text = " ".join(word for word in ("zorp", action, "on a", colour, "background") if word)
        rows.append({"file_name": name, "text": text, "split": split})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
