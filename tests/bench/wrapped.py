"""Lines of a generated page within the width that every page here keeps."""
import re
import textwrap

WIDTH = 120
# what stands in lines of its own: tables, headings, pictures, fences
KEPT = ("|", "#", "!", "```")
ITEM = re.compile(r" *(?:[-*] +)?")


def is_wide(line: str) -> bool:
    """An address cannot be broken, and a row of a table neither."""
    return len(line) > WIDTH and "http" not in line and not line.startswith(KEPT)


def lines_of(paragraph: list) -> list:
    """A paragraph or an item of a list; as it is if it fits."""
    if not any(map(is_wide, paragraph)):
        return paragraph
    mark = ITEM.match(paragraph[0]).group()
    words = " ".join([paragraph[0][len(mark):], *(line.strip() for line in paragraph[1:])])
    return textwrap.wrap(words, WIDTH, initial_indent=mark, subsequent_indent=" " * len(mark),
                         break_long_words=False, break_on_hyphens=False)


def wrapped(text: str) -> str:
    lines, paragraph = [], []
    for line in text.split("\n"):
        is_alone = not line or line.startswith(KEPT)
        if is_alone or ITEM.match(line).group().strip():
            lines += lines_of(paragraph)
            paragraph = []
        (lines if is_alone else paragraph).append(line)
    return "\n".join(lines + lines_of(paragraph))
