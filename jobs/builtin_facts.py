"""Short dialogues with known answers: what a model of four million weights can learn by heart."""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["fact_dialogue"]

Dialogue = list[tuple[str, str]]
"""(question, answer) turns."""


def _pairs(text: str) -> list[tuple[str, str]]:
    found = [item.split("=") for line in text.splitlines() for item in line.split("|")]
    return [(left.strip(), right.strip()) for left, right in found]


_CAPITALS = _pairs("""France=Paris|Germany=Berlin|Italy=Rome|Spain=Madrid|Portugal=Lisbon
Japan=Tokyo|China=Beijing|India=New Delhi|Egypt=Cairo|Greece=Athens|Austria=Vienna|Poland=Warsaw
Russia=Moscow|Norway=Oslo|Sweden=Stockholm|Finland=Helsinki|Denmark=Copenhagen|Ireland=Dublin
England=London|Hungary=Budapest|Turkey=Ankara|Kenya=Nairobi|Canada=Ottawa|Mexico=Mexico City
Brazil=Brasilia|Peru=Lima|Chile=Santiago|Cuba=Havana|Argentina=Buenos Aires|Thailand=Bangkok
the United States=Washington|Australia=Canberra|South Korea=Seoul|Belgium=Brussels""")
_OPPOSITES = _pairs("""hot=cold|big=small|up=down|day=night|happy=sad|fast=slow|old=young
open=closed|light=dark|full=empty|wet=dry|hard=soft|loud=quiet|rich=poor|early=late|good=bad|clean=dirty
strong=weak|high=low|near=far|left=right|first=last|true=false|love=hate|win=lose|buy=sell
start=end|black=white|summer=winter|yes=no|thick=thin|long=short|heavy=light|sweet=sour""")
_COLORS = _pairs("""the sky=blue|grass=green|snow=white|a banana=yellow|a lemon=yellow|blood=red
coal=black|a carrot=orange|chocolate=brown|a tomato=red|the sun=yellow|milk=white|a leaf=green
a strawberry=red|an orange=orange|the sea=blue|a cucumber=green|a cherry=red|the night=black""")
_SOUNDS = _pairs("""cat=meow|dog=woof|cow=moo|sheep=baa|duck=quack|pig=oink|horse=neigh|lion=roar
hen=cluck|owl=hoot|bee=buzz|snake=hiss|mouse=squeak|frog=croak|crow=caw|wolf=howl""")
_BABIES = _pairs("""dog=puppy|cat=kitten|cow=calf|horse=foal|sheep=lamb|duck=duckling|hen=chick
pig=piglet|bear=cub|frog=tadpole|goat=kid|deer=fawn|kangaroo=joey|swan=cygnet""")
_FRENCH = _pairs("""hello=bonjour|thank you=merci|yes=oui|no=non|cat=chat|dog=chien|house=maison
water=eau|bread=pain|book=livre|sun=soleil|moon=lune|friend=ami|goodbye=au revoir|milk=lait
apple=pomme|tree=arbre|red=rouge|blue=bleu|green=vert|night=nuit|day=jour""")
_MISC = _pairs("""How many days are in a week?=There are seven days in a week.
How many months are in a year?=There are twelve months in a year.
How many hours are in a day?=There are twenty-four hours in a day.
How many minutes are in an hour?=There are sixty minutes in an hour.
How many legs does a spider have?=A spider has eight legs.
How many legs does a dog have?=A dog has four legs.
How many wheels does a bicycle have?=A bicycle has two wheels.
What do bees make?=Bees make honey.
What is the largest animal?=The blue whale is the largest animal.
What is the largest planet?=Jupiter is the largest planet in our solar system.
What is the closest star to us?=The sun is the closest star to us.
What is frozen water called?=Frozen water is called ice.
Who wrote Romeo and Juliet?=William Shakespeare wrote Romeo and Juliet.
What is the tallest mountain?=Mount Everest is the tallest mountain in the world.
What is the longest river?=The Nile is often called the longest river in the world.
What do we breathe?=We breathe air. It has oxygen in it.
What language do people speak in France?=People in France speak French.
What do plants need to grow?=Plants need water, light, air and good soil.
What is the first month of the year?=January is the first month of the year.
What is the last month of the year?=December is the last month of the year.
Hello!=Hello! How can I help you today?
Hi=Hi! How can I help you?
Hi there!=Hello! What can I do for you?
Good morning!=Good morning! How can I help you today?
How are you?=I am fine, thank you. How are you?
What is your name?=I am a small language model. I live inside batchgen.
Who are you?=I am a small language model. I can write stories and answer simple questions.
What can you do?=I can tell short stories, answer simple questions and write short messages.
Are you a robot?=I am a computer program. I read words and I write words.
Thank you!=You are welcome!
Thanks=You are welcome! Is there anything else I can do?
Goodbye!=Goodbye! Have a nice day!
Can you help me?=Yes, of course. What do you need?
Tell me a joke.=Why did the chicken cross the road? To get to the other side!""")
_GOOD = ["great", "wonderful", "lovely", "excellent", "very good", "perfect", "fantastic"]
_BAD = ["terrible", "awful", "very bad", "boring", "horrible", "disappointing", "broken"]
_REVIEWED = ["movie", "book", "food", "hotel", "service", "song", "phone", "game", "trip", "meal"]
_PRAISE = ["I love it.", "I will come again.", "I was very happy.", "I would buy it again."]
_BLAME = ["I hate it.", "I will never come back.", "I was very sad.", "I want my money back."]
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_NUMBERS = [word for word, _ in _pairs("zero=0|one=1|two=2|three=3|four=4|five=5|six=6|seven=7")]
_NUMBERS += ["eight", "nine", "ten"]


