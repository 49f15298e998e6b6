"""The words and templates of tiny-reviews: data only, read by grammar.py.

Templates hold slots in braces. `{lead}` and `{genre}` keep their value within one review, so that the doctor of the
opening is the doctor of the rest. Where the favourable and the unfavourable side differ, "+" and "-" name them.
"""

PLURALS = {
    "comedy": "comedies",
    "drama": "dramas",
    "mystery": "mysteries",
    "romance": "romances",
    "thriller": "thrillers",
    "western": "westerns",
}

# Openings: what the film is about, without a word of judgement. They are the prompts.
OPENING_RULES = {
    "opening": [
        "the film is about {hero} who {act}.",
        "the film follows {hero} who {act}.",
        "this {genre} is about {hero} who {act}.",
        "this {genre} follows {hero} who {act}.",
        "this {genre} tells the story of {hero} who {act}.",
        "set {place}, this {genre} follows {hero} who {act}.",
        "in this {genre}, {hero} {act}.",
        "{hero} {act} in this {genre}.",
        "the story begins when {hero} {act}.",
        "i saw this {genre} {day}. it is about {hero} who {act}.",
        "i watched this {genre} with {friend}. it follows {hero} who {act}.",
    ],
    "hero": ["a {trait} {lead}", "a {trait} {lead}", "a {lead}"],
    "trait": ["young", "retired", "shy", "lonely", "famous", "wealthy", "stubborn", "homeless", "restless", "foreign"],
    "lead": [
        "baker", "carpenter", "dancer", "detective", "doctor", "farmer", "fisherman", "journalist", "judge", "lawyer",
        "nurse", "painter", "pilot", "priest", "sailor", "singer", "soldier", "student", "teacher", "thief", "waiter",
        "widow", "writer",
    ],
    "genre": list(PLURALS),
    "act": [
        "returns {home}", "moves to {town}", "leaves {town}", "searches for {someone}", "runs away with {someone}",
        "inherits {building}", "opens {building} {place}", "falls in love with {love}", "meets {someone} {place}",
        "finds {thing} {place}", "steals {thing}", "receives {thing} from {someone}", "crosses {wild}",
        "gets lost in {wild}", "spends a year in {wild}", "must choose between love and work",
        "investigates a murder {place}", "goes back to school", "looks after {someone}", "hides {someone} {place}",
    ],
    "home": ["home", "home after the war", "home after ten years"],
    "town": ["a small town", "the city", "a quiet village", "Paris", "London", "Rome"],
    "someone": [
        "an old friend", "a lost brother", "a younger sister", "a stranger", "a lost child", "an old uncle", "a neighbour",
        "a former student",
    ],
    "love": ["a stranger", "an old friend", "a neighbour"],
    "building": ["a hotel", "an old house", "a restaurant", "a bookshop", "a theatre"],
    "thing": ["a letter", "a map", "a painting", "a bag of money", "a diary", "an old car"],
    "wild": ["the desert", "the mountains", "the forest"],
    "place": ["in Paris", "in a small town", "in the mountains", "by the sea", "on an island", "during the war",
              "in winter"],
    "day": ["last night", "on Friday", "on a train", "at a festival", "last week"],
    "friend": ["my sister", "my brother", "my parents", "two friends", "an old friend"],
}

