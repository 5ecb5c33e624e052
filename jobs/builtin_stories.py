"""Short stories put together from sentences that fit: coherent by construction, in plain words.

The teacher's own stories wander; a story here has one hero, one problem, one helper and an end.
"""

from __future__ import annotations

import random

from builtin_prompts import ADJECTIVES, ANIMALS, NAMES, PEOPLE, PLACES

__all__ = ["story_request"]

_SHE = "Lily Anna Mia Emma Lucy Zoe Sara Rosa Ella Kate Nina Maya Ivy Alma Ruby"
_OPENINGS = [
    "Once upon a time there was a {adj} {kind} named {name}.",
    "There once was a {adj} {kind} named {name} who lived near the {place}.",
    "{name} was a {adj} {kind} who lived in a small house by the {place}.",
    "Long ago, a {adj} {kind} named {name} lived near a quiet {place}.",
    "One day a {adj} {kind} named {name} went to the {place}.",
]
_HELPERS = [
    "Then {name} met a {other}.",
    "Soon a {other} came along.",
    "On the way {he} met an old {other}.",
    "A kind {other} saw {him} and stopped.",
]
_ENDINGS = [
    "From that day on, {name} and the {other} were best friends.",
    "{name} went home with a smile and slept well that night.",
    "{name} thanked the {other}, and they walked home together.",
    "That evening {name} told the story to everyone, and they all laughed.",
    "{name} learned that it is good to ask for help.",
    "And {name} was happy.",
]
_PLOTS: dict[str, list[list[str]]] = {
    "finds a key": [
        [
            "{He} found a small golden key in the grass.",
            "A key was lying under a tree, and {he} picked it up.",
        ],
        ['"What does this key open?" {he} asked.', "{He} wanted to know which door it opened."],
        ["{helper}"],
        [
            '"I know that key," said the {other}. "It opens the blue door."',
            'The {other} looked at the key and said, "Come with me!"',
        ],
        [
            "Behind the door there was a garden full of flowers.",
            "The key opened an old box, and inside was a music box that played a sweet song.",
        ],
    ],
    "gets lost": [
        [
            "{He} walked too far and did not know the way home.",
            "{He} followed a butterfly and lost the way.",
        ],
        [
            "It was getting dark, and {he} was afraid.",
            "{He} looked left and right, but everything looked the same.",
        ],
        ["{helper}"],
        [
            '"Do not worry," said the {other}. "I will show you the way."',
            '"Where do you live?" asked the {other}. "I can take you there."',
        ],
        [
            "They walked past the river and over the hill, and at last {name} saw the house.",
            "Together they found the path, and {name} was soon at home.",
        ],
    ],
    "makes a new friend": [
        ["{He} had nobody to play with.", "{He} was often alone and looked out of the window."],
        [
            "One morning {he} went out to look for a friend.",
            "One sunny day {he} took a ball and went outside.",
        ],
        ["{helper}"],
        [
            '"Would you like to play with me?" asked {name}. "Yes!" said the {other}.',
            '"Hello, I am {name}," {he} said. The {other} smiled and said hello too.',
        ],
        ["They played until the sun went down.", "They shared an apple and talked all day."],
    ],
    "learns to swim": [
        ["{He} was afraid of the water.", "All the others could swim, but {name} could not."],
        [
            '"I will never learn it," {he} said.',
            "{He} put one foot in the water and jumped back. It was cold!",
        ],
        ["{helper}"],
        [
            '"I will stay with you," said the {other}. "Just move your arms and legs."',
            'The {other} said, "Try again. I will hold you."',
        ],
        [
            "{name} tried again and again, and at last {he} could swim.",
            "After a while {name} was swimming all alone.",
        ],
    ],
    "loses a hat": [
        ["{He} had a red hat and loved it very much.", "{He} wore a green hat every day."],
        [
            "One day the wind took the hat and blew it away.",
            "A strong wind came, and the hat flew high into the sky.",
        ],
        ["{helper}"],
        [
            '"Is this your hat?" asked the {other}. "It fell on my head!"',
            "The {other} pointed at a tall tree. The hat was hanging on a branch.",
        ],
        ["{name} put the hat on and held it tight.", "{name} was so glad to have the hat again."],
    ],
    "bakes a cake": [
        ["{He} wanted to bake a cake for a birthday.", "{He} liked cake more than anything."],
        [
            "But there was no sugar in the kitchen.",
            "{He} mixed flour, milk and eggs, but something was missing.",
        ],
        ["{helper}"],
        [
            '"I have some sugar," said the {other}. "Can I help you?"',
            '"Put some honey in it," said the {other}.',
        ],
        [
            "They baked the cake together, and it smelled wonderful.",
            "The cake was sweet and soft, and they ate it all.",
        ],
    ],
    "finds a map": [
        [
            "{He} found an old map in a bottle.",
            "Under a stone {he} found a map with a red cross on it.",
        ],
        [
            '"There must be a treasure!" {he} said.',
            "{He} wanted to know what was at the red cross.",
        ],
        ["{helper}"],
        [
            '"I can read maps," said the {other}. "We have to go to the big tree."',
            "The {other} had a shovel and came with {him}.",
        ],
        [
            "They dug a deep hole and found a box full of coins.",
            "At the red cross they found no gold, but a lovely place for a picnic.",
        ],
    ],
    "is afraid of the dark": [
        [
            "Every night {he} was afraid of the dark.",
            "When the lamp went out, {he} hid under the blanket.",
        ],
        [
            "{He} thought that there was a monster in the room.",
            "{He} heard a noise and could not sleep.",
        ],
        ["{helper}"],
        [
            '"Look up," said the {other}. "The stars are always with you."',
            '"The dark is only a blanket for the sun," said the {other}.',
        ],
        [
            "{name} looked at the moon and was not afraid anymore.",
            "That night {name} closed {his} eyes and slept well.",
        ],
    ],
    "plants a seed": [
        ["{He} had one small seed.", "{He} found a little seed and put it in the ground."],
        [
            "{He} gave it water every day, but nothing happened.",
            "Day after day {he} waited, but the ground stayed brown.",
        ],
        ["{helper}"],
        [
            '"You have to wait," said the {other}. "Good things take time."',
            'The {other} said, "It needs sun, water and time."',
        ],
        [
            "One morning there was a tiny green leaf, and soon a tall flower.",
            "In spring the seed grew into a tree with sweet apples.",
        ],
    ],
    "helps a stranger": [
        ["It was raining hard that day.", "It was a cold winter day."],
        ["{helper}"],
        [
            "The {other} was carrying a heavy bag and was very tired.",
            "The {other} had no umbrella and was wet and cold.",
        ],
        [
            '"Come in," said {name}. "You can sit by the fire."',
            '"Let me help you," said {name} and took the bag.',
        ],
        [
            "The {other} was very thankful and gave {him} a shiny stone.",
            "They drank hot tea and told each other stories.",
        ],
    ],
    "wants to fly": [
        ["{He} looked at the birds and wanted to fly too.", "Every day {he} dreamed of flying."],
        [
            "{He} jumped from a rock, but {he} fell into the grass.",
            "{He} made wings out of paper, but they broke.",
        ],
        ["{helper}"],
        [
            '"I have a kite," said the {other}. "Let us watch it fly."',
            '"You cannot fly," said the {other}, "but you can climb the hill and see everything."',
        ],
        [
            "From the top of the hill {name} saw the whole world, and it felt like flying.",
            "The kite went higher and higher, and {name} laughed.",
        ],
    ],
    "shares the last apple": [
        ["{He} had one apple left.", "There was only one apple on the table."],
        ["{He} was hungry and wanted to eat it.", "{He} was just about to eat it."],
        ["{helper}"],
        [
            '"I have not eaten all day," said the {other}.',
            "The {other} looked at the apple and said nothing.",
        ],
        [
            "{name} cut the apple in two and gave away one half.",
            "{name} shared the apple, and it tasted even better.",
        ],
    ],
    "breaks a cup": [
        [
            "{He} was running through the kitchen and broke a cup.",
            "{He} dropped {his} mother's best cup, and it broke.",
        ],
        ["{He} was sorry and did not know what to do.", "First {he} wanted to hide it."],
        ["{helper}"],
        [
            '"Tell the truth," said the {other}. "It is always better."',
            '"We can fix it with glue," said the {other}.',
        ],
        [
            "{name} said sorry, and nobody was angry.",
            "They fixed the cup, and it looked almost new.",
        ],
    ],
    "builds a boat": [
        ["{He} wanted to see the other side of the lake.", "{He} dreamed of the sea."],
        [
            "So {he} took some wood and began to build a boat.",
            "{He} built a little boat, but it had a hole.",
        ],
        ["{helper}"],
        [
            '"I can help you," said the {other}. "I know how to build boats."',
            "The {other} brought nails and a hammer.",
        ],
        [
            "When the boat was ready, they sailed into the sunset.",
            "The boat was strong, and they sailed across the water.",
        ],
    ],
}


