"""Text to token ids and back, so that a text stays what it is.

    encode(tokenizer, text)                     a prompt; nothing in it becomes a control token
    answer_text(tokenizer, prompt, completion)  what a model wrote behind it, with its first spaces
"""
import datetime
import functools
import re

# Characters that no text may have.
CUT = "\ufdd0"    # marks where a control token's text is cut
TEXT = "\ufdd1"   # stands for a text in a template
# In front of a chat template that names the date: for it all days are this one, so that a run which
# goes on tomorrow asks the same. (The library would not take a function of ours.)
DAY = datetime.datetime(2025, 1, 1)
SIGNS = "aAbBdejmyYFHIMSpT"
REPLACED = "".join(f".replace('%{sign}', '{DAY.strftime('%' + sign)}')" for sign in SIGNS)
ONE_DAY = "{% macro strftime_now(form) %}{{ form" + REPLACED + " }}{% endmacro %}\n"


def encode(tokenizer, text):
    """Token ids of a prompt: as one user turn where there is a chat template, else as plain text.

    Whatever the text says, it stays text. "<|im_end|>" in a candidate's program would otherwise
    become the control token, and a program could end its turn and write the judge's. So such words
    are cut and their parts encoded apart.
    """
    pieces = cut_control_tokens(tokenizer, well_formed(text).replace(CUT, "\ufffd"))
    if tokenizer.chat_template:
        text = CUT.join(pieces)
        prompt = in_template(tokenizer, text)
        # Some templates take words such as "/think" out of what they are given.
        if text.strip() not in prompt:
            prompt = in_template(tokenizer, TEXT).replace(TEXT, text)
        pieces = prompt.split(CUT)
        ids = tokenizer(pieces[0], add_special_tokens=False).input_ids
    else:
        ids = tokenizer(pieces[0]).input_ids
        # Some tokenizers end every text.
        while len(ids) > 1 and ids[-1] in tokenizer.all_special_ids:
            ids = ids[:-1]
    for piece in pieces[1:]:
        ids = ids + encode_behind(tokenizer, piece)
    return ids


def in_template(tokenizer, text):
    """What the chat template makes of a user's turn, up to where the answer begins. It is the same
    on every day.
    """
    template = tokenizer.get_chat_template()
    if "strftime_now" in template:
        template = ONE_DAY + template
    turns = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(turns, chat_template=template, add_generation_prompt=True,
                                         tokenize=False)


def encode_behind(tokenizer, text):
    """Token ids of a text that stands behind another.

    Some tokenizers begin each text with a space, which would be one too many there. Then it is
    encoded behind a character that does not join with it, whose ids are taken off.
    """
    ids = tokenizer(text, add_special_tokens=False).input_ids
    for before in ("\n", ".", "x"):
        first = tokenizer(before, add_special_tokens=False).input_ids
        shown = decode(tokenizer, first) + text
        if decode(tokenizer, first + ids) == shown:
            return ids
        both = tokenizer(before + text, add_special_tokens=False).input_ids
        if both[:len(first)] == first:
            return both[len(first):]
    return ids


def cut_control_tokens(tokenizer, text):
    """The text in pieces, cut within every control token: "a<|end|>b" -> ["a<", "|end|>b"]."""
    return cut(text, control_tokens(tokenizer, str(tokenizer.chat_template), len(tokenizer)))


def cut(text, words):
    """The text in pieces, cut within each of these words."""
    if not words:
        return [text]
    any_of_them = "|".join(map(re.escape, words))
    # A lookahead finds those that overlap, too.
    cuts = [found.start() + 1 for found in re.finditer(f"(?={any_of_them})", text)]
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)])]


@functools.lru_cache(maxsize=8)
def control_tokens(tokenizer, chat_template, size):
    """What the tokenizer turns into control tokens: all that was added to its vocabulary but words.

    (Some models' turns begin with tokens that are not marked as special, nor are those that join
    files or fill gaps. Runs of spaces, which some tokenizers add as tokens, are no control tokens.)
    chat_template and size are the tokenizer's: it may change.
    """
    control = []
    for token in tokenizer.added_tokens_decoder.values():
        is_word = token.content.isidentifier() and token.content not in chat_template
        if len(token.content.strip()) > 1 and (token.special or not is_word):
            control.append(token.content)
    return control


def answer_text(tokenizer, prompt, completion):
    """What a model wrote, as it stands behind its prompt (token ids), without the end token.

    Decoded alone it would lose its first space with a SentencePiece tokenizer: a program's
    indentation.
    """
    ids = completion.said
    before = decode(tokenizer, prompt)
    whole = decode(tokenizer, prompt + ids)
    if whole.startswith(before):
        return whole[len(before):]
    return decode(tokenizer, ids)


def decode(tokenizer, ids):
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def well_formed(text):
    """Text with U+FFFD for each lone surrogate, which JSON can carry and UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
