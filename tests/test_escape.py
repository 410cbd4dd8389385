"""Text of others in every form that is written: hostile text through each field, option and name, to each output."""

import contextlib
import copy
import dataclasses
import html
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from gate_raws import finding, gate_result, raw
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from msgspec.structs import replace
from records import PROOF, evaluated

from fashiontl import cli
from fashiontl.core import escape
from fashiontl.core.case import PRESETS, Case
from fashiontl.core.files import write_atomically
from fashiontl.doctor import Line, Report, Section, to_json, to_text
from fashiontl.freezing import POLICIES
from fashiontl.gate.report import annotations, junit, markdown, terminal
from fashiontl.gate.result import Explained
from fashiontl.profiling.operators import Operator, Profile, top
from fashiontl.records import read_runs
from fashiontl.records import to_json as line_of
from fashiontl.reports.leaderboard.page import summary, write
from fashiontl.reports.listing import listing
from fashiontl.reports.progress import ProgressText

# Each on its own, and all in one.
TEXTS = [
    "a | b || c", "`a` ``b`` ```", "[a](javascript:alert(1)) ![b](c) [d]: e [^f]", "<script>alert(1)</script> <!-- a",
    "&#60;script&#62; &lt;b&gt;", "\x1b[31mred\x1b]0;title\x07 \x9b31m", "a\rb", "a\n::error::b", "::error::a",
    "  ::set-output name=a::b", "##[error]a", "##vso[task.complete]a", "a\r\n\r\n# b\n\n---\n\n| a |\n|---|\n| b |",
    "abc\u202edcba\u2066\u200b\ufeff\u00ad", "a\x00b", "\udce9 \ud800", "$(touch x) `touch x` $a^2$", "- a", "+ a",
    "# a #", "> a", "1. a", "=== a", "--- a", "~~~ a", "@octocat and a@b.example", "#123 GH-4 a/b#5",
    "https://example.com www.example.com ftp://a.b mailto:a@b.example", ":tada: :+1: :100:",
    "*a* **b** _c_ __d__ ~~e~~",
    "</summary></details>", "\\", "a\\|b", "a\u2028b\u2029c\x85d\x0be\x0cf", "    a", "\t", "", "..", "../../a",
    "NUL", "a" * 10_000,
]  # fmt: skip
ALL = " ".join(TEXTS[:-1])
HOSTILE = pytest.mark.parametrize("text", [ALL, ALL[::-1], "", "\t", "a" * 10_000], ids=range(5))
LETTERS = st.text(
    st.one_of(st.sampled_from("|`*_[]()<>!\\&#~$@:;=+-.1a \n\r\t\x00\x1b\x9b\u202e\u2028\xa0\udce9"), st.characters()),
    max_size=60,
)
COMMENT = "<!-- fashiontl gate -->"
FEW = settings(max_examples=25, derandomize=True, deadline=None)
ANYTHING = st.one_of(LETTERS, st.sampled_from(TEXTS), st.tuples(LETTERS, st.sampled_from(TEXTS)).map("".join))

PAGE = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
# Of GitHub's, besides Markdown's own: what follows is made a link after the page has been read.
LINKS = re.compile(r"(?<!\w)@\w|[\w.+-]@[\w-]+\.\w|#\d|\bGH-\d|:(?:[a-z][\w+-]*|\+1|\d{3,4}):", re.IGNORECASE)
MARKUP = {"text", "softbreak", "hardbreak", "strong_open", "strong_close", "em_open", "em_close", "code_inline"}
FOLDS = re.compile(r"(?:<details><summary>[\w ,.()…-]*</summary>|</details>)\n?")


def assert_tame_terminal(text: str) -> None:
    """No control characters but the ends of lines, and no command to a CI system's runner."""
    bad = {letter for letter in text if not letter.isprintable() and letter != "\n"}
    assert bad == set()
    assert [line for line in text.split("\n") if line.strip().startswith("::") or re.search(r"##\w*\[", line)] == []


def inline(tokens: list[Token]) -> list[Token]:
    return [child for token in tokens for child in token.children or ()]