def story_request(rng: random.Random) -> tuple[str, str]:
    """A request for a story, and the story."""
    name, event = rng.choice(NAMES), rng.choice(list(_PLOTS))
    adjective, kind = rng.choice(ADJECTIVES), rng.choice(ANIMALS + PEOPLE)
    other = rng.choice([animal for animal in ANIMALS if animal != kind])
    she = name in _SHE.split()
    words = {
        "name": name, "adj": adjective, "kind": kind, "other": other, "place": rng.choice(PLACES),
        "he": "she" if she else "he", "He": "She" if she else "He",
        "him": "her" if she else "him", "his": "her" if she else "his",
    }  # fmt: skip
    return _request(rng, words, event), _articles(_story(rng, words, event))


def _request(rng: random.Random, words: dict[str, str], event: str) -> str:
    hero = rng.choice(["a {adj} {kind}", "a {adj} {kind} named {name}", "a {kind}"])
    doing = rng.choice([f" who {event}", f" who {event}", ""])
    ask = rng.choice(["Tell me a story", "Write a short story", "Write a story", "Tell a story"])
    return _articles(f"{ask} about {hero.format(**words)}{doing}.")


def _story(rng: random.Random, words: dict[str, str], event: str) -> str:
    sentences = [rng.choice(_OPENINGS)]
    for choices in _PLOTS[event]:
        line = rng.choice(choices)
        sentences.append(rng.choice(_HELPERS) if line == "{helper}" else line)
    sentences.append(rng.choice(_ENDINGS))
    return " ".join(sentence.format(**words) for sentence in sentences)


def _articles(text: str) -> str:
    """`a old` becomes `an old`."""
    words = text.split(" ")
    for at, word in enumerate(words[:-1]):
        if word in ("a", "A") and words[at + 1][0] in "aeiou":
            words[at] = word + "n"
    return " ".join(words)
