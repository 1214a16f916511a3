"""Words for tasks: keys such as `quiet-harbor`, coded words such as `kfqzam`, variables such as `QXBRD`."""

from __future__ import annotations

import numpy as np

_KINDS = """
able aged amber ancient azure bold brave brief bright brisk broad calm civic clear clever cold cosmic cozy crisp
curly daily dense dusty eager early fancy fierce final firm flat fresh gentle giant glad golden grand green happy
heavy hidden hollow humble icy ideal jolly keen kind large late lean light little local long loud loyal lucky lunar
major merry mild modern narrow neat noble northern odd orange pale plain polite proud pure quick quiet rapid rare
ripe rough round royal rural scarlet secret sharp shiny short silent silver simple slow small smooth soft solid
steady steep sturdy sunny sweet swift tall tidy tiny tough urban vast vivid warm western white wide wild wise wooden
young
"""
_THINGS = """
acorn anchor apple arrow autumn badge bakery barrel basket beacon blanket bottle bridge bucket button cabin camera
candle canyon carpet castle cellar cherry circle clover coffee comet copper cotton cradle crystal curtain desert
diamond dinner dragon drawer eagle engine falcon feather fiddle flower forest fountain garden glacier guitar hammer
harbor helmet honey island jacket jungle kettle ladder lantern lemon letter library lizard magnet mango maple market
meadow mirror mitten mountain needle notebook ocean orchard oyster paddle palace paper parrot pebble pencil pepper
picnic pillow planet pocket puzzle quarry rabbit raven ribbon river rocket saddle sailor salmon scarf school shadow
sheep shovel signal spider spoon square statue storm summer sunset table teapot temple thimble thunder ticket timber
tower train tunnel turtle umbrella valley velvet village violin wagon walnut whistle window winter zebra
"""
ADJECTIVES, NOUNS = tuple(_KINDS.split()), tuple(_THINGS.split())


def keys(random: np.random.Generator, number: int) -> list[str]:
    """Different ones: `quiet-harbor`, and `quiet-harbor-lantern` too where more than fifteen thousand are needed."""
    kinds, things = len(ADJECTIVES), len(NOUNS)
    size = kinds * things
    if number <= size:
        return [_key(int(place)) for place in random.choice(size, number, replace=False)]
    if number > size * (things + 1):
        raise ValueError(f"there are {size * (things + 1)} different keys, but {number} are needed: lower lengths.")
    return [_key(int(place)) for place in random.choice(size * (things + 1), number, replace=False)]


def _key(place: int) -> str:
    place, kind = divmod(place, len(ADJECTIVES))
    more, thing = divmod(place, len(NOUNS))
    return "-".join([ADJECTIVES[kind], NOUNS[thing], *([NOUNS[more - 1]] if more else [])])


def letters(random: np.random.Generator, number: int, size: int) -> list[str]:
    """Different words of `size` random small letters."""
    found: dict[str, None] = {}
    while len(found) < number:
        found["".join(chr(97 + int(letter)) for letter in random.integers(0, 26, size))] = None
    return list(found)


def numbers(random: np.random.Generator, number: int, digits: int) -> list[str]:
    """Different numbers of so many digits."""
    found: dict[str, None] = {}
    while len(found) < number:
        found[str(random.integers(10 ** (digits - 1), 10**digits))] = None
    return list(found)
