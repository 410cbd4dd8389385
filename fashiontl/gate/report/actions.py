"""A verdict for GitHub's runner: annotations of the run, the summary of the step, and its outputs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from fashiontl.core.errors import no_file
from fashiontl.core.escape import workflow_command
from fashiontl.gate.report.comment import markdown
from fashiontl.gate.report.shown import headline, label_of, word_of, worst_first
from fashiontl.gate.verdict import Finding, Verdict

# A title and a message.
_Said: TypeAlias = tuple[str, str]

# The runner shows ten annotations of each kind a step, and drops the rest without a word.
_MOST = 10


def annotations(verdict: Verdict) -> list[str]:
    """Workflow commands, one a finding that did not pass and one a note, the worst first.

    Errors are what makes the exit code; what is waived, advisory or let pass is a warning.
    """
    bad = [finding for finding in worst_first(verdict.findings) if finding.is_bad]
    levels: dict[str, list[_Said]] = {"error": [], "warning": [], "notice": []}
    for finding in bad:
        fails = finding.decides and verdict.exit_code != 0
        levels["error" if fails else "warning"].append(_of_finding(finding))
    if verdict.exit_code and not levels["error"]:
        levels["error"].append((verdict.word, headline(verdict)))
    levels["notice"] = [("note", note) for note in verdict.notes]
    return [_command(level, said) for level, all_said in levels.items() for said in _limited(all_said)]


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
            lines.append(_command("warning", ("summary", f"{variable} cannot be written: {reason}")))
    return "\n".join(lines)


def _command(level: str, said: _Said) -> str:
    title, message = said
    return workflow_command(level, f"fashiontl gate: {title}", message)


def _of_finding(finding: Finding) -> _Said:
    waived = f" ({finding.waiver})" if finding.waiver else ""
    return word_of(finding), f"{finding.cell}, {label_of(finding)}: {finding.reason}{waived}"


def _limited(said: list[_Said]) -> list[_Said]:
    if len(said) <= _MOST:
        return said
    left = len(said) - _MOST + 1
    return [*said[: _MOST - 1], ("more", f"{left} more like these: see the summary of the step")]
