"""Posters of the invented titles. They show the genres imperfectly.

A poster consists of a sky, a landscape, a figure, the motifs of its genres and a band with the title. Each genre has
its own sky colours and motif (hearts, rings, drips, ...). One poster in five lacks a genre's motif, one in five has the
motif of another genre, and positions, sizes, hues and numbers vary. A network can therefore learn the genres, but not
perfectly.
"""

import math
import random
from io import BytesIO

from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from infra.local.site.invented_titles import InventedTitle
from infra.local.site.motifs import HEIGHT, MOTIFS, WIDTH, Colour, Draw, near_colour

CUE_PROBABILITY = 0.8  # that the poster shows a genre of the title
FALSE_CUE_PROBABILITY = 0.2  # that the poster shows a genre that the title does not have

# Upper sky, lower sky and ground, as hue (degrees), saturation and value (percent).
SKIES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "Action": ((14, 85, 55), (28, 90, 98), (8, 60, 25)),
    "Adventure": ((205, 70, 90), (45, 45, 99), (95, 55, 50)),
    "Comedy": ((50, 75, 99), (38, 55, 100), (25, 70, 90)),
    "Drama": ((220, 30, 50), (210, 15, 80), (215, 30, 32)),
    "Fantasy": ((268, 65, 55), (310, 40, 92), (255, 55, 38)),
    "Horror": ((0, 60, 12), (355, 85, 48), (0, 50, 8)),
    "Mystery": ((235, 55, 22), (195, 40, 50), (230, 50, 14)),
    "Romance": ((335, 45, 96), (22, 30, 100), (345, 45, 75)),
    "Sci-Fi": ((222, 85, 16), (185, 80, 62), (230, 70, 20)),
    "Slice of Life": ((165, 28, 93), (60, 20, 99), (110, 40, 70)),
    "Sports": ((200, 25, 98), (210, 70, 92), (130, 65, 52)),
    "Supernatural": ((170, 70, 20), (150, 50, 62), (190, 60, 14)),
    "Suspense": ((60, 8, 22), (45, 45, 62), (40, 15, 12)),
}
BACKGROUND = {"Action", "Fantasy", "Mystery", "Sci-Fi"}  # their motifs are drawn behind the figure
NEUTRAL_SKY = ((210, 18, 72), (35, 18, 94), (200, 18, 45))


def poster_jpeg(title: InventedTitle, seed: int = 0) -> bytes:
    """Draw a poster as a JPEG of 225 x 318 pixels. Title, seed and the version of Pillow determine the bytes."""
    names = [genre.name for genre in title.genres if genre.name in MOTIFS]
    rng = random.Random(f"poster:{seed}:{title.mal_id}")
    look = random.Random(f"look:{seed}:{title.franchise}")  # the same figure and lettering in a franchise

    shown = [name for name in names if rng.random() < CUE_PROBABILITY]
    if rng.random() < FALSE_CUE_PROBABILITY:
        shown.append(rng.choice([name for name in MOTIFS if name not in names]))
    rng.shuffle(shown)
    sky = SKIES[shown[0]] if shown and rng.random() < CUE_PROBABILITY else NEUTRAL_SKY
    upper, lower, ground = (near_colour(*colour, rng, spread=14) for colour in sky)

    image = _gradient(upper, lower)
    draw = ImageDraw.Draw(image, "RGBA")
    _sun(draw, rng, lower)
    for name in shown:
        if name == "Adventure":
            MOTIFS[name](draw, rng)
    _hills(draw, rng, ground)
    for name in shown:
        if name in BACKGROUND:
            MOTIFS[name](draw, rng)
    if rng.random() < 0.8:
        _figure(draw, rng, look)
    for name in shown:
        if name not in BACKGROUND and name != "Adventure":
            MOTIFS[name](draw, rng)
    _title_band(draw, look, title.title)
    return _jpeg(_printed(image, rng), quality=rng.randint(78, 90))


def broken_jpeg(title: InventedTitle, seed: int = 0) -> bytes:
    """The response for a damaged poster: the first half of its JPEG, with the header and part of the pixels."""
    whole = poster_jpeg(title, seed)
    return whole[: len(whole) // 2]


def question_mark_gif() -> bytes:
    """The placeholder image of titles without a poster."""
    image = Image.new("L", (50, 70), 225)
    ImageDraw.Draw(image).text((25, 35), "?", fill=120, font=ImageFont.load_default(40), anchor="mm")
    buffer = BytesIO()
    image.save(buffer, "GIF")
    return buffer.getvalue()


def _gradient(upper: Colour, lower: Colour) -> Image.Image:
    ramp = Image.linear_gradient("L").resize((WIDTH, HEIGHT))
    return ImageOps.colorize(ramp, upper, lower)


def _sun(draw: Draw, rng: random.Random, colour: Colour) -> None:
    """A pale disc with a halo, on all posters, independent of the genres."""
    x, y, radius = rng.uniform(30, WIDTH - 30), rng.uniform(25, 110), rng.uniform(14, 34)
    for factor, alpha in ((2.1, 22), (1.5, 40), (1.0, 150)):
        r = radius * factor
        light = (min(255, colour[0] + 60), min(255, colour[1] + 60), min(255, colour[2] + 60))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(*light, alpha))