def assert_tame_page(page: str) -> list[str]:
    """Nothing but what the program itself marks up; returns the kinds of blocks in their order."""
    tokens = PAGE.parse(page)
    assert {letter for letter in page if not letter.isprintable()} <= {"\n", "\xa0", "\N{WORD JOINER}"}
    assert [line for line in page.split("\n") if re.match(r"\s*(?:::|##\w*\[)", line)] == []
    raw_html = [token.content for token in tokens if token.type == "html_block"]
    assert [text for text in raw_html if not (FOLDS.fullmatch(text) or text.startswith(COMMENT))] == []
    kinds = {token.type for token in inline(tokens)}
    assert kinds <= MARKUP
    texts = [token.content for token in inline(tokens) if token.type == "text"]
    assert [found[0] for text in texts for found in LINKS.finditer(text)] == []
    # A parser mends what has too many or too few cells.
    for block in re.findall(r"(?:^\|.*\n?)+", page, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in block.splitlines()}) == 1
    return [token.type for token in tokens]


# --- each form ---


@FEW
@given(ANYTHING, st.integers(2, 50))
def test_a_line_is_one_line_of_what_can_be_seen(text: str, longest: int) -> None:
    assert escape.to_line(text).isprintable()
    assert len(escape.to_line(text, longest)) <= longest
    assert escape.to_line(escape.to_line(text)) == escape.to_line(text)
    assert_tame_terminal(escape.to_terminal_line(text))
    assert "\n" not in escape.to_terminal_line(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [("two  spaces", "two  spaces"), (" a\n\t b ", "a b"), ("é ∞ 日本", "é ∞ 日本"), ("a\xa0b\u2028c", "a b c"),
     ("a\x00b\x9bc\u202ed\u200be\udce9", "a�b�c�d�e�")],
)  # fmt: skip
def test_a_line(text: str, line: str) -> None:
    assert escape.to_line(text) == line


def test_what_is_too_long_ends_with_an_ellipsis() -> None:
    assert (escape.to_line("abcdef", 4), escape.to_line("abcd", 4)) == ("abc…", "abcd")
    assert len(escape.to_markdown("a" * 10_000)) == 500
    assert escape.to_markdown("|" * 10, 4) == r"\|\|\|…"


@FEW
@given(ANYTHING)
def test_a_terminal_keeps_lines_and_gives_no_command(text: str) -> None:
    shown = escape.to_terminal(text)
    assert_tame_terminal(shown)
    assert len(shown.split("\n")) == len(text.replace("\r\n", "\n").split("\n"))


@FEW
@given(ANYTHING)
def test_markdown_shows_a_text_as_it_is(text: str) -> None:
    escaped = escape.to_markdown(text, 20_000)
    expected = " ".join(escape.to_line(text).split())
    for before, after in (("", ""), ("- ", ""), ("## ", ""), ("| a |\n|---|\n| ", " |")):
        tokens = PAGE.parse(f"{before}{escaped}{after}\n")
        assert_tame_page(f"{before}{escaped}{after}\n")
        *_, last = [token for token in tokens if token.type == "inline"] or [Token("inline", "", 0, children=[])]
        plain = "".join(child.content for child in last.children or ()).replace("\N{WORD JOINER}", "")
        assert plain.strip() == expected


@FEW
@given(ANYTHING)
def test_code_shows_a_text_as_it_is(text: str) -> None:
    (paragraph,) = [token for token in PAGE.parse(f"- {escape.to_code(text, 20_000)}") if token.type == "inline"]
    (code,) = paragraph.children or ()
    assert code.type == "code_inline"
    assert code.content.strip() == escape.to_line(text)


@FEW
@given(ANYTHING)
def test_html_is_text_alone(text: str) -> None:
    assert not set("<>\"'") & set(escape.to_html(text))
    assert html.unescape(escape.to_html(text)) == escape.to_line(text)


@FEW
@given(ANYTHING)
def test_xml_can_be_read_back(text: str) -> None:
    element = ElementTree.Element("a")
    element.text = escape.to_xml(text)
    assert ElementTree.fromstring(ElementTree.tostring(element)).tag == "a"


@FEW
@given(ANYTHING, ANYTHING)
def test_a_workflow_command_is_one_and_says_what_it_should(title: str, message: str) -> None:
    line = escape.workflow_command("error", title, message)
    assert line.isprintable()
    found = re.fullmatch(r"::error title=([^:,]*)::(.*)", line)
    assert found is not None

    def read(value: str) -> str:
        return value.replace("%3A", ":").replace("%2C", ",").replace("%25", "%")

    assert read(found[1]) == escape.to_line(title, escape.LONGEST_NAME)
    assert found[2].replace("%25", "%") == escape.to_line(message, 4096)


