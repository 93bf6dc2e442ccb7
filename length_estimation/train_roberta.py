"""``python length_estimation/train_roberta.py``: fine-tunes an encoder to predict output lengths.

The same as ``python -m length_estimation train``, from any working directory.
"""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    # Python looks for modules in the script's own folder; the package lies in the one above.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from length_estimation.__main__ import run

    sys.exit(run(["train", *sys.argv[1:]]))
