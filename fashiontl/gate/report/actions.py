"""A verdict for GitHub's runner: annotations of the run, the summary of the step, and its outputs."""

from collections.abc import Mapping
from pathlib import Path

from fashiontl.errors import no_file
from fashiontl.gate.report.comment import markdown
from fashiontl.gate.report.shown import headline, label_of, plain, word_of, worst_first
from fashiontl.gate.verdict import Finding, Verdict

# The runner shows ten annotations of each kind a step, and drops the rest without a word.
_MOST = 10


def annotations(verdict: Verdict) -> list[str]:
    """Workflow commands, one a finding that did not pass and one a note, the worst first.

    Errors are what makes the exit code; what is waived, advisory or let pass is a warning.
    """
    bad = [finding for finding in worst_first(verdict.findings) if finding.is_bad]
    levels = {"error": [], "warning": []}  # type: dict[str, list[str]]
    for finding in bad:
        fails = finding.decides and verdict.exit_code != 0
        levels["error" if fails else "warning"].append(_of_finding(finding))
    if verdict.exit_code and not levels["error"]:
        levels["error"].append(_command(verdict.word, headline(verdict)))
    lines = [f"::{level} {text}" for level, texts in levels.items() for text in _limited(texts)]
    return lines + [f"::notice {text}" for text in _limited([_command("note", note) for note in verdict.notes])]


def write_github(verdict: Verdict, environment: Mapping[str, str]) -> str:
    """Tell GitHub's runner, where this is one: it appends to the files that the runner named.

    Args:
        verdict: what to tell.
        environment: `os.environ`; `GITHUB_ACTIONS`, `GITHUB_STEP_SUMMARY` and `GITHUB_OUTPUT` are read.

    Returns:
        What is to be printed; empty elsewhere.
    """
    lines = annotations(verdict) if environment.get("GITHUB_ACTIONS") == "true" else []
    outputs = f"verdict={verdict.word}\nexit-code={verdict.exit_code}\n"
    for variable, text in (("GITHUB_STEP_SUMMARY", markdown(verdict)), ("GITHUB_OUTPUT", outputs)):
        path = environment.get(variable)
        if not path:
            continue
        try:
            # Who opens a pipe that nobody reads waits for ever.
            reason = "is a named pipe" if no_file(Path(path)) == "a named pipe" else ""
            if not reason:
                with Path(path).open("ab") as file:
                    file.write(text.encode(errors="replace"))
        except OSError as error:
            reason = str(error.strerror)
        if reason:
            # A verdict must not turn into another because a summary could not be shown.
            lines.append(f"::warning {_command('summary', f'{variable} cannot be written: {reason}')}")
    return "\n".join(lines)


def _of_finding(finding: Finding) -> str:
    waived = f" ({finding.waiver})" if finding.waiver else ""
    return _command(word_of(finding), f"{finding.cell}, {label_of(finding)}: {finding.reason}{waived}")


def _command(title: str, message: str) -> str:
    """What follows a command's name, escaped as @actions/core does."""
    return f"title={_escaped(f'fashiontl gate: {title}', properties=True)}::{_escaped(plain(message))}"


def _escaped(text: str, *, properties: bool = False) -> str:
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if properties else text


def _limited(texts: list[str]) -> list[str]:
    if len(texts) <= _MOST:
        return texts
    left = len(texts) - _MOST + 1
    return [*texts[: _MOST - 1], _command("more", f"{left} more like these: see the summary of the step")]
