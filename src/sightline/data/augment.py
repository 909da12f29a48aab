"""Augmentation that keeps the answer true: which row is exempt from which change, and what is done to the others.

A mirror image has other sides, another order and unreadable text; other colours make "red" a lie; a crop may cut off
one of three dogs. So a row is exempt from a change where its question or one of its answers has a word that the change
touches. The words are English and chosen to exempt too many rather than too few: an exempt row costs a little variety,
and one that should have been exempt teaches a falsehood.

What is done to an image at a step follows from the seed, the step and the image, and from nothing else. Rows that share
an image and are exempt from different changes see different images, which are told apart by their keys.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image, ImageEnhance, ImageOps

from sightline.data.batch import Sequence
from sightline.data.row import ImageRef, Row, Where
from sightline.recipe.augment import Augment, Change

HUE = 0.25  # of the strength of a colour change, as SimCLR has it (arXiv 2002.05709, appendix A)
TASKS = {"reading": frozenset[Change]({"flip", "crop"})}  # a row's field `task`: all that such a data set asks

# Ways to ask for a short answer, which say nothing of the picture (LLaVA-1.5, arXiv 2310.03744, table 7).
INSTRUCTIONS = re.compile(
    r"answer the question using a single word or phrase\.?|answer with the option's letter from the given choices"
    r" directly\.?|provide a one-sentence caption for the provided image\.?",
    re.IGNORECASE,
)

# Each is a regular expression that a whole word matches.
SIDES = r"""
left(most|wards?|y)? right(most|wards?|y)? (clock|anticlock|counterclock)wise mirror(ed|s)? reflect\w* reversed?
backwards? sides? directions? ways? (east|west|north|south)\w* turn(s|ing|ed)?
"""
ORDER = r"""
first second third fourth fifth last orders? sequence consecutive alphabetical\w*
"""
CLOCKS = r"""
times? clocks? watch(es)? hours? minutes? o'clock midnight \d+:\d+ \d+[ap]m
"""
TEXT = r"""
says? saying said reads? reading writ(e|ing|ten) wrote words? letters? texts? spell(s|ed|ing)? signs? label(s|ed)?
logos? brand(s|ed)? name[sd]? called titled? titles captions? numbers? numerals? digits? licen[sc]e plates? jerseys?
print(s|ed)? compan(y|ies) manufacturers? sponsor\w* streets? stores? shops? airlines? websites? urls? phones?
date[sd]? years? month prices? costs? limit initials advertis\w* ads? graffiti menus? newspapers? magazines?
headlines? slogans? quotes? messages? languages? english alphabet routes? flags? countr(y|ies) display(s|ed)?
screens? keyboards? maps? models? destination teams?
"""
COLOURS = r"""
colou?r\w* hues? shades? tint(s|ed)? tones? dyed? paint\w* monochrome b&w sepia gr[ae]yscale
(red|green|blu|yellow|brown|grey|gray|purpl|pink|whit|black)d?ish reds? blues? greens? yellows? oranges? purples?
pinks? browns? blacks? whites? gr[ae]ys? silver gold(en)? tans? tanned beige maroon teal turquoise aqua cyan magenta
violet lavender lilac indigo navy burgundy crimson scarlet khaki olive ivory cream peach salmon bronze copper brass
rust\w* charcoal neon blonde? brunette redhead ginger rainbow plaid camouflage dark\w* lights? lit lighter lighting
bright\w* pale faded vivid shad(ows?|y) sun(ny|shine|light|set|rise|s)? clouds? cloudy overcast clear weather
night\w* day(time|light)? dusk dawn mornings? afternoon evening seasons? summer winter autumn fall spring rain\w*
storm\w* (un)?ripe\w* rotten raw rare burn\w* cooked toasted skin race ethnicity nationality caucasian stain\w*
dirty clean match(es|ing)? wines? traffic
"""
COUNTS = r"""
many much counts? totals? amounts? both each every all any anyone anything anybody none nothing nobody one only
alone more most fewer less least few several pairs? couples? groups? crowd\w* dozens? another others? else empty
full two three four five six seven eight nine ten \d+
"""
PRESENCE = r"""
there see seen visible show(s|n|ing)? present appear\w* contain\w* have has who where pictures? photos?
photograph\w* images? scene
"""
PLACES = r"""
top bottom upper lower above below under over corners? edges? borders? cent(er|re)\w* middle between behind front
beside next near\w* close\w* far\w* (back|fore)ground distance around surround\w* outside inside whole entire\w*
complete\w* big\w* large\w* small\w* size tall\w* long\w* short\w* wide cropped cut position location
"""
WORDS: dict[Change, str] = {
    "flip": SIDES + ORDER + CLOCKS + TEXT,
    "colour": COLOURS,
    "crop": SIDES + ORDER + CLOCKS + TEXT + COUNTS + PRESENCE + PLACES,
}
WORD = re.compile(r"[a-z0-9&]+(?::\d+)?(?:'[a-z]+)?")  # of lower-case text; what a hyphen joins is several
COUNTED = re.compile(r"\bnumbers? of\b")  # a number that is counted is no number that is read
SEVERAL_DIGITS = re.compile(r"\d\d")  # in an answer: mostly a number that was read, which no mirror shows


@dataclass(frozen=True, slots=True)
class View:
    """An image as it is shown at one step. `box` is what a crop keeps, as shares of width and height; of the factors, 1
    leaves the image as it is; `hue` is a share of the circle of hues.
    """

    flip: bool = False
    box: tuple[float, float, float, float] | None = None
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0

    def __call__(self, image: Image.Image) -> Image.Image:
        """`image` (RGB) changed, of the same size: a model may make as many tokens of it as its size demands."""
        if self.box is not None:
            (width, height), (left, top, right, bottom) = image.size, self.box
            edges = (left * width, top * height, right * width, bottom * height)
            image = image.resize(image.size, Image.Resampling.BICUBIC, box=edges)
        if self.flip:
            image = ImageOps.mirror(image)
        for enhancer, factor in (
            (ImageEnhance.Brightness, self.brightness),
            (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.saturation),
        ):
            image = enhancer(image).enhance(factor) if factor != 1 else image
        return _turned(image, self.hue) if self.hue else image

    def without(self, changes: Iterable[Change]) -> View:
        """This view less `changes`."""
        less: dict[Change, dict[str, Any]] = {
            "flip": {"flip": False},
            "crop": {"box": None},
            "colour": {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0},
        }
        undone = {key: value for change in changes for key, value in less[change].items()}
        return replace(self, **undone) if undone else self

    def of(self, image: ImageRef) -> ImageRef:
        """`image` seen so: another image, unless nothing is changed."""
        return image if self == View() else replace(image, key=f"{image.key}|{self!r}", view=self)


class Exemptions:
    """Which changes a row is exempt from, by its words."""

    def __init__(self, settings: Augment) -> None:
        self._on = frozenset(settings.changes)
        self._words = {
            change: re.compile("|".join(f"(?:{one})" for one in WORDS[change].split())) for change in self._on
        }
        self._also = {
            change: re.compile("|".join(also), re.IGNORECASE) for change, also in settings.also.items() if also
        }
        self._known: dict[str, frozenset[Change]] = {}  # words repeat

    def __call__(self, row: Row) -> frozenset[Change]:
        """The changes, of those that are on, that could make an answer of `row` false."""
        asked = row.fields.get("question")
        said = [turn.text for turn in row.turns if turn.role == "assistant"]
        questions = [asked] if asked else [turn.text for turn in row.turns if turn.role == "user"]
        answers = "\n".join(dict.fromkeys((*said, *row.answers)))
        text = INSTRUCTIONS.sub(" ", "\n".join(questions)) + "\n" + answers
        found = set(TASKS.get(row.fields.get("task", ""), ()))
        for word in set(WORD.findall(COUNTED.sub("many", text.lower()))):
            found |= self._touched(word)
        if SEVERAL_DIGITS.search(answers):
            found |= {"flip", "crop"}
        found |= {change for change, also in self._also.items() if also.search(text)}
        return self._on & found

    def _touched(self, word: str) -> frozenset[Change]:
        known = self._known.get(word)
        if known is None:
            stem = word.removesuffix("'s")
            known = frozenset(change for change, words in self._words.items() if words.fullmatch(stem))
            self._known[word] = known
        return known


class Augmenter:
    """Shows images otherwise at every step, as far as the rows that ask about them allow.

    Args:
        seed: of the stage.
        rows: all rows of the stage that are at hand; those of streams come by `row`.
    """

    def __init__(self, settings: Augment, seed: int, rows: Iterable[Row]) -> None:
        self.settings, self._seed = settings, seed
        self._exemptions = Exemptions(settings)
        self._exempt: dict[tuple[Where, str], frozenset[Change]] = {}
        self._rows, self._counts = 0, Counter[Change]()
        for row in rows:
            if not row.images:
                continue
            changes = self._exemptions(row)
            self._rows += 1
            self._counts.update(changes)
            for image in row.images if changes else ():
                known = self._exempt.get((row.where, image.key), frozenset())
                self._exempt[row.where, image.key] = known | changes

    def facts(self) -> dict[str, int]:
        """Rows with images, and how many of them are exempt from each change that is on."""
        return {"rows": self._rows} | {change: self._counts[change] for change in self.settings.changes}

    def __call__(self, sequences: Iterable[Sequence], step: int) -> list[Sequence]:
        """`sequences` with the images of `step`; of rows packed together, all must allow a change."""
        return [self._shown(sequence, step) if sequence.images else sequence for sequence in sequences]

    def row(self, row: Row, step: int) -> Row:
        """`row` of a stream with the images of `step`."""
        exempt = self._exemptions(row)
        return replace(row, images=tuple(self._view(image, step).without(exempt).of(image) for image in row.images))

    def _shown(self, sequence: Sequence, step: int) -> Sequence:
        images = []
        for image in sequence.images:
            exempt = frozenset[Change]().union(
                *(self._exempt.get((where, image.key), ()) for where in sequence.examples)
            )
            images.append(self._view(image, step).without(exempt).of(image))
        return replace(sequence, images=tuple(images))

    def _view(self, image: ImageRef, step: int) -> View:
        """What chance does to `image` at `step`, the same in every micro-batch and on every rank."""
        text = f"{self._seed}/{step}/{image.key}".encode()
        chance = random.Random(hashlib.blake2b(text, digest_size=8).digest())
        flip = chance.random() < self.settings.flip
        side = math.sqrt(chance.uniform(self.settings.crop, 1.0))  # of width and height alike: a square stays a square
        left, top = chance.uniform(0, 1 - side), chance.uniform(0, 1 - side)
        strength = self.settings.colour
        brightness, contrast, saturation = (1 + chance.uniform(-strength, strength) for _ in range(3))
        hue = chance.uniform(-strength, strength) * HUE
        box = (left, top, left + side, top + side) if self.settings.crop < 1 else None
        return View(flip, box, brightness, contrast, saturation, hue)


def _turned(image: Image.Image, share: float) -> Image.Image:
    """`image` with its hues turned by a `share` of their circle."""
    hue, saturation, value = image.convert("HSV").split()
    shift = round(share * 256)
    turned = hue.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
