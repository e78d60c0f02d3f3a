import numpy as np

from ml.poster_sheet import poster_sheet


def test_poster_sheet_shows_each_caption_below_its_poster() -> None:
    images = np.full((10, 3, 32, 32), 200, np.uint8)
    assert poster_sheet(images[:0]).ndim == 3
    without = poster_sheet(images)
    assert without.shape == (2 * 248 + 8, 8 * 168 + 8, 3)
    sheet = poster_sheet(images, ["Cowboy Bebop\nAction 0.91", *[""] * 9])
    assert sheet.shape[0] == without.shape[0] + 2 * 2 * 16
    first_caption = sheet[8 + 240 : 8 + 240 + 32, 8 : 8 + 160]
    assert (first_caption < 100).any()
    assert (sheet[8 + 240 : 8 + 240 + 32, 176 : 176 + 160] == 255).all()


def test_poster_sheet_cuts_a_caption_at_the_width_of_a_poster() -> None:
    sheet = poster_sheet(np.zeros((2, 3, 8, 8), np.uint8), ["A very long title " * 9, ""])
    assert (sheet[248:, 168:] == 255).all()
