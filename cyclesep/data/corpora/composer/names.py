"""Invented artists and titles, unique within a corpus."""

from math import gcd

from cyclesep.data.corpora.composer.signals import random_stream

FIRST = "Amber Velvet Paper Silver Northern Hollow Electric Quiet Golden Distant Crimson Salt Winter Lucky Ivory Copper"
SECOND = "Foxes Harbour Signals Orchard Lanterns Parade Atlas Machines Rivers Sundays Choir Mirrors Union Ghosts Motel"
VERBS = "Falling Waiting Running Turning Leaving Burning Dancing Sleeping Calling Counting Breathing Drifting Sailing"
PLACES = (
    "Home Again",
    "in the Rain",
    "for You",
    "at Midnight",
    "to the Sea",
    "Under Glass",
    "Without a Sound",
    "on Monday",
    "Through the Wire",
    "Like Water",
    "All Night",
)
WORDS = (tuple(FIRST.split()), tuple(SECOND.split()), tuple(VERBS.split()), PLACES)
NUM_NAMES = len(WORDS[0]) * len(WORDS[1]) * len(WORDS[2]) * len(WORDS[3])
NAMES_KEY = 1_000


def track_name(seed: int, split_number: int, index: int) -> str:
    """Return the name of track `index` of a split (0, 1 or 2) as "Artist - Title".

    The names are numbered, and consecutive tracks step through the numbers by a step that is coprime to their count:
    names are unique within the first 11,440 tracks of a split. Later tracks repeat them with a part number.
    """
    rng = random_stream(seed, NAMES_KEY)
    start = int(rng.integers(NUM_NAMES))
    step = next(step for step in range(int(rng.integers(NUM_NAMES)), 2 * NUM_NAMES) if gcd(step, NUM_NAMES) == 1)
    position = 3 * index + split_number
    number = (start + position * step) % NUM_NAMES
    words = []
    for choices in WORDS:
        number, word = divmod(number, len(choices))
        words.append(choices[word])
    repetition = position // NUM_NAMES
    return f"{words[0]} {words[1]} - {words[2]} {words[3]}" + (f" (Part {repetition + 1})" if repetition else "")
