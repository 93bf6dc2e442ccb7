"""Every command line that the documents tell people to type, typed as it is written."""