# Aspects a review speaks of: subjects (singular, plural, bare of articles), the verbs that link them to an adjective, adjectives and
# whole clauses of either side, and whether "in every scene" and the like may follow.
ASPECTS = {
    "direction": {
        "bare": ["direction"],
        "sg": ["the direction", "the work of the director"],
        "adj+": ["confident", "precise", "elegant", "careful"],
        "adj-": ["lazy", "careless", "clumsy", "timid"],
        "clause+": ["the director handles {matter} with {skill}", "the director {improves} {matter}",
                    "the director has a {gift} for suspense"],
        "clause-": ["the director handles {matter} with {neglect}", "the director {spoils} {matter}",
                    "the director {fails} to build suspense"],
        "tail": True,
    },
    "story": {
        "bare": ["plot", "script"],
        "sg": ["the story", "the plot", "the script", "the story of the {lead}"],
        "adj+": ["clever", "gripping", "original", "surprising", "moving"],
        "adj-": ["predictable", "thin", "muddled", "ridiculous", "hollow"],
        "clause+": ["the story {grips} the viewer", "the plot is full of {adj.story+} ideas",
                    "the script turns a simple idea into something {adj.story+}"],
        "clause-": ["the story {bores} the viewer", "the plot is full of {adj.story-} ideas",
                    "the script turns a simple idea into something {adj.story-}"],
        "tail": True,
    },
    "cast": {
        "bare": ["cast", "actors"],
        "sg": ["the cast"],
        "pl": ["the actors", "the supporting actors", "the young actors"],
        "adj+": ["superb", "charming", "relaxed", "brilliant"],
        "adj-": ["wooden", "bored", "miscast", "lifeless"],
        "clause+": ["the actors {shine} in every scene", "the actors bring {warmth} to every scene",
                    "the actors look {adj.cast+}"],
        "clause-": ["the actors {stumble} through every scene", "the actors bring {gloom} to every scene",
                    "the actors look {adj.cast-}"],
        "tail": True,
    },
    "lead": {
        "bare": ["leading actor"],
        "sg": ["the actor who plays the {lead}"],
        "adj+": ["superb", "charming", "believable", "magnetic"],
        "adj-": ["wooden", "lifeless", "miscast", "tiresome"],
        "clause+": ["the actor who plays the {lead} gives a {praise} performance", "the {lead} is a {praise} hero",
                    "the {lead} is played with {warmth}"],
        "clause-": ["the actor who plays the {lead} gives a {blame} performance", "the {lead} is a {blame} hero",
                    "the {lead} is played with {neglect}"],
        "tail": True,
    },
    "characters": {
        "bare": ["characters"],
        "pl": ["the characters", "the minor characters", "the people around the {lead}"],
        "adj+": ["memorable", "believable", "lovable", "interesting"],
        "adj-": ["forgettable", "shallow", "dull", "irritating"],
    },
    "music": {
        "bare": ["music", "songs"],
        "sg": ["the score", "the music"],
        "pl": ["the songs"],
        "is": ["is", "is", "sounds"],
        "are": ["are", "are", "sound"],
        "adj+": ["lovely", "haunting", "beautiful", "graceful"],
        "adj-": ["annoying", "loud", "shrill", "tiresome"],
        "clause+": ["the music {improves} {matter}"],
        "clause-": ["the music {spoils} {matter}"],
        "tail": True,
    },
    "pacing": {
        "bare": ["pacing"],
        "sg": ["the pacing", "the first half", "the second act", "the opening scene", "the middle of the film"],
        "adj+": ["brisk", "smooth", "lively", "exciting"],
        "adj-": ["slow", "uneven", "sluggish", "tedious"],
        "clause+": ["the story moves at a {adj.pacing+} pace", "the two hours {fly} by"],
        "clause-": ["the story moves at a {adj.pacing-} pace", "the two hours {drag} on"],
    },
    "camera": {
        "bare": ["images", "photography"],
        "sg": ["the camera work", "the lighting", "the photography"],
        "pl": ["the images", "the landscapes"],
        "is": ["is", "is", "looks"],
        "are": ["are", "are", "look"],
        "adj+": ["gorgeous", "stunning", "vivid", "crisp"],
        "adj-": ["murky", "ugly", "flat", "bland"],
        "clause+": ["every shot looks {adj.camera+}", "every shot is a {joy}", "every shot of the {lead} is {adj.camera+}"],
        "clause-": ["every shot looks {adj.camera-}", "every shot is a {mess}", "every shot of the {lead} is {adj.camera-}"],
        "tail": True,
    },
    "ending": {
        "bare": ["ending", "final scene"],
        "sg": ["the ending", "the final scene", "the last act", "the final twist", "the fate of the {lead}"],
        "adj+": ["satisfying", "touching", "powerful", "perfect"],
        "adj-": ["disappointing", "forced", "silly", "pointless"],
        "clause+": ["the ending left me {happy}", "the ending is a {joy}"],
        "clause-": ["the ending left me {angry}", "the ending is a {mess}"],
    },
    "dialogue": {
        "bare": ["dialogue"],
        "sg": ["the dialogue", "the writing"],
        "pl": ["the conversations", "the lines of the {lead}"],
        "is": ["is", "is", "sounds"],
        "are": ["are", "are", "sound"],
        "adj+": ["witty", "sharp", "natural", "honest"],
        "adj-": ["awkward", "stiff", "empty", "painful"],
        "clause+": ["the actors speak their {adj.dialogue+} lines with {warmth}", "every line sounds {adj.dialogue+}"],
        "clause-": ["the actors speak their {adj.dialogue-} lines with {neglect}", "every line sounds {adj.dialogue-}"],
        "tail": True,
    },
    "humour": {
        "bare": ["humour", "jokes"],
        "sg": ["the humour"],
        "pl": ["the jokes"],
        "adj+": ["fresh", "hilarious", "funny", "warm"],
        "adj-": ["stale", "crude", "unfunny", "tired"],
        "clause+": ["the jokes made the audience {laugh}"],
        "clause-": ["the jokes made the audience {groan}"],
        "tail": True,
    },
    "sets": {
        "bare": ["costumes", "sets"],
        "pl": ["the costumes", "the sets"],
        "are": ["are", "are", "look"],
        "adj+": ["beautiful", "colourful", "charming", "detailed"],
        "adj-": ["cheap", "fake", "dreary", "shabby"],
        "tail": True,
    },
    "editing": {
        "bare": ["editing"],
        "sg": ["the editing", "the cutting"],
        "adj+": ["seamless", "sharp", "elegant", "smooth"],
        "adj-": ["choppy", "messy", "careless", "clumsy"],
        "tail": True,
    },
}

