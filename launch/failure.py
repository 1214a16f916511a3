"""Which errors are a user's to put right, and get one sentence, and which are faults, and get a traceback."""

from __future__ import annotations

from pathlib import Path


def one_sentence(error: ValueError) -> str:
    """The message of an error that ringattn itself raised.

    A ValueError from inside torch or another library is not a message to a user: it is raised again.
    """
    trace = error.__traceback__
    if trace is None:
        return str(error)
    while trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = Path(trace.tb_frame.f_code.co_filename).resolve()
    if any(folder in raised_in.parents for folder in _own_folders()):
        return str(error)
    raise error


def _own_folders() -> list[Path]:
    import ringattn

    return [Path(str(ringattn.__file__)).resolve().parent, Path(__file__).resolve().parent]