@FEW
@given(ANYTHING)
def test_json_on_a_terminal_says_what_it_should(text: str) -> None:
    shown = escape.to_terminal_json({text: [text]})
    assert_tame_terminal(shown)
    assert json.loads(shown) == {text: [text]}


@FEW
@given(ANYTHING)
def test_a_file_name_is_one_component_that_every_system_takes(text: str) -> None:
    name = escape.to_file_name(text)
    assert re.fullmatch(r"\w[\w.+-]*", name)
    assert len(name.encode()) <= 100
    assert not name.endswith(".")
    assert Path("a", name).parent == Path("a")


def test_file_names_that_are_long() -> None:
    one, other = (escape.to_file_name("é" * 10_000 + end) for end in "ab")
    assert one != other


# --- a record's fields ---


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to every text of a value: those that are values, and (ending with None) those that are keys."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key, None)
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value[:1]):
            yield from places(inner, (*path, index))


def placed(value: Any, path: tuple[Any, ...], text: str) -> Any:
    """A copy with a text at a path."""
    changed = copy.deepcopy(value)
    inner = changed
    *way, last = path
    if last is None:
        *way, key = way
        for step in way:
            inner = inner[step]
        inner[text] = inner.pop(key)
    else:
        for step in way:
            inner = inner[step]
        inner[last] = text
    return changed


def full_record(number: int, **fields: Any) -> dict[str, Any]:
    """One with all that a record can hold, as JSON."""
    case = Case("resnet18", "full", "cuda", "fashion10", "imagenet", "bf16", execution="compile")
    made = evaluated(case, number, 10, settings=dataclasses.replace(PRESETS["full"], data_root="data"), **fields)
    more = {
        "extensions": {"mine.py": "ab" * 32}, "pretraining": {"source": "fashion6", "accuracy": 0.5},
        "members": [{"vgg11": 0.5}], "placed": "cuda:1", "conditions": {"doubts": ["it was hot"]},
    }  # fmt: skip
    values = replace(
        made,
        provenance=made.provenance | more,
        proof=replace(PROOF, unmoved=("stem.weight",)),
        warnings=("a doubt",),
        artifacts={"trace": "a.json"},
    )
    line: dict[str, Any] = json.loads(line_of(values))
    for entry in line["measurements"]:
        if entry["metric"] == "accuracy":
            # Of as many images as the confusion counts.
            entry |= {"trials": 2000, "values": [round(2000 * value) / 2000 for value in entry["values"]]}
    return line


def page_of(folder: Path, *lines: dict[str, Any]) -> tuple[str, str, str]:
    """The page of some records, their table on a terminal, and what is told of lines that cannot be read."""
    write_atomically(
        folder / "runs" / "machine" / "run.jsonl", b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    )
    told: list[str] = []
    page = write(folder, told.append).read_text()
    return page, summary(read_runs(folder).records), "\n".join(map(escape.to_terminal, told))


OK, FAILED = full_record(1), full_record(2, status="crashed", reason="it fell over") | {"measurements": []}
# What a number stands in, and what must be one of a few, is refused; the rest is shown.
SHOWN = (
    "id", "command", "reason", "case", "warnings", "proof.unmoved", "provenance.data", "provenance.weights",
    "provenance.extensions", "provenance.timing", "provenance.sweep", "environment", "settings.preset",
    "settings.data_root",
)  # fmt: skip
PLACES = [path for path in places(OK) if None not in path and ".".join(map(str, path)).startswith(SHOWN)]
PLACES.append(("provenance", "extensions", "mine.py", None))


def test_the_fields_of_a_record_that_hold_text_are_found(tmp_path: Path) -> None:
    named = {".".join(map(str, path)) for path in places(OK)}
    assert named > {
        "id", "reason", "command", "case.weights", "settings.preset", "environment.cpu", "warnings.0",
        "provenance.extensions.mine.py.None", "proof.unmoved.0", "artifacts.trace", "provenance.sweep.training.limit",
    }  # fmt: skip
    _, table, told = page_of(tmp_path, OK, FAILED)
    assert told == ""
    assert len(table.splitlines()) > 3


