"""The story of `abtest analyze`: what is asked and declared, then the log or the recorded run is analysed."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from abtest.declaration import Declaration
from abtest.request import LogRequest, declared

if TYPE_CHECKING:
    from abtest.analysis import Analysis
    from abtest.metrics import Metric


def analyse_any(request: LogRequest, name: str | None, out: Path | None) -> "Analysis":
    """Analyse a log that a mapping describes, or, without one, a recorded run; write reports to `out`."""
    from abtest.logs import analyse_log
    from abtest.recorded import analyse_place
    from abtest.report import write_reports

    declaration = declared(request)
    if set(declaration.map) - {"segment"}:
        analysis = analyse_log(request)
    elif request.segments is not None:
        raise ValueError(
            "--segments are columns of an event log, which needs --map; a run has its own segments"
        )
    elif request.stratify is not None:
        raise ValueError(
            "--stratify is a column of an event log, which needs --map; of a run the days before it (CUPED)"
            " already adjust every effect"
        )
    elif len(request.places) > 1 or "://" in request.places[0]:
        raise ValueError("an event log needs its columns named, such as --map user=uid,ts=time,arm=variant")
    else:
        analysis = analyse_place(Path(request.places[0]), name, metrics_of_run(request, declaration))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_reports(analysis, out)
    return analysis


def metrics_of_run(request: LogRequest, declaration: Declaration) -> "Sequence[Metric] | None":
    """What metrics a file asks of a recorded run. ValueError where it declares what the run keeps itself."""
    from abtest.metrics import METRICS, with_method

    blank = Declaration(control=request.control, name=request.name, stratify=request.stratify)
    own = [
        field.name
        for field in fields(Declaration)
        if field.name not in ("metrics", "method", "map")
        and getattr(declaration, field.name) != getattr(blank, field.name)
    ]
    if own:
        raise ValueError(
            f"{request.config} declares {', '.join(own)}; of a recorded run only metrics and their method can"
            " be declared anew (for an event log, name its columns under [map])"
        )
    if declaration.method is None:
        return declaration.metrics
    return with_method(declaration.metrics or METRICS, declaration.method, str(request.config))