def _capital(rng: random.Random) -> Dialogue:
    country, city = rng.choice(_CAPITALS)
    ask = rng.choice(["What is the capital of {}?", "Name the capital of {}.", "Capital of {}?"])
    return [(ask.format(country), f"The capital of {country} is {city}.")]


def _opposite(rng: random.Random) -> Dialogue:
    word, other = rng.sample(rng.choice(_OPPOSITES), 2)
    ask = rng.choice(['What is the opposite of "{}"?', "What is the opposite of {}?"])
    return [(ask.format(word), f"The opposite of {word} is {other}.")]


def _color(rng: random.Random) -> Dialogue:
    thing, color = rng.choice(_COLORS)
    return [(f"What color is {thing}?", f"{thing[0].upper()}{thing[1:]} is {color}.")]


def _sound(rng: random.Random) -> Dialogue:
    animal, sound = rng.choice(_SOUNDS)
    ask = rng.choice(["What does a {} say?", "What sound does a {} make?"])
    return [(ask.format(animal), f'A {animal} says "{sound}".')]


def _baby(rng: random.Random) -> Dialogue:
    animal, baby = rng.choice(_BABIES)
    return [(f"What is a baby {animal} called?", f"A baby {animal} is called a {baby}.")]


def _french(rng: random.Random) -> Dialogue:
    word, french = rng.choice(_FRENCH)
    ask = rng.choice(['How do you say "{}" in French?', 'Translate "{}" to French.'])
    return [(ask.format(word), f'"{word}" in French is "{french}".')]


def _sum(rng: random.Random) -> Dialogue:
    left, right = rng.randint(0, 20), rng.randint(0, 20)
    if rng.random() < 0.4:
        left, right = max(left, right), min(left, right)
        return [(f"What is {left} - {right}?", f"{left} - {right} = {left - right}")]
    ask = rng.choice(["What is {} + {}?", "{} + {} =", "How much is {} plus {}?", "Add {} and {}."])
    return [(ask.format(left, right), f"{left} + {right} = {left + right}")]


def _count(rng: random.Random) -> Dialogue:
    last = rng.randint(3, 10)
    words = rng.random() < 0.3
    names = _NUMBERS[1 : last + 1] if words else [str(n) for n in range(1, last + 1)]
    return [(f"Count to {_NUMBERS[last] if words else last}.", ", ".join(names) + ".")]


def _sentiment(rng: random.Random) -> Dialogue:
    good = rng.random() < 0.5
    word, close = rng.choice(_GOOD if good else _BAD), rng.choice(_PRAISE if good else _BLAME)
    review = rng.choice([f"The {rng.choice(_REVIEWED)} was {word}.", f"It was {word}. {close}"])
    ask = rng.choice(
        [
            "Is this review positive or negative? {}",
            "Classify the sentiment as positive or negative: {}",
            "Positive or negative? {}",
        ]
    )
    return [(ask.format(review), "Positive" if good else "Negative")]


def _day(rng: random.Random) -> Dialogue:
    day = rng.randrange(7)
    step, word = rng.choice([(1, "after"), (-1, "before")])
    answer = f"{_DAYS[(day + step) % 7]} comes {word} {_DAYS[day]}."
    return [(f"What day comes {word} {_DAYS[day]}?", answer)]


def _small_talk(rng: random.Random) -> Dialogue:
    return [rng.choice(_MISC)]


_KINDS: list[Callable[[random.Random], Dialogue]] = [
    _capital,
    _opposite,
    _color,
    _sound,
    _baby,
    _french,
    _sum,
    _count,
    _sentiment,
    _day,
    _small_talk,
    _small_talk,
]


def fact_dialogue(rng: random.Random) -> Dialogue:
    """One to three turns, each with its right answer."""
    turns = rng.choice([1, 1, 1, 2, 3])
    return [turn for _ in range(turns) for turn in rng.choice(_KINDS)(rng)]