@pytest.mark.parametrize("line", [OK, FAILED], ids=["ok", "failed"])
def test_no_field_of_a_record_gets_out(line: dict[str, Any], tmp_path: Path) -> None:
    """Every text at once; the page has the same headings, tables, lines and lists as with harmless ones."""
    shapes = set()
    for text in (ALL + "x" * 10_000, "harmless"):
        made = line
        for path in PLACES:
            made = placed(made, path, text)
        made["id"] = Case(**made["case"]).id
        page, table, told = page_of(tmp_path, made, full_record(3))
        assert told == ""
        shapes.add(tuple(assert_tame_page(page)))
        assert_tame_terminal(table)
        assert max(map(len, page.split("\n"))) < 10_000
    assert len(shapes) == 1


@pytest.mark.parametrize("kind", range(7))
def test_no_refused_field_of_a_record_gets_out(kind: int, tmp_path: Path) -> None:
    """Each field and each key with a hostile text: whether it is refused or shown, it does no harm."""
    lines = [placed(OK, path, ALL) for path in [*places(OK)][kind::7]]
    page, table, told = page_of(tmp_path, *lines, full_record(3))
    assert "Lines that could not be read" in page
    assert_tame_page(page)
    assert_tame_terminal(table + told)


# --- a gate ---


@HOSTILE
def test_no_text_gets_out_of_a_gate(text: str) -> None:
    asked = raw(command=text, machine=text, started=text, cells=(text,), new=(text,), warnings=(text,))
    asked = msgspec.structs.replace(
        asked,
        base=msgspec.structs.replace(asked.base, ref=text, commit=text),
        head=msgspec.structs.replace(asked.head, ref=text, commit=None),
    )
    made = gate_result(
        finding(cell=text, reason=text, waiver=text),
        finding(cell=text, reason=text, verdict="CRASHED", metric=text),
        finding(cell=text, reason=text, verdict="PASS"),
        explained=(Explained(text, "latency", text, text, 1e-3, 2e-3, 0.5),), notes=(text, text), raw=asked,
    )  # fmt: skip
    harmless = gate_result(
        finding(reason="a", waiver="a"), finding(reason="a", verdict="CRASHED"), finding(reason="a", verdict="PASS"),
        explained=(Explained("a", "latency", "a", "a", 1e-3, 2e-3, 0.5),), notes=("a", "a"),
    )  # fmt: skip
    assert_tame_terminal(terminal(made))
    blocks = assert_tame_page(markdown(made))
    # A note without any text has no paragraph.
    assert blocks == assert_tame_page(markdown(harmless)) or not text.strip()
    assert len(ElementTree.fromstring(junit(made)).findall("testsuite/testcase")) == 3
    for line in annotations(made):
        assert re.fullmatch(r"::(?:error|warning|notice) title=[^:,]*::.*", line)
        assert line.isprintable()


# --- what is shown on a terminal ---


@HOSTILE
def test_no_text_gets_out_of_what_doctor_list_and_profile_show(text: str) -> None:
    sections = [Section("extras", (Line(text, text, "note", text),))]
    report = Report("cpu", False, text, tuple(sections), {"device": {"name": text}})
    assert_tame_terminal(to_text([report], sections))
    assert_tame_terminal(to_json([report], sections))
    assert json.loads(to_json([report], sections))["devices"][0]["summary"] == text
    row = Operator(name=text, module=text, phase=text, **{
        field.name: None if field.name == "flops" else 1.0
        for field in dataclasses.fields(Operator) if field.name not in {"name", "module", "phase"}
    })  # fmt: skip
    values: dict[str, Any] = {field.name: None for field in dataclasses.fields(Profile)}
    assert_tame_terminal(top(Profile(**values | {"operators": (row,), "kernels": (), "warnings": ()}), 5))


def test_names_of_entries_of_ones_own_in_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POLICIES, ALL, next(iter(POLICIES.values())))
    assert_tame_terminal(listing(f"/{ARGUMENT}"))


@HOSTILE
def test_progress_is_one_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with ProgressText() as progress:
        progress(text)
        written = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert_tame_terminal(written.removeprefix("\r\x1b[K"))
    assert "\n" not in written


# --- options ---

