"""Errors of finding and showing data."""

from __future__ import annotations

from portal.lib.errors import BadRequest, Blame, PortalError


class BadPid(BadRequest):
    """What was typed is no DOI or Handle in any dress; the page shows the search box with it."""

    code = "bad-pid"
    message = "This does not look like a DOI."
    next_step = "Correct it below, or search for words of the title, the instrument or the proposal number."

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self.context = {"query": text[:2100]}


class BadDataPath(PortalError):
    """A path template or a dataset's path that could lead elsewhere than to the experiment's data."""

    code, status, blame = "bad-data-path", 500, Blame.OPERATOR
    message = "The portal does not know where the data of this experiment lie."
    next_step = "Tell support the experiment; the facility's path template or the dataset's path needs correcting."


class ImportRefused(PortalError):
    """An import file with at least one bad row; nothing of it was loaded."""

    code, status, blame = "import-refused", 400, Blame.OPERATOR
    message = "The file was not imported."
    next_step = "Correct the rows that are named and import it again; nothing was loaded."

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))
