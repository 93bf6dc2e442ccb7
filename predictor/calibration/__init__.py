"""Predicted against observed latencies of one unit, and what to make of the difference.

A what-if leaves things out: the way through HTTP, tokenisation, a step-time model that is a little
off, a GPU that has become slow. ``Calibration`` learns what is left, for each of TTFT, TPOT and
E2E, from the requests that were really sent, and corrects later predictions.

What is learnt is the *model's* residual, kept apart from the error of the length estimate:

* TTFT and TPOT are compared as they are; TPOT is ``(e2e - ttft) / (num_output_tokens - 1)``.
* E2E is compared with what the prediction would have been had the true length been known,
  ``ttft + tpot * (num_output_tokens - 1)``. An answer twice as long as expected thus says nothing
  about the engine.

Each residual is a line, ``factor * raw + added_ms``, bounded, by load region (``regions.py``),
fitted robustly to the last observations (``residual.py``); a region with few of them leans on the
line through all. Until there are enough, predictions pass unchanged.

p50 and p90 start from the backend's, which hold the spread of the length distribution. The line is
applied, and the result is multiplied by the ratio that would have made it right for 50 and 90 in
100 of the last requests (conformalised quantile regression, Romano et al. 2019). The ratios compare
with the whole observed latency: for E2E they hold the estimate's error, too.

Drift is a lasting error after correction (``drift.py``). When it is found, what was learnt before
it began is forgotten.
"""

from predictor.calibration.calibration import Calibration
from predictor.calibration.figures import CalibrationFigures, LatencyFigures

__all__ = ["Calibration", "CalibrationFigures", "LatencyFigures"]
