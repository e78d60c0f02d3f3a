"""The motif of each genre, which posters of the genre show.

Each function draws on an image of WIDTH x HEIGHT pixels. Positions, sizes, hues and numbers are drawn from `rng`.
"""

import math
import random
from collections.abc import Callable

from PIL import ImageColor, ImageDraw

WIDTH, HEIGHT = 225, 318

Colour = tuple[int, int, int]
Draw = ImageDraw.ImageDraw


def near_colour(hue: float, saturation: float, value: float, rng: random.Random, spread: float = 8) -> Colour:
    """An RGB colour near a hue (degrees), saturation and value (percent), at most `spread` away in each."""
    hue = (hue + rng.uniform(-spread, spread)) % 360
    saturation = min(100.0, max(0.0, saturation + rng.uniform(-spread, spread)))
    value = min(100.0, max(4.0, value + rng.uniform(-spread, spread)))
    red, green, blue = ImageColor.getrgb(f"hsv({hue:.0f},{saturation:.0f}%,{value:.0f}%)")[:3]
    return red, green, blue


def _place(rng: random.Random) -> tuple[float, float]:
    """A random position above the title band."""
    return rng.uniform(15, WIDTH - 15), rng.uniform(15, HEIGHT - 80)


def _sparkle(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """The corners of a thin four-pointed star."""
    corners = []
    for index in range(8):
        r, angle = radius * (0.22 if index % 2 else 1), math.pi * index / 4
        corners.append((x + r * math.sin(angle), y - r * math.cos(angle)))
    return corners


def _action(draw: Draw, rng: random.Random) -> None:
    """Speed lines from one point, and a bolt."""
    x, y = rng.uniform(60, WIDTH - 60), rng.uniform(70, 200)
    for _ in range(rng.randint(12, 20)):
        angle, width = rng.uniform(0, 2 * math.pi), rng.uniform(0.015, 0.05)
        ends = [(x + 400 * math.cos(angle + d), y + 400 * math.sin(angle + d)) for d in (-width, width)]
        start = (x + 55 * math.cos(angle), y + 55 * math.sin(angle))
        draw.polygon([start, *ends], fill=(*near_colour(45, 25, 98, rng), 190))
    left, top, s = rng.uniform(15, 150), rng.uniform(15, 110), rng.uniform(0.8, 1.5)
    bolt = ((22, 0), (0, 48), (18, 48), (6, 92), (48, 36), (28, 36), (44, 0))
    yellow = near_colour(52, 90, 98, rng)
    draw.polygon([(left + s * a, top + s * b) for a, b in bolt], fill=yellow, outline=(40, 20, 10))


def _adventure(draw: Draw, rng: random.Random) -> None:
    """Snow-capped mountains."""
    for _ in range(rng.randint(2, 4)):
        x, height, base = rng.uniform(10, WIDTH - 10), rng.uniform(70, 130), rng.uniform(200, 235)
        half = height * rng.uniform(0.55, 0.85)
        rock = near_colour(215, 38, 45, rng)
        draw.polygon([(x, base - height), (x - half, base), (x + half, base)], fill=rock)
        snow = ((0, 1), (-0.33, 0.67), (-0.1, 0.76), (0.08, 0.62), (0.33, 0.67))
        draw.polygon([(x + a * half, base - b * height) for a, b in snow], fill=(250, 252, 255))


def _comedy(draw: Draw, rng: random.Random) -> None:
    """Confetti dots in loud colours, and a laughing face."""
    for _ in range(rng.randint(16, 26)):
        (x, y), r = _place(rng), rng.uniform(4, 10)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=near_colour(rng.choice((50, 15, 195, 330)), 80, 98, rng))
    (x, y), r = (rng.uniform(40, WIDTH - 40), rng.uniform(40, 120)), rng.uniform(20, 32)
    draw.ellipse((x - r, y - r, x + r, y + r), fill=near_colour(52, 85, 100, rng), outline=(70, 40, 0), width=2)
    draw.chord((x - 0.6 * r, y - 0.5 * r, x + 0.6 * r, y + 0.7 * r), 0, 180, fill=(150, 30, 30))
    for eye in (x - 0.4 * r, x + 0.4 * r):
        draw.arc((eye - 6, y - 0.5 * r, eye + 6, y), 180, 360, fill=(60, 30, 0), width=2)