# As an argument of a process can be.
ARGUMENT = ALL.replace("\x00", "").replace("\ud800", "")
ARGUMENTS = [ARGUMENT + "a" * 10_000, "\n::error::a\r::error::b", ""]
COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "nothing": lambda text: [text],
    "unknown option": lambda text: ["list", f"--{text}"],
    "list": lambda text: ["list", f"--data-root=none/{text}"],
    "plugin": lambda text: ["list", "--fashiontl-plugin", text],
    "device": lambda text: ["doctor", f"--device=x{text}"],
    "processes": lambda text: ["doctor", f"--processes={text}"],
    "case": lambda text: ["profile", f"x{text}"],
    "preset": lambda text: ["profile", "resnet18-full-cpu", f"--preset={text}"],
    "set": lambda text: ["profile", "resnet18-full-cpu", f"--set={text}", f"--set=epochs={text}", f"--set=data={text}"],
    "top": lambda text: ["profile", "resnet18-full-cpu", f"--top={text}"],
    "results": lambda text: ["leaderboard", f"--results=none/{text}"],
    "gate's base": lambda text: ["gate", f"--base=none{text}", "--arch=resnet18", "--policy=full", "--device=cpu"],
    "gate's cells": lambda text: ["gate", "--base=a", f"--arch={text or 'x'}", f"--policy=x{text}", f"--task=x{text}"],
    "replay": lambda text: ["gate", f"--replay=none/{text}"],
    "plan": lambda text: ["gate", f"--plan=none/{text}"],
    "waiver": lambda text: [
        "waive", f"--cell={text}", f"--metric={text}", f"--owner={text}", f"--reason={text}", f"--expires={text}",
    ],
    "waiver's reason": lambda text: [
        "waive", "--cell=resnet18-full-cpu", "--metric=latency", "--owner=Ada", f"--reason={text}",
        "--expires=2000-01-01",
    ],
}  # fmt: skip


@pytest.mark.parametrize("option", COMMANDS)
def test_no_option_gets_out(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASHIONTL_CACHE", str(tmp_path / "cache"))
    for text in ARGUMENTS:
        with contextlib.suppress(SystemExit):
            cli.main(COMMANDS[option](text))
        shown = capsys.readouterr()
        assert_tame_terminal(shown.err)
        assert_tame_terminal(shown.out)


# --- the plug-in ---

FAKE = """
from fashiontl.machine.environment import machine_key, read_environment
from fashiontl.runner.cell import Measurer
from fashiontl.records import SCHEMA, Record

TEXT = {text!r}

def measure(self, case, progress=print):
    progress(TEXT)
    environment = read_environment({{}}, threads=1)
    status = "crashed" if case.architecture == "vgg11" else "skipped"
    return Record(SCHEMA, case.id, self._run, TEXT, "2026-01-02T03:04:05+00:00", case, self._settings, environment,
        machine_key(environment), status, TEXT, (TEXT,), (), None, {{}}, {{}})

Measurer.measure = measure
"""


@pytest.mark.slow
def test_no_text_gets_out_of_a_session(matrix: Callable[[str], pytest.Pytester]) -> None:
    """Reasons, and names of a file of weights and of a test file."""
    bench = matrix(FAKE.format(text=ALL))
    name = "w|`a` [b](c) <i>\x1b[31m\n::error::d\u202e##[e].pt"
    (bench.path / name).write_bytes(b"")
    (bench.path / "test_matrix.py").rename(bench.path / "test_|`a` <b> [c](d) \x1b[31m ##[e].py")
    result = bench.runpytest_subprocess(
        "--arch=vgg11,resnet18", "--policy=full", "--device=cpu", f"--weights=./{name}", "-rs"
    )
    assert result.ret == 1
    # What pytest itself says of a file's name is not ours.
    assert_tame_terminal(result.stdout.str().partition("= fashiontl =")[2].partition("short test summary")[0])
    assert_tame_terminal(result.stderr.str())
    assert_tame_page((bench.path / "results" / "leaderboard.md").read_text())


@pytest.mark.slow
def test_no_option_of_a_session_gets_out(matrix: Callable[[str], pytest.Pytester]) -> None:
    bench = matrix("")
    text = ARGUMENT
    options = [f"--arch=x{text}", f"--policy=x{text}", f"--preset=x{text}", f"--set=x{text}", f"--task=x{text}"]
    result = bench.runpytest_subprocess(*options, f"--device=x{text}", f"--weights={text}")
    assert result.ret == 2
    # Behind what pytest itself says of the arguments it was given.
    assert_tame_terminal(result.stderr.str() + result.stdout.str().partition("Exit: ")[2])
