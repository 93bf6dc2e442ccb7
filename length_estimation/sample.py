"""``python length_estimation/sample.py``: makes a data set of answered requests.

The same as ``python -m length_estimation sample``, from any working directory.
"""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    # Python looks for modules in the script's own folder; the package lies in the one above.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from length_estimation.__main__ import run

    sys.exit(run(["sample", *sys.argv[1:]]))