def _drama(draw: Draw, rng: random.Random) -> None:
    """Slanting rain."""
    slant = rng.uniform(-14, 14)
    for _ in range(rng.randint(50, 80)):
        x, y = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT - 60)
        draw.line((x, y, x + slant, y + rng.uniform(18, 34)), fill=(225, 235, 250, 150), width=2)


def _fantasy(draw: Draw, rng: random.Random) -> None:
    """An arch of magic and four-pointed sparkles."""
    x, y, r = rng.uniform(70, WIDTH - 70), rng.uniform(110, 190), rng.uniform(60, 95)
    for step in range(4):
        s = r - 8 * step
        colour = (*near_colour(285 - 18 * step, 55, 95, rng), 220)
        draw.arc((x - s, y - s, x + s, y + s), 170, 370, fill=colour, width=6)
    for _ in range(rng.randint(9, 15)):
        (px, py), size = _place(rng), rng.uniform(7, 17)
        draw.polygon(_sparkle(px, py, size), fill=(*near_colour(rng.choice((55, 295)), 25, 100, rng), 235))


def _horror(draw: Draw, rng: random.Random) -> None:
    """Blood running down from the upper edge, and a shadow around everything."""
    blood = near_colour(355, 92, 48, rng)
    depth = rng.uniform(10, 26)
    draw.rectangle((0, 0, WIDTH, depth), fill=blood)
    x = 0.0
    while x < WIDTH:
        width, length = rng.uniform(8, 18), rng.uniform(15, 110)
        draw.rounded_rectangle((x, -20, x + width, depth + length), radius=width / 2, fill=blood)
        x += width + rng.uniform(3, 20)
    for margin in range(0, 44, 4):
        frame = (margin - 1, margin - 1, WIDTH - margin, HEIGHT - margin)
        draw.rectangle(frame, outline=(10, 0, 0, 150 - 3 * margin), width=4)


def _mystery(draw: Draw, rng: random.Random) -> None:
    """A keyhole with light behind it."""
    x, y, r = rng.uniform(50, WIDTH - 50), rng.uniform(60, 140), rng.uniform(18, 30)
    light = near_colour(48, 60, 98, rng)
    draw.ellipse((x - r, y - r, x + r, y + r), fill=light)
    corners = ((-0.4, 0), (0.4, 0), (0.9, 2.6), (-0.9, 2.6))
    draw.polygon([(x + a * r, y + b * r) for a, b in corners], fill=light)


def _romance(draw: Draw, rng: random.Random) -> None:
    """Hearts."""
    for _ in range(rng.randint(6, 12)):
        (x, y), s = _place(rng), rng.uniform(8, 22)
        colour = (*near_colour(345, 65, 96, rng), rng.randint(190, 255))
        draw.ellipse((x - s, y - 0.6 * s, x + 0.05 * s, y + 0.45 * s), fill=colour)
        draw.ellipse((x - 0.05 * s, y - 0.6 * s, x + s, y + 0.45 * s), fill=colour)
        tip = (x, y + 1.25 * s)
        draw.polygon([(x - 0.93 * s, y + 0.2 * s), (x + 0.93 * s, y + 0.2 * s), tip], fill=colour)


def _science_fiction(draw: Draw, rng: random.Random) -> None:
    """A ringed planet, stars, and a grid of light on the ground."""
    for _ in range(rng.randint(25, 45)):
        (x, y), r = _place(rng), rng.uniform(0.8, 2.4)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(235, 250, 255))
    (x, y), r = (rng.uniform(45, WIDTH - 45), rng.uniform(45, 130)), rng.uniform(18, 34)
    draw.ellipse((x - r, y - r, x + r, y + r), fill=near_colour(190, 60, 80, rng))
    ring = near_colour(175, 50, 98, rng)
    draw.ellipse((x - 1.8 * r, y - 0.45 * r, x + 1.8 * r, y + 0.45 * r), outline=ring, width=4)
    light, horizon = (*near_colour(180, 90, 95, rng), 200), rng.uniform(195, 220)
    for column in range(-8, 9):
        draw.line((WIDTH / 2 + 12 * column, horizon, WIDTH / 2 + 50 * column, HEIGHT), fill=light, width=2)
    for row in range(6):
        y = horizon + 3 * row * row + 4 * row
        draw.line((0, y, WIDTH, y), fill=light, width=2)


