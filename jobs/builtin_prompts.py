"""Instructions for the teacher of the built-in model: a few patterns over plain word lists."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["SYSTEM", "TeacherPrompt", "teacher_prompts"]

SYSTEM = "You are a helpful assistant. You answer in short, simple sentences."


@dataclass(frozen=True, slots=True)
class TeacherPrompt:
    """`shown`: the user's words. `kind`: which worked examples the teacher sees before them.
    `as_text`: how often the answer is learnt as plain text, without the chat around it."""

    kind: str
    shown: str
    max_tokens: int = 96
    as_text: float = 0.0


def _items(text: str) -> list[str]:
    return [item.strip() for line in text.splitlines() for item in line.split("|") if item.strip()]


def _words(text: str) -> list[str]:
    return text.split()


ANIMALS = _words("""cat dog bird fox rabbit bear frog mouse duck horse cow pig sheep goat lion
tiger elephant monkey turtle snail bee ant butterfly owl crow squirrel hedgehog whale dolphin crab
penguin wolf deer donkey hen kitten puppy fish dragon robot ghost snowman giant wizard""")
PEOPLE = _words("""boy girl baker farmer teacher doctor sailor painter king queen knight cook
driver gardener singer fisherman nurse pilot grandmother grandfather mother father sister brother
friend neighbor princess pirate builder postman librarian dancer clown inventor""")
NAMES = _words("""Tom Lily Ben Anna Max Mia Sam Emma Jack Lucy Leo Zoe Tim Sara Dan Rosa Finn Ella
Ned Kate Omar Nina Paul Maya Hugo Ivy Noah Alma Luis Ruby""")
ADJECTIVES = _words("""little big brave shy lazy clever kind lonely hungry happy sad old young
curious tired funny quiet noisy angry proud lost friendly sleepy busy clumsy gentle""")
PLACES = _words("""forest garden beach school kitchen farm city village mountain river park house
library market castle island lake bakery zoo museum train station hospital shop street desert
field cave bridge playground attic boat""")
THINGS = _words("""apple tree sun moon rain snow wind cloud star river sea mountain flower bread
milk cheese egg cake tea coffee sugar salt water fire ice stone sand book pen paper clock lamp
chair table door window key cup spoon bed shoe hat coat ball kite drum piano guitar car bus train
bicycle boat plane road bridge house school library hospital garden farm market city computer
phone camera map letter robot wheel engine battery magnet mirror rope ladder umbrella bag box
bottle soap towel brush honey rice soup salad pizza banana orange lemon potato carrot tomato grape
leaf seed root grass bee ant spider fish bird cat dog horse cow elephant lion whale heart brain
bone tooth hand eye ear music dance sport game story poem friend family teacher doctor winter
spring summer autumn night morning rainbow volcano desert forest island planet earthquake storm
gold iron glass wood plastic cotton wool silk money bank internet email newspaper television radio
vaccine electricity gravity light sound heat shadow echo dream memory kindness courage patience
honesty friendship""")
EVENTS = _items("""finds a key|gets lost|makes a new friend|learns to swim|helps a stranger
loses a toy|plants a seed|builds a boat|bakes a cake|sees the snow|hears a strange noise
wants to fly|finds a map|misses the bus|tells the truth|shares the last apple|wins a race
is afraid of the dark|breaks a cup|finds a treasure|cannot sleep|writes a letter|meets a dragon
saves a bird|goes fishing|learns to read|gets a gift|paints a house|looks for the moon
climbs a hill|waits for the rain|learns to say sorry|visits the sea|wants a pet|loses a hat
opens a shop|plays a trick|keeps a promise|hides from the rain|finds an egg|fixes a clock""")
TASKS = _items("""make a cup of tea|boil an egg|wash my hands|plant a tree|fall asleep|save money
learn a new language|write a letter|clean my room|make a salad|ride a bicycle|draw a cat
tie my shoes|make new friends|read more books|stay healthy|save water|bake bread|care for a dog
study for a test|pack a bag|make a sandwich|calm down|wake up early|learn to swim|grow tomatoes
wash a car|make soup|say sorry|write a story|stop being late|cook rice|keep a secret|find a job
feel better|make a paper boat|remember names|be polite|eat less sugar|be a good friend
start running|make pancakes|thank a teacher|plan a trip|clean a window|take a good photo
choose a gift|learn to cook|sleep well|be on time|speak in public|learn math|play chess""")
WHYS = _items("""is the sky blue|do birds fly|do we sleep|do leaves fall|is the sea salty
do cats purr|do we need water|is snow white|do we dream|do people laugh|do bees make honey
is exercise good for us|do dogs bark|do we brush our teeth|do plants need light|does ice melt
do we go to school|is the night dark|do people read books|is it good to share|do we have seasons
does the moon change|do fish live in water|do we cook food|is sleep important|does it rain
do we say thank you|do people like music|do we wear coats|is honesty important|do stars shine""")
FEELINGS = _words("""happy sad tired bored angry afraid lonely nervous excited hungry sick proud
worried stressed confused jealous thankful cold""")
CATEGORIES = _items("""fruits|vegetables|animals|colors|sports|countries|cities|drinks|jobs
musical instruments|things in a kitchen|things in a school bag|healthy foods|farm animals
things you can do on a rainy day|wild animals|birds|flowers|hobbies|things that are round
things that are cold|ways to be kind|ways to save energy|things to see at the beach|winter clothes
things that fly|ways to relax|breakfast foods|games for children|kinds of weather
parts of the body|things to take on a trip|things that are red|ways to learn|good habits""")
TOPICS = _items("""a birthday|a lost book|the weather|a school trip|a new job|a broken window
a dinner|a picnic|a meeting|the holidays|a new house|a late train|a football game|a sick cat
a party|a good book|a walk in the park|a rainy day""")

_MASS = _words("""rain snow wind bread milk cheese tea coffee sugar salt water fire ice sand soap
honey rice soup salad pizza grass music winter spring summer autumn gold iron glass wood plastic
cotton wool silk money electricity gravity light heat kindness courage patience honesty friendship
paper television""")
_THE = _words("sun moon sky sea internet")


def _a(noun: str) -> str:
    """The noun with its article: an apple, the sun, bread."""
    if noun in _MASS:
        return noun
    if noun in _THE:
        return f"the {noun}"
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _story(rng: random.Random) -> TeacherPrompt:
    hero = _a(f"{rng.choice(ADJECTIVES)} {rng.choice(ANIMALS + PEOPLE)}")
    named = f" named {rng.choice(NAMES)}" if rng.random() < 0.4 else ""
    place = f" in the {rng.choice(PLACES)}" if rng.random() < 0.3 else ""
    ask = rng.choice(["Tell me a story", "Write a short story", "Write a story"])
    shown = f"{ask} about {hero}{named} who {rng.choice(EVENTS)}{place}."
    return TeacherPrompt("story", shown, 216, as_text=0.5)


def _explain(rng: random.Random) -> TeacherPrompt:
    ask = rng.choice(["What is {}?", "Explain what {} is.", "Tell me about {}.", "Describe {}."])
    return TeacherPrompt("explain", ask.format(_a(rng.choice(THINGS))), as_text=0.3)


def _how(rng: random.Random) -> TeacherPrompt:
    ask = rng.choice(["How do I {}?", "How can I {}?", "Tell me how to {}."])
    return TeacherPrompt("how", ask.format(rng.choice(TASKS)))


def _why(rng: random.Random) -> TeacherPrompt:
    return TeacherPrompt("why", f"Why {rng.choice(WHYS)}?")


def _list(rng: random.Random) -> TeacherPrompt:
    count = rng.choice(["three", "five"])
    ask = rng.choice(["Name {} {}.", "List {} {}.", "Give me {} {}."])
    return TeacherPrompt("list", ask.format(count, rng.choice(CATEGORIES)))


def _sentence(rng: random.Random) -> TeacherPrompt:
    word = rng.choice(THINGS + ANIMALS + PLACES)
    count = rng.choice(["a sentence", "two sentences"])
    return TeacherPrompt("sentence", f'Write {count} with the word "{word}".')


def _describe(rng: random.Random) -> TeacherPrompt:
    who = f"{rng.choice(ADJECTIVES)} {rng.choice(ANIMALS + PEOPLE)}"
    shown = f"Describe {_a(rng.choice([rng.choice(PLACES), who]))}."
    return TeacherPrompt("describe", shown, as_text=0.4)


def _poem(rng: random.Random) -> TeacherPrompt:
    return TeacherPrompt("poem", f"Write a short poem about {_a(rng.choice(THINGS + ANIMALS))}.")


def _feeling(rng: random.Random) -> TeacherPrompt:
    ask = rng.choice(
        ["I feel {} today.", "I am {}. What should I do?", "What can I do when I am {}?"]
    )
    return TeacherPrompt("feeling", ask.format(rng.choice(FEELINGS)))


def _message(rng: random.Random) -> TeacherPrompt:
    kind = rng.choice(["message", "letter", "note"])
    to = f"my {rng.choice(PEOPLE)}" if rng.random() < 0.5 else _a(rng.choice(PEOPLE))
    return TeacherPrompt("message", f"Write a short {kind} to {to} about {rng.choice(TOPICS)}.")


def _question(rng: random.Random) -> TeacherPrompt:
    asks = [
        f"What can I do with {_a(rng.choice(THINGS))}?",
        f"Do you like {_a(rng.choice(THINGS))}?",
        f"Where can I find {_a(rng.choice(THINGS))}?",
        f"What do you do in {_a(rng.choice(PLACES))}?",
        f"What does {_a(rng.choice(PEOPLE))} do?",
        f"Where does {_a(rng.choice(ANIMALS))} live?",
        f"What does {_a(rng.choice(ANIMALS))} eat?",
    ]
    return TeacherPrompt("question", rng.choice(asks))


_KINDS: list[tuple[Callable[[random.Random], TeacherPrompt], int]] = [
    (_story, 36),
    (_explain, 14),
    (_how, 8),
    (_why, 4),
    (_list, 6),
    (_sentence, 6),
    (_describe, 7),
    (_poem, 3),
    (_feeling, 4),
    (_message, 5),
    (_question, 7),
]


def teacher_prompts(rng: random.Random) -> Iterator[TeacherPrompt]:
    """Endless: kinds by their weights, words at random."""
    kinds, weights = [kind for kind, _ in _KINDS], [weight for _, weight in _KINDS]
    while True:
        yield rng.choices(kinds, weights)[0](rng)