# Words any aspect may take, and the words of judgement that are not adjectives; each line answers the other side's.
SIDED_RULES = {
    "any+": ["wonderful", "excellent", "great", "good"],
    "any-": ["terrible", "awful", "dreadful", "bad"],
    "praise": ["brilliant", "moving", "charming", "wonderful", "memorable"],
    "blame": ["lifeless", "dull", "shallow", "terrible", "forgettable"],
    "skill": ["skill", "care", "confidence"],
    "neglect": ["indifference", "arrogance", "haste"],
    "gift": ["gift", "talent"],
    "fails": ["fails", "struggles"],
    "improves": ["enriches", "lifts"],
    "spoils": ["spoils", "ruins"],
    "grips": ["grips", "charms", "rewards"],
    "bores": ["bores", "insults", "cheats"],
    "shine": ["shine", "excel"],
    "stumble": ["stumble", "mumble"],
    "warmth": ["warmth", "charm", "energy"],
    "gloom": ["gloom", "boredom", "confusion"],
    "fly": ["fly"],
    "drag": ["drag"],
    "joy": ["joy", "delight", "triumph", "treat"],
    "mess": ["mess", "bore", "failure", "disaster"],
    "happy": ["happy", "delighted", "smiling"],
    "angry": ["angry", "annoyed", "disappointed"],
    "laugh": ["laugh", "smile"],
    "groan": ["groan", "yawn"],
    "loved": ["loved", "enjoyed"],
    "hated": ["hated", "regretted"],
    "best": ["best", "finest"],
    "worst": ["worst", "weakest"],
    "gladly": ["gladly", "happily"],
}

NEUTRAL_RULES = {
    "matter": ["every scene", "the quiet moments", "the material", "the scenes with the {lead}"],
    "adverb": ["really", "truly", "simply"],
    "tail": ["from start to finish", "from the first minute", "most of the time", "in every scene", "in the second half",
             "to the very end"],
    "whole": ["every minute of it", "it from start to finish", "the whole thing"],
    "ever": ["of the year", "i have seen", "in a long time", "of the last ten years"],
    "people": ["my friends", "the whole family", "every fan of the genre", "anyone who likes a {genre}"],
    "genres": list(PLURALS.values()),
}

# Sentences: {1}, {2}, {3} are clauses on different aspects, {f1} is "the score lovely", {b1} "lovely music"; {!1} is a
# clause of the other side.
FIRST_SENTENCES = [
    (6, "{1}."),
    (8, "{1}, and {2}."),
    (2, "{1}, {2}, and {3}."),
    (2, "i found {f1}."),
    (3, "i found {f1} and {f2}."),
    (1, "i thought that {1}."),
    (1, "for the most part, {1}."),
    (1, "for a {genre}, {1}."),
]
LATER_SENTENCES = FIRST_SENTENCES + [(2, "on top of that, {1}.")]
SIDED_SENTENCES = {
    "+": [(2, "{best} of all, {1}."), (1, "it helps that {1}."), (1, "{1}, and i {loved} {whole}."),
          (1, "with its {b1} and {b2}, the film is a {joy}."), (1, "thanks to the {b1} and the {b2}, i was {happy}.")],
    "-": [(2, "{worst} of all, {1}."), (1, "it hurts that {1}."), (1, "{1}, and i {hated} {whole}."),
          (1, "with its {b1} and {b2}, the film is a {mess}."), (1, "because of the {b1} and the {b2}, i was {angry}.")],
}
CONCESSIONS = [(1, "although {!1}, {2}."), (1, "{!1}, but {2}.")]

VERDICTS = {
    "+": [
        "i {loved} {whole}.",
        "i would {gladly} watch it again.",
        "i will {gladly} see it again with {friend}.",
        "it is a {joy}.",
        "it is a {joy} from start to finish.",
        "it is one of the {best} {genres} {ever}.",
        "i left the cinema {happy}.",
        "i recommend it to {people}.",
        "this is a {praise} {genre}.",
        "in the end, it is a {praise} film.",
        "it is worth the ticket.",
        "the audience left with a {laugh}.",
    ],
    "-": [
        "i {hated} {whole}.",
        "i would never watch it again, not even for free.",
        "i would never watch it with {friend}.",
        "it is a {mess}.",
        "it is a {mess} from start to finish.",
        "it is one of the {worst} {genres} {ever}.",
        "i left the cinema {angry}.",
        "i would warn {people}.",
        "this is a {blame} {genre}.",
        "in the end, it is a {blame} film.",
        "it is a waste of time.",
        "the audience left with a {groan}.",
    ],
}

# What the reward counts. The sided rules above and the adjectives are added by grammar.py.
MORE_WORDS = {
    "+": ["helps", "recommend", "worth"],
    "-": ["hurts", "warn", "waste", "never"],
}
FAVOURABLE_RULES = [
    "any+", "praise", "skill", "gift", "improves", "grips", "shine", "warmth", "fly", "joy", "happy", "laugh", "loved",
    "best", "gladly",
]
UNFAVOURABLE_RULES = [
    "any-", "blame", "neglect", "fails", "spoils", "bores", "stumble", "gloom", "drag", "mess", "angry", "groan",
    "hated", "worst",
]