def _slice_of_life(draw: Draw, rng: random.Random) -> None:
    """Falling leaves and a steaming cup."""
    for _ in range(rng.randint(10, 18)):
        (x, y), s, turn = _place(rng), rng.uniform(7, 14), rng.uniform(0, math.pi)
        tip = (s * math.cos(turn), s * math.sin(turn))
        side = (-0.45 * tip[1], 0.45 * tip[0])
        corners = (tip, side, (-tip[0], -tip[1]), (-side[0], -side[1]))
        draw.polygon([(x + a, y + b) for a, b in corners], fill=near_colour(rng.choice((90, 110, 75)), 55, 70, rng))
    x, y, s = rng.uniform(30, WIDTH - 80), rng.uniform(165, 215), rng.uniform(0.8, 1.3)
    cup = near_colour(30, 20, 98, rng)
    draw.arc((x + 34 * s, y + 4 * s, x + 58 * s, y + 26 * s), 0, 360, fill=cup, width=5)
    draw.rounded_rectangle((x, y, x + 46 * s, y + 38 * s), radius=9, fill=cup, outline=(120, 90, 70), width=2)
    for step in range(3):
        left = x + (8 + 12 * step) * s
        draw.arc((left, y - 26 * s, left + 10 * s, y - 4 * s), 90, 270, fill=(255, 255, 255, 220), width=3)


def _sports(draw: Draw, rng: random.Random) -> None:
    """A striped track and balls."""
    for lane in range(5):
        y = 200.0 + 13 * lane
        draw.polygon([(0, y + 20), (WIDTH, y - 20), (WIDTH, y - 14), (0, y + 26)], fill=(255, 255, 255, 230))
    for _ in range(rng.randint(1, 3)):
        (x, y), r = _place(rng), rng.uniform(16, 30)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=near_colour(25, 85, 92, rng), outline=(60, 30, 10), width=2)
        draw.line((x - r, y, x + r, y), fill=(60, 30, 10), width=2)
        draw.arc((x - 1.7 * r, y - r, x - 0.3 * r, y + r), 300, 60, fill=(60, 30, 10), width=2)
        draw.arc((x + 0.3 * r, y - r, x + 1.7 * r, y + r), 120, 240, fill=(60, 30, 10), width=2)


def _supernatural(draw: Draw, rng: random.Random) -> None:
    """Will-o'-the-wisps."""
    for _ in range(rng.randint(4, 8)):
        x, y = _place(rng)
        for r, alpha in ((18, 60), (11, 120), (5, 240)):
            draw.ellipse((x - r, y - 1.3 * r, x + r, y + r), fill=(*near_colour(150, 60, 98, rng), alpha))


def _suspense(draw: Draw, rng: random.Random) -> None:
    """Cracked glass."""
    x, y = rng.uniform(50, WIDTH - 50), rng.uniform(50, 180)
    for _ in range(rng.randint(9, 14)):
        angle, px, py = rng.uniform(0, 2 * math.pi), x, y
        for _ in range(4):
            nx, ny = px + rng.uniform(20, 50) * math.cos(angle), py + rng.uniform(20, 50) * math.sin(angle)
            draw.line((px, py, nx, ny), fill=(245, 245, 235, 220), width=2)
            px, py, angle = nx, ny, angle + rng.uniform(-0.4, 0.4)


MOTIFS: dict[str, Callable[[Draw, random.Random], None]] = {
    "Action": _action,
    "Adventure": _adventure,
    "Comedy": _comedy,
    "Drama": _drama,
    "Fantasy": _fantasy,
    "Horror": _horror,
    "Mystery": _mystery,
    "Romance": _romance,
    "Sci-Fi": _science_fiction,
    "Slice of Life": _slice_of_life,
    "Sports": _sports,
    "Supernatural": _supernatural,
    "Suspense": _suspense,
}
