"""Whatever the cells hold, a reader of the format gets them back."""

import html.parser
import re

from compress.tables import html_table, latex_escaped, latex_table, markdown_escaped, markdown_table

HEADER = ("run", "accuracy %")
ROWS = [('<script>alert("1")</script> & co', "91.20 ± 0.57"), ("a|b_c", "-")]


class Reader(html.parser.HTMLParser):
    """The cells of a table, and the tags that hold them."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[list[str]] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.lines.append([])
        elif tag in ("td", "th"):
            self.lines[-1].append("")

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.lines[-1][-1] += data


def test_html_gives_back_the_cells_and_nothing_of_them_is_a_tag() -> None:
    reader = Reader()
    text = html_table(HEADER, ROWS)
    reader.feed(text)
    assert [tuple(line) for line in reader.lines] == [HEADER, *ROWS]
    assert reader.tags == {"table", "thead", "tbody", "tr", "th", "td"}
    assert text.isascii()
    assert re.findall(r"text-align: (\w+)", html_table(HEADER, ROWS[:1], left=(1,))) == ["right", "left"] * 2


def test_markdown_gives_back_the_cells() -> None:
    lines = markdown_table(HEADER, [*ROWS, ("two\nlines", "1")])
    assert lines[1] == "| --- | ---: |"
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in (lines[0], *lines[2:])]
    read = [tuple(re.sub(r"\\(.)", r"\1", cell).strip() for cell in line) for line in cells]
    assert read == [HEADER, *ROWS, ("two lines", "1")]
    assert markdown_escaped("a* `b` <c> d|e\\") == r"a\* \`b\` \<c> d\|e" + "\\\\"


def test_latex_escapes_what_it_would_read_as_its_own() -> None:
    assert latex_table(HEADER, [("50_%", "1 ± 2")]) == (
        "\\begin{tabular}{lr}\n\\toprule\nrun & accuracy \\% \\\\\n\\midrule\n50\\_\\% & 1 $\\pm$ 2 \\\\\n\\bottomrule\n\\end{tabular}"
    )
    assert latex_escaped("\\&%$#_{}~^<>|") == (
        "\\textbackslash{}\\&\\%\\$\\#\\_\\{\\}\\textasciitilde{}\\textasciicircum{}\\textless{}\\textgreater{}\\textbar{}"
    )
    assert latex_escaped("[a]* b---c\nd") == "{[}a]{*} b-{}-{}-c d"
