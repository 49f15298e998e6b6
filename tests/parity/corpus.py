"""All text of the fixtures: tokenizer corpus, preference pairs, conversations, and a small grammar for training data."""
import random

SENTENCES = """\
The river runs down to the sea, and the ship sails with the morning tide.
There was a miller who had three sons, and the youngest had only a cat.
The answer is in the letter; the letter is under the lamp.
A good question is better than a quick answer.
In the winter the wind comes from the north, in the summer from the south.
She said that the garden was theirs, and that the other one was hers.
Where is the old mill? The old mill is behind the hill.
What is the colour of the sea? The sea is green and blue.
He never told the teacher where the other children were hiding.
They sing in the kitchen, they sing in the street, they are singing still.
The list has one entry, then another, then nothing.
It is raining in the mountains and the rivers are rising.
Wie heißt der Fluss? Der Fluss heißt Elbe.
The answers are written on the stone at the end of the road.
If the bell rings, then answer the door; if it does not, then rest.
The letters arrive on the third of the month.
You are a helpful assistant.
Tell me the truth, the whole truth, and nothing else.
Then the ship sank, and the sailors swam to the shore.
I do not know where the station is.""".split("\n")

# What the tokenizer is trained on: the sentences, and the line shapes of prompts, so that two line breaks become one token.
TOKENIZER_CORPUS = SENTENCES + [f"Question: {s}\n\n\nAnswer:\n\n\n{t}\n" for s, t in zip(SENTENCES, reversed(SENTENCES))]

# Each line is there for a reason; the reason stands beside it and not in the file.
PAIRS = [
    # plain
    ("The river runs", " down to the sea.", " up to the moon, and then to the sun, and never comes back to the hill."),
    # a long prompt, short completions
    ("Read the story and answer.\n\n" + " ".join(SENTENCES[1:4]) + "\n\nQuestion: What had the youngest?\nAnswer:", " A cat.", " The mill."),
    # tokens merge across the border ("answ" + "er"), differently on the two sides
    ("Here is the answ", "er to the letter.", "ering bell."),
    # characters of two, three and four bytes; bytes that no merge covers
    ("Wie heißt das? 東京 🙂\n", "Das heißt Tōkyō 🗼.", "Keine Ahnung… ½ €"),
    # line breaks on both sides of the border
    ("Question: what is a list?\n\nAnswer:\n", "\n- one entry\n- another\n\n", "\n\nnothing"),
    # one scored token: the completion is the end token itself, so none is added
    ("Then the bell rings.", "</s>", " And rings. And rings."),
    # the whole prompt merges into the completion: without BOS nothing is left of it
    ("th", "e sea is green", "e street"),
    # a prompt that ends in a space; a completion that already ends in the end token
    ("Tell me ", "the truth.</s>", "nothing"),
    # chosen and rejected share a beginning, which still is completion and not prompt; long completions
    ("Write about the ship.\n", "The ship sails with the tide. " + " ".join(SENTENCES[8:11]), "The ship sank, and " + SENTENCES[13] + " " + SENTENCES[14]),
]

# No "prompt": it is the common beginning, by characters.
IMPLICIT = [
    # the space before the first difference goes to the completion
    ("Where is the mill? The mill is behind the hill.", "Where is the mill? The mill is not here."),
    # the first difference is inside a word
    ("The letter is under the lamp.", "The letter is under the ladder."),
    # one text is a beginning of the other: its last common character goes to the completion
    ("It is raining", "It is raining in the mountains."),
]


def _turns(*contents, first="user"):
    """Alternating user / assistant messages; `first` may be "system"."""
    roles = (["system"] if first == "system" else []) + ["user", "assistant"] * len(contents)
    return [{"role": r, "content": c} for r, c in zip(roles, contents)]


def _reply(content):
    return [{"role": "assistant", "content": content}]


_SHARED = _turns("Where is the station?", "Behind the old mill.", "And the mill?")
CHATS = [
    # explicit prompt; the template adds its default system prompt
    dict(prompt=_turns("What is the colour of the sea?"), chosen=_reply("Green and blue."), rejected=_reply("I do not know, and I do not care to know.")),
    # explicit prompt with a system message
    dict(prompt=_turns("You are a pirate.", "Where is the ship?", first="system"), chosen=_reply("At the bottom of the sea, arr."), rejected=_reply("In the harbour.")),
    # explicit, several turns, completions with line breaks and spaces at their ends
    dict(prompt=_turns("Write a list.", "- one\n- two", "Longer, please."), chosen=_reply("- one\n- two\n- three\n"), rejected=_reply(" no ")),
    # implicit prompt: whole conversations with a common beginning
    dict(chosen=_turns("Wie heißt das? 東京", "Tōkyō 🗼"), rejected=_turns("Wie heißt das? 東京", "Kyōto")),
    # implicit, several turns
    dict(chosen=_SHARED + _reply("Behind the hill."), rejected=_SHARED + _reply("The mill is where the mill is.")),
    # implicit, with a system message; the completions are several turns long
    dict(chosen=_turns("Be brief.", "Hello?", "Yes.", "Who are you?", "The miller.", first="system"),
         rejected=_turns("Be brief.", "Hello?", "Hello, hello, dear friend!", "Who are you?", "Nobody.", first="system")),
]


def training_pairs(n=50, seed=7):
    """`n` pairs {prompt, chosen, rejected}: the chosen answer names the place asked for, the rejected one does not."""
    rng = random.Random(seed)
    nouns = "mill ship letter lamp bell garden station teacher cat stone".split()
    adjectives = "old green third quick helpful other good".split()
    places = ["behind the hill", "under the lamp", "in the kitchen", "at the end of the road", "on the shore, where the wind is"]
    rows = []
    for _ in range(n):
        noun, adjective, place = rng.choice(nouns), rng.choice(adjectives), rng.choice(places)
        story = " ".join(rng.sample(SENTENCES[:12], rng.randrange(3)))
        rows.append(dict(
            prompt=f"{story}{chr(10) if story else ''}Question: where is the {adjective} {noun}?\nAnswer:",
            chosen=f" The {noun} is {place}.",
            rejected=rng.choice([" I do not know.", f" The {rng.choice(nouns)} sings, and sings, and then it sinks.", " no"]),
        ))
    return rows
