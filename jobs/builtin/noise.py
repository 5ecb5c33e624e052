"""How people write: contractions, abbreviations, little words, slips, case and punctuation."""

from __future__ import annotations

import random
import re

__all__ = ["Style", "finish", "write"]

_CONTRACTIONS = [
    ("do not", "don't"), ("does not", "doesn't"), ("did not", "didn't"), ("is not", "isn't"),
    ("are not", "aren't"), ("was not", "wasn't"), ("has not", "hasn't"), ("have not", "haven't"),
    ("cannot", "can't"), ("can not", "can't"), ("will not", "won't"), ("I am", "I'm"), ("I have", "I've"),
    ("I would", "I'd"), ("I will", "I'll"), ("we are", "we're"), ("we have", "we've"), ("it is", "it's"),
    ("could not", "couldn't"), ("would not", "wouldn't"), ("what is", "what's"), ("that is", "that's"),
    ("you are", "you're"), ("there is", "there's"), ("where is", "where's"), ("were not", "weren't"),
]  # fmt: skip
_SHORT = {
    "please": ("pls", "plz", "pleas", "Please"), "you": ("u",), "your": ("ur", "your"),
    "are": ("r",), "thanks": ("thx", "tnx", "ta"), "because": ("cos", "bc", "cause"), "and": ("&", "n"),
    "for": ("4",), "to": ("2", "to"), "before": ("b4",), "with": ("w/", "wiht"), "the": ("teh", "da"),
    "not": ("nt", "not"), "have": ("hav",), "my": ("mi", "my"), "tomorrow": ("tmrw", "tomorow"),
    "today": ("2day",), "account": ("acc", "acct"), "number": ("no", "nr", "num"), "message": ("msg",),
    "password": ("pw", "pwd", "passwort"), "received": ("recieved", "recvd"), "address": ("adress", "addr"),
    "is": ("iz", "is"), "something": ("sth", "smth"), "minutes": ("min", "mins"), "weeks": ("wks",),
    "delivery": ("delivry", "delivrey"), "receipt": ("reciept",), "really": ("rly", "realy"),
    "definitely": ("definately",), "separate": ("seperate",), "didn't": ("didnt", "did'nt"),
    "subscription": ("subscribtion", "sub"), "cancel": ("cancle", "cancell"), "refund": ("re-fund", "refound"),
}  # fmt: skip
_SYNONYMS = {
    "want": ("wish", "need", "would like", "'d like"), "very": ("really", "so", "extremely", "quite", "super"),
    "got": ("received", "was given", "ended up with"), "wrong": ("incorrect", "not right", "false"),
    "broken": ("damaged", "in bits", "busted", "kaput", "shattered", "faulty"),
    "money": ("cash", "funds", "payment", "money"), "big": ("large", "huge"), "small": ("little", "tiny"),
    "yesterday": ("last night", "two days ago", "the other day", "on Monday"), "quickly": ("fast", "soon"),
    "still": ("even now", "still", "up to now"), "now": ("at the moment", "right now", "currently"),
    "missing": ("not there", "absent", "lacking", "nowhere to be found"), "help": ("assist", "support"),
    "people": ("folks", "persons"), "company": ("firm", "business"), "shop": ("store", "boutique"),
    "cannot": ("am unable to", "fail to", "can never"), "buy": ("purchase", "order"),
    "bought": ("purchased", "picked up", "acquired"), "change": ("alter", "modify", "switch"),
    "send": ("mail", "dispatch", "ship"), "sent": ("mailed", "dispatched", "shipped"),
    "great": ("terrific", "splendid", "marvellous", "fab", "grand", "stellar"), "start": ("begin",),
    "stop": ("quit", "halt"), "problem": ("issue", "trouble", "difficulty"), "fix": ("repair", "mend", "sort out"),
    "tell": ("let me know", "inform"), "said": ("stated", "claimed", "mentioned"), "old": ("previous", "former"),
    "again": ("once more", "one more time"), "often": ("frequently",), "happy": ("glad", "chuffed", "overjoyed"),
    "colour": ("color", "shade"), "colleague": ("coworker", "employee"), "child": ("kid", "little one"),
    "picture": ("photo", "image"), "always": ("every time", "constantly"), "only": ("just", "merely"),
    "day": ("day", "morning"), "week": ("week", "fortnight"), "arrive": ("get here", "land", "reach me"),
}  # fmt: skip
_LITTLE = (
    "just really actually still also maybe simply perhaps basically already even honestly again now "
    "apparently so then finally obviously sadly unfortunately somehow kindly well"
).split()
_WORD = re.compile(r"[A-Za-z']+")
_CAREFUL = 0.4


class Style:
    """One writer's habits, the same through a message."""

    def __init__(self, rng: random.Random) -> None:
        kind = rng.random()
        self.lower = kind < 0.24
        self.upper = 0.24 <= kind < 0.27
        self.contract = rng.choice((0.0, 0.5, 1.0))
        self.short = (
            rng.choice((0.0, 0.0, 0.0, 0.1, 0.5)) if not self.lower else rng.choice((0, 0.2, 0.6))
        )
        self.synonym = rng.choice((0.0, 0.1, 0.4))
        self.little = rng.choice((0.0, 0.0, 0.0, 0.1, 0.3))
        self.drop = rng.choice((0.0, 0.0, 0.0, 0.0, 0.02, 0.06))
        self.slips = rng.choice((0, 0, 0, 0, 1, 1, 2, 3))
        self.apostrophes = rng.random() > (0.5 if self.lower else 0.1)
        self.points = rng.random() > (0.5 if self.lower else 0.03)
        if rng.random() < _CAREFUL:
            self.short = self.little = self.drop = 0.0
            self.slips = 0


def write(text: str, style: Style, rng: random.Random) -> str:
    """A sentence in the writer's words; private-use characters stand for values."""
    if rng.random() < style.contract:
        for long, short in _CONTRACTIONS:
            if long in text:
                text = text.replace(long, short)
    words = text.split(" ")
    words = [_word(word, style, rng) for word in words if rng.random() >= style.drop]
    if words and rng.random() < style.little:
        words.insert(rng.randrange(len(words)), rng.choice(_LITTLE))
    text = " ".join(words) or text
    if not style.apostrophes:
        text = text.replace("'", "")
    return text


def _word(word: str, style: Style, rng: random.Random) -> str:
    if word in _SYNONYMS and rng.random() < style.synonym:
        return rng.choice(_SYNONYMS[word])
    if word in _SHORT and rng.random() < style.short:
        return rng.choice(_SHORT[word])
    return word


def finish(text: str, style: Style, rng: random.Random) -> str:
    """Slips and case over the whole message."""
    for _ in range(style.slips):
        text = _slip(text, rng)
    if style.upper:
        return text.upper()
    if style.lower:
        text = text.lower()
    return text


def _slip(text: str, rng: random.Random) -> str:
    words = [match for match in _WORD.finditer(text) if len(match[0]) > 3]
    if not words:
        return text
    word = rng.choice(words)
    at = rng.randrange(word.start(), word.end() - 1)
    kind = rng.random()
    if kind < 0.35:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    if kind < 0.7:
        return text[:at] + text[at + 1 :]
    if kind < 0.85:
        return text[:at] + text[at] + text[at:]
    return text[:at] + rng.choice("abcdefghijklmnoprstuvwy") + text[at + 1 :]