def _hills(draw: Draw, rng: random.Random, colour: Colour) -> None:
    """Two wavy layers of ground, the nearer one darker."""
    for layer, (base, shade) in enumerate(((205, 1.15), (238, 0.8))):
        phase, swing, length = rng.uniform(0, 6.3), rng.uniform(5, 16), rng.uniform(35, 70) * (layer + 1)
        points = [(x, base + swing * math.sin(phase + x / length)) for x in range(0, WIDTH + 15, 15)]
        red, green, blue = (min(255, int(part * shade)) for part in colour)
        draw.polygon([*points, (WIDTH, HEIGHT), (0, HEIGHT)], fill=(red, green, blue, 255))


def _figure(draw: Draw, rng: random.Random, look: random.Random) -> None:
    """The head and shoulders of a person with the hair and eyes of the franchise."""
    hair = near_colour(look.uniform(0, 360), look.uniform(25, 80), look.uniform(25, 95), look)
    coat = near_colour(look.uniform(0, 360), look.uniform(10, 60), look.uniform(30, 90), look)
    eyes = near_colour(look.uniform(0, 360), 80, 60, look)
    skin = look.choice(((255, 226, 205), (243, 205, 178), (214, 168, 132), (160, 112, 84)))
    long_hair = look.random() < 0.5
    size = rng.uniform(0.8, 1.25)
    x, y, r = WIDTH / 2 + rng.uniform(-50, 50), rng.uniform(150, 180), 30 * size
    if long_hair:
        draw.rounded_rectangle((x - 1.25 * r, y - r, x + 1.25 * r, y + 2.5 * r), radius=r, fill=hair)
    neck = y + 1.3 * r
    draw.polygon([(x - 0.5 * r, neck), (x + 0.5 * r, neck), (x + 2 * r, HEIGHT), (x - 2 * r, HEIGHT)], fill=coat)
    draw.rectangle((x - 0.25 * r, y + 0.7 * r, x + 0.25 * r, y + 1.45 * r), fill=skin)
    draw.ellipse((x - r, y - 1.1 * r, x + r, y + 1.1 * r), fill=skin)
    draw.pieslice((x - 1.15 * r, y - 1.35 * r, x + 1.15 * r, y + 0.95 * r), 180, 360, fill=hair)
    for strand in range(5):  # the fringe
        left, root, tip = x - 1.1 * r + strand * 0.44 * r, y - 0.3 * r, y + rng.uniform(0, 0.2) * r
        draw.polygon([(left, root), (left + 0.5 * r, root), (left + 0.3 * r, tip)], fill=hair)
    for side in (-1, 1):
        ex, ey = x + side * 0.42 * r, y + 0.3 * r
        draw.ellipse((ex - 0.18 * r, ey - 0.28 * r, ex + 0.18 * r, ey + 0.28 * r), fill=(255, 255, 255))
        draw.ellipse((ex - 0.13 * r, ey - 0.24 * r, ex + 0.13 * r, ey + 0.24 * r), fill=eyes)
        draw.ellipse((ex - 0.1 * r, ey - 0.2 * r, ex, ey - 0.06 * r), fill=(255, 255, 255))
    draw.arc((x - 0.2 * r, y + 0.5 * r, x + 0.2 * r, y + 0.8 * r), 20, 160, fill=(150, 70, 70), width=2)


def _title_band(draw: Draw, look: random.Random, text: str) -> None:
    """The title in at most two lines, in the colours of the franchise."""
    top = HEIGHT - 62
    band = near_colour(look.uniform(0, 360), look.uniform(10, 70), look.choice((15, 92)), look)
    dark = sum(band) < 380
    draw.rectangle((0, top, WIDTH, HEIGHT), fill=(*band, 215))
    lettering = (255, 255, 255) if dark else (30, 26, 40)
    words = text.replace("☆", " ").split()
    middle = (len(words) + 1) // 2
    lines = [" ".join(words)] if len(text) < 13 else [" ".join(words[:middle]), " ".join(words[middle:])]
    lines = [line for line in lines if line]
    for index, line in enumerate(lines):
        size = min(30.0, 1.75 * (WIDTH - 24) / max(4, len(line)))
        y = top + 31 + (index - (len(lines) - 1) / 2) * 25
        draw.text((WIDTH / 2, y), line, fill=lettering, font=ImageFont.load_default(size), anchor="mm")


def _printed(image: Image.Image, rng: random.Random) -> Image.Image:
    """Add the grain, blur and varying exposure of printed and scanned posters."""
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.1)))
    small = (WIDTH // 2, HEIGHT // 2)
    grain = Image.frombytes("L", small, rng.randbytes(small[0] * small[1])).resize(image.size).convert("RGB")
    image = Image.blend(image, grain, rng.uniform(0.03, 0.1))
    exposure = rng.uniform(0.85, 1.12)
    return image.point([min(255, int(level * exposure)) for level in range(256)] * 3)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
