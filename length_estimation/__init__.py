"""How long answers get: data sets, training an estimator of it, and estimating online."""
