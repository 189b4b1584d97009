"""Plain re-derivations of the rules that benchmarks are scored by, written down from what each source does, in loops.

Nothing here is shared with the package.
"""

from functools import cache

CONTRACTED = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's how'd "
    "how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't shan't "
    "she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's "
    "something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas "
    "wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've "
    "why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"
).split()
COUNTED = ["none", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


WITHOUT_APOSTROPHE = {
    word[:cut] + word[cut + 1 :]: word for word in CONTRACTED for cut in range(len(word)) if word[cut] == "'"
}


@cache
def official_vqa_form(answer):
    """EvalAI's processor of answers (LLaVA's TextVQA evaluation, lmms-eval), step by step."""
    text = answer.lower()
    for dropped in ",?":
        text = "".join(letter for letter in text if letter != dropped)
    text = " 's".join(text.split("'s")).replace("\n", " ").replace("\t", " ").strip()
    out = text
    for mark in [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", "!"]:
        beside_blank = (mark + " ") in text or (" " + mark) in text
        out = ("" if beside_blank else " ").join(out.split(mark))
    kept = ""
    for place, letter in enumerate(out):
        if letter != "." or out[place + 1 : place + 2].isdecimal():
            kept += letter
    words = []
    for word in kept.split():
        if word in COUNTED:
            word = str(max(0, COUNTED.index(word) - 1))
        if word in ("a", "an", "the"):
            continue
        words.append("somebodyd" if word == "somebody'd" else WITHOUT_APOSTROPHE.get(word, word))
    return " ".join(words)


def official_vqa_accuracy(prediction, humans):
    """Each of the ten annotators in turn is left out; three of the others make an answer right."""
    credits = []
    for left_out in range(len(humans)):
        matches = 0
        for number, human in enumerate(humans):
            if number != left_out and official_vqa_form(human) == official_vqa_form(prediction):
                matches += 1
        credits.append(min(1.0, matches / 3))
    return sum(credits) / len(credits)


def bare(text):
    return "".join(letter for letter in text.lower() if letter not in PUNCTUATION).strip()


def plain_short_form(answer):
    """How short answers are compared without humans: marks between two digits stay, an answer of articles alone stays."""
    text = ""
    for place, letter in enumerate(answer.lower()):
        around = answer.lower()[place - 1 : place] if place else "", answer.lower()[place + 1 : place + 2]
        word = letter.isalnum() or letter == "_" or letter.isspace()
        text += letter if word or all(one.isdecimal() for one in around) else " "
    words = [word for word in text.split() if word not in ("a", "an", "the")] or text.split()
    return " ".join(str(max(0, COUNTED.index(word) - 1)) if word in COUNTED else word for word in words)


def verdict(reply):
    """A judge's reply is a yes where its first word is."""
    word = ""
    for letter in reply.lower():
        if letter.isalnum() or letter == "_":
            word += letter
        elif word:
            break
    return word == "yes"


def llava_pope(answer):
    """LLaVA's eval_pope.py; its answers were stripped when they were written down."""
    first = answer.strip().split(".")[0]
    words = "".join(letter for letter in first if letter != ",").split(" ")
    return "no" if any(word in ("No", "not", "no") for word in words) else "yes"


def lmms_pope(answer):
    given = answer.lower().strip()
    return given if given in ("yes", "no") else "other"


def otter_yes_no(answer):
    """The parser of MME's evaluation, as lmms-eval has it too."""
    given = "".join(letter for letter in answer.lower().strip() if letter != ".")
    if given in ("yes", "no"):
        return given
    if len(given) == 1:
        return "yes" if given == "y" else "no" if given == "n" else "other"
    for word in ("yes", "no"):
        if word in given[:4]:
            return word
    return "other"


def llava_science(answer):
    """LLaVA's eval_science_qa.py, and the letter with a full stop alone or glued on, which lmms-eval reads as well."""
    given = answer.strip()
    if given in list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"):
        return given
    if len(given) >= 2 and "A" <= given[0] <= "Z" and given[1] == ".":
        return given[0]
    found, phrase, place = [], "The answer is ", 0
    while place < len(given):
        rest = given[place + len(phrase) :]
        if given[place:].startswith(phrase) and "A" <= rest[:1] <= "Z" and rest[1:2] not in ("", "\n"):
            found.append(rest[0])
            place += len(phrase) + 2
        else:
            place += 1
    return found[0] if len(found) == 1 else None


def only(letters):
    return letters[0] if len(letters) == 1 else None


def lmms_option(answer, options):
    """lmms-eval's MMBench_Evaluator before it asks a language model (there E is a letter even where it is no option)."""
    words = answer.split()
    alone = [letter for letter in options if letter in words]
    if len(alone) == 1 and not ("A" in words and len(words) > 3):
        return alone[0]
    for form in ("{}.", "{},", "{}:", "{})", "{}).", "({})", "({}).", ":{}", ":{},", ":{}.", ":{})", ":{})."):
        marked = [letter for letter in options if form.format(letter) in words]
        if len(marked) == 1:
            return marked[0]
    return only([letter for letter, text in options.items() if text.lower() in answer.lower()])


def vlmevalkit_option(answer, options):
    """VLMEvalKit's can_infer: the only letter, among the last five words; "answer is X"; the only option's text."""
    text = answer
    for mark in ".()[],:;!*#{}":
        text = text.replace(mark, " ")
    words = text.split()
    named = [letter for letter in options if letter in words]
    if len(named) == 1 and words.index(named[0]) > len(words) - 5:
        return named[0]
    for place in range(len(answer)):
        rest = answer[place:].lower()
        if rest.startswith("answer is ") and rest[10:].strip("*")[:1] in "abcd":
            return (rest[10:].strip("*")[:1] or " ").upper().strip() or None
    if len(answer) > 2 * sum(map(len, options.values())):
        return None
    return only([letter for letter, text in options.items() if text.lower() in answer.lower()])
