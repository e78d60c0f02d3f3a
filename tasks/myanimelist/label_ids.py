"""The site's ids of themes and demographics by name; genres have theirs in the catalogue.

A theme that the site renamed has two names, so that titles that were read before and after keep one label.
"""

# fmt: off
THEME_IDS = {
    "Racing": 3, "Demons": 6, "Mythology": 6, "Strategy Game": 11, "Historical": 13, "Martial Arts": 17, "Mecha": 18,
    "Music": 19, "Parody": 20, "Samurai": 21, "School": 23, "Space": 29, "Super Power": 31, "Vampire": 32, "Harem": 35,
    "Military": 38, "Detective": 39, "Psychological": 40, "Workplace": 48, "Adult Cast": 50, "Anthropomorphic": 51,
    "CGDCT": 52, "Childcare": 53, "Combat Sports": 54, "Delinquents": 55, "Educational": 56, "Gag Humor": 57,
    "Gore": 58, "High Stakes Game": 59, "Idols (Female)": 60, "Idols (Male)": 61, "Isekai": 62, "Iyashikei": 63,
    "Love Polygon": 64, "Magical Sex Shift": 65, "Mahou Shoujo": 66, "Medical": 67, "Organized Crime": 68,
    "Otaku Culture": 69, "Performing Arts": 70, "Pets": 71, "Reincarnation": 72, "Reverse Harem": 73,
    "Romantic Subtext": 74, "Showbiz": 75, "Survival": 76, "Team Sports": 77, "Time Travel": 78, "Video Game": 79,
    "Visual Arts": 80, "Crossdressing": 81,
}
# fmt: on
DEMOGRAPHIC_IDS = {"Kids": 15, "Shoujo": 25, "Shounen": 27, "Seinen": 42, "Josei": 43}
